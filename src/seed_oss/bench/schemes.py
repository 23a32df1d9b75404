"""What `--quantization` takes: the schemes of `quant` and dtypes of plain weights."""

from dataclasses import replace

from seed_oss.errors import InputError
from seed_oss.quant.schemes import SCHEMES, Scheme, parse_scheme

PLAIN_DTYPES = ("bfloat16", "float32")


def check_weights(name: str) -> str:
    """The name as it is written in results.

    Raises:
        InputError: neither a scheme nor a dtype.
    """
    if name in PLAIN_DTYPES:
        return name
    try:
        return parse_scheme(name).name
    except InputError:
        raise InputError(f"quantization is {name!r:.60}; there are {', '.join((*SCHEMES, *PLAIN_DTYPES))}") from None


def scheme_of(name: str, head_bits: int | None) -> Scheme:
    """The scheme of a name, with a head of 4 bits where that is asked for and the layers have 4."""
    scheme = parse_scheme(name)
    return replace(scheme, head_bits=head_bits) if head_bits is not None and scheme.bits == 4 else scheme
