"""Weights in 8-bit floats with a scale per tensor, row, group or block: dequantized, since no group of integers is one.

    w[o, i] = weight[o, i] * scale[o / rows, i / columns]

The product is made in fp32 (exact where the scale has 16 bits) and rounded once to the dtype that is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError
from seed_oss.quant.scale_grid import ScaleGrid
from seed_oss.quant.stored_layout import (
    REMEDY,
    SCALE_DTYPES,
    ForeignWeight,
    StoredLayout,
    StoredSpec,
    TensorHeader,
)

PIECE_VALUES = 1 << 18
_EXPONENT_BIAS = 127


@final
@dataclass(frozen=True, slots=True)
class Float8Layout(StoredLayout):
    """8-bit floats (e4m3, no infinities).

    Attributes:
        grid: what shares a scale.
        scale_name: "weight_scale" or "weight_scale_inv"; it multiplies, whatever it is called.
        zero_point_name: a tensor that may be there and holds zeros only.
    """

    grid: ScaleGrid
    scale_name: str = "weight_scale"
    zero_point_name: str | None = None

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"fp8, {self.grid.title}"

    def specs(self, out_features: int, in_features: int) -> dict[str, StoredSpec]:
        """The tensors of a module. Scales of one byte are exponents: 2 ** (byte - 127)."""
        shapes = self.grid.shapes(out_features, in_features)
        specs = {
            "weight": StoredSpec.any_of((torch.float8_e4m3fn,), (out_features, in_features)),
            self.scale_name: StoredSpec.any_of((*SCALE_DTYPES, torch.float8_e8m0fnu, torch.uint8), *shapes),
        }
        if self.zero_point_name:
            kinds = (torch.float8_e4m3fn, torch.int8)
            specs[self.zero_point_name] = StoredSpec.any_of(kinds, *shapes, is_optional=True)
        return specs

    def quant_format(self, in_features: int, headers: Mapping[str, TensorHeader]) -> None:
        """None: the weight is dequantized."""
        return

    def read(
        self, module: str, shape: tuple[int, int], tensors: Mapping[str, Tensor], dtype: torch.dtype
    ) -> ForeignWeight:
        """Dequantize some rows at a time: allocators keep what was freed, on each thread as much as a few pieces."""
        points = tensors.get(self.zero_point_name or "")
        if points is not None and bool(points.float().any()):
            raise CheckpointError(f"{module}.{self.zero_point_name} is not zero, and fp8 has no zero point; {REMEDY}")
        scale = self.grid.per_row(_numbers(tensors[self.scale_name]), *shape)
        if not bool(torch.isfinite(scale).all()):
            raise CheckpointError(f"{module}.{self.scale_name} holds NaN or infinity; {REMEDY}")
        weight, width = tensors["weight"], self.grid.columns or shape[1]
        result = torch.empty(shape, dtype=dtype, device=weight.device)
        step = max(PIECE_VALUES // shape[1], 1)
        for row in range(0, shape[0], step):
            factors = scale[row : row + step].repeat_interleave(width, dim=1)[:, : shape[1]]
            piece = result[row : row + step]
            piece.copy_(weight[row : row + step].float() * factors)
            if not bool(torch.isfinite(piece).all()):
                raise CheckpointError(f"{module}.weight holds NaN, or values beyond {dtype}, near row {row}; {REMEDY}")
        return ForeignWeight(result)


def _numbers(scale: Tensor) -> Tensor:
    if scale.dtype != torch.uint8:
        return scale.float()
    # the byte 255 stands for NaN, as in float8_e8m0fnu
    return torch.where(scale == 255, torch.nan, torch.exp2(scale.float() - _EXPONENT_BIAS))
