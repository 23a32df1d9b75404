"""Who stops when: criteria, lengths, time, padding of rows that are done, and scores without numbers."""

import time
import warnings
from typing import Any

import pytest
import torch
import transformers

from seed_oss.errors import InputError, NumericalError
from seed_oss.generation import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    generate,
)
from tests.generation.helpers import ScriptedModel, models, quietly

IDS = torch.tensor([[3, 4], [5, 6], [7, 8]])
LONG = [[10, 11, 12, 13, 2, 14], [20, 2, 21], [30, 31, 32, 33, 34, 35]]


def _new(model: Any, **arguments: Any) -> list[list[int]]:
    result = generate(model, IDS, **{"max_new_tokens": 6, **arguments})
    assert isinstance(result, torch.Tensor)
    return result[:, 2:].tolist()


def test_rows_that_are_done_are_filled_with_pads() -> None:
    assert _new(ScriptedModel(LONG)) == [[10, 11, 12, 13, 2, 1], [20, 2, 1, 1, 1, 1], [30, 31, 32, 33, 34, 35]]


def test_all_rows_done_ends_it() -> None:
    model = ScriptedModel([[10, 2], [2], [10, 10, 2]])
    assert _new(model) == [[10, 2, 1], [2, 1, 1], [10, 10, 2]]
    assert len(model.calls) == 3


def test_eos_list_and_eos_switched_off() -> None:
    assert _new(ScriptedModel(LONG), eos_token_id=[11, 21, 31]) == [[10, 11, 1], [20, 2, 21], [30, 31, 1]]
    assert _new(ScriptedModel(LONG), eos_token_id=None)[0] == LONG[0]


def test_pad_defaults_to_the_first_eos() -> None:
    with pytest.warns(UserWarning, match="pad_token_id is not set"):
        rows = _new(ScriptedModel(LONG), eos_token_id=[11, 12, 21, 31], pad_token_id=None)
    assert rows[0] == [10, 11, 11]


def test_min_new_tokens_forbids_eos() -> None:
    rows = _new(ScriptedModel([[10, 2], [2], [10, 10, 2]]), min_new_tokens=3)
    assert [row.index(2) if 2 in row else None for row in rows] == [3, 3, 3]


class TestUserCriteria:
    def test_a_row_each(self) -> None:
        class EvenIds(StoppingCriteria):
            def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
                assert scores is None
                return input_ids[:, -1] % 2 == 0

        rows = _new(ScriptedModel([[11, 12], [13, 15, 18], [20]]), stopping_criteria=[EvenIds()])
        assert rows == [[11, 12, 1], [13, 15, 18], [20, 1, 1]]

    def test_one_bool_for_all(self) -> None:
        rows = _new(ScriptedModel(LONG), stopping_criteria=[lambda ids, scores: ids.shape[1] == 4], eos_token_id=None)
        assert rows == [row[:2] for row in LONG[:1]] + [[20, 2], [30, 31]]

    def test_scores_so_far(self) -> None:
        seen: list[Any] = []

        def look(input_ids: torch.Tensor, scores: Any) -> bool:
            seen.append(scores)
            return False

        generate(
            ScriptedModel(LONG),
            IDS,
            max_new_tokens=3,
            return_dict_in_generate=True,
            output_scores=True,
            stopping_criteria=[look],
        )
        assert [len(scores) for scores in seen] == [1, 2, 3]
        assert seen[0][0].shape == (3, 64)

    def test_of_the_same_class_takes_the_place_of_the_settings(self) -> None:
        with pytest.warns(UserWarning, match="a MaxLengthCriteria is given"):
            assert len(_new(ScriptedModel(LONG), stopping_criteria=[MaxLengthCriteria(5)])[0]) == 3
        with pytest.warns(UserWarning, match="an? EosTokenCriteria is given"):
            rows = _new(ScriptedModel(LONG), stopping_criteria=[EosTokenCriteria(12)], max_new_tokens=4)
        assert rows[0] == [10, 11, 12, 1]

    def test_a_subclass_comes_on_top(self) -> None:
        class Shorter(MaxLengthCriteria):
            pass

        assert len(_new(ScriptedModel(LONG), stopping_criteria=[Shorter(4)])[0]) == 2

    def test_objects_of_transformers_work(self) -> None:
        criteria = transformers.StoppingCriteriaList([transformers.generation.EosTokenCriteria(12)])
        assert _new(ScriptedModel(LONG), stopping_criteria=criteria)[0] == [10, 11, 12, 1, 1, 1]

    @pytest.mark.parametrize("given", [3, "abc", [3]])
    def test_something_else(self, given: Any) -> None:
        with pytest.raises(InputError, match="stopping_criteria"):
            _new(ScriptedModel(LONG), stopping_criteria=given)


def test_criteria_as_objects() -> None:
    ids = torch.tensor([[3, 4, 2], [5, 2, 6]])
    criteria = StoppingCriteriaList([MaxLengthCriteria(4), EosTokenCriteria([2, 9]), lambda ids, scores: False])
    assert criteria.max_length == 4
    assert criteria(ids, None).tolist() == [True, False]
    assert criteria(ids.repeat(1, 2), None).tolist() == [True, True]
    assert StoppingCriteriaList().max_length is None


def test_time_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert len(_new(ScriptedModel(LONG), max_time=2.5, eos_token_id=None)[0]) == 3
    monkeypatch.setattr(time, "time", lambda: 50.0)
    assert MaxTimeCriteria(10.0, initial_timestamp=39.0)(IDS, None).tolist() == [True] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxLengthCriteria(0), "max_length is 0"),
        (lambda: MaxTimeCriteria(0.0), "max_time is 0.0"),
        (lambda: EosTokenCriteria("2"), "eos_token_id is '2'"),
    ],
)
def test_criteria_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


class TestLengths:
    def test_the_prompt_fills_max_length(self) -> None:
        with pytest.raises(InputError, match=r"the prompt has 2 tokens and max_length is 2"):
            _new(ScriptedModel(LONG), max_new_tokens=None, max_length=2)

    def test_max_new_tokens_wins(self) -> None:
        assert len(_new(ScriptedModel(LONG), max_length=3, max_new_tokens=6)[0]) == 6

    def test_the_default_is_told(self) -> None:
        with pytest.warns(UserWarning, match="at most 20 tokens"):
            _new(ScriptedModel(LONG), max_new_tokens=None)

    def test_the_default_is_capped_by_the_model(self) -> None:
        with pytest.warns(UserWarning, match="at most 8 tokens"):
            rows = _new(ScriptedModel([[9]], max_position_embeddings=10), max_new_tokens=None)
        assert len(rows[0]) == 8

    def test_more_asked_for_than_allowed(self) -> None:
        with pytest.warns(UserWarning, match="at least 11 tokens are asked for and at most 8"):
            _new(ScriptedModel(LONG), min_new_tokens=9)


class TestBeyondTheModel:
    @staticmethod
    def _warned(max_new_tokens: int, max_position_embeddings: int) -> tuple[int, int]:
        """How many warnings, and how often the model had run by then."""
        model = ScriptedModel([[9]], max_position_embeddings=max_position_embeddings)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            generate(model, IDS, max_new_tokens=max_new_tokens)
        return sum("max_position_embeddings" in str(one.message) for one in caught), len(model.calls)

    def test_the_last_position_is_fine(self) -> None:
        assert self._warned(5, 6) == (0, 5)  # the last token of 7 is not run

    def test_one_more_is_not(self) -> None:
        assert self._warned(6, 6)[0] == 1
        assert self._warned(20, 6)[0] == 1

    def test_a_prompt_that_is_too_long_already(self) -> None:
        assert self._warned(3, 1)[0] == 1


class TestWithoutNumbers:
    @staticmethod
    def _model(bad_row: int, bad_step: int, value: float) -> ScriptedModel:
        class Bad(ScriptedModel):
            def logits(self, row: int, step: int) -> torch.Tensor:
                logits = super().logits(row, step)
                return torch.full_like(logits, value) if (row, step) == (bad_row, bad_step) else logits

        return Bad([[9]])

    @pytest.mark.parametrize("value", [float("nan"), float("-inf")])
    @pytest.mark.parametrize("how", [{"do_sample": False}, {"do_sample": True}, {"do_sample": True, "seed": 1}])
    def test_noticed_with_the_token(self, value: float, how: dict[str, Any]) -> None:
        model = self._model(1, 2, value)
        with pytest.raises(NumericalError, match=r"row 1 .* new token 3"):
            _new(model, **how)
        assert len(model.calls) == 3

    @pytest.mark.parametrize("how", [{"do_sample": False}, {"do_sample": True, "seed": 1}])
    def test_noticed_at_the_end_where_nobody_reads_the_steps(self, how: dict[str, Any]) -> None:
        with pytest.raises(NumericalError, match="row 1 has no finite score"):
            _new(self._model(1, 2, float("nan")), eos_token_id=None, **how)

    def test_the_model_never_sees_a_token_that_is_none(self) -> None:
        model, _ = models()

        def forbid(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores - torch.inf if input_ids.shape[1] == 4 else scores

        with pytest.raises(NumericalError, match="row 0 has no finite score"):
            model.generate(IDS, max_new_tokens=6, repetition_penalty=1.1, logits_processor=[forbid])

    def test_not_in_rows_that_are_done(self) -> None:
        class Bad(ScriptedModel):
            def logits(self, row: int, step: int) -> torch.Tensor:
                logits = super().logits(row, step)
                return logits.fill_(float("nan")) if row == 1 and step > 1 else logits

        assert _new(Bad([[9], [9, 2], [9]]))[1] == [9, 2, 1, 1, 1, 1]

    def test_every_token_forbidden(self) -> None:
        with pytest.raises(NumericalError, match="every token is forbidden"):
            _new(ScriptedModel(LONG), logits_processor=[lambda ids, scores: scores - torch.inf])


def test_no_step_is_read_where_nothing_can_stop_early(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: (reads.append(1), tolist(self))[1])
    quietly(generate, ScriptedModel([[9]]), IDS, max_new_tokens=4, eos_token_id=None)
    short = len(reads)
    quietly(generate, ScriptedModel([[9]]), IDS, max_new_tokens=40, eos_token_id=None)
    assert len(reads) == 2 * short
    quietly(generate, ScriptedModel([[9]]), IDS, max_new_tokens=40)
    assert len(reads) >= 2 * short + 40
