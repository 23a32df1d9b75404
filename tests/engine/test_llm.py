"""The engine in this process: the same tokens as generate(), the same bits under any load."""

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch

from seed_oss import (
    GenerationConfig,
    SeedOssForCausalLM,
    SeedOssForQuestionAnswering,
    SeedOssForSequenceClassification,
    SeedOssForTokenClassification,
)
from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.llm import LLM
from seed_oss.errors import ConfigError, InputError
from tests.factory import random_ids, tiny_model
from tests.seed_tokenizer import seed_tokenizer

VOCAB_SIZE = 400
PROMPTS = [tuple(random_ids(length, seed=length, low=9, high=VOCAB_SIZE).tolist()) for length in (1, 5, 17, 33, 40)]


@lru_cache
def model() -> Any:
    made = tiny_model(SeedOssForCausalLM, vocab_size=VOCAB_SIZE, max_position_embeddings=4096)
    made.generation_config = GenerationConfig(eos_token_id=2)
    return made


def llm(**settings: Any) -> LLM:
    """A new engine around the same weights."""
    return LLM(model(), tokenizer=seed_tokenizer(vocab_size=VOCAB_SIZE), **{"max_model_len": 256, **settings})


def generated(prompt: Sequence[int], num: int = 1, **settings: Any) -> list[list[int]]:
    """New tokens of `generate`, without what fills rows that ended early."""
    output: Any = model().generate(
        torch.tensor([prompt]),
        num_return_sequences=num,
        pad_token_id=2,
        return_dict_in_generate=True,
        output_logprobs=True,
        tokenizer=seed_tokenizer(vocab_size=VOCAB_SIZE),
        **settings,
    )
    is_token = output.logprobs != 0
    return [row[len(prompt) :][kept].tolist() for row, kept in zip(output.sequences, is_token, strict=True)]


def tokens(outputs: Any) -> list[list[list[int]]]:
    return [[list(answer.token_ids) for answer in one.outputs] for one in outputs]


def test_greedy_answers_are_those_of_generate() -> None:
    found = llm(max_num_seqs=3).generate(PROMPTS, SamplingParams(temperature=0, max_tokens=20))
    assert tokens(found) == [generated(one, max_new_tokens=20) for one in PROMPTS]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"temperature": 0.8, "top_p": 0.9}, {"top_k": 0}),
        ({"top_k": 12, "min_p": 0.02, "repetition_penalty": 1.3}, {}),
        ({"xtc_probability": 0.5, "xtc_threshold": 0.01, "top_k": 30}, {}),
        ({"presence_penalty": 0.5, "frequency_penalty": 0.3, "logit_bias": {7: 2.0}}, {"top_k": 0}),
        ({"dry_multiplier": 0.8, "dry_sequence_breakers": ["a"], "min_tokens": 5}, {"top_k": 0}),
        ({"top_n_sigma": 1.0, "typical_p": 0.9}, {"top_k": 0}),
    ],
)
def test_seeded_answers_are_those_of_generate_each_choice_with_its_own_noise(ours: Any, theirs: Any) -> None:
    params = SamplingParams(n=3, seed=11, max_tokens=12, **ours)
    same = {name: value for name, value in ours.items() if name != "min_tokens"} | theirs
    same["min_new_tokens"] = ours.get("min_tokens")
    found = llm(max_num_seqs=4).generate(PROMPTS[:3], params)
    expected = [generated(one, 3, do_sample=True, seed=11, max_new_tokens=12, **same) for one in PROMPTS[:3]]
    assert tokens(found) == expected
    assert len({tuple(answer) for answers in expected for answer in answers}) > 3


@pytest.mark.parametrize(
    "of_the_file",
    [
        {"epsilon_cutoff": 0.0025},
        {"eta_cutoff": 0.05},
        {"no_repeat_ngram_size": 1},
        {"sequence_bias": [[[7], 9.0], [[7, 9], -20.0]]},
        {"suppress_tokens": list(range(9, 200))},
        {"begin_suppress_tokens": list(range(9, 390)), "renormalize_logits": True},
        {"forced_bos_token_id": 11, "forced_eos_token_id": 12},
        {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1},
    ],
)
def test_what_the_models_file_sets_counts_as_in_generate(
    of_the_file: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[dict[str, Any]] = [{}, {"do_sample": True, "seed": 11, "top_k": 0}]

    def of_generate() -> list[list[list[list[int]]]]:
        return [[generated(one, max_new_tokens=12, **kind) for one in PROMPTS[:2]] for kind in kinds]

    plain = of_generate()
    monkeypatch.setattr(model(), "generation_config", GenerationConfig(eos_token_id=2, **of_the_file))
    engine, params = llm(max_num_seqs=4), [SamplingParams(temperature=0), SamplingParams(seed=11, top_k=0)]
    found = [tokens(engine.generate(PROMPTS[:2], replace(one, max_tokens=12))) for one in params]
    assert found == of_generate()
    assert (found == plain) == ("prompt_lookup_num_tokens" in of_the_file)  # which changes none


def test_a_models_file_that_generate_would_refuse_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model(), "generation_config", GenerationConfig(guidance_scale=3.0))
    with pytest.raises(ConfigError, match="guidance_scale"):
        llm()
    monkeypatch.setattr(model(), "generation_config", GenerationConfig(forced_eos_token_id=VOCAB_SIZE))
    with pytest.raises(InputError, match=f"forced_eos_token_id names token {VOCAB_SIZE}"):
        llm().generate([PROMPTS[1]], SamplingParams(max_tokens=2))


def test_a_request_without_a_seed_draws_anew() -> None:
    engine, params = llm(), SamplingParams(max_tokens=12, temperature=2.0)
    assert tokens(engine.generate([PROMPTS[0]], params)) != tokens(engine.generate([PROMPTS[0]], params))


def test_stop_strings_and_tokens_end_an_answer() -> None:
    tokenizer = seed_tokenizer(vocab_size=VOCAB_SIZE)
    whole = llm().generate([PROMPTS[2]], SamplingParams(temperature=0, max_tokens=20))[0].outputs[0]
    stop = tokenizer.decode(whole.token_ids[5:7])
    cut = llm().generate([PROMPTS[2]], SamplingParams(temperature=0, max_tokens=20, stop=stop))[0].outputs[0]
    assert cut.finish_reason == "stop_string"
    assert (cut.text, cut.stop) == (whole.text[: whole.text.index(stop)], stop)
    named = SamplingParams(temperature=0, max_tokens=20, stop_token_ids=[whole.token_ids[4]])
    ended = llm().generate([PROMPTS[2]], named)[0].outputs[0]
    assert (ended.finish_reason, ended.stop) == ("stop_token", whole.token_ids[4])
    assert ended.token_ids == whole.token_ids[: whole.token_ids.index(whole.token_ids[4]) + 1]


def test_log_probabilities_are_those_of_generate_and_of_the_model() -> None:
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=3, prompt_logprobs=2)
    found = llm().generate([PROMPTS[3]], params)[0]
    answer, prompt = found.outputs[0], torch.tensor([[*PROMPTS[3], *found.outputs[0].token_ids]])
    expected = model()(prompt).logits[0].log_softmax(-1)
    length = len(PROMPTS[3])
    assert answer.logprobs is not None
    assert found.prompt_logprobs is not None
    new = expected[length - 1 : -1].gather(1, prompt[0, length:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(answer.logprobs.values), new, atol=1e-4, rtol=0)
    assert answer.logprobs.top_ids[0] == tuple(expected[length - 1].topk(3).indices.tolist())
    old = expected[: length - 1].gather(1, prompt[0, 1:length, None])[:, 0]
    torch.testing.assert_close(torch.tensor(found.prompt_logprobs.values[1:]), old, atol=1e-4, rtol=0)
    assert found.prompt_logprobs.values[0] is None


def _random_params(rng: random.Random) -> SamplingParams:
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"seed": rng.randrange(100), "n": rng.randint(1, 3)},
        {"seed": rng.randrange(100), "top_p": 0.8, "repetition_penalty": 1.2},
        {"temperature": 0, "prompt_lookup_num_tokens": 4},
    ]
    return SamplingParams(max_tokens=rng.randint(1, 80), logprobs=1, **rng.choice(kinds))


def test_a_full_cache_costs_time_and_no_answer_however_long_it_takes() -> None:
    crowded = llm(max_num_seqs=4, kv_cache_memory=_memory_of(num_blocks=8))
    ticks = itertools.count(time.monotonic(), 30.0)
    crowded.core._clock = lambda: next(ticks)
    found = crowded.generate(PROMPTS[1:], SamplingParams(temperature=0, max_tokens=100, ignore_eos=True))
    assert crowded.core.stats()["total_preemptions"] > 0
    assert [len(one.outputs[0].token_ids) for one in found] == [100] * 4


def test_equal_bits_alone_and_under_any_load() -> None:
    """Log-probabilities are compared as numbers, with nothing rounded: rows wait, share prompts, lose their blocks."""
    rng = random.Random(5)
    prompts = [rng.choice(PROMPTS)[: rng.randint(1, 40)] + PROMPTS[4][: rng.randint(0, 30)] for _ in range(16)]
    params = [_random_params(rng) for _ in prompts]
    crowded = llm(max_num_seqs=6, max_num_batched_tokens=24, kv_cache_memory=_memory_of(num_blocks=8))
    found = crowded.generate(prompts, params)
    assert crowded.core.stats()["total_preemptions"] > 0
    assert crowded.core.stats()["total_cache_hit_tokens"] > 0
    quiet = llm(max_num_seqs=3)
    for prompt, param, one in zip(prompts, params, found, strict=True):
        alone = quiet.generate([prompt], param)[0]
        assert alone.outputs == one.outputs


def _memory_of(num_blocks: int) -> int:
    config = model().config
    return num_blocks * 2 * config.num_hidden_layers * config.num_key_value_heads * 32 * config.head_dim * 4


def test_guesses_from_the_prompt_change_no_token_and_are_taken() -> None:
    prompt = PROMPTS[2] * 3
    engine = llm()
    plain = engine.generate([prompt], SamplingParams(temperature=0, max_tokens=40))
    guessed = engine.generate([prompt], SamplingParams(temperature=0, max_tokens=40, prompt_lookup_num_tokens=5))
    assert tokens(plain) == tokens(guessed)
    assert engine.core.stats()["total_draft_tokens"] > 0


def test_a_prompt_that_was_seen_is_found_in_the_cache() -> None:
    engine, prompt = llm(), PROMPTS[4] + PROMPTS[3]
    first = engine.generate([prompt], SamplingParams(temperature=0, max_tokens=4))[0]
    again = engine.generate([prompt], SamplingParams(temperature=0, max_tokens=4))[0]
    assert (first.num_cached_tokens, again.num_cached_tokens) == (0, 64)
    assert first.outputs == again.outputs


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_embeddings_are_hidden_states(pooling: str) -> None:
    hidden = model().model(torch.tensor([PROMPTS[4]])).last_hidden_state[0]
    expected = hidden[-1] if pooling == "last" else hidden.mean(0)
    found = llm(max_num_batched_tokens=16, max_num_seqs=2).embed([PROMPTS[4], PROMPTS[1]], pooling=pooling)
    torch.testing.assert_close(torch.tensor(found[0].values), expected / expected.norm(), atol=1e-5, rtol=0)
    raw = llm().embed(PROMPTS[4], pooling=pooling, normalize=False)[0]
    torch.testing.assert_close(torch.tensor(raw.values), expected, atol=1e-4, rtol=0)


def test_heads_are_those_of_the_model() -> None:
    ids = torch.tensor([PROMPTS[4]])
    for cls, ask, last_only in (
        (SeedOssForSequenceClassification, "classify", True),
        (SeedOssForTokenClassification, "classify_tokens", False),
        (SeedOssForQuestionAnswering, "find_answers", False),
    ):
        made = tiny_model(cls, vocab_size=VOCAB_SIZE)
        engine = LLM(made, max_model_len=64, max_num_batched_tokens=16)
        found = getattr(engine, ask)([PROMPTS[4]])[0].values
        output = made(ids)
        expected = torch.stack((output.start_logits, output.end_logits), -1) if ask == "find_answers" else output.logits
        torch.testing.assert_close(torch.tensor(found), expected[0], atol=1e-4, rtol=0)
        with pytest.raises(InputError, match="task"):
            engine.generate([PROMPTS[0]])
        assert last_only == (torch.tensor(found).dim() == 1)


def test_scores_are_log_probabilities_of_the_text() -> None:
    expected = model()(torch.tensor([PROMPTS[3]])).logits[0].log_softmax(-1)[:-1]
    own = expected.gather(1, torch.tensor(PROMPTS[3][1:])[:, None]).sum().detach()
    assert llm().score([PROMPTS[3]])[0].logprob == pytest.approx(float(own), abs=1e-3)


def test_a_chat_is_held_to_its_budget_and_says_what_it_thought() -> None:
    engine = llm(max_model_len=512)
    ask = [{"role": "user", "content": "abc"}]
    found = engine.chat([ask, ask], SamplingParams(temperature=0, max_tokens=60), thinking_budget=0)[0]
    assert found.request.outputs[0].num_reasoning_tokens == 0
    assert found.messages[0].reasoning in (None, "")
    prompt = engine.tokenizer.decode(found.request.prompt_token_ids)
    assert prompt.endswith("</seed:think>")


@pytest.mark.parametrize(
    ("prompt", "params", "said"),
    [
        ((), {}, "prompt is empty"),
        ((5, 9999), {}, "9999"),
        ((5,) * 300, {}, "300 tokens"),
        ((5,), {"max_tokens": 256}, "max_tokens is 256"),
        ((5,), {"logit_bias": {9999: 1.0}}, "logit_bias names token 9999"),
        ((5,), {"stop_token_ids": [9999]}, "stop_token_ids"),
    ],
)
def test_what_cannot_be_is_refused_and_the_engine_goes_on(prompt: Any, params: Any, said: str) -> None:
    engine = llm()
    with pytest.raises(InputError, match=said):
        engine.generate([PROMPTS[1], prompt], [SamplingParams(max_tokens=2), SamplingParams(**params)])
    assert not engine.core.has_work
    assert len(engine.generate([PROMPTS[1]], SamplingParams(max_tokens=2, temperature=0))) == 1


def test_a_length_that_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(ConfigError, match="max_model_len=256 needs"):
        llm(kv_cache_memory=_memory_of(num_blocks=2))


@pytest.mark.parametrize(
    "setting", [{"max_num_seqs": 0}, {"kv_cache_memory": "1GiB"}, {"max_model_len": 1.5}, {"threads": True}]
)
def test_a_setting_that_is_no_number_is_named(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        LLM(tiny_model(SeedOssForCausalLM), **setting)


def test_more_answers_than_rows_run_after_each_other() -> None:
    (output,) = llm(max_num_seqs=1).generate([PROMPTS[1]], SamplingParams(n=8, max_tokens=2, temperature=0))
    assert len({one.token_ids for one in output.outputs}) == 1
    assert len(output.outputs) == 8


def test_no_prompts_have_no_answers() -> None:
    assert llm().generate([]) == []


@pytest.mark.parametrize("prompts", [["a", 1], [["a"]], 5, [None], [[True]], torch.tensor([5, 6])])
def test_what_is_no_prompt_is_said(prompts: Any) -> None:
    with pytest.raises(InputError, match="prompt"):
        llm().generate(prompts)


@pytest.mark.parametrize("params", [{"max_tokens": 3}, 5, [None], "greedy", [SamplingParams(), {}]])
def test_what_are_no_settings_is_said(params: Any) -> None:
    with pytest.raises(InputError, match="sampling_params is"):
        llm().generate(["a", "b"], params)
