"""The names that safetensors files give to torch dtypes."""

import torch

from seed_oss.errors import InputError

TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
FILE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights may be stored as and computed in."""

_ALIASES = {"half": torch.float16, "float": torch.float32, "double": torch.float64}
_BY_NAME = {dtype_name: getattr(torch, dtype_name) for dtype_name in ("float32", "bfloat16", "float16", "float64")}


def weight_dtype(value: object, *, name: str = "dtype") -> torch.dtype:
    """The floating dtype that `value` means.

    Args:
        value: A torch dtype or its name ("bfloat16", "torch.bfloat16").
        name: What the value is, for the message.

    Raises:
        InputError: It is none that weights can have.
    """
    dtype = value
    if isinstance(value, str):
        short = value.removeprefix("torch.")
        dtype = _BY_NAME.get(short, _ALIASES.get(short))
    if isinstance(dtype, torch.dtype) and dtype in WEIGHT_DTYPES:
        return dtype
    raise InputError(f"{name} is {value!r}; it must be 'auto' or one of {', '.join(_BY_NAME)}, as torch dtype or name")


def dtype_name(dtype: torch.dtype) -> str:
    """The plain name of a torch dtype, as a config holds it: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
