"""One layer: attention and MLP, each normalised before and added after."""

from torch import Tensor, nn

from seed_oss.cache import AttentionContext
from seed_oss.config import SeedOssConfig
from seed_oss.nn.attention import SeedOssAttention
from seed_oss.nn.mlp import SeedOssMLP
from seed_oss.nn.norm import SeedOssRMSNorm


class SeedOssDecoderLayer(nn.Module):
    """`x += attention(norm(x)); x += mlp(norm(x))`."""

    def __init__(self, config: SeedOssConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = SeedOssAttention(config, layer_idx)
        self.mlp = SeedOssMLP(config)
        self.input_layernorm = SeedOssRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = SeedOssRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, cos: Tensor, sin: Tensor, context: AttentionContext) -> Tensor:
        """`[batch, length, hidden_size]` to the same shape; `cos`, `sin` are `[batch, length, head_dim]`."""
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), cos, sin, context)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
