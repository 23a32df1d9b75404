"""Tiny configs and checkpoints that keep what makes Seed-OSS different.

Heads x head_dim is twice the hidden size, q/k/v have biases that are not zero, four query heads share each key/value
head unevenly with the layer count, the head is untied, and the norm weights are not one: a port that derives head_dim,
drops a bias or repeats heads in the wrong order gives other numbers.
"""

from pathlib import Path
from typing import Any

import torch

from seed_oss import SeedOssConfig

VOCAB_SIZE = 160


def tiny_config(**overrides: Any) -> SeedOssConfig:
    """A config of about 40,000 parameters: hidden 32, 8 heads of 8 (64 = 2 x 32), 2 key/value heads, 3 layers."""
    fields: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "num_labels": 3,
    }
    return SeedOssConfig(**{**fields, **overrides})


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter a value of its own, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return model


def tiny_model(cls: type[Any], seed: int = 0, **overrides: Any) -> Any:
    """A model of class `cls` in eval mode with random weights, biases and norms."""
    model = cls(tiny_config(**overrides))
    randomize(model, seed)
    model.tie_weights()
    return model.eval()


def tiny_checkpoint(directory: Path, cls: type[Any], seed: int = 0, **overrides: Any) -> Path:
    """Save a `tiny_model` to `directory` and return the directory."""
    tiny_model(cls, seed, **overrides).save_pretrained(directory)
    return directory


def random_ids(*shape: int, seed: int = 0, low: int = 3, high: int = VOCAB_SIZE) -> torch.Tensor:
    """Integer ids without the special ones."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))
