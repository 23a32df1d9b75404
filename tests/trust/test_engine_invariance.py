"""Equal bits under any schedule: answers and log-probabilities of random crowds beside each request alone.

`SEED_OSS_TRUST_INVARIANCE` is the number of crowds, 50 unless set. A failure names its crowd:
`SEED_OSS_TRUST_FIRST=<crowd> SEED_OSS_TRUST_INVARIANCE=1` runs it alone.
"""

import os
import random
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType

from seed_oss import SamplingParams, SeedOssForCausalLM, quantize_
from seed_oss.cache import block_bytes
from seed_oss.engine.batch import ScheduledBatch
from seed_oss.engine.build import LoadedModel, build_core
from seed_oss.engine.core import EngineCore
from seed_oss.engine.gathered import Gathered
from seed_oss.engine.messages import Ended, Event, Submit
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import EngineError
from seed_oss.models.quantized_state import is_quantized
from tests.factory import random_ids, tiny_model
from tests.quant.gguf_factory import Recipe, file_name_of, random_weights, write_gguf

CROWDS = int(os.environ.get("SEED_OSS_TRUST_INVARIANCE", "50"))
FIRST = int(os.environ.get("SEED_OSS_TRUST_FIRST", "0"))
CHUNKS = 5
PLAIN = ("float32", "bfloat16", "float16")
PACKED = ("int4", "int4-sym", "int4-min", "int8", "int8-channel")
DTYPES = (*PLAIN, *PACKED, "gguf")
POISON = 159  # a token at which the model of a crowd fails


@lru_cache
def loaded(dtype: str) -> LoadedModel:
    if dtype == "gguf":
        return LoadedModel(_blocks_of_a_file(), None)
    model = tiny_model(SeedOssForCausalLM, head_dim=16, hidden_size=64, max_position_embeddings=512)
    return LoadedModel(quantize_(model, dtype) if dtype in PACKED else model.to(getattr(torch, dtype)), None)


def _blocks_of_a_file() -> Any:
    """A model whose weights are the blocks of 4 bits of a GGUF file, as they are."""
    weights = random_weights()
    places = {name: file_name_of(name, "seed_oss") for name in weights if "proj.weight" in name or "embed" in name}
    recipe = Recipe(weights=weights, types=dict.fromkeys(places.values(), GGMLQuantizationType.Q4_0))
    with tempfile.TemporaryDirectory() as folder:
        model = SeedOssForCausalLM.from_pretrained(write_gguf(Path(folder) / "model.gguf", recipe))
    assert is_quantized(model)
    return model


def engine(dtype: str, cache: str, **settings: Any) -> EngineCore:
    spec = EngineSpec("(loaded)", max_model_len=192, kv_cache_dtype=cache, **settings)
    return build_core(spec, loaded(dtype), clock=lambda: 0.0)


class _Failing:
    """Fails at one step for no reason, and whenever the poison is in a batch."""

    def __init__(self, core: EngineCore, fails_at: int) -> None:
        self.model, self.left = core._stepper._model, fails_at
        self.run_it, self.model.run = self.model.run, self.run  # type: ignore[method-assign]

    def run(self, batch: ScheduledBatch, traits: Any) -> torch.Tensor:
        self.left -= len(batch.rows) > 1  # a row that fails by itself is to blame
        hidden = self.run_it(batch, traits)
        if (self.left == 0 and len(batch.rows) > 1) or any(POISON in row.token_ids for row in batch.rows):
            raise MemoryError("no room")
        return hidden


def random_request(rng: random.Random, number: int) -> Submit:
    start = random_ids(rng.randint(1, 40), seed=rng.randrange(4), high=POISON).tolist()
    rest = random_ids(rng.randint(1, 30), seed=rng.randrange(50), high=POISON).tolist()
    how: dict[str, Any] = rng.choice(
        (
            {"temperature": 0},
            {"seed": rng.randrange(50), "n": rng.randint(1, 3)},
            {"seed": rng.randrange(50), "top_p": 0.9, "repetition_penalty": 1.1},
            {"temperature": 0, "prompt_lookup_num_tokens": 3, "prompt_logprobs": rng.choice((None, 1))},
        )
    )
    params = SamplingParams(
        max_tokens=rng.randint(1, 40), logprobs=2, bad_words_ids=[[POISON]], ignore_eos=rng.random() < 0.5, **how
    )
    return Submit(str(number), (*start, *rest), params, priority=rng.randint(-1, 1))


def run(core: EngineCore, requests: dict[int, list[Submit]], aborts: dict[int, str]) -> dict[str, Gathered]:
    """Hand requests in at the steps that are given, abort some, and gather what comes of the rest."""
    found = {one.request_id: Gathered(one) for many in requests.values() for one in many}
    last, step = max(requests), 0
    while step <= last or core.has_work:
        for one in requests.get(step, ()):
            core.submit(one)
        if step in aborts:
            core.abort(aborts[step])
        for event in core.step():
            _take(found, event)
        step += 1
        assert step < 5000, "it does not come to an end"
    return found


def _take(found: dict[str, Gathered], event: Event) -> None:
    one = found.get(getattr(event, "request_id", ""))
    if one is None:
        return
    if isinstance(event, Ended) and event.reason == "error":
        assert POISON in one.submit.prompt_ids, event
    try:
        one.take(event)
    except EngineError:
        del found[one.submit.request_id]


def answers(found: Gathered) -> Any:
    """All that a client sees of a request, numbers as they are."""
    choices = range(found.num_choices)
    return [
        (found.token_ids.get(n), found.logprobs_of(n), found.ends[n].reason) for n in choices
    ], found.prompt_logprobs


def crowd(number: int) -> int:
    """One crowd; how many answers were compared."""
    rng = random.Random(number)
    dtype, cache = DTYPES[number % len(DTYPES)], rng.choice(("auto", "int8"))
    torch.set_num_threads(rng.choice((1, 2)))
    requests = [random_request(rng, index) for index in range(rng.randint(3, 9))]
    if rng.random() < 0.3:
        poisoned = random_request(rng, 99)
        requests.append(Submit("99", (*poisoned.prompt_ids, POISON), poisoned.params))
    arrivals: dict[int, list[Submit]] = {}
    for one in requests:
        arrivals.setdefault(rng.choice((0, 0, 1, 5, 20)), []).append(one)
    gone = {rng.randint(1, 25): rng.choice(requests).request_id for _ in range(rng.randint(0, 2))}
    limits = {"max_num_seqs": rng.randint(3, 6), "max_num_batched_tokens": rng.choice((6, 17, 64, 300))}
    stored = torch.int8 if cache == "int8" else torch.float32 if dtype == "float32" else torch.bfloat16
    memory = rng.choice((7, 9, 30)) * block_bytes(loaded(dtype).model.config, 32, stored)
    core = engine(dtype, cache, kv_cache_memory=memory, **limits)
    _Failing(core, rng.randint(2, 30))
    found = run(core, arrivals, gone)
    torch.set_num_threads(1)
    alone = engine(dtype, cache, max_num_seqs=3)
    whole = [one for name, one in found.items() if name not in gone.values() and POISON not in one.submit.prompt_ids]
    for one in whole:
        assert one.is_done
        by_itself = run(alone, {0: [one.submit]}, {})[one.submit.request_id]
        assert answers(one) == answers(by_itself), f"crowd {number}, request {one.submit}"
    return len(whole)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_equal_bits_in_any_crowd(chunk: int, counted: Callable[..., None]) -> None:
    numbers = range(FIRST + chunk, FIRST + CROWDS, CHUNKS)
    compared = sum(map(crowd, numbers))
    counted(crowds=len(numbers), requests=compared, differing=0)
    assert compared >= len(numbers) / 2
