"""A causal model that wants to say a given text, whatever it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from seed_oss import GenerationConfig, SeedOssConfig
from tests.factory import tiny_config


@dataclass
class _Output:
    logits: torch.Tensor
    past_key_values: Any


class ScriptedModel:
    """Prefers the next token of its script, and if that may not come the one after it; the last token goes on for ever.

    Args:
        script: ids.
        vocab_size: size of the vocabulary.
    """

    def __init__(self, script: Sequence[int], vocab_size: int) -> None:
        self.script = list(script)
        self.config: SeedOssConfig = tiny_config(vocab_size=vocab_size, max_position_embeddings=1 << 20)
        self.generation_config: GenerationConfig | None = GenerationConfig.from_model_config(self.config)
        self.device = torch.device("cpu")
        self._position = 0
        self._is_prompt = True

    def __call__(self, input_ids: torch.Tensor, past_key_values: Any = None, **_: Any) -> _Output:
        """See CausalModel; one row."""
        if not self._is_prompt:
            self._said(int(input_ids[0, -1]))
        self._is_prompt = False
        logits = torch.full((1, 1, self.config.vocab_size), -50.0)
        for distance, token in reversed(list(enumerate(self.script[self._position : self._position + 40]))):
            logits[0, 0, token] = 10.0 - distance / 4
        return _Output(logits, past_key_values)

    def _said(self, token: int) -> None:
        """Move behind the wish that came true; a token that was no wish changes nothing."""
        ahead = self.script[self._position :]
        if token in ahead[:40] and len(ahead) > 1:
            self._position = min(self._position + ahead.index(token) + 1, len(self.script) - 1)
