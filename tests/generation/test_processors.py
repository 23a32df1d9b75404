"""Processors beside the oracle's, and the pure functions they stand on."""

from typing import Any

import pytest
import torch
from transformers.generation import logits_process as oracle

import seed_oss.generation as generation
from seed_oss.errors import InputError
from seed_oss.generation import logits

CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("TemperatureLogitsWarper", (0.7,), {}),
    ("TemperatureLogitsWarper", (1.9,), {}),
    ("TopKLogitsWarper", (1,), {}),
    ("TopKLogitsWarper", (40,), {}),
    ("TopKLogitsWarper", (10**6,), {}),
    ("TopKLogitsWarper", (2,), {"min_tokens_to_keep": 5, "filter_value": -99.0}),
    ("TopPLogitsWarper", (0.0,), {}),
    ("TopPLogitsWarper", (0.5,), {}),
    ("TopPLogitsWarper", (0.95,), {}),
    ("TopPLogitsWarper", (1.0,), {}),
    ("TopPLogitsWarper", (0.3,), {"min_tokens_to_keep": 7, "filter_value": -99.0}),
    ("MinPLogitsWarper", (0.0,), {}),
    ("MinPLogitsWarper", (0.1,), {}),
    ("MinPLogitsWarper", (1.0,), {"min_tokens_to_keep": 4, "filter_value": -99.0}),
    ("RepetitionPenaltyLogitsProcessor", (1.3,), {}),
    ("RepetitionPenaltyLogitsProcessor", (0.6,), {"prompt_ignore_length": 4}),
    ("RepetitionPenaltyLogitsProcessor", (1.3,), {"prompt_ignore_length": torch.tensor([0, 3, 12])}),
    ("MinLengthLogitsProcessor", (12, 5), {}),
    ("MinLengthLogitsProcessor", (13, 5), {}),
    ("MinLengthLogitsProcessor", (13, [5, 9, 10**7]), {}),
    ("MinNewTokensLengthLogitsProcessor", (10, 2, [5, 9]), {}),
    ("MinNewTokensLengthLogitsProcessor", (10, 3, torch.tensor([5, 9])), {}),
]


@pytest.mark.parametrize("vocab_size", [64, 3000])
@pytest.mark.parametrize(("name", "arguments", "named"), CASES, ids=str)
def test_equal_to_the_oracle(name: str, arguments: Any, named: Any, vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for spread in (1.0, 4.0):
        scores = spread * torch.randn(3, vocab_size, generator=generator)
        ids = torch.randint(0, vocab_size, (3, 12), generator=generator)
        before = scores.clone()
        ours = getattr(generation, name)(*arguments, **named)(ids, scores)
        theirs = getattr(oracle, name)(*arguments, **named)(ids, scores)
        assert torch.equal(ours, theirs)
        assert torch.equal(scores, before)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("TemperatureLogitsWarper", (0,), "temperature is 0; for greedy decoding"),
        ("TemperatureLogitsWarper", (-0.5,), "temperature is -0.5; it must be a number > 0"),
        ("TemperatureLogitsWarper", (float("nan"),), "temperature is nan"),
        ("TemperatureLogitsWarper", (float("inf"),), "temperature is inf"),
        ("TemperatureLogitsWarper", ("1",), "temperature is '1'"),
        ("TopKLogitsWarper", (0,), "top_k is 0; it must be an integer >= 1"),
        ("TopKLogitsWarper", (2.0,), "top_k is 2.0"),
        ("TopPLogitsWarper", (1.01,), "top_p is 1.01; it must be a number >= 0.0 and <= 1.0"),
        ("MinPLogitsWarper", (-0.1,), "min_p is -0.1"),
        ("RepetitionPenaltyLogitsProcessor", (0.0,), "penalty is 0.0"),
        ("RepetitionPenaltyLogitsProcessor", (1.1, -1), "prompt_ignore_length is -1"),
        ("RepetitionPenaltyLogitsProcessor", (1.1, torch.zeros(1, 2)), r"prompt_ignore_length is \[1, 2\]"),
        ("MinLengthLogitsProcessor", (-1, 2), "min_length is -1"),
        ("MinLengthLogitsProcessor", (1, "2"), "eos_token_id is '2'"),
        ("MinNewTokensLengthLogitsProcessor", (1, 1.5, 2), "min_new_tokens is 1.5"),
    ],
)
def test_settings_out_of_range(name: str, arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(generation, name)(*arguments)


def test_ignored_lengths_for_another_batch() -> None:
    processor = generation.RepetitionPenaltyLogitsProcessor(1.1, torch.tensor([1, 2]))
    with pytest.raises(InputError, match="2 entries for 3 rows"):
        processor(torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 8))


def test_a_list_applies_all_in_order_and_passes_arguments_on() -> None:
    def add(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + 1

    def scale(input_ids: torch.Tensor, scores: torch.Tensor, factor: float) -> torch.Tensor:
        return scores * factor

    processors = generation.LogitsProcessorList([add, scale])
    assert float(processors(torch.zeros(1, 1), torch.ones(1), factor=3.0)) == 6.0
    with pytest.raises(TypeError, match="factor"):
        processors(torch.zeros(1, 1), torch.ones(1))


class TestTopP:
    """The nucleus found among the highest scores alone, and with ties."""

    @staticmethod
    def _plain(row: torch.Tensor, top_p: float, keep: int) -> torch.Tensor:
        """Walk down the scores, highest ids first among equals, until the mass is reached."""
        order = sorted(range(len(row)), key=lambda i: (row[i].item(), i), reverse=True)
        probs, mass, result = row.double().softmax(-1), 0.0, torch.full_like(row, -torch.inf)
        for count, index in enumerate(order):
            if mass >= top_p and count >= keep:
                break
            result[index] = row[index]
            mass += float(probs[index])
        return result

    @pytest.mark.parametrize("top_p", [0.0, 0.3, 0.9, 0.97])
    @pytest.mark.parametrize("keep", [1, 4])
    def test_ties(self, top_p: float, keep: int) -> None:
        generator = torch.Generator().manual_seed(1)
        for vocab_size in (50, 2500):
            scores = (6 * torch.randn(2, vocab_size, generator=generator)).round() / 2
            result = logits.keep_top_p(scores, top_p, keep)
            for row in range(2):
                assert torch.equal(result[row], self._plain(scores[row], top_p, keep))

    def test_ties_in_a_nucleus_larger_than_the_guess(self) -> None:
        scores = (2 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(1))).round() / 4
        assert torch.equal(logits.keep_top_p(scores, 0.7)[0], self._plain(scores[0], 0.7, 1))


@pytest.mark.parametrize("min_p", [0.0, 1e-4, 0.05, 0.5, 1.0])
def test_min_p_without_probabilities(min_p: float) -> None:
    """Other entries than by probabilities only where these lie within float32's rounding of the limit."""
    for seed, spread in enumerate((0.3, 1.0, 4.0, 30.0)):
        scores = spread * torch.randn(4, 3000, generator=torch.Generator().manual_seed(seed))
        scores[2, ::3] = -torch.inf
        scores[3, 5] = (torch.inf, torch.nan, -torch.inf, 0.0)[seed]
        probs = scores.softmax(-1)
        limit = min_p * probs.amax(-1, keepdim=True)
        kept = logits.keep_min_p(scores, min_p, fill=-99.0) != -99.0
        near = (probs - limit).abs() <= 4e-6 * limit
        assert bool(((kept == ~(probs < limit)) | near).all())
        assert int((kept != ~(probs < limit)).sum()) <= 2


@pytest.mark.parametrize("top_k", [1, 7, 1024, 1025, 2999, 3000, 9000])
def test_top_k_by_a_threshold(top_k: int) -> None:
    scores = (4 * torch.randn(3, 3000, generator=torch.Generator().manual_seed(0))).round() / 2
    scores[1, 4], scores[2, 9] = torch.nan, -torch.inf
    lowest = scores.sort(dim=-1, descending=True).values[:, min(top_k, 3000) - 1 : min(top_k, 3000)]
    wanted = scores.masked_fill(scores < lowest, -99.0)
    assert torch.equal(logits.keep_top_k(scores, top_k, -99.0).nan_to_num(5.0), wanted.nan_to_num(5.0))
