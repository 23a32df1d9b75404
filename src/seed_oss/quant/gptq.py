"""GPTQ files: words of 4 or 8 bits along the inputs, a scale and a zero point per group and output.

    qweight   int32 [in * bits / 32, out]      a word holds neighbouring inputs of one output, lowest bits first
    qzeros    int32 [groups, out * bits / 32]  a word holds neighbouring outputs
    scales    fp16  [groups, out]
    g_idx     int32 [in]                       the group of every input; missing: in order

    w[o, i] = (qweight[i, o] - zero[g, o]) * scale[g, o],    g = g_idx[i]

Version 1 stores zero points minus 1: the quantizers subtract 0x11111111 from a whole word, and it is added back here in
the same way, so that a borrow goes back to where it came from. (Readers that add 1 to each number get 16 for a stored
15, and a wrong neighbour.) In a symmetric file the zero point is 2 ** (bits - 1) by definition; files of both versions
say "gptq" there, and the stored words tell which it is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.ops.grouped_weight import MIN_GROUP, GroupedWeight, QuantFormat
from seed_oss.quant.column_order import column_order, reordered
from seed_oss.quant.packed_words import per_word, unpacked
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

_ONES = {4: 0x11111111, 8: 0x01010101}


@final
@dataclass(frozen=True, slots=True)
class GPTQLayout(StoredLayout):
    """One combination of bits and group size.

    Attributes:
        bits: 4 or 8.
        group_size: inputs that share a scale; None: all of them.
        is_symmetric: every zero point is 2 ** (bits - 1).
        is_version_2: zero points are stored as they are.
        needs_g_idx: inputs are not in the order of their groups.
    """

    bits: int
    group_size: int | None
    is_symmetric: bool = False
    is_version_2: bool = False
    needs_g_idx: bool = False

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"GPTQ, {self.bits} bits, " + (f"groups of {self.group_size}" if self.group_size else "one group a row")

    def specs(self, out_features: int, in_features: int) -> dict[str, StoredSpec]:
        """The tensors of a module."""
        count = per_word(self.bits)
        if out_features % count or in_features % count:
            raise CheckpointError(
                f"a weight [{out_features}, {in_features}] does not fill words of {count} numbers, and GPTQ stores "
                f"whole words; {REMEDY}"
            )
        groups = math.ceil(in_features / self._columns(in_features))
        return {
            "qweight": StoredSpec.any_of((torch.int32,), (in_features // count, out_features)),
            "qzeros": StoredSpec.any_of((torch.int32,), (groups, out_features // count)),
            "scales": StoredSpec.any_of(SCALE_DTYPES, (groups, out_features)),
            "g_idx": StoredSpec.any_of((torch.int32, torch.int64), (in_features,), is_optional=not self.needs_g_idx),
        }

    def quant_format(self, in_features: int, headers: Mapping[str, TensorHeader]) -> QuantFormat:
        """What `read` gives. A last group with fewer columns makes all groups smaller, with repeated scales."""
        size = math.gcd(self._columns(in_features), in_features)
        if size % MIN_GROUP:
            raise UnsupportedModelError(
                f"groups of {self.group_size} in rows of {in_features} columns have no common width that is a "
                f"multiple of {MIN_GROUP}; load the bfloat16 original"
            )
        zero = "symmetric" if self.is_symmetric else "point"
        return QuantFormat(self.bits, size, zero, PARAM_NAMES[headers["scales"].dtype])

    def read(
        self, module: str, shape: tuple[int, int], tensors: Mapping[str, Tensor], dtype: torch.dtype
    ) -> ForeignWeight:
        """Unpack, transpose, and sort the columns by group."""
        in_features = shape[1]
        columns = self._columns(in_features)
        format = self.quant_format(in_features, tensors)
        order = None
        if "g_idx" in tensors:
            order = column_order(f"{module}.g_idx", tensors["g_idx"], columns)
        scale = checked_scale(f"{module}.scales", tensors["scales"])
        zeros = self._zero_points(f"{module}.qzeros", tensors["qzeros"])
        q = unpacked(tensors["qweight"].T, self.bits)
        if order is not None:
            q = reordered(q, order)

        def per_group(part: Tensor) -> Tensor:
            """`[groups, out]` to `[out, groups of the format]`."""
            repeated = (
                part.repeat_interleave(columns // format.group_size, dim=0) if columns > format.group_size else part
            )
            return repeated[: in_features // format.group_size].T.contiguous()

        point = None if zeros is None else per_group(zeros)
        return ForeignWeight(GroupedWeight(format, q, per_group(scale), None, point), order)

    def _columns(self, in_features: int) -> int:
        return min(self.group_size or in_features, in_features)

    def _zero_points(self, name: str, words: Tensor) -> Tensor | None:
        """uint8 `[groups, out]`; None where all are the middle."""
        if not self.is_symmetric:
            return unpacked(words if self.is_version_2 else words + _ONES[self.bits], self.bits)
        stored = unpacked(words, self.bits)
        middle = 2 ** (self.bits - 1)
        first = int(stored[0, 0])
        if first not in (middle - 1, middle) or not bool((stored == first).all()):
            raise CheckpointError(
                f"{name} must hold {middle - 1} or {middle} everywhere, since config.json says that the weights are "
                f"symmetric; it holds {int(stored.min())} to {int(stored.max())}; set sym to false if they are not"
            )
        return None
