"""Beam search: ids, scores and origins as in transformers, for the same weights and torch seed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from seed_oss import SeedOssTokenizer
from seed_oss.errors import ConfigError, InputError, NumericalError
from seed_oss.generation import generate
from seed_oss.generation.beams import Beams, BeamSettings, BeamState, advance, goes_on, pick_best, sampling_picker
from tests.chat.tokenizer_factory import write_tiny_tokenizer
from tests.factory import random_ids
from tests.generation.helpers import PAD, ScriptedModel, left_padded, models, quietly
from tests.generation.test_row_controls import Says

BATCH = left_padded(9, 3, 6)
MANY_EOS = [27, 99, 45, 134, *range(7, 16)]
ALL = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}

BEAMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one token": {"max_new_tokens": 1},
    "all of them": {"num_return_sequences": 3},
    "five": {"num_beams": 5, "num_return_sequences": 2},
    "one eos": {"eos_token_id": 99},
    "eos list": {"eos_token_id": MANY_EOS, "num_return_sequences": 2},
    "long is better": {"eos_token_id": MANY_EOS, "length_penalty": 3.0, "num_return_sequences": 3},
    "short is better": {"eos_token_id": MANY_EOS, "length_penalty": -1.5},
    "no penalty": {"eos_token_id": MANY_EOS, "length_penalty": 0.0},
    "early": {"eos_token_id": MANY_EOS, "early_stopping": True, "num_return_sequences": 3},
    "never": {"eos_token_id": MANY_EOS, "early_stopping": "never", "num_return_sequences": 2},
    "never, short": {"eos_token_id": MANY_EOS, "early_stopping": "never", "length_penalty": -1.0},
    "min_new_tokens": {"eos_token_id": MANY_EOS, "min_new_tokens": 5},
    "max_length": {"eos_token_id": MANY_EOS, "max_length": 15, "max_new_tokens": None, "min_length": 12},
    "penalty": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "eos_token_id": 99},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "no cache": {"use_cache": False, "eos_token_id": MANY_EOS},
    "sampling": {"do_sample": True},
    "sampling, filters": {"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 1.5, "eos_token_id": MANY_EOS},
    "sampling, all": {"do_sample": True, "num_return_sequences": 3, "top_k": 0, "eos_token_id": 99},
}


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    return models()


def _run(both: tuple[Any, Any], **how: Any) -> tuple[Any, Any]:
    results = []
    for model in both:
        torch.manual_seed(11)
        results.append(quietly(model.generate, **{"num_beams": 3, "max_new_tokens": 12, **how}))
    return results[0], results[1]


@pytest.mark.parametrize("case", BEAMS)
@pytest.mark.parametrize("prompts", [BATCH, left_padded(5)], ids=["batch", "single"])
def test_every_field(both: tuple[Any, Any], case: str, prompts: dict[str, Any]) -> None:
    ours, theirs = _run(both, **prompts, **ALL, **BEAMS[case])
    assert [*ours.keys()] == [*theirs.keys()]
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(ours.beam_indices, theirs.beam_indices)
    assert ours.beam_indices.dtype == theirs.beam_indices.dtype
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, atol=1e-5, rtol=1e-5)
    for name in ("scores", "logits"):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5)
    plain, _ = _run(both[:1] * 2, **prompts, **BEAMS[case])
    assert torch.equal(plain, ours.sequences)


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_what_the_model_returns(name: str) -> None:
    ours, theirs = _run(models(attn="eager"), input_ids=random_ids(2, 5), return_dict_in_generate=True, **{name: True})
    field = name.removeprefix("output_")
    assert len(ours[field]) == len(theirs[field])
    for mine, other in zip(ours[field], theirs[field], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_embeddings(both: tuple[Any, Any]) -> None:
    embeds = both[0].get_input_embeddings()(random_ids(2, 6)).detach()
    ours, theirs = _run(both, inputs_embeds=embeds, eos_token_id=MANY_EOS)
    assert torch.equal(ours, theirs)


def test_stop_strings(both: tuple[Any, Any], tmp_path: Path) -> None:
    tokenizer = SeedOssTokenizer.from_pretrained(write_tiny_tokenizer(tmp_path))
    best = both[0].generate(random_ids(2, 6), num_beams=3, max_new_tokens=12)
    text = tokenizer.decode(best[0, 9:11].tolist())
    how = {"stop_strings": text, "tokenizer": tokenizer, "length_penalty": -1.0}
    result = both[0].generate(random_ids(2, 6), num_beams=3, max_new_tokens=12, **how)
    assert result[0, :11].tolist() == best[0, :11].tolist()
    assert set(result[0, 11:].tolist()) <= {PAD}


def test_beams_find_what_greedy_misses(both: tuple[Any, Any]) -> None:
    how: dict[str, Any] = {"max_new_tokens": 8, **ALL}
    greedy = both[0].generate(random_ids(1, 6), output_logprobs=True, **how)
    beams = both[0].generate(random_ids(1, 6), num_beams=8, length_penalty=0.0, **how)
    assert beams.sequences_scores[0] > greedy.logprobs.sum()


def test_scores_are_those_of_the_text(both: tuple[Any, Any]) -> None:
    result = both[0].generate(random_ids(2, 6), num_beams=4, num_return_sequences=4, max_new_tokens=7, **ALL)
    log_probs = both[0](result.sequences[:, :-1]).logits[:, 5:].log_softmax(-1)
    own = log_probs.gather(2, result.sequences[:, 6:, None]).sum(dim=(1, 2))
    torch.testing.assert_close(result.sequences_scores, own.detach() / 7, atol=1e-5, rtol=1e-5)


def test_several_results_of_one_prompt_differ(both: tuple[Any, Any]) -> None:
    result = both[0].generate(random_ids(1, 6), num_beams=6, num_return_sequences=6, max_new_tokens=7)
    assert len({tuple(row) for row in result.tolist()}) == 6


class TestWhenToStop:
    """Two beams, both places taken by results that score -0.5 and -0.6, after two tokens."""

    def _beams(self, scores: list[float], ended: list[bool], num_new: int) -> Beams:
        ids = torch.arange(2 * num_new).view(1, 2, num_new)
        return Beams(ids, torch.tensor([scores]), torch.zeros_like(ids).int(), torch.tensor([ended]))

    def _step(self, found: list[float], ended: list[bool], improvable: bool = True, **how: Any) -> Any:
        wanted: dict[str, Any] = {"length_penalty": 1.0, "early_stopping": False, **how}
        settings = BeamSettings(num_beams=2, num_returned=2, num_candidates=2, fill=PAD, max_new=10, **wanted)
        finished = self._beams([-0.5, -0.6], [True, True], 1)
        before = BeamState(self._beams([0.0, 0.0], [False] * 2, 1), finished, torch.tensor([[improvable]]), 1, False)
        after = advance(before, self._beams(found, ended, 2), settings)
        return after, goes_on(after, settings)

    def test_running_beams_that_are_worse(self) -> None:
        assert not self._step([-3.0, -4.0], [False, False])[1]  # -3 / 2 is below -0.6
        assert self._step([-1.1, -4.0], [False, False])[1]

    def test_running_beams_that_may_become_better(self) -> None:
        assert self._step([-3.0, -4.0], [False, False], early_stopping="never")[1]  # -3 / 10 is above -0.6
        assert not self._step([-7.0, -8.0], [False, False], early_stopping="never")[1]
        assert not self._step([-3.0, -4.0], [False, False], early_stopping="never", length_penalty=0.0)[1]

    def test_enough_results(self) -> None:
        assert not self._step([-1.1, -4.0], [False, False], early_stopping=True)[1]

    def test_a_better_result_takes_a_place(self) -> None:
        for found in ([-0.8, -4.0], [-1.1, -4.0], [-1.4, -4.0]):
            after, _ = self._step(found, [True, False])
            expected = sorted([-0.5, -0.6, found[0] / 2], reverse=True)[:2]
            assert after.finished.scores[0].tolist() == pytest.approx(expected)

    @pytest.mark.parametrize("how", [{"improvable": False}, {"early_stopping": True}])
    def test_none_takes_a_place_once_a_prompt_has_ended(self, how: dict[str, Any]) -> None:
        after, _ = self._step([-0.8, -4.0], [True, False], **how)
        assert after.finished.scores[0].tolist() == pytest.approx([-0.5, -0.6])

    def test_nothing_to_go_on_with(self) -> None:
        after, more = self._step([-0.8, -0.9], [True, True])
        assert after.stuck
        assert not more


class TestSeeds:
    how: dict[str, Any] = {"num_beams": 3, "do_sample": True, "max_new_tokens": 8, "top_k": 0}  # noqa: RUF012

    def test_they_repeat(self, both: tuple[Any, Any]) -> None:
        draws = [both[0].generate(random_ids(2, 6), seed=seed, **self.how) for seed in (1, 1, 2)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])
        assert torch.equal(both[0].generate(random_ids(2, 6)[:1], seed=1, **self.how), draws[0][:1])

    def test_a_generator(self, both: tuple[Any, Any]) -> None:
        first = both[0].generate(random_ids(2, 6), generator=torch.Generator().manual_seed(5), **self.how)
        torch.manual_seed(5)
        assert torch.equal(both[0].generate(random_ids(2, 6), **self.how), first)

    @pytest.mark.parametrize("seed", [None, 0])
    def test_draws_without_replacement(self, seed: int | None) -> None:
        probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
        counts = torch.zeros(4, 4)
        torch.manual_seed(0)
        for index in range(40):
            picked = sampling_picker(seed, None, 2)(probs.log().expand(500, 4), index, 2)
            counts += (4 * picked[:, 0] + picked[:, 1]).bincount(minlength=16).view(4, 4)
        expected = 20_000 * probs[:, None] * probs / (1 - probs[:, None])
        expected.fill_diagonal_(0)
        off = ~torch.eye(4, dtype=torch.bool)
        assert counts[~off].sum() == 0
        assert ((counts - expected)[off] ** 2 / expected[off]).sum() < 31.3  # 11 degrees of freedom, one in a thousand

    def test_best_first(self) -> None:
        assert pick_best(torch.tensor([[1.0, 3.0, 2.0]]), 0, 2).tolist() == [[1, 2]]


class _Streamer:
    def put(self, value: torch.Tensor) -> None:
        pytest.fail("nothing is certain yet")

    def end(self) -> None:
        pass


class TestRefused:
    ids = random_ids(1, 5)

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ({"row_controls": Says()}, "row_controls are given and num_beams is 2.*set num_beams=1"),
            ({"output_logprobs": True, "return_dict_in_generate": True}, "num_beams is 2; .*output_scores"),
            ({"streamer": _Streamer()}, "set num_beams=1 to stream"),
            ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens and num_beams=2"),
        ],
    )
    def test_what_follows_single_rows(self, both: tuple[Any, Any], how: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            both[0].generate(self.ids, num_beams=2, max_new_tokens=3, **how)

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ({"num_return_sequences": 3}, "num_return_sequences is 3; it must be at most num_beams, which is 2"),
            ({"early_stopping": "soon"}, "early_stopping is 'soon'; it must be true, false or 'never'"),
            ({"length_penalty": "long"}, "length_penalty is 'long'"),
            ({"num_beams": 0}, "num_beams is 0"),
            ({"num_beam_groups": 2}, "num_beam_groups is 2"),
            ({"diversity_penalty": 0.5}, "diversity_penalty is 0.5"),
            ({"penalty_alpha": 0.6}, "contrastive search is not offered"),
        ],
    )
    def test_settings(self, both: tuple[Any, Any], how: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            both[0].generate(self.ids, max_new_tokens=3, **{"num_beams": 2, **how})

    def test_no_number(self) -> None:
        class Broken(ScriptedModel):
            def logits(self, row: int, step: int) -> torch.Tensor:
                return super().logits(row, step) * (torch.nan if row == 1 else 1.0)

        with pytest.raises(NumericalError, match="prompt 1 has no finite score"):
            generate(Broken([[9]]), torch.tensor([[3], [4]]), num_beams=2, max_new_tokens=3)
