"""Biases, forbidden and forced tokens, n-grams and penalties: beside the oracle's, and by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.generation import logits_process as oracle

import seed_oss.generation as generation
from seed_oss import GenerationConfig
from seed_oss.errors import ConfigError, InputError, SeedOssError
from tests.factory import VOCAB_SIZE, random_ids
from tests.generation.helpers import PAD, left_padded, models, quietly

INF = float("inf")
CASES: list[tuple[str, tuple[Any, ...]]] = [
    ("NoRepeatNGramLogitsProcessor", (1,)),
    ("NoRepeatNGramLogitsProcessor", (2,)),
    ("NoRepeatNGramLogitsProcessor", (3,)),
    ("NoRepeatNGramLogitsProcessor", (24,)),
    ("NoRepeatNGramLogitsProcessor", (25,)),
    ("NoRepeatNGramLogitsProcessor", (26,)),
    ("SequenceBiasLogitsProcessor", ([[[3], 2.5], [[4], -1.0]],)),
    ("SequenceBiasLogitsProcessor", ([[[0, 1], 2.5], [[1, 2], -1.0], [[3, 2, 1], 5.0], [[2], 0.5]],)),
    ("SequenceBiasLogitsProcessor", ({(0, 1): 2.5, (1, 1): 1.5, (0,): -3.0},)),
    ("NoBadWordsLogitsProcessor", ([[3], [0, 1], [1, 0, 2]],)),
    ("NoBadWordsLogitsProcessor", ([[3], [0, 1], [4]], 3)),
    ("NoBadWordsLogitsProcessor", ([[3], [0, 1], [4]], [3, 1])),
    ("NoBadWordsLogitsProcessor", ([[3], [0, 1], [4]], torch.tensor([4]))),
    ("ForcedBOSTokenLogitsProcessor", (5,)),
    ("ForcedEOSTokenLogitsProcessor", (26, 5)),
    ("ForcedEOSTokenLogitsProcessor", (26, [5, 6])),
    ("ForcedEOSTokenLogitsProcessor", (25, torch.tensor([5, 6]))),
    ("SuppressTokensLogitsProcessor", ([3, 7, 10**6],)),
    ("SuppressTokensAtBeginLogitsProcessor", ([3, 7], 25)),
    ("SuppressTokensAtBeginLogitsProcessor", ([3, 7], 24)),
    ("LogitNormalization", ()),
]


@pytest.mark.parametrize("length", [1, 2, 25])
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
def test_equal_to_the_oracle(name: str, arguments: Any, length: int) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        scores = 3 * torch.randn(4, 30, generator=generator)
        scores[0, 2] = -INF
        ids = torch.randint(0, 4, (4, length), generator=generator)
        before = scores.clone()
        ours = getattr(generation, name)(*arguments)(ids, scores)
        assert torch.equal(ours, getattr(oracle, name)(*arguments)(ids, scores))
        assert torch.equal(scores, before)


def test_place_of_the_beginning_can_be_moved() -> None:
    processor = generation.SuppressTokensAtBeginLogitsProcessor([2], 1)
    processor.set_begin_index(2)
    assert processor(torch.zeros(1, 1), torch.zeros(1, 4)).tolist() == [[0, 0, 0, 0]]
    assert processor(torch.zeros(1, 2), torch.zeros(1, 4)).tolist() == [[0, 0, -INF, 0]]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("NoRepeatNGramLogitsProcessor", (2,)),
        ("NoRepeatNGramLogitsProcessor", (1,)),
        ("SequenceBiasLogitsProcessor", ([[[PAD, 5], 4.0], [[5, PAD], 2.0]],)),
        ("NoBadWordsLogitsProcessor", ([[PAD, 5], [5, 6]], None)),
    ],
)
def test_padding_is_no_text(name: str, arguments: Any) -> None:
    ids = torch.tensor([[PAD, PAD, 5], [6, 6, 5], [PAD, 5, 5]])
    scores = torch.randn(3, 10)
    processor = getattr(generation, name)
    padded = processor(*arguments, prompt_ignore_length=torch.tensor([2, 0, 1]))(ids, scores)
    for row, start in enumerate([2, 0, 1]):
        assert torch.equal(padded[row], processor(*arguments)(ids[row : row + 1, start:], scores[row : row + 1])[0])


class TestCounts:
    """OpenAI's penalties: logit - count * frequency - (count > 0) * presence, of generated tokens."""

    def test_by_hand(self) -> None:
        ids = torch.tensor([[0, 1, 2, 2, 3], [4, 4, 4, 4, 4]])
        result = generation.FrequencyPresencePenaltyLogitsProcessor(0.5, 0.25, 2)(ids, torch.zeros(2, 6))
        assert result.tolist() == [[0, 0, -1.25, -0.75, 0, 0], [0, 0, 0, 0, -1.75, 0]]

    def test_a_reward(self) -> None:
        result = generation.FrequencyPresencePenaltyLogitsProcessor(-1.0, 0.0, 0)(
            torch.tensor([[1, 1]]), torch.zeros(1, 3)
        )
        assert result.tolist() == [[0, 2, 0]]

    def test_nothing_generated_yet_and_ids_beyond_the_scores(self) -> None:
        processor = generation.FrequencyPresencePenaltyLogitsProcessor(1.0, 1.0, 2)
        scores = torch.zeros(1, 3)
        assert processor(torch.tensor([[1, 2]]), scores) is scores
        assert processor(torch.tensor([[1, 2, 3, 99]]), scores).tolist() == [[0, 0, 0]]


class TestLogitBias:
    def test_is_added(self) -> None:
        processor = generation.LogitBiasLogitsProcessor({1: 100, "2": -2.5})
        assert processor(torch.zeros(2, 1), torch.ones(2, 4)).tolist() == 2 * [[1, 101, -1.5, 1]]

    def test_at_most_300_entries(self) -> None:
        assert len(GenerationConfig(logit_bias=dict.fromkeys(range(300), 1)).logit_bias or {}) == 300
        with pytest.raises(ConfigError, match=r"logit_bias is .* a mapping of at most 300 token ids to biases"):
            GenerationConfig(logit_bias=dict.fromkeys(range(301), 1))

    @pytest.mark.parametrize("bias", [-100, 100.0])
    def test_limits_are_allowed(self, bias: float) -> None:
        assert GenerationConfig(logit_bias={5: bias}).logit_bias == {5: bias}

    def test_ids_outside_the_vocabulary(self) -> None:
        ours, _ = models()
        with pytest.raises(InputError, match=f"logit_bias names token {VOCAB_SIZE}; allowed are 0 to {VOCAB_SIZE - 1}"):
            ours.generate(random_ids(1, 3), max_new_tokens=2, logit_bias={VOCAB_SIZE: 1.0})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("logit_bias", [1], "logit_bias is .*; it must be a mapping"),
        ("logit_bias", {"a": 1}, "logit_bias key is 'a'; it must be an integer"),
        ("logit_bias", {"-1": 1}, "logit_bias key is '-1'"),
        ("logit_bias", {"٣": 1}, "logit_bias key is"),
        ("logit_bias", {True: 1}, "logit_bias key is True"),
        ("logit_bias", {1: 1, "1": 2}, "names each token once"),
        ("logit_bias", {1: 100.5}, r"logit_bias\[1\] is 100.5; it must be a number from -100 to 100"),
        ("logit_bias", {1: float("nan")}, r"logit_bias\[1\] is nan"),
        ("logit_bias", {1: "2"}, r"logit_bias\[1\] is '2'"),
        ("sequence_bias", [], "sequence_bias is .*; it must be a non-empty list"),
        ("sequence_bias", [[[1]]], r"sequence_bias\[0\] is .*; it must be \[list of token ids, number\]"),
        ("sequence_bias", [[[], 1.0]], r"sequence_bias\[0\]\[0\] is .*at least one token id"),
        ("sequence_bias", [[[1], INF]], r"sequence_bias\[0\]\[1\] is inf; it must be a finite number"),
        ("sequence_bias", [[[-1], 1.0]], r"sequence_bias\[0\]\[0\]\[0\] is -1"),
        ("bad_words_ids", [], "bad_words_ids is .*; it must be a list of at least one list"),
        ("bad_words_ids", [[]], r"bad_words_ids\[0\] is .*; it must be a list of at least one token id"),
        ("bad_words_ids", [3], r"bad_words_ids\[0\] is 3; it must be a list"),
        ("suppress_tokens", ["a"], r"suppress_tokens\[0\] is 'a'"),
        ("begin_suppress_tokens", 3, "begin_suppress_tokens is 3; it must be a list"),
        ("forced_bos_token_id", -1, "forced_bos_token_id is -1"),
        ("forced_eos_token_id", [1, None], r"forced_eos_token_id\[1\] is None"),
        ("no_repeat_ngram_size", -1, "no_repeat_ngram_size is -1"),
        ("typical_p", 0.0, "typical_p is 0.0; it must be a finite number greater than 0 and at most 1"),
        ("top_n_sigma", -1, "top_n_sigma is -1"),
        ("xtc_probability", 1.5, "xtc_probability is 1.5"),
        ("xtc_threshold", -0.1, "xtc_threshold is -0.1"),
        ("frequency_penalty", 2.1, "frequency_penalty is 2.1; .* of at least -2 and at most 2"),
        ("presence_penalty", -2.1, "presence_penalty is -2.1"),
        ("dry_multiplier", -0.1, "dry_multiplier is -0.1"),
        ("dry_base", 0.9, "dry_base is 0.9"),
        ("dry_allowed_length", 0, "dry_allowed_length is 0"),
        ("dry_range", -1, "dry_range is -1"),
        ("dry_sequence_breakers", "\n", "dry_sequence_breakers is .*; it must be a list"),
        ("dry_sequence_breakers", [""], r"dry_sequence_breakers\[0\] is ''; it must be a non-empty string"),
        ("dry_sequence_breakers", ["a" * 41], r"dry_sequence_breakers\[0\] is .* at most 40 characters"),
        ("dry_sequence_breakers", ["a"] * 65, "a list of at most 64 texts and token ids"),
        ("dry_sequence_breakers", [1.5], r"dry_sequence_breakers\[0\] is 1.5"),
    ],
)
def test_wrong_settings_are_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationConfig(**{field: value})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("NoRepeatNGramLogitsProcessor", (0,), "ngram_size is 0; it must be an integer >= 1"),
        ("SequenceBiasLogitsProcessor", ([],), "sequence_bias is"),
        ("NoBadWordsLogitsProcessor", ([],), "bad_words_ids is"),
        ("NoBadWordsLogitsProcessor", ([[3], []],), "no empty list"),
        ("NoBadWordsLogitsProcessor", (["a"],), r"bad_words_ids\[0\] is 'a'"),
        ("ForcedBOSTokenLogitsProcessor", ("a",), "bos_token_id is 'a'"),
        ("ForcedEOSTokenLogitsProcessor", (9, -1), "eos_token_id is -1"),
        ("SuppressTokensLogitsProcessor", ("a",), "suppress_tokens is 'a'"),
        ("FrequencyPresencePenaltyLogitsProcessor", (2.5, 0.0, 1), "frequency_penalty is 2.5"),
        ("LogitBiasLogitsProcessor", ({1: 101},), r"logit_bias\[1\] is 101"),
    ],
)
def test_wrong_arguments_of_processors(name: str, arguments: Any, message: str) -> None:
    with pytest.raises(SeedOssError, match=message):
        getattr(generation, name)(*arguments)


@pytest.mark.parametrize(
    "processor",
    [
        generation.SequenceBiasLogitsProcessor([[[1, 9], 1.0]]),
        generation.NoBadWordsLogitsProcessor([[9]]),
        generation.ForcedBOSTokenLogitsProcessor(9),
        generation.ForcedEOSTokenLogitsProcessor(2, 9),
    ],
)
def test_tokens_outside_the_vocabulary_are_refused(processor: Any) -> None:
    with pytest.raises(InputError, match="names token 9; allowed are 0 to 8, the vocabulary"):
        processor(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 9))


ALL: dict[str, Any] = {
    "typical_p": 0.9,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.02,
    "top_n_sigma": 1.5,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.2,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "dry_multiplier": 0.8,
    "dry_base": 2.0,
    "dry_allowed_length": 3,
    "dry_sequence_breakers": ["\n", 7],
    "dry_range": 100,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[3], [4, 5]],
    "sequence_bias": [[[3, 4], -2.0]],
    "logit_bias": {5: 1.5, 17: -100.0},
    "forced_bos_token_id": 4,
    "forced_eos_token_id": [2, 3],
    "suppress_tokens": [6],
    "begin_suppress_tokens": [8],
    "renormalize_logits": True,
}


def test_settings_survive_a_file(tmp_path: Path) -> None:
    config = GenerationConfig(**ALL)
    config.validate()
    config.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    assert again == config
    assert {name: getattr(again, name) for name in ALL} == ALL
    assert json.loads((tmp_path / "generation_config.json").read_text())["logit_bias"] == {"5": 1.5, "17": -100.0}


def test_a_config_shares_nothing_with_what_it_was_given() -> None:
    bias, words = {5: 1.5}, [[3]]
    config = GenerationConfig(logit_bias=bias, bad_words_ids=words)
    bias[6], words[0][0] = 1.0, 4
    assert (config.logit_bias, config.bad_words_ids) == ({5: 1.5}, [[3]])


BATCH = left_padded(9, 3, 6)
GREEDY: dict[str, dict[str, Any]] = {
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "no_repeat_ngram_size 1": {"no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[27], [99], [45, 134], [134, 45], [11]], "eos_token_id": 99},
    "sequence_bias": {"sequence_bias": [[[27], 3.0], [[27, 45], 5.0], [[45, 99], -9.0]]},
    "forced_eos_token_id": {"forced_eos_token_id": 5},
    "forced_eos_token_id, several": {"forced_eos_token_id": [5, 7], "eos_token_id": 99},
    "suppress_tokens": {"suppress_tokens": [*range(40, 160)]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [*range(40, 160)]},
    "renormalize_logits": {"renormalize_logits": True, "return_dict_in_generate": True, "output_scores": True},
    "all": {
        "no_repeat_ngram_size": 3,
        "bad_words_ids": [[27], [45, 134]],
        "sequence_bias": [[[99], 2.0]],
        "forced_eos_token_id": 5,
        "suppress_tokens": [12],
        "begin_suppress_tokens": [13],
        "repetition_penalty": 1.3,
        "eos_token_id": 140,
        "min_new_tokens": 4,
    },
}


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    return models()


@pytest.mark.parametrize("case", GREEDY)
def test_greedy_as_in_the_reference(both: tuple[Any, Any], case: str) -> None:
    results = [quietly(model.generate, **BATCH, max_new_tokens=20, **GREEDY[case]) for model in both]
    if case == "renormalize_logits":
        for ours, theirs in zip(results[0].scores, results[1].scores, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        results = [result.sequences for result in results]
    assert torch.equal(*results)
    assert not torch.equal(results[0], both[0].generate(**BATCH, max_new_tokens=20)) or case == "renormalize_logits"


@pytest.mark.parametrize("begin", [{}, {"begin_suppress_tokens": [7]}])
def test_forced_bos_after_a_prompt_of_one_token(both: tuple[Any, Any], begin: dict[str, Any]) -> None:
    for prompt in (random_ids(2, 1), random_ids(2, 3)):
        arguments = {"inputs": prompt, "max_new_tokens": 4, "forced_bos_token_id": 7, **begin}
        results = [quietly(model.generate, **arguments) for model in both]
        assert torch.equal(*results)
        assert (results[0][:, 1] == 7).all() == (prompt.shape[1] == 1)


def test_penalties_in_generate_leave_the_prompt_out(both: tuple[Any, Any]) -> None:
    ours = both[0]
    plain = ours.generate(**BATCH, max_new_tokens=20)[:, 9:]
    result = ours.generate(**BATCH, max_new_tokens=20, frequency_penalty=2.0, presence_penalty=2.0)[:, 9:]
    assert torch.equal(result[:, 0], plain[:, 0])
    assert sum(len(set(row)) for row in result.tolist()) > sum(len(set(row)) for row in plain.tolist())


def test_a_batch_decodes_as_its_rows_alone(both: tuple[Any, Any]) -> None:
    settings = {
        "dry_multiplier": 2.0,
        "dry_sequence_breakers": [],
        "dry_allowed_length": 1,
        "no_repeat_ngram_size": 4,
        "frequency_penalty": 0.5,
        "bad_words_ids": [[PAD, 5], [27]],
        "logit_bias": {99: -5.0},
        "max_new_tokens": 15,
    }
    together = both[0].generate(**BATCH, **settings)
    for row in range(3):
        own = BATCH["input_ids"][row][BATCH["attention_mask"][row] != 0][None]
        alone = both[0].generate(own, attention_mask=torch.ones_like(own), **settings)
        assert torch.equal(together[row, 9:], alone[0, own.shape[1] :])
