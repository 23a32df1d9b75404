"""Weights with a NaN in the row of one token: only requests with that token fail, and nothing of them is kept.

`SEED_OSS_TRUST_NAN` is the number of crowds per kind of model, 2 unless set.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seed_oss import SamplingParams, SeedOssForCausalLM
from seed_oss.engine.build import LoadedModel, build_core
from seed_oss.engine.core import EngineCore
from seed_oss.engine.gathered import Gathered
from seed_oss.engine.messages import Ended, Submit
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import EngineError
from tests.factory import random_ids, tiny_model

CROWDS = int(os.environ.get("SEED_OSS_TRUST_NAN", "2"))
POISON = 159
NATIVE = {"head_dim": 16, "hidden_size": 64}
KINDS: list[tuple[str, str, dict[str, int]]] = [
    ("float32", "auto", NATIVE),
    ("float32", "int8", NATIVE),
    ("bfloat16", "auto", NATIVE),
    ("float32", "auto", {}),
]
PARAMS = SamplingParams(max_tokens=20, temperature=0, logprobs=2, bad_words_ids=[[POISON]], ignore_eos=True)


def engine(dtype: str, cache: str, sizes: dict[str, int], folder: Path | None = None) -> EngineCore:
    model = tiny_model(SeedOssForCausalLM, max_position_embeddings=512, **sizes)
    with torch.no_grad():
        model.model.embed_tokens.weight[POISON] = float("nan")
    spec = EngineSpec(
        "(loaded)",
        max_model_len=192,
        kv_cache_dtype=cache,
        max_num_seqs=4,
        max_num_batched_tokens=40,
        cache_dir=None if folder is None else str(folder),
    )
    return build_core(spec, LoadedModel(model.to(getattr(torch, dtype)), None))


def run(core: EngineCore, submits: list[Submit]) -> tuple[dict[str, Any], dict[str, list[str | None]]]:
    """What each request came to, and of those that failed the kinds of their ends."""
    found = {one.request_id: Gathered(one) for one in submits}
    failed: dict[str, list[str | None]] = {}
    for one in submits:
        core.submit(one)
    while core.has_work:
        for event in core.step():
            try:
                found[event.request_id].take(event)  # type: ignore[union-attr]
            except EngineError:
                assert isinstance(event, Ended)
                failed.setdefault(event.request_id, []).append(event.kind)
    answers = {name: (one.token_ids, one.logprobs_of(0), one.ends) for name, one in found.items() if name not in failed}
    return answers, failed


def ids(rng: random.Random, most: int) -> tuple[int, ...]:
    return tuple(random_ids(rng.randint(1, most), seed=rng.randrange(6), high=POISON).tolist())


def crowd(rng: random.Random) -> tuple[list[Submit], list[Submit]]:
    """Good requests, and poisoned ones that share the beginnings of their prompts."""
    good = [Submit(f"good-{index}", ids(rng, 100), PARAMS, namespace="") for index in range(5)]
    bad = [Submit(f"bad-{index}", (*rng.choice(good).prompt_ids, POISON, *ids(rng, 60)), PARAMS) for index in range(4)]
    return good, bad


def without_cached(answers: dict[str, Any]) -> dict[str, Any]:
    """Tokens and log-probabilities alone."""
    return {name: one[:2] for name, one in answers.items()}


@pytest.mark.parametrize(("dtype", "cache", "sizes"), KINDS, ids=["float32", "int8 cache", "bfloat16", "by torch"])
def test_only_requests_with_the_token_fail(
    dtype: str, cache: str, sizes: dict[str, int], tmp_path: Path, counted: Callable[..., None]
) -> None:
    num_answers = num_failed = 0
    for number in range(CROWDS):
        rng = random.Random(number)
        good, bad = crowd(rng)
        alone = without_cached(run(engine(dtype, cache, sizes), good)[0])
        folder = tmp_path / str(number)
        core = engine(dtype, cache, sizes, folder)
        mixed = rng.sample([*good, *bad], len(good) + len(bad))
        for _ in range(3):  # the second and third time blocks come from the cache, or were poisoned ones before
            answers, failed = run(core, mixed)
            assert failed == {one.request_id: ["internal"] for one in bad}
            assert without_cached(answers) == alone
            num_answers, num_failed = num_answers + len(answers), num_failed + len(failed)
        counters = core._scheduler.counters()
        assert counters.num_free_blocks + counters.num_cached_blocks == counters.num_blocks
        core.close()
        look_at_disk(folder)
        again = engine(dtype, cache, sizes, folder)
        answers, failed = run(again, mixed)
        assert (without_cached(answers), len(failed)) == (alone, len(bad))
        again.close()
    counted(**{"good answers": num_answers, "differing": 0, "poisoned requests that failed": num_failed})


def look_at_disk(folder: Path) -> None:
    """What is kept on disk has neither the token nor anything that is no number."""
    files = list(folder.glob("*/*.safetensors"))
    assert files
    for file in files:
        tensors = load_file(file)
        assert POISON not in tensors.pop("token_ids").tolist()
        assert all(bool(one.float().isfinite().all()) for one in tensors.values())


def test_a_poisoned_prefix_is_found_by_nobody() -> None:
    core = engine("float32", "auto", NATIVE)
    prompt = (POISON, *random_ids(80, seed=3, high=POISON).tolist())
    for _ in range(2):
        assert run(core, [Submit("bad", prompt, PARAMS)])[1] == {"bad": ["internal"]}
    assert core._scheduler.counters().num_cached_blocks == 0
    assert core._scheduler.counters().total_cache_hit_tokens == 0
