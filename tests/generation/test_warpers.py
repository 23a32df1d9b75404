"""Filters of the distribution beyond top-k, top-p and min-p: beside the oracle's, and by hand."""

import math
from typing import Any, ClassVar

import pytest
import torch
from transformers.generation import logits_process as oracle

import seed_oss.generation as generation
from seed_oss import GenerationConfig
from seed_oss.errors import InputError
from seed_oss.generation import XTCLogitsWarper
from seed_oss.generation.arguments import ModelInputs
from seed_oss.generation.lengths import Lengths
from seed_oss.generation.logits import exclude_top_choices, keep_top_n_sigma
from seed_oss.generation.noise import TOKEN_USE, XTC_USE, split_seed, uniform_noise
from seed_oss.generation.prompt import make_prompt
from seed_oss.generation.settings import make_processors
from tests.factory import random_ids
from tests.generation.helpers import left_padded, models, quietly

INF = float("inf")
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("TypicalLogitsWarper", (0.2,), {}),
    ("TypicalLogitsWarper", (0.9,), {}),
    ("TypicalLogitsWarper", (0.999,), {}),
    ("TypicalLogitsWarper", (0.05,), {"min_tokens_to_keep": 4, "filter_value": -99.0}),
    ("EpsilonLogitsWarper", (0.001,), {}),
    ("EpsilonLogitsWarper", (0.3,), {}),
    ("EpsilonLogitsWarper", (0.5,), {"min_tokens_to_keep": 4, "filter_value": -99.0}),
    ("EtaLogitsWarper", (0.001,), {}),
    ("EtaLogitsWarper", (0.3,), {}),
    ("EtaLogitsWarper", (0.5,), {"min_tokens_to_keep": 4, "filter_value": -99.0}),
]


@pytest.mark.parametrize("vocab_size", [64, 3000])
@pytest.mark.parametrize(("name", "arguments", "named"), CASES, ids=str)
def test_equal_to_the_oracle(name: str, arguments: Any, named: Any, vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros(3, 4, dtype=torch.int64)
    for spread in (0.5, 1.0, 4.0):
        scores = spread * torch.randn(3, vocab_size, generator=generator)
        scores[1, : vocab_size // 2] = -INF  # a filter came before
        before = scores.clone()
        ours = getattr(generation, name)(*arguments, **named)(ids, scores)
        assert torch.equal(ours, getattr(oracle, name)(*arguments, **named)(ids, scores))
        assert torch.equal(scores, before)
        assert bool((ours > -INF).any(dim=1).all())


SAMPLING: dict[str, dict[str, Any]] = {
    "typical_p": {"typical_p": 0.6, "top_k": 0},
    "epsilon_cutoff": {"epsilon_cutoff": 0.02, "top_k": 0},
    "eta_cutoff": {"eta_cutoff": 0.3, "top_k": 0},
    "all": {
        "temperature": 1.4,
        "top_k": 40,
        "top_p": 0.98,
        "min_p": 0.001,
        "typical_p": 0.9,
        "epsilon_cutoff": 0.001,
        "eta_cutoff": 0.01,
        "renormalize_logits": True,
        "no_repeat_ngram_size": 3,
    },
}


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    return models()


@pytest.mark.parametrize("case", SAMPLING)
def test_sampling_under_the_same_torch_seed(both: tuple[Any, Any], case: str) -> None:
    results = []
    for model in both:
        torch.manual_seed(5)
        results.append(
            quietly(model.generate, **left_padded(9, 3), max_new_tokens=20, do_sample=True, **SAMPLING[case])
        )
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("TypicalLogitsWarper", (1.0,), "typical_p is 1, which keeps everything"),
        ("TypicalLogitsWarper", (0.0,), "typical_p is 0.0; it must be a number > 0"),
        ("EpsilonLogitsWarper", (0.0,), "epsilon_cutoff is 0.0"),
        ("EtaLogitsWarper", (1.5,), "eta_cutoff is 1.5"),
        ("TopNSigmaLogitsWarper", (0,), "top_n_sigma is 0; it must be a number > 0"),
        ("XTCLogitsWarper", (1.5, 0.5), "xtc_threshold is 1.5"),
        ("XTCLogitsWarper", (0.1, -0.5), "xtc_probability is -0.5"),
    ],
)
def test_settings_out_of_range(name: str, arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(generation, name)(*arguments)


class TestTopNSigma:
    """Scores 0, 1, 2, 3, 4: the best is 4, the deviation sqrt(2)."""

    scores = torch.tensor([[0.0, 4.0, 2.0, 1.0, 3.0]])

    @pytest.mark.parametrize(
        ("n", "kept"), [(0.1, [1]), (0.7, [1]), (0.71, [1, 4]), (1.5, [1, 2, 4]), (9, [0, 1, 2, 3, 4])]
    )
    def test_by_hand(self, n: float, kept: list[int]) -> None:
        result = generation.TopNSigmaLogitsWarper(n)(torch.zeros(1, 1), self.scores)
        assert (result[0] > -INF).nonzero().squeeze(1).tolist() == kept
        assert torch.equal(result[0, kept], self.scores[0, kept])

    def test_forbidden_entries_do_not_count(self) -> None:
        wide = torch.cat((self.scores, torch.full((1, 50), -INF)), dim=1)
        for n in (0.7, 0.71, 1.5):
            assert torch.equal(keep_top_n_sigma(wide, n)[:, :5], keep_top_n_sigma(self.scores, n))

    def test_temperature_does_not_matter(self) -> None:
        scores = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
        kept = [keep_top_n_sigma(scores / t, 1.3) > -INF for t in (0.25, 1.0, 4.0)]
        assert torch.equal(kept[0], kept[1])
        assert torch.equal(kept[0], kept[2])

    def test_some_are_kept_at_least(self) -> None:
        assert int((keep_top_n_sigma(self.scores, 0.1, 3) > -INF).sum()) == 3

    def test_all_equal_or_all_but_one_forbidden(self) -> None:
        assert keep_top_n_sigma(torch.ones(1, 4), 1.0).tolist() == [[1, 1, 1, 1]]
        single = torch.tensor([[-INF, 2.0, -INF]])
        assert torch.equal(keep_top_n_sigma(single, 1.0), single)


def _scores(*probs: float) -> torch.Tensor:
    return torch.tensor([probs]).log()


class TestExcludeTopChoices:
    """Of all tokens with a probability of at least the threshold only the least probable one stays."""

    always = torch.tensor([True])

    @pytest.mark.parametrize(
        ("threshold", "removed"),
        [(0.1, [1, 3]), (0.2, [1]), (0.25, [1]), (0.31, []), (0.51, []), (0.01, [0, 1, 3]), (0.0, [0, 1, 2, 3])],
    )
    def test_by_hand(self, threshold: float, removed: list[int]) -> None:
        scores = _scores(0.15, 0.5, 0.045, 0.3, 0.005)
        result = exclude_top_choices(scores, threshold, self.always)
        assert (result[0] == -INF).nonzero().squeeze(1).tolist() == removed

    def test_only_where_it_applies(self) -> None:
        scores = _scores(0.6, 0.4).expand(3, -1)
        result = exclude_top_choices(scores, 0.1, torch.tensor([True, False, True]))
        assert (result == -INF).tolist() == [[True, False], [False, False], [True, False]]

    def test_one_of_equal_ones_stays(self) -> None:
        result = exclude_top_choices(torch.zeros(1, 4), 0.2, self.always)
        assert int((result > -INF).sum()) == 1

    def test_a_protected_token_is_never_lost(self) -> None:
        scores = _scores(0.5, 0.3, 0.2)
        for protected, num_kept in (([0], 3), ([1], 3), ([2], 1), ([], 1)):
            result = exclude_top_choices(scores, 0.1, self.always, torch.tensor(protected, dtype=torch.int64))
            assert int((result > -INF).sum()) == num_kept

    def test_a_row_that_would_keep_too_few_stays(self) -> None:
        scores = torch.cat((_scores(0.5, 0.3, 0.2), torch.tensor([[-INF]])), dim=1)
        assert torch.equal(exclude_top_choices(scores, 0.1, self.always, None, 2), scores)
        assert int((exclude_top_choices(scores, 0.25, self.always, None, 2) > -INF).sum()) == 2


class TestChance:
    ids = torch.zeros(2000, 7, dtype=torch.int64)
    scores = _scores(0.6, 0.4).expand(2000, -1)

    def hits(self, **arguments: Any) -> torch.Tensor:
        ids = arguments.pop("ids", self.ids)
        return XTCLogitsWarper(0.1, arguments.pop("probability", 0.3), **arguments)(ids, self.scores)[:, 0] == -INF

    def test_as_often_as_asked_for(self) -> None:
        for arguments in ({"seed": 3}, {"generator": torch.Generator().manual_seed(1)}, {}):
            torch.manual_seed(0)
            assert abs(float(self.hits(**arguments).float().mean()) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 2000)
        assert not self.hits(probability=0.0).any()
        assert self.hits(probability=1.0, seed=2**64 - 1).all()

    def test_a_seed_says_it_all(self) -> None:
        first = self.hits(seed=3, prompt_length_to_skip=4)
        assert torch.equal(first, self.hits(seed=3, prompt_length_to_skip=4))
        assert not torch.equal(first, self.hits(seed=4, prompt_length_to_skip=4))
        assert not torch.equal(first, self.hits(seed=3, prompt_length_to_skip=5))
        longer = torch.zeros(2000, 10, dtype=torch.int64)
        assert torch.equal(first, self.hits(seed=3, prompt_length_to_skip=7, ids=longer))

    def test_it_leaves_the_global_state_alone_with_a_seed(self) -> None:
        before = torch.get_rng_state()
        self.hits(seed=3)
        assert torch.equal(torch.get_rng_state(), before)

    def test_generator_is_advanced(self) -> None:
        generator = torch.Generator().manual_seed(1)
        assert not torch.equal(self.hits(generator=generator), self.hits(generator=generator))

    def test_uniform_numbers_of_uses_rows_and_steps_are_different(self) -> None:
        rows = torch.arange(1000)
        drawn = torch.stack(
            [uniform_noise(split_seed(9), rows, step, use) for step in (0, 1) for use in (TOKEN_USE, XTC_USE)]
        )
        assert drawn.dtype == torch.float32
        assert 0 <= float(drawn.min()) < 0.01
        assert 0.99 < float(drawn.max()) < 1
        assert drawn.unique().numel() > 3990
        assert abs(float(drawn.mean()) - 0.5) < 0.02
        assert float(torch.corrcoef(drawn).fill_diagonal_(0).abs().max()) < 0.12

    def test_a_row_does_not_depend_on_the_others(self) -> None:
        rows = torch.tensor([5, 0])
        alone = [uniform_noise(split_seed(9), torch.tensor([row]), 3, XTC_USE)[0] for row in (5, 0)]
        assert uniform_noise(split_seed(9), rows, 3, XTC_USE).tolist() == [float(one) for one in alone]


class TestXtcInGenerate:
    settings: ClassVar[dict[str, Any]] = {
        "max_new_tokens": 12,
        "do_sample": True,
        "temperature": 0.3,
        "xtc_probability": 0.7,
        "xtc_threshold": 0.05,
    }

    def test_seeds_repeat_and_matter(self, both: tuple[Any, Any]) -> None:
        first, again, other = (both[0].generate(**left_padded(5, 3), **self.settings, seed=s) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_it_changes_what_is_drawn(self, both: tuple[Any, Any]) -> None:
        plain = both[0].generate(random_ids(4, 5), **{**self.settings, "xtc_probability": 0.0}, seed=1)
        assert not torch.equal(plain, both[0].generate(random_ids(4, 5), **self.settings, seed=1))

    def test_chunks_of_the_batch_draw_the_same(self, both: tuple[Any, Any]) -> None:
        together = both[0].generate(random_ids(3, 5), **self.settings, seed=4)
        alone = both[0].generate(random_ids(3, 5)[:1], **self.settings, seed=4)
        assert torch.equal(together[:1], alone)


def test_order_of_all(both: tuple[Any, Any]) -> None:
    every = GenerationConfig(
        do_sample=True,
        temperature=0.5,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        typical_p=0.9,
        epsilon_cutoff=0.01,
        eta_cutoff=0.01,
        top_n_sigma=1.0,
        xtc_probability=0.5,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
        dry_multiplier=0.8,
        dry_sequence_breakers=[],
        no_repeat_ngram_size=2,
        bad_words_ids=[[3]],
        sequence_bias=[[[3], 1.0]],
        logit_bias={4: 1.0},
        forced_bos_token_id=5,
        forced_eos_token_id=5,
        suppress_tokens=[5],
        begin_suppress_tokens=[6],
        renormalize_logits=True,
        min_new_tokens=2,
        eos_token_id=[2, 9],
    )
    prompt = make_prompt(both[0], ModelInputs(input_ids=random_ids(1, 4)), every)
    names = [type(one).__name__ for one in make_processors(every, prompt, Lengths(20, 6), [lambda i, s: s])]
    assert names == [
        "SequenceBiasLogitsProcessor",
        "LogitBiasLogitsProcessor",
        "RepetitionPenaltyLogitsProcessor",
        "FrequencyPresencePenaltyLogitsProcessor",
        "DRYLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "NoBadWordsLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "ForcedBOSTokenLogitsProcessor",
        "ForcedEOSTokenLogitsProcessor",
        "SuppressTokensLogitsProcessor",
        "SuppressTokensAtBeginLogitsProcessor",
        "function",
        "TemperatureLogitsWarper",
        "TopNSigmaLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
        "TypicalLogitsWarper",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "XTCLogitsWarper",
        "LogitNormalization",
    ]
    assert make_processors(GenerationConfig(), prompt, Lengths(20, 0), None) == []
    beams = GenerationConfig(do_sample=True, num_beams=3, top_k=1, eos_token_id=[2, 9])
    assert make_processors(beams, prompt, Lengths(20, 0), None)[0].top_k == 3
