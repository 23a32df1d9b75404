"""What `--quantization` takes: the schemes of `quant`, dtypes of plain weights, and a GGUF file as it is."""

from dataclasses import replace

from seed_oss.errors import InputError
from seed_oss.quant.schemes import SCHEMES, Scheme, parse_scheme

PLAIN_DTYPES = ("bfloat16", "float32")
AS_STORED = "gguf"


def check_weights(name: str) -> str:
    """The name as it is written in results.

    Raises:
        InputError: neither a scheme that runs on a CPU nor a dtype.
    """
    if name in (*PLAIN_DTYPES, AS_STORED):
        return name
    known = ", ".join((*SCHEMES, *PLAIN_DTYPES, AS_STORED))
    try:
        scheme = parse_scheme(name)
    except InputError:
        raise InputError(f"quantization is {name!r:.60}; there are {known}") from None
    if scheme.is_float:
        raise InputError(f"quantization is {name!r:.60}, and engines are compared on the CPU; there are {known}")
    return scheme.name


def scheme_of(name: str, head_bits: int | None) -> Scheme:
    """The scheme of a name, with a head of 4 bits where that is asked for and the layers have 4."""
    scheme = parse_scheme(name)
    return replace(scheme, head_bits=head_bits) if head_bits is not None and scheme.bits == 4 else scheme
