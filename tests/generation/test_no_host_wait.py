"""On an accelerator no part of a step waits for the device but the reading of the new tokens.

Tensors on the meta device have no values: whatever asks for one raises, as what waits for a device would wait.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from seed_oss import GenerationConfig, SeedOssForCausalLM
from seed_oss.generation.plan import CallArguments, make_plan
from seed_oss.generation.row_watch import RowWatch
from seed_oss.generation.sampling import choose_greedily, sampler
from tests.factory import random_ids, tiny_model

SETTINGS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "temperature": 0.7, "seed": 3},
    {"do_sample": True, "typical_p": 0.9, "epsilon_cutoff": 1e-3, "eta_cutoff": 1e-3, "top_n_sigma": 2.0, "seed": 1},
    {"do_sample": True, "xtc_probability": 0.5, "xtc_threshold": 0.1, "seed": 3},
    {"repetition_penalty": 1.2, "presence_penalty": 0.1, "frequency_penalty": 0.1, "min_new_tokens": 3},
]


@pytest.fixture(scope="module")
def model() -> Any:
    model = tiny_model(SeedOssForCausalLM)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=1)
    return model


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_scores_and_choice(model: Any, settings: dict[str, Any]) -> None:
    ids, vocab_size = random_ids(2, 7), model.config.vocab_size
    plan = make_plan(model, CallArguments(ids, None, None, None, None, None, {**settings, "max_new_tokens": 4}))
    scores = plan.processors(ids.to("meta"), torch.empty(2, vocab_size, device="meta"))
    tokens = plan.choose(scores, 0)
    assert tokens.is_meta
    assert tokens.shape == (2,)


def test_choosers() -> None:
    scores = torch.empty(3, 50, device="meta")
    for choose in (choose_greedily, sampler(7, None)):
        assert choose(scores, 4).is_meta


def test_nothing_is_read_where_nobody_reads() -> None:
    """Without an end of sequence, a streamer or stop strings, tokens never come to the host."""
    watch = RowWatch([], torch.empty(2, 3, dtype=torch.int64, device="meta"), None, None)
    tokens = watch.settle(torch.empty(2, dtype=torch.int64, device="meta"))
    assert tokens.is_meta
    ids: Any = [0] * 4
    assert not watch.update(tokens, ids, None)


def test_what_waits_is_seen() -> None:
    waits: list[Any] = [Tensor.item, Tensor.tolist, lambda one: one.nonzero(), bool]
    for wait in waits:
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait(torch.empty(1, device="meta"))
