"""The normalisation before attention, before the MLP, and after the last layer."""

import torch
from torch import Tensor, nn

from seed_oss.ops.norm import rms_norm


class SeedOssRMSNorm(nn.Module):
    """RMSNorm with a weight per hidden unit (see ops.norm).

    Args:
        hidden_size: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise `[..., hidden_size]`."""
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)

    def extra_repr(self) -> str:
        """Shape and eps, for printing."""
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"
