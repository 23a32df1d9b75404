"""Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) of one layer."""

import torch.nn.functional as F
from torch import Tensor, nn

from seed_oss.cache import AttentionContext
from seed_oss.config import SeedOssConfig
from seed_oss.nn.linear import Linear


class SeedOssAttention(nn.Module):
    """Project, let the context rotate, store and attend, project back, dropout while training.

    `heads * head_dim` need not be `hidden_size` (it is twice that in Seed-OSS-36B), and heads are counted from the
    projections' widths, so that a shard of them works too.

    Args:
        config: model configuration.
        layer_idx: which layer this is, for the context.
    """

    def __init__(self, config: SeedOssConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        heads_dim, kv_heads_dim = (
            num_heads * config.head_dim for num_heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.q_proj = Linear(config.hidden_size, heads_dim, bias=config.attention_bias)
        self.k_proj = Linear(config.hidden_size, kv_heads_dim, bias=config.attention_bias)
        self.v_proj = Linear(config.hidden_size, kv_heads_dim, bias=config.attention_bias)
        self.o_proj = Linear(heads_dim, config.hidden_size, bias=config.attention_out_bias)
        self.attention_dropout = config.attention_dropout
        self.residual_dropout = config.residual_dropout

    def forward(self, hidden_states: Tensor, cos: Tensor, sin: Tensor, context: AttentionContext) -> Tensor:
        """`[batch, length, hidden_size]` to the same shape; `cos`, `sin` are `[batch, length, head_dim]`."""
        query = self._heads(self.q_proj(hidden_states))
        key = self._heads(self.k_proj(hidden_states))
        value = self._heads(self.v_proj(hidden_states))
        dropout = self.attention_dropout if self.training else 0.0
        attended = context.attend(self.layer_idx, query, key, value, cos, sin, dropout)
        return F.dropout(self.o_proj(attended), p=self.residual_dropout, training=self.training)

    def _heads(self, x: Tensor) -> Tensor:
        """`[batch, length, heads * head_dim]` -> `[batch, heads, length, head_dim]`."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
