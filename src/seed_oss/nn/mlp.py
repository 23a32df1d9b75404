"""The feed-forward half of a layer: a gated linear unit (Shazeer 2020, arXiv:2002.05202)."""

import torch.nn.functional as F
from torch import Tensor, nn

from seed_oss.config import SeedOssConfig
from seed_oss.nn.linear import Linear
from seed_oss.ops.activations import activation


class SeedOssMLP(nn.Module):
    """`down(act(gate(x)) * up(x))`, then dropout while training."""

    def __init__(self, config: SeedOssConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = activation(config.hidden_act)
        self.residual_dropout = config.residual_dropout

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[batch, length, hidden_size]` to the same shape."""
        gated = self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
        return F.dropout(self.down_proj(gated), p=self.residual_dropout, training=self.training)
