"""Between the engine and generate(): the same tokens, or others only where two logits are nearly equal."""

import sys
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch

from seed_oss import AutoModelForCausalLM, SamplingParams, SeedOssForCausalLM, quantize_
from seed_oss.engine.forward import Forward
from seed_oss.engine.llm import LLM
from seed_oss.engine.self_check import is_batch_invariant
from seed_oss.generation.noise import gumbel_noise, split_seed
from seed_oss.nn.fused import FusedLayers, fuse_, fused
from seed_oss.ops.native import library, why_not
from tests.factory import random_ids, tiny_model

NUM_NEW = 24
PROMPTS = [random_ids(length, seed=length).tolist() for length in (3, 9, 20, 41)]
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_NEW, min_tokens=NUM_NEW)


def small_model(dtype: str) -> Any:
    """A model whose heads the kernels take; quantized, fused as a loaded one is."""
    model = tiny_model(SeedOssForCausalLM, head_dim=16, hidden_size=64, max_position_embeddings=256)
    return fuse_(quantize_(model, dtype)) if dtype in ("int4", "int8") else model.to(getattr(torch, dtype))


def gaps(model: Any, prompt: list[int], answer: tuple[int, ...], seed: int | None = None) -> list[float]:
    """By how much generate's choice beats the engine's at the first token that differs; nothing where none does."""
    drawn = {"do_sample": False} if seed is None else {"do_sample": True, "seed": seed, "top_k": 0}
    output: Any = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=NUM_NEW,
        min_new_tokens=NUM_NEW,
        return_dict_in_generate=True,
        output_logits=True,
        **drawn,
    )
    expected = output.sequences[0, len(prompt) :].tolist()
    for step, (ours, theirs) in enumerate(zip(answer, expected, strict=True)):
        if ours != theirs:
            sums = logits = output.logits[step][0]
            if seed is not None:  # a draw is the highest sum of logit and noise
                sums = logits + gumbel_noise(split_seed(seed), torch.tensor([0]), step, len(logits))[0]
            return [float((sums[theirs] - sums[ours]) / logits[theirs].abs())]
    return []


@pytest.mark.parametrize("dtype", ["float32", "int8", "int4"])
def test_tokens_of_generate(dtype: str) -> None:
    model = small_model(dtype)
    found = LLM(model, max_num_seqs=3, max_num_batched_tokens=16).generate(PROMPTS, GREEDY)
    assert [gaps(model, prompt, one.outputs[0].token_ids) for prompt, one in zip(PROMPTS, found, strict=True)] == [
        []
    ] * 4


DEMO: dict[str, tuple[str, dict[str, Any]]] = {
    "bfloat16": ("demo", {"dtype": torch.bfloat16}),
    "int8": ("demo", {"quantization": "int8"}),
    "int4": ("demo-int4", {}),
}


@pytest.mark.parametrize("form", DEMO)
def test_other_tokens_come_only_at_near_ties(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, settings = DEMO[form]
    model = AutoModelForCausalLM.from_pretrained(name, **settings)
    prompts = [[one * 97 + 11 * place + 5 for place in range(7 + one)] for one in range(6)]
    seeds = [None, None, None, None, 7, 8]
    params = [
        replace(GREEDY, **({} if seed is None else {"temperature": 1, "top_k": 0, "seed": seed})) for seed in seeds
    ]
    found = LLM(model, max_num_seqs=4, max_model_len=64).generate(prompts, params)
    answers = zip(prompts, found, seeds, strict=True)
    differing = [gap for prompt, one, seed in answers for gap in gaps(model, prompt, one.outputs[0].token_ids, seed)]
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(differing)} of {len(prompts)} answers of {NUM_NEW} tokens in {form} leave generate's\n"
        )
    assert all(gap < 2**-6 for gap in differing)  # a few roundings of 8 bits


@lru_cache
def _engine() -> LLM:
    return LLM(small_model("float32"), max_num_seqs=4)


def test_the_check_at_the_start_sees_results_that_depend_on_the_batch() -> None:
    assert _engine().core.ready().is_batch_invariant

    class Dependent:
        def run(self, batch: Any, traits: Any) -> Forward:
            return Forward(torch.full((batch.num_tokens, 2), float(len(batch.rows))), lambda hidden: hidden)

    pool = _engine().core._scheduler.pool
    assert not is_batch_invariant(Dependent(), pool, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {
            "rope_type": "longrope",
            "original_max_position_embeddings": 64,
            "short_factor": [1.0] * 4,
            "long_factor": [3.0] * 4,
        },
    ],
    ids=lambda one: one["rope_type"],
)
def test_frequencies_that_depend_on_length_are_settled_when_a_request_comes(rope: dict[str, Any]) -> None:
    model = tiny_model(SeedOssForCausalLM, max_position_embeddings=64, rope_parameters={"rope_theta": 1e4, **rope})
    engine = LLM(model, max_model_len=160, max_num_batched_tokens=16)
    short, prompt = SamplingParams(temperature=0, max_tokens=8, min_tokens=8), PROMPTS[3]
    expected: Any = model.generate(torch.tensor([prompt]), max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert list(engine.generate([prompt], short)[0].outputs[0].token_ids) == expected[0, len(prompt) :].tolist()
    long = SamplingParams(temperature=0, max_tokens=100, min_tokens=100, logprobs=1)
    first = engine.generate([prompt], long)[0]
    assert first.num_cached_tokens == 0  # keys of the short request are others
    again = engine.generate([prompt, prompt], [long, short])
    assert [one.num_cached_tokens for one in again] == [32, 32]
    assert again[0].outputs == first.outputs
    assert first.outputs[0].token_ids[:8] != again[1].outputs[0].token_ids


@pytest.mark.skipif(library() is None, reason=f"no native kernels: {why_not()}")
def test_a_model_that_was_handed_in_is_not_changed() -> None:
    """What it gives by itself stays torch's own, while the engine runs its layers natively."""
    model = small_model("float32")
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    engine = LLM(model, max_num_seqs=2)
    assert engine.generate(PROMPTS[:1], GREEDY)
    assert all(one is modules[name] for name, one in model.named_modules())
    assert all(one is parameters[name] for name, one in model.named_parameters())
    twin = fused(model)
    assert type(twin.get_submodule("model.layers")) is FusedLayers
    assert all(one is parameters[name] for name, one in twin.named_parameters())
    assert fused(twin) is twin
