"""Counter-based noise: known answers, distribution, and independence of everything but its key."""

from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_oss.errors import InputError
from seed_oss.generation.noise import gumbel_noise, gumbel_noise_at, philox, split_seed
from seed_oss.generation.sampling import NO_TOKEN, sampler
from tests.factory import random_ids
from tests.generation.helpers import left_padded, models

WORDS = st.integers(0, 2**32 - 1)


# From the known-answer file of the authors' Random123 library (kat_vectors, philox4x32 with 10 rounds).
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter: Any, key: Any, expected: Any) -> None:
    words = philox(tuple(torch.tensor(word) for word in counter), key)  # type: ignore[arg-type]
    assert tuple(int(word) for word in words) == expected


def _philox_in_python(counter: list[int], key: list[int]) -> list[int]:
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(second >> 32) ^ c[1] ^ k[0], second % 2**32, (first >> 32) ^ c[3] ^ k[1], first % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@settings(deadline=None)
@given(st.lists(WORDS, min_size=4, max_size=4), st.lists(WORDS, min_size=2, max_size=2))
def test_tensor_arithmetic_equals_integers_of_any_size(counter: list[int], key: list[int]) -> None:
    words = philox(tuple(torch.tensor([word]) for word in counter), (key[0], key[1]))  # type: ignore[arg-type]
    assert [int(word) for word in words] == _philox_in_python(counter, key)


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(0, 2**40), st.integers(0, 2**70))
def test_chosen_entries_equal_the_whole_row(vocab_size: int, token_index: int, seed: int) -> None:
    rows = torch.tensor([3, 0])
    whole = gumbel_noise(split_seed(seed), rows, token_index, vocab_size)
    assert whole.shape == (2, vocab_size)
    entries = torch.arange(vocab_size)
    for index, row in enumerate(rows):
        some = gumbel_noise_at(split_seed(seed), row.expand(vocab_size), token_index, entries)
        assert torch.equal(some, whole[index])


def test_gumbel_distribution() -> None:
    noise = gumbel_noise(split_seed(5), torch.arange(8), 0, 100_000).double().flatten()
    assert abs(noise.mean() - 0.57722) < 0.005
    assert abs(noise.var() - 1.64493) < 0.01
    ordered = noise.sort().values
    expected = torch.exp(-torch.exp(-ordered))
    empirical = (torch.arange(len(ordered)) + 0.5) / len(ordered)
    assert (expected - empirical).abs().max() < 1.6 / len(ordered) ** 0.5  # Kolmogorov-Smirnov, far beyond 1 %
    assert noise.isfinite().all()


@pytest.mark.parametrize("other", [{"seed": 6}, {"row": 1}, {"token_index": 1}])
def test_each_part_of_the_key_gives_independent_noise(other: dict[str, int]) -> None:
    def noise(seed: int = 5, row: int = 0, token_index: int = 0) -> torch.Tensor:
        return gumbel_noise(split_seed(seed), torch.tensor([row]), token_index, 50_000)[0]

    correlation = torch.corrcoef(torch.stack((noise(), noise(**other))))[0, 1]
    assert abs(correlation) < 0.02


def test_seeds_are_taken_modulo_64_bits() -> None:
    assert split_seed(-1) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert split_seed(2**64 + 7) == split_seed(7) == (7, 0)
    assert split_seed(torch.tensor(7)) == (7, 0)


@pytest.mark.parametrize("seed", [1.5, "7", True, None])
def test_a_seed_is_an_integer(seed: Any) -> None:
    with pytest.raises(InputError, match="seed is"):
        split_seed(seed)


def test_frequencies_are_the_probabilities() -> None:
    probs = torch.tensor([0.5, 0.25, 0.125, 0.1, 0.02, 0.005, 0.0, 0.0])
    counts = torch.zeros(8)
    for seed in range(50):
        tokens = sampler(seed, None)(probs.log().expand(2000, 8), seed)
        counts += tokens.bincount(minlength=8)
    expected = probs * 100_000
    assert counts[6:].sum() == 0
    chi_square = ((counts - expected)[:6] ** 2 / expected[:6]).sum()
    assert chi_square < 20.5  # 5 degrees of freedom, one in a thousand


def test_the_sparse_path_draws_the_same() -> None:
    scores = torch.randn(6, 400, generator=torch.Generator().manual_seed(0))
    few = scores.masked_fill(scores < 2.2, -torch.inf)
    dense = few.masked_fill(few.isinf(), -1e30)
    for token_index in range(20):
        assert torch.equal(sampler(9, None)(few, token_index), sampler(9, None)(dense, token_index))


def test_unseeded_draws_are_those_of_multinomial() -> None:
    scores = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.multinomial(scores.softmax(-1), 1, generator=torch.Generator().manual_seed(seed)).squeeze(1)
        assert torch.equal(sampler(None, generator)(scores, 0), expected)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("vocab_size", [8, 4000])
def test_rows_without_usable_scores_get_no_token(seed: int | None, bad: float, vocab_size: int) -> None:
    scores = torch.full((3, vocab_size), -torch.inf)
    scores[:, 5] = 1.0
    if bad == -torch.inf:
        scores[1] = bad
    else:
        scores[1, 3] = bad
    assert sampler(seed, None)(scores, 0).tolist() == [5, NO_TOKEN, 5]


@pytest.fixture(scope="module")
def model() -> Any:
    return models()[0]


class TestInGenerate:
    how: ClassVar[dict[str, Any]] = {"max_new_tokens": 12, "do_sample": True, "top_k": 0}

    def test_the_same_seed_repeats(self, model: Any) -> None:
        ids = random_ids(3, 6)
        state = torch.get_rng_state()
        first = model.generate(ids, seed=1, **self.how)
        assert torch.equal(model.generate(ids, seed=1, **self.how), first)
        assert not torch.equal(model.generate(ids, seed=2, **self.how), first)
        assert torch.equal(torch.get_rng_state(), state)

    def test_rows_differ_though_their_prompts_do_not(self, model: Any) -> None:
        rows = model.generate(random_ids(1, 6).repeat(4, 1), seed=1, **self.how)
        assert len({tuple(row) for row in rows.tolist()}) == 4

    def test_a_row_does_not_depend_on_the_rows_after_it(self, model: Any) -> None:
        ids = random_ids(4, 6)
        whole = model.generate(ids, seed=1, **self.how)
        assert torch.equal(model.generate(ids[:1], seed=1, **self.how), whole[:1])
        assert torch.equal(model.generate(ids[:3], seed=1, **self.how), whole[:3])

    def test_a_row_does_not_depend_on_padding(self, model: Any) -> None:
        batch = left_padded(4, 9)
        alone = model.generate(batch["input_ids"][:1, 5:], seed=1, **self.how)
        assert torch.equal(model.generate(**batch, seed=1, **self.how)[:1, 5:], alone)

    def test_rows_are_counted_after_num_return_sequences(self, model: Any) -> None:
        ids = random_ids(2, 6)
        several = model.generate(ids, seed=1, num_return_sequences=3, **self.how)
        assert torch.equal(model.generate(ids.repeat_interleave(3, 0), seed=1, **self.how), several)

    def test_a_generator_is_used_and_advanced(self, model: Any) -> None:
        ids, generator = random_ids(2, 6), torch.Generator().manual_seed(8)
        first = model.generate(ids, generator=generator, **self.how)
        second = model.generate(ids, generator=generator, **self.how)
        torch.manual_seed(8)
        assert torch.equal(model.generate(ids, **self.how), first)
        assert torch.equal(model.generate(ids, **self.how), second)
        assert not torch.equal(first, second)
