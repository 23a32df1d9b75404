"""Prompt lookup: the index, and the same result as without guesses in fewer forwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_oss import SeedOssTokenizer, StaticCache
from seed_oss.errors import ConfigError, InputError
from seed_oss.generation.columns import Columns
from seed_oss.generation.prompt_lookup import NgramIndex, PromptLookup
from seed_oss.generation.row_control import FREE, Directive
from tests.chat.tokenizer_factory import write_tiny_tokenizer
from tests.factory import random_ids
from tests.generation.helpers import PAD, left_padded, models, quietly
from tests.generation.test_row_controls import Says

LOOKUP: dict[str, Any] = {"prompt_lookup_num_tokens": 6}


class TestIndex:
    def _propose(self, ids: list[int], limit: int, size: int = 3) -> list[int]:
        index = NgramIndex(size)
        index.extend(ids)
        return index.propose(limit)

    def test_what_followed_before(self) -> None:
        assert self._propose([1, 2, 3, 4, 5, 9, 1, 2], 3) == [3, 4, 5]

    def test_the_longest_match_counts_and_of_equals_the_last(self) -> None:
        assert self._propose([7, 1, 2, 8, 5, 2, 9, 1, 2], 1) == [8]
        assert self._propose([1, 2, 8, 1, 2, 9, 1, 2], 1) == [9]
        assert self._propose([7, 1, 2, 8, 5, 2, 9, 1, 2], 1, size=1) == [9]

    def test_it_runs_on_into_itself(self) -> None:
        assert self._propose([5, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]
        assert self._propose([5, 5], 3) == [5, 5, 5]

    @pytest.mark.parametrize("ids", [[], [1], [1, 2, 3]])
    def test_nothing(self, ids: list[int]) -> None:
        assert self._propose(ids, 3) == []

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4), st.integers(1, 5))
    def test_against_a_search(self, ids: list[int], size: int, limit: int) -> None:
        expected: list[int] = []
        for n in range(min(size, len(ids) - 1), 0, -1):
            ends = [end for end in range(n, len(ids)) if ids[end - n : end] == ids[-n:]]
            if ends:
                known = ids[ends[-1] : ends[-1] + limit]
                expected = (known * limit)[:limit]
                break
        assert self._propose(ids, limit, size) == expected


def test_fewer_guesses_after_a_miss() -> None:
    lookup = PromptLookup([[1, 2, 3]], 3, 16, 2)
    lengths = []
    for right in (16, 2, 0, 3, 6, 12, 16):
        lookup.judge(right, lookup.num_tokens)
        lengths.append(lookup.num_tokens)
    assert lengths == [16, 3, 3, 6, 12, 16, 16]


def test_padding_is_not_looked_at() -> None:
    lookup = PromptLookup([[5, 6], [7]], 4, 8, 1)
    ids = Columns(torch.tensor([[PAD, PAD, 5, 6], [PAD, PAD, PAD, 7]]), 4)
    ids.append(torch.tensor([5, PAD]))
    assert lookup.propose(ids, 2, [False, False]) == [[6, 5], []]
    ids.append(torch.tensor([9, PAD]))
    assert lookup.propose(ids, 2, [False, True]) == [[], []]


@pytest.fixture(scope="module")
def model() -> Any:
    return models()[0]


def _count_forwards(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the forwards that follow."""
    lengths: list[int] = []
    forward = model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    return lengths


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "one token": {"max_new_tokens": 1},
    "two tokens": {"max_new_tokens": 2},
    "seeded": {"do_sample": True, "seed": 3, "temperature": 0.3},
    "from torch's state": {"do_sample": True, "top_k": 4, "temperature": 0.4},
    "penalty": {"repetition_penalty": 1.2},
    "eos": {"eos_token_id": [27, 99, 45, 134, *range(7, 16)], "min_new_tokens": 2},
    "static cache": {"cache_implementation": "static"},
    "several": {"do_sample": True, "seed": 1, "num_return_sequences": 2, "temperature": 0.4},
    "max_length": {"max_length": 30, "max_new_tokens": None},
    "one guess": {"prompt_lookup_num_tokens": 1},
    "chunks": {"prefill_chunk_size": 4},
}


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("lengths", [(9,), (9, 4, 6)])
def test_the_same_as_plain(model: Any, case: str, lengths: tuple[int, ...]) -> None:
    how = {"max_new_tokens": 40, **SETTINGS[case]}
    plain = {name: value for name, value in how.items() if name != "prompt_lookup_num_tokens"}
    torch.manual_seed(5)
    expected = quietly(model.generate, **left_padded(*lengths), **plain)
    torch.manual_seed(5)
    assert torch.equal(quietly(model.generate, **left_padded(*lengths), **{**LOOKUP, **how}), expected)


def test_fewer_forwards(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.generate(random_ids(1, 8), max_new_tokens=110)
    lengths = _count_forwards(model, monkeypatch)
    assert torch.equal(model.generate(random_ids(1, 8), max_new_tokens=110, **LOOKUP), expected)
    assert len(lengths) < 75  # the tiny model soon repeats itself
    assert max(lengths[1:]) == 7


def test_everything_that_is_recorded(model: Any) -> None:
    how = {
        "max_new_tokens": 30,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "output_logprobs": True,
        "top_logprobs": 2,
    }
    plain = model.generate(**left_padded(8, 5), **how)
    guessed = model.generate(**left_padded(8, 5), **how, **LOOKUP)
    assert list(guessed.keys()) == list(plain.keys())
    for name in ("scores", "logits", "logprobs", "top_logprobs", "top_logprob_ids"):
        torch.testing.assert_close(guessed[name], plain[name], atol=1e-5, rtol=1e-4)
    assert guessed.finish_reasons == plain.finish_reasons
    assert guessed.past_key_values.get_seq_length() == plain.past_key_values.get_seq_length() == 8 + 29
    for (keys, _), (others, _) in zip(guessed.past_key_values, plain.past_key_values, strict=True):
        torch.testing.assert_close(keys[0], others[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(keys[1, :, 3:], others[1, :, 3:], atol=1e-5, rtol=1e-4)


def test_a_cache_of_the_user(model: Any) -> None:
    ids = random_ids(2, 12)
    for make in (lambda: None, lambda: StaticCache(model.config, max_cache_len=12 + 24)):
        past = model(ids[:, :7], past_key_values=make(), use_cache=True).past_key_values
        expected = model.generate(ids, max_new_tokens=25)
        assert torch.equal(model.generate(ids, max_new_tokens=25, past_key_values=past, **LOOKUP), expected)


def test_embeddings(model: Any) -> None:
    embeds = model.get_input_embeddings()(random_ids(2, 6))
    expected = model.generate(inputs_embeds=embeds, max_new_tokens=25)
    assert torch.equal(model.generate(inputs_embeds=embeds, max_new_tokens=25, **LOOKUP), expected)


class Pieces:
    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.seen.append(value.tolist())

    def end(self) -> None:
        self.ended += 1


def test_streamers_get_token_after_token(model: Any) -> None:
    plain, guessed = Pieces(), Pieces()
    model.generate(random_ids(2, 6), max_new_tokens=20, streamer=plain)
    model.generate(random_ids(2, 6), max_new_tokens=20, streamer=guessed, **LOOKUP)
    assert (guessed.seen, guessed.ended) == (plain.seen, 1)


def test_own_criteria_see_every_length(model: Any) -> None:
    lengths: list[int] = []

    def watch(ids: torch.Tensor, scores: Any) -> bool:
        lengths.append(ids.shape[1])
        return ids.shape[1] == 19

    result = model.generate(random_ids(1, 6), max_new_tokens=30, stopping_criteria=[watch], **LOOKUP)
    assert result.shape[1] == 19
    assert lengths == list(range(7, 20))


def test_stop_strings(model: Any, tmp_path: Path) -> None:
    tokenizer = SeedOssTokenizer.from_pretrained(write_tiny_tokenizer(tmp_path))
    plain = model.generate(random_ids(1, 6), max_new_tokens=40)
    text = tokenizer.decode(plain[0, 14:17].tolist())
    how = {"stop_strings": text, "tokenizer": tokenizer, "max_new_tokens": 40}
    expected = model.generate(random_ids(1, 6), **how)
    assert expected.shape[1] < 46
    assert torch.equal(model.generate(random_ids(1, 6), **how, **LOOKUP), expected)


def test_without_pad_rows_run_on(model: Any, tmp_path: Path) -> None:
    tokenizer = SeedOssTokenizer.from_pretrained(write_tiny_tokenizer(tmp_path))
    plain = model.generate(random_ids(2, 6), max_new_tokens=40)
    how = {"stop_strings": tokenizer.decode(plain[0, 14:17].tolist()), "tokenizer": tokenizer, "max_new_tokens": 40}
    model.generation_config.pad_token_id = None
    try:
        expected = model.generate(random_ids(2, 6), **how)
        assert torch.equal(model.generate(random_ids(2, 6), **how, **LOOKUP), expected)
    finally:
        model.generation_config.pad_token_id = PAD
    assert torch.equal(expected, plain)


class TestRowControls:
    def _both(self, model: Any, controls: Any, **how: Any) -> Any:
        how = {"max_new_tokens": 30, "return_dict_in_generate": True, "row_controls": controls, **how}
        plain, guessed = (model.generate(**left_padded(8, 5), **how, **more) for more in ({}, LOOKUP))
        assert torch.equal(guessed.sequences, plain.sequences)
        assert torch.equal(guessed.forced, plain.forced)
        assert guessed.finish_reasons == plain.finish_reasons
        return guessed

    @pytest.mark.parametrize("how", [{}, {"do_sample": True, "seed": 4}])
    def test_of_one_row(self, model: Any, how: dict[str, Any]) -> None:
        bans = [Directive(banned=frozenset(range(0, 150, step))) for step in (2, 3, 2, 5, 2)]
        allowed = torch.arange(160) % 3 == 0
        control = Says(*bans, *[FREE] * 5, Directive(forced=9), *[Directive(allowed=allowed)] * 5, *[FREE] * 6)
        self._both(model, [control, None], **how)
        self._both(model, [None, Says(*control.directives, Directive(stop="enough"))], **how)

    def test_forced_tokens_take_one_forward(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        control = Says(FREE, *[Directive(forced=token) for token in range(20, 32)], Directive(stop="enough"))
        lengths = _count_forwards(model, monkeypatch)
        result = model.generate(random_ids(1, 8), max_new_tokens=30, row_controls=control, prompt_lookup_num_tokens=12)
        assert result[0, 9:].tolist() == list(range(20, 32))
        assert lengths == [8, 13]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"use_cache": False}, "use_cache is False"),
        ({"num_beams": 2}, "num_beams"),
        ({"return_dict_in_generate": True, "output_hidden_states": True}, "output_hidden_states are both given"),
        ({"return_dict_in_generate": True, "output_attentions": True}, "output_attentions are both given"),
    ],
)
def test_what_does_not_go_with_it(model: Any, how: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, ConfigError), match=message):
        quietly(model.generate, random_ids(1, 5), max_new_tokens=3, **LOOKUP, **how)


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", 2000])
def test_how_many(model: Any, value: Any) -> None:
    with pytest.raises(ConfigError, match="prompt_lookup_num_tokens is"):
        model.generate(random_ids(1, 5), max_new_tokens=3, prompt_lookup_num_tokens=value)


def test_rope_by_length() -> None:
    model, _ = models(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    with pytest.raises(InputError, match="rope_type 'dynamic'"):
        model.generate(random_ids(1, 5), max_new_tokens=3, **LOOKUP)
