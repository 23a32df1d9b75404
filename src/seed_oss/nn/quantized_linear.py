"""Linear layers and embeddings whose weights are 4 or 8 bits. They take the places of plain ones, names included."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from seed_oss.errors import CheckpointError
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat
from seed_oss.ops.packing import pack, packed_bytes, unpack
from seed_oss.ops.quantized import quantized_embedding, quantized_linear


class QuantizedModule(nn.Module):
    """What both have in common: the packed bytes, the numbers that they stand for, and the names in a state dict.

    `state_dict()` gives `weight` with the numbers; what is stored is the buffer `packed`.

    Args:
        shape: of the weight, (rows, columns).
        format: of the packed bytes.
        packed: uint8, see ops.packing; None for memory that is still to be filled.
    """

    packed: Tensor

    def __init__(self, shape: tuple[int, int], format: QuantFormat, packed: Tensor | None = None) -> None:
        super().__init__()
        self.shape, self.format = shape, format
        wanted = packed_bytes(format, *shape)
        if packed is None:
            packed = torch.empty(wanted, dtype=torch.uint8)
        if packed.dtype != torch.uint8 or packed.numel() != wanted:
            raise CheckpointError(
                f"a packed weight {list(shape)} takes {wanted} bytes; {packed.numel()} {packed.dtype} given"
            )
        self.register_buffer("packed", packed.contiguous(), persistent=False)

    @property
    def grouped(self) -> GroupedWeight:
        """The weight in integers."""
        return unpack(self.packed, self.format, *self.shape)

    @property
    def weight(self) -> Tensor:
        """The numbers, fp32 `[rows, columns]`; made at each access."""
        return self.grouped.dequantize()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def extra_repr(self) -> str:
        """Shape and format, for printing."""
        format = self.format
        return f"{self.shape[0]}, {self.shape[1]}, {format.bits} bits in groups of {format.group_size}, {format.zero}"


class QuantizedLinear(QuantizedModule):
    """`x @ weight.T + bias`; see ops.quantized.

    Args:
        shape: (out_features, in_features).
        format: of the packed bytes.
        packed: uint8, see ops.packing.
        bias: `[out_features]` or None; kept in fp32.
    """

    bias: Tensor | None

    def __init__(
        self, shape: tuple[int, int], format: QuantFormat, packed: Tensor | None = None, bias: Tensor | None = None
    ) -> None:
        super().__init__(shape, format, packed)
        self.out_features, self.in_features = shape
        self.register_buffer("bias", None if bias is None else bias.detach().to(torch.float32))

    @classmethod
    def of(cls, weight: GroupedWeight, bias: Tensor | None = None) -> Self:
        """Pack a weight."""
        return cls(weight.shape, weight.format, pack(weight), bias)

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        return quantized_linear(input, self.packed, self.format, self.shape, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to its device, but keep the bias in fp32."""
        super()._apply(fn, recurse)
        if self.bias is not None:
            self.bias = self.bias.to(torch.float32)
        return self


class QuantizedEmbedding(QuantizedModule):
    """Rows of the weight.

    Args:
        shape: (num_embeddings, embedding_dim).
        format: of the packed bytes.
        packed: uint8, see ops.packing.
        padding_idx: which row belongs to the padding token, or None; kept for whoever asks.
        dtype: of the rows that come out.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        format: QuantFormat,
        packed: Tensor | None = None,
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(shape, format, packed)
        self.num_embeddings, self.embedding_dim = shape
        self.padding_idx, self.dtype = padding_idx, dtype

    def forward(self, input: Tensor) -> Tensor:
        """Integers `[...]` to `[..., embedding_dim]`."""
        return quantized_embedding(input, self.packed, self.format, self.shape).to(self.dtype)
