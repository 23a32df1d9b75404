"""Linear layers and embeddings whose weights are 4 or 8 bits. They take the places of plain ones, names included."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from seed_oss.errors import CheckpointError
from seed_oss.nn.float8_linear import Float8Linear
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat
from seed_oss.ops.packing import check_packed, pack, packed_bytes, unpack
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
        if packed is None:
            packed = torch.empty(packed_bytes(format, *shape), dtype=torch.uint8)
        check_packed(packed, format, *shape)
        self.register_buffer("packed", packed.contiguous(), persistent=False)

    @property
    def grouped(self) -> GroupedWeight:
        """The weight in integers."""
        return unpack(self.packed, self.format, *self.shape)

    @property
    def weight(self) -> Tensor:
        """The numbers, fp32 `[rows, columns]`; made at each access."""
        return self.grouped.dequantize()

    def replace_packed(self, packed: Tensor, format: QuantFormat) -> None:
        """Take other bytes of a weight of the same shape.

        Raises:
            CheckpointError: another number of bytes.
        """
        check_packed(packed, format, *self.shape)
        self.format, self.packed = format, packed

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


class ReorderedLinear(QuantizedModule):
    """A quantized linear layer whose columns are in another order than the features of its input.

    Foreign formats sort columns by importance before they form groups. Layers with such modules are not fused.

    Args:
        shape: (out_features, in_features).
        format: of the packed bytes.
        packed: uint8, see ops.packing; column j belongs to the input feature column_order[j].
        column_order: int32 `[in_features]`, each feature once; None for memory that is still to be filled.
        bias: `[out_features]` or None; kept in fp32.
    """

    bias: Tensor | None
    column_order: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        format: QuantFormat,
        packed: Tensor | None = None,
        column_order: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__(shape, format, packed)
        self.out_features, self.in_features = shape
        order = torch.empty(shape[1], dtype=torch.int32) if column_order is None else column_order
        self.register_buffer("column_order", order)
        self.register_buffer("bias", None if bias is None else bias.detach().to(torch.float32))

    @property
    def weight(self) -> Tensor:
        """The numbers, fp32, columns in the order of the input's features; made at each access."""
        numbers = self.grouped.dequantize()
        result = torch.empty_like(numbers)
        result[:, self.column_order.long()] = numbers
        return result

    def check_order(self, name: str) -> None:
        """Raise unless the order has each column once.

        Raises:
            CheckpointError: it has not.
        """
        every = torch.arange(self.in_features, dtype=torch.int32, device=self.column_order.device)
        if not torch.equal(self.column_order.sort().values, every):
            raise CheckpointError(f"{name}.column_order does not have each of {self.in_features} columns once")

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(prefix + "column_order")

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        return quantized_linear(input[..., self.column_order], self.packed, self.format, self.shape, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Rows come out in the dtype that the rest of the model is converted to."""
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.packed.device)).dtype
        return self


def quantized_modules(model: nn.Module) -> dict[str, QuantizedModule]:
    """Name to module, a module of several names under each of them."""
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, QuantizedModule)
    }


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a model consists of, by name: parameters and buffers as in a state dict, but quantized weights as they are
    stored, `<module>.packed`, and in 8-bit floating point `<module>.scale`. Nothing is copied."""
    found: dict[str, Tensor] = {}

    def visit(module: nn.Module, prefix: str) -> None:
        if isinstance(module, QuantizedModule | Float8Linear):
            found[prefix + "packed"] = module.packed
        if isinstance(module, Float8Linear):
            found[prefix + "scale"] = module.scale
        skipped = module._non_persistent_buffers_set
        buffers = {name: buffer for name, buffer in module._buffers.items() if name not in skipped}
        for name, tensor in {**module._parameters, **buffers}.items():
            if tensor is not None:
                found[prefix + name] = tensor
        for name, child in module._modules.items():
            if child is not None:
                visit(child, f"{prefix}{name}.")

    visit(model, "")
    return found
