"""Weights in 4 or 8 bits: integers in groups of columns, a scale per row and group. What they mean, free of any layout.

symmetric   w = (q - 2 ** (bits - 1)) * scale
minimum     w = q * scale + minimum
point       w = (q - zero_point) * scale
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seed_oss.errors import InputError

ZeroKind = Literal["symmetric", "minimum", "point"]
PARAM_DTYPES = {"float16": torch.float16, "float32": torch.float32}
MIN_GROUP = 4  # columns that one instruction multiplies


@dataclass(frozen=True, slots=True)
class QuantFormat:
    """How the numbers of a weight are stored.

    Attributes:
        bits: of an integer, 4 or 8.
        group_size: columns that share a scale, a multiple of 4; the weight's width where a row has one scale.
        zero: how an integer becomes a number, see the module.
        param_dtype: of scales and minimums, "float16" or "float32".
    """

    bits: int
    group_size: int
    zero: ZeroKind = "symmetric"
    param_dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise InputError(f"bits is {self.bits!r}; weights have 4 or 8 bits")
        size = self.group_size
        if not isinstance(size, int) or isinstance(size, bool) or size < MIN_GROUP or size % MIN_GROUP:
            raise InputError(f"group_size is {size!r}; it must be a multiple of {MIN_GROUP}")
        if self.zero not in ("symmetric", "minimum", "point"):
            raise InputError(f"zero is {self.zero!r:.40}; it must be 'symmetric', 'minimum' or 'point'")
        if self.param_dtype not in PARAM_DTYPES:
            raise InputError(f"param_dtype is {self.param_dtype!r:.40}; it must be 'float16' or 'float32'")

    @property
    def bits_per_weight(self) -> float:
        """Scales, minimums and zero points included."""
        param_bits = PARAM_DTYPES[self.param_dtype].itemsize * 8
        extra = {"symmetric": 0, "minimum": param_bits, "point": self.bits}[self.zero]
        return self.bits + (param_bits + extra) / self.group_size

    def check_width(self, in_features: int) -> None:
        """Raise unless groups fill a row.

        Raises:
            InputError: they do not.
        """
        if in_features <= 0 or in_features % self.group_size:
            raise InputError(f"rows of {in_features} columns cannot be cut into groups of {self.group_size}")


def dividing_group(group_size: int | None, in_features: int) -> int | None:
    """The largest group of at most `group_size` columns that divides a row.

    Args:
        group_size: 32, 64, 128 or the like; None wants one group per row.
        in_features: columns.

    Returns:
        `group_size`, or the largest smaller multiple of 4 that divides; None where there is none.
    """
    if group_size is None:
        return in_features if in_features % MIN_GROUP == 0 else None
    candidates = range(group_size - group_size % MIN_GROUP, 0, -MIN_GROUP)
    return next((size for size in candidates if in_features % size == 0), None)


@dataclass(frozen=True, eq=False)
class GroupedWeight:
    """A weight in integers.

    Attributes:
        format: how they are meant.
        q: uint8 `[out_features, in_features]`, each below 2 ** bits.
        scale: `[out_features, in_features / group_size]` of the format's param_dtype.
        minimum: the same, where the format has minimums.
        zero_point: uint8 of the same shape, below 2 ** bits, where the format has zero points.
    """

    format: QuantFormat
    q: Tensor
    scale: Tensor
    minimum: Tensor | None = None
    zero_point: Tensor | None = None

    def __post_init__(self) -> None:
        self.format.check_width(self.q.shape[-1])
        groups = (self.q.shape[0], self.q.shape[1] // self.format.group_size)
        dtype = PARAM_DTYPES[self.format.param_dtype]
        parts = {
            "scale": (self.scale, dtype, True),
            "minimum": (self.minimum, dtype, self.format.zero == "minimum"),
            "zero_point": (self.zero_point, torch.uint8, self.format.zero == "point"),
        }
        if self.q.dtype != torch.uint8:
            raise InputError(f"q is {self.q.dtype}; it must be uint8")
        for name, (part, wanted, is_needed) in parts.items():
            if (part is not None) != is_needed:
                raise InputError(f"{name} is {'missing' if is_needed else 'given'}, for the kind {self.format.zero!r}")
            if part is not None and (part.dtype != wanted or tuple(part.shape) != groups):
                raise InputError(f"{name} is {part.dtype} {list(part.shape)}; it must be {wanted} {list(groups)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.q.shape[0], self.q.shape[1]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The numbers `[out_features, in_features]`, computed in fp32 and rounded once."""
        grouped = self.q.unflatten(-1, (-1, self.format.group_size)).float()
        scale = self.scale.float()[..., None]
        if self.minimum is not None:
            numbers = grouped * scale + self.minimum.float()[..., None]
        elif self.zero_point is not None:
            numbers = (grouped - self.zero_point.float()[..., None]) * scale
        else:
            numbers = (grouped - 2 ** (self.format.bits - 1)) * scale
        return numbers.flatten(1).to(dtype)
