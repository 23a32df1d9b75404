"""Caches given to and returned from generate, and the ways to run the prompt."""

from typing import Any

import pytest
import torch

from seed_oss import DynamicCache, StaticCache
from seed_oss.errors import CacheFullError, InputError
from seed_oss.planning import chunks
from tests.factory import random_ids
from tests.generation.helpers import left_padded, models, quietly

IDS = random_ids(2, 9)
PADDED = left_padded(9, 5)


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    return models()


@pytest.fixture(scope="module")
def model(both: tuple[Any, Any]) -> Any:
    return both[0]


def _first_part(model: Any, **prompt: Any) -> Any:
    return model.generate(**prompt, max_new_tokens=6, return_dict_in_generate=True)


def test_all_but_the_last_token_is_cached(model: Any) -> None:
    cache = _first_part(model, inputs=IDS).past_key_values
    assert isinstance(cache, DynamicCache)
    assert cache.get_seq_length() == 9 + 6 - 1
    assert tuple(cache[0][0].shape) == (2, 2, 14, 8)


@pytest.mark.parametrize("prompt", [{"inputs": IDS}, PADDED], ids=["full", "padded"])
def test_continue_with_all_ids(both: tuple[Any, Any], prompt: dict[str, Any]) -> None:
    model = both[0]
    whole = model.generate(**prompt, max_new_tokens=15)
    results = []
    for one in both:
        first = _first_part(one, **prompt)
        mask = {"attention_mask": _longer(prompt["attention_mask"], 6)} if "attention_mask" in prompt else {}
        results.append(
            quietly(one.generate, first.sequences, **mask, past_key_values=first.past_key_values, max_new_tokens=9)
        )
    assert torch.equal(results[0], whole)
    assert torch.equal(results[0], results[1])


def _longer(mask: torch.Tensor, more: int) -> torch.Tensor:
    return torch.cat((mask, mask.new_ones(mask.shape[0], more)), dim=1)


@pytest.mark.parametrize("prompt", [{"inputs": IDS}, PADDED], ids=["full", "padded"])
def test_continue_with_new_ids_and_a_mask_over_all(both: tuple[Any, Any], prompt: dict[str, Any]) -> None:
    new = random_ids(2, 3, seed=8)
    results = []
    for one in both:
        first = _first_part(one, **prompt)
        start = prompt.get("attention_mask", torch.ones_like(IDS))
        given = torch.cat((first.sequences[:, -1:], new), dim=1)
        results.append(
            quietly(
                one.generate,
                given,
                attention_mask=_longer(start, 9),
                past_key_values=first.past_key_values,
                max_new_tokens=7,
            )
        )
    everything = torch.cat((_first_part(both[0], **prompt).sequences, new), dim=1)
    mask = {"attention_mask": _longer(prompt["attention_mask"], 9)} if "attention_mask" in prompt else {}
    whole = both[0].generate(everything, **mask, max_new_tokens=7)
    assert torch.equal(results[0][:, 1:], whole[:, 15:])
    assert torch.equal(results[0], results[1])


def test_repetition_penalty_leaves_out_only_real_padding_when_continuing(model: Any) -> None:
    first = _first_part(model, **PADDED)
    given = first.sequences[:, -1:].repeat(1, 3)
    mask = _longer(PADDED["attention_mask"], 8)
    scores = model.generate(
        given,
        attention_mask=mask,
        past_key_values=first.past_key_values,
        max_new_tokens=1,
        repetition_penalty=2.0,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    before, after = scores.logits[0], scores.scores[0]
    for row in range(2):
        assert before[row, given[row, 0]] != after[row, given[row, 0]]


def test_the_legacy_tuple_form_is_taken_over(model: Any) -> None:
    first = _first_part(model, inputs=IDS)
    legacy = first.past_key_values.to_legacy_cache()
    result = model.generate(first.sequences, past_key_values=legacy, max_new_tokens=4)
    assert torch.equal(result, model.generate(IDS, max_new_tokens=10))


def test_a_static_cache_of_the_user(model: Any) -> None:
    cache = StaticCache(model.config, max_cache_len=40)
    first = model.generate(IDS, past_key_values=cache, max_new_tokens=6)
    assert cache.get_seq_length() == 14
    result = model.generate(first, past_key_values=cache, max_new_tokens=4)
    assert torch.equal(result, model.generate(IDS, max_new_tokens=10))


def test_a_static_cache_exactly_large_enough(model: Any) -> None:
    cache = StaticCache(model.config, max_cache_len=9 + 6 - 1)
    assert torch.equal(
        model.generate(IDS, past_key_values=cache, max_new_tokens=6), model.generate(IDS, max_new_tokens=6)
    )


def test_a_static_cache_one_too_small_is_refused_before_anything_runs(model: Any) -> None:
    cache = StaticCache(model.config, max_cache_len=9 + 6 - 2)
    with pytest.raises(CacheFullError, match=r"14 cached tokens .* room for 13"):
        model.generate(IDS, past_key_values=cache, max_new_tokens=6)
    assert cache.get_seq_length() == 0


def test_one_cache_row_per_prompt_row_is_repeated(model: Any) -> None:
    first = _first_part(model, inputs=IDS)
    arguments: dict[str, Any] = {"max_new_tokens": 5, "do_sample": True, "num_return_sequences": 3, "seed": 4}
    result = model.generate(first.sequences, past_key_values=first.past_key_values, **arguments)
    assert torch.equal(result, model.generate(first.sequences, **arguments))


def test_one_cache_row_per_result_row_is_used_as_it_is(model: Any) -> None:
    first = _first_part(model, inputs=IDS)
    first.past_key_values.batch_repeat_interleave(3)
    arguments: dict[str, Any] = {"max_new_tokens": 5, "do_sample": True, "num_return_sequences": 3, "seed": 4}
    result = model.generate(first.sequences, past_key_values=first.past_key_values, **arguments)
    assert torch.equal(result, model.generate(first.sequences, **arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": IDS[:, :5]}, r"the prompt has 5 tokens and the cache already 14"),
        ({"inputs": random_ids(2, 14)}, r"the prompt has 14 tokens and the cache already 14"),
        ({"inputs": IDS[:, :5], "attention_mask": torch.ones(2, 18)}, r"18 columns.* 19"),
        ({"inputs": random_ids(3, 15)}, r"the cache has 2 rows and the prompt 3"),
        ({"inputs": random_ids(2, 15), "cache_implementation": "static"}, r"cache_implementation='static'"),
        ({"inputs": random_ids(2, 15), "use_cache": False}, r"use_cache is False"),
    ],
)
def test_a_cache_that_does_not_fit_the_prompt(model: Any, arguments: dict[str, Any], message: str) -> None:
    cache = _first_part(model, inputs=IDS).past_key_values
    with pytest.raises(InputError, match=message):
        model.generate(**arguments, past_key_values=cache, max_new_tokens=4)


def test_no_cache_is_returned_without_one(model: Any) -> None:
    result = model.generate(IDS, max_new_tokens=3, use_cache=False, return_dict_in_generate=True)
    assert result.past_key_values is None


@pytest.mark.parametrize("prompt", [{"inputs": IDS}, PADDED], ids=["full", "padded"])
@pytest.mark.parametrize("chunk", [1, 2, 4, 8, 9, 100])
def test_chunks_of_any_size_give_the_same(model: Any, prompt: dict[str, Any], chunk: int) -> None:
    whole = model.generate(**prompt, max_new_tokens=12, output_logits=True, return_dict_in_generate=True)
    result = model.generate(
        **prompt, max_new_tokens=12, output_logits=True, return_dict_in_generate=True, prefill_chunk_size=chunk
    )
    assert torch.equal(result.sequences, whole.sequences)
    torch.testing.assert_close(result.logits, whole.logits, atol=1e-5, rtol=1e-5)


def test_chunks_continue_a_cache_and_a_static_one(model: Any) -> None:
    first = _first_part(model, inputs=IDS)
    more = torch.cat((first.sequences, random_ids(2, 5, seed=9)), dim=1)
    whole = model.generate(more, max_new_tokens=5)
    cache = StaticCache(model.config, max_cache_len=40)
    for past in (first.past_key_values, cache):
        assert torch.equal(model.generate(more, past_key_values=past, prefill_chunk_size=2, max_new_tokens=5), whole)


def test_long_prompts_run_in_chunks_by_default(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_CHUNK_LEN", 4)
    lengths: list[int] = []
    hook = model.model.layers[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    try:
        result = model.generate(IDS, max_new_tokens=3)
    finally:
        hook.remove()
    assert lengths == [4, 4, 1, 1, 1]
    monkeypatch.undo()
    assert torch.equal(result, model.generate(IDS, max_new_tokens=3))


@pytest.mark.parametrize(("total", "chunk"), [(1, 2048), (65_536, 2048), (131_072, 1024), (524_288, 256), (10**7, 256)])
def test_chunks_shrink_with_the_context(total: int, chunk: int) -> None:
    assert chunks.default_chunk_len(total) == chunk


def test_no_chunks_where_rotation_depends_on_the_length_of_a_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    both = models(rope_parameters=rope, max_position_embeddings=6)
    monkeypatch.setattr(chunks, "MAX_CHUNK_LEN", 4)
    results = [
        quietly(one.generate, IDS, max_new_tokens=8, output_logits=True, return_dict_in_generate=True) for one in both
    ]
    torch.testing.assert_close(results[0].logits[0], results[1].logits[0], atol=1e-5, rtol=1e-5)


def test_the_whole_prompt_runs_at_once_where_its_outputs_are_returned(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "MAX_CHUNK_LEN", 4)
    result = model.generate(IDS, max_new_tokens=3, output_hidden_states=True, return_dict_in_generate=True)
    assert result.hidden_states[0][0].shape == (2, 9, 32)


def test_chunks_need_a_cache(model: Any) -> None:
    with pytest.raises(InputError, match="prefill_chunk_size is 4 and use_cache is False"):
        model.generate(IDS, max_new_tokens=3, use_cache=False, prefill_chunk_size=4)


def test_the_prompt_runs_once_for_all_its_sequences(model: Any) -> None:
    rows: list[int] = []
    hook = model.model.layers[0].register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    try:
        model.generate(IDS, max_new_tokens=3, do_sample=True, num_return_sequences=4)
    finally:
        hook.remove()
    assert rows == [2, 8, 8]
