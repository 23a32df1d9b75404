"""AWQ files, version "gemm": words of eight 4-bit numbers along the outputs, in an order of their own.

qweight   int32 [in, out / 8]       number k of a word is output 8 j + ORDER[k]
qzeros    int32 [groups, out / 8]   the same
scales    fp16  [groups, out]

w[o, i] = (qweight[i, o] - zero[g, o]) * scale[g, o],    g = i / group_size
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.ops.grouped_weight import MIN_GROUP, GroupedWeight, QuantFormat
from seed_oss.quant.packed_words import bytes_of, per_word
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

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
BITS = 4


@final
@dataclass(frozen=True, slots=True)
class AWQLayout(StoredLayout):
    """4 bits in the order of "gemm".

    Attributes:
        group_size: inputs that share a scale; None: all of them.
    """

    group_size: int | None

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return "AWQ gemm, 4 bits, " + (f"groups of {self.group_size}" if self.group_size else "one group a row")

    def specs(self, out_features: int, in_features: int) -> dict[str, StoredSpec]:
        """The tensors of a module."""
        size, count = self.group_size or in_features, per_word(BITS)
        if out_features % count or in_features % size:
            raise CheckpointError(
                f"a weight [{out_features}, {in_features}] does not fill words of {count} outputs and groups of {size} "
                f"inputs; {REMEDY}"
            )
        groups = in_features // size
        return {
            "qweight": StoredSpec.any_of((torch.int32,), (in_features, out_features // count)),
            "qzeros": StoredSpec.any_of((torch.int32,), (groups, out_features // count)),
            "scales": StoredSpec.any_of(SCALE_DTYPES, (groups, out_features)),
        }

    def quant_format(self, in_features: int, headers: Mapping[str, TensorHeader]) -> QuantFormat:
        """What `read` gives."""
        size = self.group_size or in_features
        if size % MIN_GROUP:
            raise UnsupportedModelError(
                f"groups of {size} columns cannot be held, multiples of {MIN_GROUP} can; load the bfloat16 original"
            )
        return QuantFormat(BITS, size, "point", PARAM_NAMES[headers["scales"].dtype])

    def read(
        self, module: str, shape: tuple[int, int], tensors: Mapping[str, Tensor], dtype: torch.dtype
    ) -> ForeignWeight:
        """Unpack and transpose."""
        format = self.quant_format(shape[1], tensors)
        scale = checked_scale(f"{module}.scales", tensors["scales"]).T.contiguous()
        q, point = _unpacked_transposed(tensors["qweight"]), _unpacked_transposed(tensors["qzeros"])
        return ForeignWeight(GroupedWeight(format, q, scale, None, point))


def _unpacked_transposed(words: Tensor) -> Tensor:
    """int32 `[n, out / 8]` to uint8 `[out, n]`."""
    data = bytes_of(words.T)  # [out / 8, n, 4]
    result = torch.empty((data.shape[0], len(ORDER), data.shape[1]), dtype=torch.uint8, device=words.device)
    for position, output in enumerate(ORDER):
        part = data[:, :, position // 2]
        if position % 2:
            torch.bitwise_right_shift(part, 4, out=result[:, output])
        else:
            torch.bitwise_and(part, 15, out=result[:, output])
    return result.flatten(0, 1)
