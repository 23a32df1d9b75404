"""Shapes of models without weights."""

from typing import Any

from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.planning.model import NAMED_SHAPES

SHAPES: dict[str, dict[str, Any]] = {
    "36b": {name: value for name, value in NAMED_SHAPES["36b"].items() if name != "dtype"},
    "1b": {
        "vocab_size": 49152,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 8192,
    },
    "tiny": {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
    },
}
"""Name to fields of SeedOssConfig; heads are untied and q, k and v have biases."""


def shape_config(name: str) -> SeedOssConfig:
    """The config of a shape.

    Raises:
        InputError: there is none of this name.
    """
    if name not in SHAPES:
        raise InputError(f"shape is {name!r:.60}; there are {', '.join(SHAPES)}")
    return SeedOssConfig(tie_word_embeddings=False, **SHAPES[name])
