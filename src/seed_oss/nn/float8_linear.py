"""A linear layer whose weight is 8-bit floating point. It takes the place of a plain one."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from seed_oss.ops.float8 import FLOAT8, float8_linear, round_to_float8


class Float8Linear(nn.Module):
    """`x @ weight.T + bias`; see ops.float8.

    `state_dict()` gives `weight` with the numbers; their bytes are what is kept, so that no change of dtype
    touches them.

    Args:
        weight: `[out_features, in_features]`, both multiples of 16; rounded here.
        bias: `[out_features]` or None; kept in fp32.
    """

    packed: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        numbers, scale = round_to_float8(weight.detach())
        self.register_buffer("packed", numbers.view(torch.uint8), persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().to(torch.float32))

    @property
    def weight(self) -> Tensor:
        """The numbers, fp32 `[out_features, in_features]`; made at each access."""
        return self.packed.view(FLOAT8).float() * self.scale

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        return float8_linear(input, self.packed.view(FLOAT8), self.scale, self.bias)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to its device, but keep scales and bias in fp32."""
        kept = {"scale": self.scale, "bias": self.bias}
        super()._apply(fn, recurse)
        for name, tensor in kept.items():
            if tensor is not None:
                setattr(self, name, tensor.to(self.packed.device))
        return self

    def extra_repr(self) -> str:
        """Shape and format, for printing."""
        return f"{self.out_features}, {self.in_features}, float8_e4m3 with a scale per row"
