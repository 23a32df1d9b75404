"""Integer weights of the compressed-tensors package.

    pack-quantized                                        int-quantized, naive-quantized
    weight_packed      int32 [out, in * bits / 32]        weight             int8 [out, in]
    weight_scale       [out, groups]                      weight_scale       the same
    weight_zero_point  int32 [out * bits / 32, groups]    weight_zero_point  int8, as the scale
    weight_shape       int64 [2]
    weight_g_idx       int32 [in]                         the group of every column; missing or -1: in order

    w[o, i] = (weight[o, i] - zero_point[o, g]) * scale[o, g]

Integers are signed; words hold them with 2 ** (bits - 1) added, lowest bits first. The layouts are those that the
package's compressors write; its float-quantized weights are in float8.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.ops.grouped_weight import MIN_GROUP, GroupedWeight, QuantFormat
from seed_oss.quant.column_order import column_order, reordered
from seed_oss.quant.packed_words import per_word, unpacked
from seed_oss.quant.scale_grid import ScaleGrid
from seed_oss.quant.stored_layout import (
    PARAM_NAMES,
    REMEDY,
    SCALE_DTYPES,
    ForeignWeight,
    StoredLayout,
    StoredSpec,
    TensorHeader,
    checked_scale,
)

BYTE_BITS = 8
_INDEX_DTYPES = (torch.int32, torch.int64)


@final
@dataclass(frozen=True, slots=True)
class PackedLayout(StoredLayout):
    """Integers of 4 or 8 bits in words.

    Attributes:
        bits: 4 or 8.
        grid: what shares a scale: the tensor, a row or a group.
        is_symmetric: there are no zero points.
        needs_g_idx: columns are not in the order of their groups.
    """

    bits: int
    grid: ScaleGrid
    is_symmetric: bool = True
    needs_g_idx: bool = False

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"compressed-tensors pack-quantized, {self.bits} bits, {self.grid.title}"

    def specs(self, out_features: int, in_features: int) -> dict[str, StoredSpec]:
        """The tensors of a module."""
        _check_columns(self.grid, out_features, in_features)
        count = per_word(self.bits)
        shapes = self.grid.shapes(out_features, in_features)
        points = StoredSpec.any_of((torch.int8,), *shapes, is_optional=self.is_symmetric)
        if self.grid.rows == 1:
            packed = (torch.int32, (-(-out_features // count), self.grid.counts(out_features, in_features)[1]))
            points = StoredSpec((packed, *points.choices), is_optional=self.is_symmetric)
        specs = {
            "weight_packed": StoredSpec.any_of((torch.int32,), (out_features, -(-in_features // count))),
            "weight_scale": StoredSpec.any_of(SCALE_DTYPES, *shapes),
            "weight_zero_point": points,
            "weight_shape": StoredSpec.any_of(_INDEX_DTYPES, (2,)),
        }
        if self.grid.columns is not None:
            order = StoredSpec.any_of(_INDEX_DTYPES, (in_features,), is_optional=not self.needs_g_idx)
            specs["weight_g_idx"] = order
        return specs

    def quant_format(self, in_features: int, headers: Mapping[str, TensorHeader]) -> QuantFormat:
        """What `read` gives."""
        return _format(self.bits, self.grid, self.is_symmetric, in_features, headers)

    def read(
        self, module: str, shape: tuple[int, int], tensors: Mapping[str, Tensor], dtype: torch.dtype
    ) -> ForeignWeight:
        """Unpack, and sort the columns by group."""
        if tuple(tensors["weight_shape"].tolist()) != shape:
            raise CheckpointError(
                f"{module}.weight_shape holds {tensors['weight_shape'].tolist()}; the model has {list(shape)}; {REMEDY}"
            )
        q = unpacked(tensors["weight_packed"], self.bits)[:, : shape[1]]
        order = None
        if "weight_g_idx" in tensors and not bool((tensors["weight_g_idx"] == -1).all()):
            order = column_order(f"{module}.weight_g_idx", tensors["weight_g_idx"], self.grid.columns or shape[1])
        q = q.contiguous() if order is None else reordered(q, order)
        return ForeignWeight(_grouped(self, module, shape, tensors, q, self._zero_points(shape, tensors)), order)

    def _zero_points(self, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> Tensor | None:
        """Integers with the offset, of one of the grid's shapes."""
        points = tensors.get("weight_zero_point")
        if points is None:
            return None
        if points.dtype == torch.int32:
            return unpacked(points.T, self.bits).T[: shape[0]].int()
        return points.int() + 2 ** (self.bits - 1)


@final
@dataclass(frozen=True, slots=True)
class IntegerLayout(StoredLayout):
    """A signed byte for every integer, however many bits it needs; they are kept in 8 bits.

    Attributes:
        grid: what shares a scale.
        is_symmetric: there are no zero points.
    """

    grid: ScaleGrid
    is_symmetric: bool = True

    @property
    def bits(self) -> int:
        """Of an integer here."""
        return BYTE_BITS

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"compressed-tensors int-quantized, {self.grid.title}"

    def specs(self, out_features: int, in_features: int) -> dict[str, StoredSpec]:
        """The tensors of a module."""
        _check_columns(self.grid, out_features, in_features)
        shapes = self.grid.shapes(out_features, in_features)
        return {
            "weight": StoredSpec.any_of((torch.int8,), (out_features, in_features)),
            "weight_scale": StoredSpec.any_of(SCALE_DTYPES, *shapes),
            "weight_zero_point": StoredSpec.any_of((torch.int8,), *shapes, is_optional=self.is_symmetric),
        }

    def quant_format(self, in_features: int, headers: Mapping[str, TensorHeader]) -> QuantFormat:
        """What `read` gives."""
        return _format(self.bits, self.grid, self.is_symmetric, in_features, headers)

    def read(
        self, module: str, shape: tuple[int, int], tensors: Mapping[str, Tensor], dtype: torch.dtype
    ) -> ForeignWeight:
        """Add the offset."""
        middle, points = 2 ** (self.bits - 1), tensors.get("weight_zero_point")
        q = tensors["weight"].view(torch.uint8) ^ middle  # a signed byte plus 128
        points = None if points is None else points.int() + middle
        return ForeignWeight(_grouped(self, module, shape, tensors, q, points))


def _check_columns(grid: ScaleGrid, out_features: int, in_features: int) -> None:
    if grid.columns is not None and in_features % grid.columns:
        raise CheckpointError(
            f"a weight [{out_features}, {in_features}] cannot be cut into groups of {grid.columns} columns; {REMEDY}"
        )


def _format(
    bits: int, grid: ScaleGrid, is_symmetric: bool, in_features: int, headers: Mapping[str, TensorHeader]
) -> QuantFormat:
    size = grid.columns or in_features
    if size % MIN_GROUP:
        raise UnsupportedModelError(
            f"groups of {size} columns cannot be held, multiples of {MIN_GROUP} can; load the bfloat16 original"
        )
    zero = "symmetric" if is_symmetric else "point"
    return QuantFormat(bits, size, zero, PARAM_NAMES[headers["weight_scale"].dtype])


def _grouped(
    layout: PackedLayout | IntegerLayout,
    module: str,
    shape: tuple[int, int],
    tensors: Mapping[str, Tensor],
    q: Tensor,
    points: Tensor | None,
) -> GroupedWeight:
    """Scales and zero points for every row; `points` have the offset, and are all the middle in a symmetric weight."""
    format = layout.quant_format(shape[1], tensors)
    scale = layout.grid.per_row(checked_scale(f"{module}.weight_scale", tensors["weight_scale"]), *shape)
    if points is None:
        return GroupedWeight(format, q, scale)
    name, middle = f"{module}.weight_zero_point", 2 ** (layout.bits - 1)
    if layout.is_symmetric:
        if bool((points != middle).any()):
            raise CheckpointError(f"{name} is not zero, and config.json says that the weights are symmetric; {REMEDY}")
        return GroupedWeight(format, q, scale)
    if bool(((points < 0) | (points >= 2 * middle)).any()):
        raise CheckpointError(f"{name} holds integers beyond {-middle} to {middle - 1}; {REMEDY}")
    return GroupedWeight(format, q, scale, None, layout.grid.per_row(points.to(torch.uint8), *shape))
