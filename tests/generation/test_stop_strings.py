"""Stop strings beside a plain search in the decoded text, for any text, any strings and any cutting into tokens."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_oss import SeedOssTokenizer
from seed_oss.errors import InputError
from seed_oss.generation import StopStringCriteria, generate
from seed_oss.generation.stop_strings import StopMatcher, StopStringTracker
from tests.chat.tokenizer_factory import write_tiny_tokenizer
from tests.generation.helpers import ScriptedModel

FEW_LETTERS = st.text("ab ", max_size=30)
STRINGS = st.lists(st.text("ab ", min_size=1, max_size=5), min_size=1, max_size=4)


class Pieces:
    """A tokenizer whose tokens are given texts."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def decode(self, token_ids: Any, **_: Any) -> str:
        return "".join(self.pieces[token_id] for token_id in token_ids)


def _first_end(text: str, strings: list[str], start: int = 0) -> int | None:
    """Smallest end beyond `start` of any occurrence."""
    ends = [i + len(s) for s in strings for i in range(len(text)) if text.startswith(s, i) and i + len(s) > start]
    return min(ends, default=None)


@settings(deadline=None)
@given(FEW_LETTERS, STRINGS)
def test_matcher_finds_the_first_end(text: str, strings: list[str]) -> None:
    matcher = StopMatcher(strings)
    state, end = matcher.search(matcher.start, text)
    assert end == _first_end(text, strings)
    if end is None:
        longest = max(
            (n for s in strings for n in range(len(s)) if text.endswith(s[:n])),
            default=0,
        )
        assert matcher.num_pending(state) == longest


@settings(deadline=None)
@given(FEW_LETTERS, STRINGS, st.lists(st.integers(0, 30)))
def test_matcher_does_not_mind_cuts(text: str, strings: list[str], cuts: list[int]) -> None:
    matcher, borders = StopMatcher(strings), sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    state, end = matcher.start, None
    for begin, stop in itertools.pairwise(borders):
        state, inside = matcher.search(state, text[begin:stop])
        if inside is not None:
            end = begin + inside
            break
    assert end == _first_end(text, strings)


def test_ab_in_aab() -> None:
    matcher = StopMatcher(["AB"])
    assert matcher.search(matcher.start, "AAB")[1] == 3


def test_a_string_inside_another() -> None:
    assert StopMatcher(["abcd", "bc"]).search(0, "xabcd")[1] == 4


def test_time_is_linear() -> None:
    matcher = StopMatcher(["a" * 2000 + "b"])
    assert matcher.search(0, "a" * 200_000)[1] is None


@pytest.mark.parametrize("strings", [[], [""], ["a", ""], ["a", 3]])
def test_strings_that_are_none(strings: Any) -> None:
    with pytest.raises(InputError, match="stop_strings is"):
        StopMatcher(strings)


def test_more_text_than_anybody_looks_for() -> None:
    StopMatcher(["a" * 65_536])
    with pytest.raises(InputError, match="65537 characters; the limit is 65536"):
        StopMatcher(["a" * 65_536, "b"])


@settings(deadline=None)
@given(
    st.lists(st.text("abé🙂 ", max_size=4), max_size=12), st.lists(st.text("abé🙂 ", max_size=4), max_size=4), STRINGS
)
def test_tracker_and_criterion_stop_at_the_token_where_the_text_does(
    pieces: list[str], prompt: list[str], strings: list[str]
) -> None:
    tokenizer = Pieces([*prompt, *pieces])
    prompt_ids = list(range(len(prompt)))
    prompt_text, criterion = "".join(prompt), StopStringCriteria(tokenizer, strings)
    tracker = StopStringTracker(criterion.matcher, tokenizer, prompt_ids)
    end = _first_end(prompt_text + "".join(pieces), strings, start=len(prompt_text))
    length, stopped = len(prompt_text), False
    for index, piece in enumerate(pieces):
        length += len(piece)
        should = end is not None and end <= length
        ids = [*prompt_ids, *range(len(prompt), len(prompt) + index + 1)]
        assert tracker.feed(ids[-1]) == should
        assert bool(criterion(torch.tensor([ids]), None)) == should
        if should:
            stopped = True
            break
    assert stopped == (end is not None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=["ours", "theirs"])
def tokenizer(request: pytest.FixtureRequest, folder: Path) -> Any:
    if request.param == "ours":
        return SeedOssTokenizer.from_pretrained(folder)
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def _generate(tokenizer: Any, prompt: str, answers: list[str], stop_strings: Any, **arguments: Any) -> list[str]:
    """What a model that gives `answers` would, as text without the padding."""
    script = [tokenizer.encode(answer, add_special_tokens=False) + [2] for answer in answers]
    model = ScriptedModel(script, vocab_size=512)
    ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)] * len(answers))
    result = _call(model, ids, stop_strings=stop_strings, tokenizer=tokenizer, **{"max_new_tokens": 60, **arguments})
    return [tokenizer.decode([token for token in row[ids.shape[1] :] if token != 1]) for row in result.tolist()]


def _call(model: ScriptedModel, *args: Any, **kwargs: Any) -> torch.Tensor:
    result = generate(model, *args, **kwargs)
    assert isinstance(result, torch.Tensor)
    return result


def test_each_row_stops_by_itself(tokenizer: Any) -> None:
    answers = ["The capital of France is Paris.", "no such thing", "of of of of", "It is France is"]
    result = _generate(tokenizer, "What", answers, ["France is", "of of"])
    assert "France is" in result[0]
    assert "Paris" not in result[0]
    assert result[1] == "no such thing<seed:eos>"
    assert result[2].startswith("of of")
    assert result[2].count("of") == 2
    assert result[3] == "It is France is"


def test_one_string_in_place_of_a_list(tokenizer: Any) -> None:
    assert _generate(tokenizer, "What", ["one two three"], "two")[0] == "one two"


def test_beyond_the_borders_of_tokens_and_characters(tokenizer: Any) -> None:
    result = _generate(tokenizer, "x", ["🙂🙂👩‍👩‍👧‍👦 工具调用请遵循 end"], ["具调用"])[0]
    assert "具调用" in result  # the token that completes it may bring the first byte of the next character
    assert "请" not in result


def test_a_string_that_begins_in_the_prompt(tokenizer: Any) -> None:
    assert _generate(tokenizer, "Human", [": I am"], ["an:"]) == [":"]


def test_a_string_wholly_inside_the_prompt_does_not_count(tokenizer: Any) -> None:
    assert _generate(tokenizer, "Human: stop", [" and go"], ["stop"]) == [" and go<seed:eos>"]


def test_special_tokens_count_as_text(tokenizer: Any) -> None:
    answer = tokenizer.encode("a", add_special_tokens=False) + [4]
    model = ScriptedModel([[*answer, 20, 21]], vocab_size=512)
    result = _call(model, torch.tensor([[30]]), stop_strings="a</seed:think>", tokenizer=tokenizer, max_new_tokens=9)
    assert result.tolist() == [[30, *answer]]


def test_without_pad_rows_run_on_as_in_the_reference(tokenizer: Any) -> None:
    model = ScriptedModel([tokenizer.encode("one two three", add_special_tokens=False), [30, 31, 32]], vocab_size=512)
    model.generation_config.pad_token_id = model.generation_config.eos_token_id = None
    result = _call(model, torch.tensor([[30], [30]]), stop_strings="two", tokenizer=tokenizer, max_new_tokens=20)
    assert tokenizer.decode(result[0, 1:]).startswith("one two three")


def test_against_the_oracle(folder: Path) -> None:
    """Where no character is cut, transformers' own matcher says the same."""
    ours, theirs = (
        SeedOssTokenizer.from_pretrained(folder),
        transformers.PreTrainedTokenizerFast.from_pretrained(folder),
    )
    strings = ["is", "budget is", "t", ", ", "France?", "'re all"]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(9, len(ours), (15, 30), generator=generator)
    text_ids = ours(
        "The current thinking budget is 512 tokens, and they're all left. What is France? It is", return_tensors="pt"
    )
    ids = torch.cat((ids, text_ids["input_ids"][:, :30].expand(3, -1)), dim=0)
    for string in strings:
        mine = StopStringCriteria(ours, string)
        other = transformers.StopStringCriteria(theirs, string)
        for length in range(1, 31):
            assert torch.equal(mine(ids[:, :length], None), other(ids[:, :length], None)), (string, length)


def test_stop_strings_need_a_tokenizer() -> None:
    with pytest.raises(InputError, match="pass tokenizer="):
        _call(ScriptedModel([[5]]), torch.tensor([[3]]), stop_strings="a", max_new_tokens=2)


def test_a_tokenizer_must_decode() -> None:
    with pytest.raises(InputError, match="tokenizer is a int"):
        _call(ScriptedModel([[5]]), torch.tensor([[3]]), stop_strings="a", tokenizer=3, max_new_tokens=2)
