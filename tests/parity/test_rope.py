"""Every RoPE type, short and past its switching length, against transformers."""

from typing import Any

import pytest
import torch

from tests.factory import random_ids
from tests.parity.oracle import assert_same_outputs, pair

ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 1e7},
    "default-partial": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    "dynamic": {"rope_type": "dynamic", "factor": 2.5, "rope_theta": 1e4},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16},
    "yarn-mscale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 1e4,
        "original_max_position_embeddings": 16,
        "mscale": 0.7,
        "mscale_all_dim": 0.5,
        "beta_fast": 16,
        "beta_slow": 2,
        "truncate": False,
    },
    "yarn-attention-factor": {
        "rope_type": "yarn",
        "factor": 2.0,
        "rope_theta": 1e6,
        "original_max_position_embeddings": 32,
        "attention_factor": 0.9,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "original_max_position_embeddings": 16,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
    },
    "longrope-factor": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "proportional": {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    "proportional-factor": {
        "rope_type": "proportional",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.75,
        "factor": 2.0,
    },
}


def rope_pair(name: str) -> tuple[Any, Any]:
    """A pair of models with 32 trained positions."""
    return pair("SeedOssForCausalLM", rope_parameters=ROPES[name], max_position_embeddings=32)


@pytest.mark.parametrize("name", ROPES)
def test_short_long_and_short_again(name: str) -> None:
    ours, theirs = rope_pair(name)
    assert ours.model.rotary_emb.attention_scaling == theirs.model.rotary_emb.attention_scaling
    # 40 grows the dynamic type, 36 and 32 keep what it grew to, 10 starts over; 16 and 17 are longrope's edge.
    for length in (10, 16, 17, 32, 40, 36, 32, 10, 33):
        ids = random_ids(2, length, seed=length)
        with torch.no_grad():
            assert_same_outputs(ours(ids, use_cache=False), theirs(ids, use_cache=False))


@pytest.mark.parametrize("name", ROPES)
def test_step_by_step_past_the_switch(name: str) -> None:
    ours, theirs = rope_pair(name)
    ids = random_ids(1, 36)
    mine_cache = other_cache = None
    for start, end in ((0, 15), (15, 16), (16, 17), (17, 31), (31, 32), (32, 33), (33, 36)):
        with torch.no_grad():
            mine = ours(ids[:, start:end], past_key_values=mine_cache)
            other = theirs(ids[:, start:end], past_key_values=other_cache, use_cache=True)
        assert_same_outputs(mine, other)
        mine_cache, other_cache = mine.past_key_values, other.past_key_values


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_the_batch_maximum_decides(name: str) -> None:
    ours, theirs = rope_pair(name)
    ids = random_ids(2, 8)
    positions = torch.stack((torch.arange(8), torch.arange(40, 48)))
    mask = torch.ones(2, 8, dtype=torch.int64)
    with torch.no_grad():
        mine = ours(ids, mask, position_ids=positions)
        other = theirs(ids, attention_mask=mask, position_ids=positions)
    assert_same_outputs(mine, other)


@pytest.mark.parametrize("name", ROPES)
def test_angles_stay_fp32_whatever_the_dtype(name: str) -> None:
    ours, _ = rope_pair(name)
    before = ours.model.rotary_emb.inv_freq.clone()
    ours.to(torch.bfloat16)
    assert ours.model.rotary_emb.inv_freq.dtype == torch.float32
    torch.testing.assert_close(ours.model.rotary_emb.inv_freq, before, atol=0, rtol=0)


def test_rotary_buffers_are_not_saved() -> None:
    ours, _ = rope_pair("longrope")
    assert not [name for name in ours.state_dict() if "rotary" in name]
