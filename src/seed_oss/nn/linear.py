"""The linear layer of the model: torch's, with the product of ops.linear."""

from torch import Tensor, nn

from seed_oss.ops.linear import linear


class Linear(nn.Linear):
    """`nn.Linear` in every respect but speed on processors without 16-bit products."""

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        return linear(input, self.weight, self.bias)
