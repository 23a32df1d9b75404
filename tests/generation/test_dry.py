"""DRY: lengths of repetitions beside a plain search, penalties by hand, breakers as ids and as text."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from seed_oss import GenerationConfig
from seed_oss.errors import InputError
from seed_oss.generation import DRYLogitsProcessor, generate
from seed_oss.generation.dry import (
    DEFAULT_BREAKERS,
    DryBreakers,
    DrySettings,
    find_breakers,
    num_since_breaker,
    repeat_lengths,
)
from tests.generation.helpers import ScriptedModel
from tests.seed_tokenizer import seed_tokenizer

VOCAB = 40


def changes(ids: list[int], **settings: Any) -> dict[int, float]:
    """What is taken off each token of a row, where anything is."""
    processor = DRYLogitsProcessor(**{"multiplier": 1.0, "base": 2.0, "allowed_length": 2, **settings})
    scores = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0))
    taken = (scores - processor(torch.tensor([ids]), scores))[0]
    return {index: round(value, 4) for index, value in enumerate(taken.tolist()) if value > 1e-5}


def test_the_example_of_llama_cpp() -> None:
    # a b c c b c y a b c: after "a b c" came c (3 repeated), after "c" came b (1), after "b c" came y (2)
    a, b, c, y = 5, 6, 7, 8
    text = [a, b, c, c, b, c, y, a, b, c]
    assert changes(text, allowed_length=1) == {c: 4.0, b: 1.0, y: 2.0}
    assert changes(text, allowed_length=2) == {c: 2.0, y: 1.0}
    assert changes(text, allowed_length=3, multiplier=0.5) == {c: 0.5}
    assert changes(text, allowed_length=4) == {}
    assert changes(text, base=1.0) == {c: 1.0, y: 1.0}


def test_the_longest_repetition_counts() -> None:
    assert changes([5, 6, 9, 4, 5, 6, 9, 3, 4, 5, 6]) == {9: 2.0}


def test_no_repetition_goes_across_a_breaker() -> None:
    text = [4, 5, 6, 9, 4, 5, 6]
    assert changes(text) == {9: 2.0}
    assert changes(text, sequence_breakers=[4]) == {9: 1.0}
    assert changes(text, sequence_breakers=[5]) == {}
    assert changes(text, sequence_breakers=[5], allowed_length=1) == {9: 1.0}
    assert changes(text, sequence_breakers=[6], allowed_length=1) == {}


def test_a_breaker_itself_costs_nothing() -> None:
    assert changes([4, 5, 6, 4, 5], sequence_breakers=[6]) == {}
    assert changes([4, 5, 6, 4, 5], sequence_breakers=[6, 10**6]) == {}
    assert changes([4, 5, 6, 4, 5]) == {6: 1.0}


def test_only_the_range_counts() -> None:
    text = [4, 5, 6, 9, 4, 5, 6]
    assert changes(text, dry_range=7) == {9: 2.0}
    assert changes(text, dry_range=6) == {9: 1.0}
    assert changes(text, dry_range=5) == {}


def test_padding_is_no_text() -> None:
    pad = 1
    ids = torch.tensor([[pad, pad, pad, 4, pad, pad], [4, 5, 6, 9, 4, 5]])
    scores = torch.zeros(2, VOCAB)
    processor = DRYLogitsProcessor(1.0, 2.0, 1, prompt_ignore_length=torch.tensor([3, 0]))
    expected = DRYLogitsProcessor(1.0, 2.0, 1)
    result = processor(ids, scores)
    assert torch.equal(result[:1], expected(ids[:1, 3:], scores[:1]))
    assert torch.equal(result[1:], expected(ids[1:], scores[1:]))
    assert result[0, pad] == -1.0  # one repeated token: the pads that were generated


@pytest.mark.parametrize(("base", "multiplier"), [(1.75, 1e-3), (1.05, 1.0), (50.0, 1e30), (1.0, 3.4e38)])
def test_a_long_repetition_stays_a_number(base: float, multiplier: float) -> None:
    ids = torch.full((1, 3000), 5)
    result = DRYLogitsProcessor(multiplier, base)(ids, torch.zeros(1, VOCAB))
    assert bool(result.isfinite().all())
    assert result[0, 5] < 0
    assert DrySettings(multiplier, base, 2).max_exponent < 2000


def _plain_lengths(ids: list[int], limit: int) -> list[int]:
    lengths = []
    for end in range(len(ids) - 1):
        count = 0
        while count <= end and count < limit and ids[end - count] == ids[-1 - count]:
            count += 1
        lengths.append(count)
    return lengths


@pytest.mark.parametrize("num_words", [1, 2, 5])
def test_lengths_are_those_of_a_plain_search(num_words: int) -> None:
    rng = random.Random(num_words)
    for length in (2, 3, 17, 60):
        rows = [[rng.randrange(num_words) for _ in range(length)] for _ in range(4)]
        limits = [rng.randrange(length + 1) for _ in rows]
        for cap in (1, 4, 100):
            expected = [_plain_lengths(row, min(limit, cap)) for row, limit in zip(rows, limits, strict=True)]
            assert repeat_lengths(torch.tensor(rows), torch.tensor(limits), cap).tolist() == expected


def test_a_long_repetition_of_long_text_is_counted_to_its_end() -> None:
    ids = torch.tensor([[5, 6] * 20_000, [7] * 39_999 + [5]])
    lengths = repeat_lengths(ids, torch.tensor([40_000, 40_000]), 30_000)
    assert lengths[0, -2:].tolist() == [30_000, 0]
    assert lengths[0, 3] == 4
    assert lengths[1].sum() == 0


def test_ids_below_zero_equal_nothing() -> None:
    negative = torch.tensor([[3, -1, *[3] * 12, -1, *[3] * 12]])
    assert repeat_lengths(negative, torch.tensor([27]), 20)[0, [13, 1, -1]].tolist() == [12, 0, 11]
    assert repeat_lengths(torch.tensor([[-1, 3, -1, 3]]), torch.tensor([4]), 9).tolist() == [[0, 1, 0]]


def test_rows_do_not_see_each_other() -> None:
    ids = torch.randint(0, 3, (6, 40), generator=torch.Generator().manual_seed(3))
    scores = torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(4))
    processor = DRYLogitsProcessor(0.8, sequence_breakers=[2])
    assert torch.equal(
        processor(ids, scores), torch.cat([processor(ids[i : i + 1], scores[i : i + 1]) for i in range(6)])
    )


class Letters:
    """A tokenizer whose tokens are given texts."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def get_vocab(self) -> dict[str, int]:
        return {text: index for index, text in enumerate(self.texts)}

    def batch_decode(self, rows: list[list[int]]) -> list[str]:
        return [self.texts[row[0]] for row in rows]

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [self.texts.index(char) for char in text]


class TestBreakersAsText:
    letters = Letters("a", "b", "#", "##", "a#", "\n", ".\n", "###!")

    def since(self, breakers: list[str | int], *ids: int) -> int:
        return int(num_since_breaker(torch.tensor([ids]), find_breakers(breakers, self.letters)))

    def test_every_token_that_holds_the_text(self) -> None:
        assert find_breakers(["\n", 0], self.letters).single_ids.tolist() == [0, 5, 6]

    def test_text_over_several_tokens(self) -> None:
        assert self.since(["###"], 0, 2, 2, 2, 0) == 1
        assert self.since(["###"], 0, 2, 2, 0) == 4
        assert self.since(["###"], 0, 3, 2, 0, 1) == 2
        assert self.since(["###"], 4, 2, 2, 0, 1, 1) == 3
        assert self.since(["###"], 0, 7, 1, 1) == 2
        assert self.since(["###"], 2, 2) == 2

    def test_the_last_one_counts(self) -> None:
        assert self.since(["\n", "###"], 5, 0, 6, 1, 1) == 2

    def test_the_default_with_a_real_tokenizer(self) -> None:
        tokenizer = seed_tokenizer()
        found = find_breakers(DEFAULT_BREAKERS, tokenizer).single_ids.tolist()
        texts = tokenizer.batch_decode([[index] for index in range(len(tokenizer))])
        assert found == [i for i, text in enumerate(texts) if any(one in text for one in DEFAULT_BREAKERS)]
        assert len(found) > 5

    def test_text_needs_a_tokenizer(self) -> None:
        with pytest.raises(InputError, match=r"pass tokenizer= to generate\(\), or token ids, or \[\]"):
            find_breakers(["\n"], None)
        assert find_breakers([3], None).single_ids.tolist() == [3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"multiplier": -1.0}, "multiplier is -1.0; it must be a number >= 0"),
        ({"base": 0.5}, "base is 0.5; it must be a number >= 1"),
        ({"allowed_length": 0}, "allowed_length is 0; it must be an integer >= 1"),
        ({"dry_range": -1}, "dry_range is -1"),
        ({"sequence_breakers": ["a"]}, "dry_sequence_breakers is .*; it must be a token id or a list"),
        ({"sequence_breakers": [-1]}, "dry_sequence_breakers is"),
    ],
)
def test_settings_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DRYLogitsProcessor(**{"multiplier": 1.0, **arguments})


class Looping(ScriptedModel):
    """Prefers to go round in circles, and has one other idea at each step."""

    def logits(self, row: int, step: int) -> Tensor:
        logits = super().logits(row, step)
        logits[40 + step] = 7.5
        return logits


def test_a_loop_is_left() -> None:
    prompt = torch.tensor([[9, 9, 9]])
    script = [[3, 4, 5] * 6]
    loop = generate(Looping(script), prompt, max_new_tokens=18)  # type: ignore[arg-type]
    assert loop[0, 3:].tolist() == script[0]
    left = generate(Looping(script), prompt, max_new_tokens=9, dry_multiplier=0.8, dry_sequence_breakers=[])  # type: ignore[arg-type]
    assert left[0, 3:].tolist() == [3, 4, 5, 3, 4, 5, 3, 47, 5]  # 0.8 * 1.75 ** 1 is not enough yet, ** 2 is
    assert GenerationConfig(dry_multiplier=0.8).dry_sequence_breakers is None


def test_breakers_move_to_the_device_of_the_scores() -> None:
    breakers = DryBreakers.of_ids([3, 4])
    moved = breakers.to(torch.device("meta"))
    assert moved.single_ids.device.type == moved.sequences[0][0].device.type == "meta"
    assert breakers.to(torch.device("cpu")) is breakers
