"""What `generate` needs of a model."""

from typing import Any, Protocol

import torch

from seed_oss.config import GenerationConfig, SeedOssConfig


class CausalModel(Protocol):
    """A language model with the reference's forward: SeedOssForCausalLM, or a wrapper that passes these through."""

    @property
    def config(self) -> SeedOssConfig:
        """Sizes, vocabulary and special tokens."""
        ...

    @property
    def generation_config(self) -> GenerationConfig | None:
        """Settings that count where a call leaves them open."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""
        ...

    def __call__(self, **inputs: Any) -> Any:
        """Run forward; the result has `logits` and `past_key_values`."""
        ...
