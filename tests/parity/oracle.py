"""The installed transformers as the oracle: its model with our weights, and its config from ours."""

from typing import Any

import torch
import transformers

import seed_oss
from tests.factory import randomize, tiny_config

CLASSES = (
    "SeedOssModel",
    "SeedOssForCausalLM",
    "SeedOssForSequenceClassification",
    "SeedOssForTokenClassification",
    "SeedOssForQuestionAnswering",
)


def oracle_config(config: seed_oss.SeedOssConfig) -> transformers.SeedOssConfig:
    """The same config as an object of transformers."""
    fields = config.to_dict()
    for ours_only in ("rope_theta", "rope_scaling"):
        fields.pop(ours_only, None)
    return transformers.SeedOssConfig(**fields)


def pair(name: str, attn: str = "sdpa", seed: int = 0, **overrides: Any) -> tuple[Any, Any]:
    """Our model of class `name` and the oracle's, same weights, both in eval mode."""
    config = tiny_config(**overrides)
    ours = getattr(seed_oss, name)(config)
    randomize(ours, seed)
    ours.tie_weights()
    theirs = getattr(transformers, name)(oracle_config(config))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.set_attn_implementation(attn)
    theirs.set_attn_implementation(attn)
    return ours.eval(), theirs.eval()


def assert_same_outputs(ours: Any, theirs: Any, mask: torch.Tensor | None = None, atol: float = 1e-5) -> None:
    """Every tensor field equal within `atol`; where `mask` `[batch, length]` is 0, hidden positions may differ."""
    assert list(ours.keys()) == list(theirs.keys())
    for key in theirs:
        if key == "past_key_values":
            continue
        mine, other = ours[key], theirs[key]
        pairs = zip(mine, other, strict=True) if isinstance(other, tuple) else [(mine, other)]
        for left, right in pairs:
            assert (left is None) == (right is None)
            if right is not None:
                assert_close(left, right, mask if key != "attentions" else None, atol)


def assert_close(left: torch.Tensor, right: torch.Tensor, mask: torch.Tensor | None, atol: float) -> None:
    """Equal within `atol` at the positions that count."""
    assert left.shape == right.shape
    assert left.dtype == right.dtype
    if mask is not None and left.dim() >= 2 and left.shape[:2] == mask.shape:
        left, right = left[mask.bool()], right[mask.bool()]
    torch.testing.assert_close(left, right, atol=atol, rtol=1e-5)
