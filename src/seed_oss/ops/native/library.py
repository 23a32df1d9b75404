"""Finds and loads the native kernels.

`SEED_OSS_OPS` in the environment: "reference" leaves them alone; "portable", "avx2", "avx512", "avx512_bf16" and "amx"
force an instruction set (one that the processor lacks is an error, as are kernels that are not there). "avx512_bf16" is
"avx512" with products of bfloat16 by bfloat16, in attention too, and "amx" is that with tiles for many rows of packed
weights at a time.
"""

import ctypes
import os
import sys
from ctypes import c_double, c_int64, c_void_p
from functools import cache
from pathlib import Path

from seed_oss.errors import InputError

VERSION = 15
INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512_bf16", "amx")
_ARGUMENTS = {
    "so_instruction_set": (c_int64,),
    "so_linear": (c_void_p, c_void_p, c_int64, c_void_p, c_int64),
    "so_decoder": (c_void_p,),
    "so_step": (c_void_p,),
    "so_embedding": (c_void_p, c_void_p, c_int64, c_void_p),
    "so_quantize": (c_void_p, c_int64, c_int64, c_int64, c_void_p, c_void_p, c_void_p),
    "so_argmax": (c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int64),
    "so_log_sum_exp": (c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int64),
    "so_top_k": (c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p, c_void_p, c_int64),
    "so_draw": (c_void_p, *[c_int64] * 7, c_void_p, c_int64),
    "so_top_p": (c_void_p, *[c_int64] * 3, c_double, c_double, c_void_p, c_int64),
    "so_fill_below": (c_void_p, *[c_int64] * 3, c_void_p, c_double, c_void_p, c_int64),
    "so_read": (c_void_p, c_int64, c_int64),
    "so_add_rms_norm": (c_void_p, c_void_p, c_void_p, c_double, c_int64, c_int64, c_void_p),
    "so_attend": (c_void_p, c_void_p, c_void_p),
    "so_rotate": (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p),
    "so_store": (c_void_p, c_void_p, *(c_int64,) * 7, c_void_p, c_void_p),
    "so_rms_norm": (c_void_p, c_void_p, c_double, c_int64, c_int64, c_void_p),
    "so_silu_mul": (c_void_p, c_void_p, c_int64),
    "so_huge_pages": (c_void_p, c_int64, c_int64),
}
_ANSWERS = ("so_instruction_set", "so_embedding", "so_step", "so_huge_pages")  # return a number


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where `why_not` says why.

    Raises:
        InputError: `SEED_OSS_OPS` names something unknown, or instructions that this processor lacks, or the kernels
            are not there to have them.
    """
    wanted = os.environ.get("SEED_OSS_OPS", "")
    if wanted not in ("", "reference", *INSTRUCTION_SETS):
        raise InputError(
            f"SEED_OSS_OPS is {wanted!r:.40}; it must be 'reference', {', '.join(INSTRUCTION_SETS)} or unset"
        )
    if wanted == "reference":
        return None
    loaded = _loaded()
    if loaded is None:
        if wanted:
            raise InputError(f"SEED_OSS_OPS is {wanted!r}, and the native kernels are {_reason()}; or unset it")
        return None
    if wanted and loaded.so_instruction_set(INSTRUCTION_SETS.index(wanted)) != INSTRUCTION_SETS.index(wanted):
        raise InputError(f"SEED_OSS_OPS is {wanted!r}, which this processor or this build does not have; unset it")
    return loaded


def _loaded() -> ctypes.CDLL | None:
    """The file, where it is one of this version and system."""
    path = _path()
    if path is None or sys.byteorder != "little":
        return None
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.so_version.restype = c_int64
        is_ours = loaded.so_version() == VERSION
    except (OSError, AttributeError):
        return None
    if not is_ours:
        return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, c_int64 if name in _ANSWERS else None
    return loaded


def _path() -> Path | None:
    found = sorted(Path(__file__).parent.glob("_kernels*.so"))
    return found[0] if found else None


def _reason() -> str:
    """Why there are none here, and what to do."""
    if _path() is None:
        remedy = "pip install --force-reinstall --no-deps seed-oss"
        return f"not built; install a C++ compiler, then the package again: {remedy}"
    return "built for another version or system; install the package again"


def why_not() -> str | None:
    """Why the kernels are not used, and what to do; None where they are.

    Raises:
        InputError: `SEED_OSS_OPS` wants what is not there, see `library`.
    """
    if library() is not None:
        return None
    if os.environ.get("SEED_OSS_OPS") == "reference":
        return "SEED_OSS_OPS=reference is set"
    return _reason()


def instruction_set() -> str | None:
    """The instruction set in use, one of INSTRUCTION_SETS; None without the kernels."""
    loaded = library()
    return None if loaded is None else INSTRUCTION_SETS[loaded.so_instruction_set(-2)]


def set_instruction_set(name: str | None) -> None:
    """Use another instruction set from now on, for tests and comparisons.

    Args:
        name: one of INSTRUCTION_SETS; None for the best one.

    Raises:
        InputError: the kernels are not there, or not for these instructions.
    """
    loaded = library()
    level = -1 if name is None else INSTRUCTION_SETS.index(name)
    if loaded is None or (loaded.so_instruction_set(level) != level and name is not None):
        raise InputError(f"there are no kernels for {name!r} here ({why_not() or 'the processor lacks them'})")
