"""Models and prompts that the generation tests share."""

import warnings
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from seed_oss import GenerationConfig, SeedOssConfig
from tests.factory import random_ids, tiny_config
from tests.parity.oracle import pair

PAD, EOS = 1, 2


def models(seed: int = 0, attn: str = "sdpa", **overrides: Any) -> tuple[Any, Any]:
    """Our causal model and the oracle's, with the same weights, and no end of sequence unless a test sets one."""
    ours, theirs = pair("SeedOssForCausalLM", attn=attn, seed=seed, **overrides)
    for model in (ours, theirs):
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = PAD
    return ours, theirs


def left_padded(*lengths: int, seed: int = 0) -> dict[str, Tensor]:
    """Random prompts of these lengths, padded on the left."""
    width = max(lengths)
    ids = random_ids(len(lengths), width, seed=seed)
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    return {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}


def quietly(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Call without regard to warnings: the oracle has its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **kwargs)


class ScriptedModel:
    """Says what it is told: row i's next tokens are `script[i]`, then its last one for ever.

    Args:
        script: tokens per row.
        vocab_size: of the logits.
    """

    def __init__(self, script: list[list[int]], vocab_size: int = 64, **config: Any) -> None:
        self.config: SeedOssConfig = tiny_config(vocab_size=vocab_size, **config)
        self.generation_config = GenerationConfig(pad_token_id=PAD, eos_token_id=EOS)
        self.device = torch.device("cpu")
        self.script = script
        self.calls: list[dict[str, Any]] = []

    def logits(self, row: int, step: int) -> Tensor:
        """Scores `[vocab]` of one row's token number `step`."""
        tokens = self.script[row % len(self.script)]
        logits = torch.zeros(self.config.vocab_size)
        logits[tokens[min(step, len(tokens) - 1)]] = 9.0
        return logits

    def __call__(self, **inputs: Any) -> Any:
        step = len(self.calls)
        self.calls.append(inputs)
        given = inputs.get("input_ids", inputs.get("inputs_embeds"))
        logits = torch.stack([self.logits(row, step) for row in range(given.shape[0])])[:, None]
        return SimpleNamespace(logits=logits, past_key_values=inputs["past_key_values"])
