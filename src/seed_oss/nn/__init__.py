"""The parts of the model, as plain modules with the released names."""

from seed_oss.nn.attention import SeedOssAttention
from seed_oss.nn.decoder_layer import SeedOssDecoderLayer
from seed_oss.nn.layers import SeedOssLayers
from seed_oss.nn.mlp import SeedOssMLP
from seed_oss.nn.norm import SeedOssRMSNorm
from seed_oss.nn.rope import SeedOssRotaryEmbedding

__all__ = [
    "SeedOssAttention",
    "SeedOssDecoderLayer",
    "SeedOssLayers",
    "SeedOssMLP",
    "SeedOssRMSNorm",
    "SeedOssRotaryEmbedding",
]
