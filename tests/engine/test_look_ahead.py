"""Masks beside the steps: nobody waits for another row's grammar, and nothing comes out otherwise."""

from typing import Any

import pytest

from seed_oss import SamplingParams
from seed_oss.engine import generated_row
from seed_oss.engine.core import EngineCore
from seed_oss.engine.gathered import Gathered
from seed_oss.engine.look_ahead import LookAhead
from seed_oss.engine.messages import AnswerForm, Ended, Event, Submit, Tokens
from seed_oss.generation.grammar import GrammarControl
from tests.engine.test_core import Slow
from tests.engine.test_llm import PROMPTS, llm

FORM = AnswerForm(response_format={"type": "json_object"})
PARAMS = SamplingParams(max_tokens=12, seed=3, logprobs=1)


def core_with(look_ahead: LookAhead | None) -> EngineCore:
    core = llm(max_model_len=512, max_num_batched_tokens=40).core
    core._stepper._ahead = look_ahead
    return core


def submits(**settings: Any) -> list[Submit]:
    params = SamplingParams(**{"max_tokens": 12, "seed": 3, "logprobs": 1, **settings})
    return [
        *(Submit(f"form {number}", prompt, params, form=FORM) for number, prompt in enumerate(PROMPTS)),
        *(Submit(f"plain {number}", prompt, params) for number, prompt in enumerate(PROMPTS)),
    ]


def answers(core: EngineCore, requests: list[Submit]) -> list[Any]:
    found = {one.request_id: Gathered(one) for one in requests}
    with core.alone():
        for one in requests:
            core.submit(one)
        while core.has_work:
            for event in core.step():
                found[event.request_id].take(event)  # type: ignore[union-attr]
    return [(one.token_ids, one.logprobs_of(0), one.ends[0].reason) for one in found.values()]


def started(core: EngineCore, *requests: Submit) -> list[Event]:
    """Steps until the grammar is compiled, and the rows are there."""
    for one in requests:
        core.submit(one)
    events: list[Event] = []
    while core._preparing:
        events += core.step()
    return events


def names(events: list[Event], kind: Any) -> list[str]:
    return [event.request_id for event in events if isinstance(event, kind)]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("settings", [{}, {"prompt_lookup_num_tokens": 3, "temperature": 0}], ids=["drawn", "guessed"])
@pytest.mark.parametrize("slow_s", [-1.0, 0.003], ids=["all slow", "as it is"])
def test_answers_are_the_same(monkeypatch: pytest.MonkeyPatch, slow_s: float, settings: dict[str, Any]) -> None:
    expected = answers(core_with(None), submits(**settings))
    monkeypatch.setattr(generated_row, "_SLOW_S", slow_s)
    core = core_with(LookAhead())
    assert answers(core, submits(**settings)) == expected
    assert not core._stepper._ahead._masks  # type: ignore[union-attr]
    core.close()


def test_others_go_on_while_a_mask_is_computed() -> None:
    masks = Slow()
    core = core_with(LookAhead(masks, masks))
    events = started(core, Submit("form", PROMPTS[1], PARAMS, form=FORM), Submit("plain", PROMPTS[1], PARAMS))
    for _ in range(20):
        events += core.step()
    assert names(events, Tokens) == ["plain"] * 12
    assert names(events, Ended) == ["plain"]
    masks.go_on()
    events = core.step() + core.step() + core.step() + core.step()
    assert names(events, Tokens) == ["form"]  # and waits for the next
    while core.has_work:
        masks.go_on()
        events += core.step()
    assert names(events, Ended) == ["form"]


def test_an_aborted_row_leaves_nothing_behind() -> None:
    masks = Slow()
    core = core_with(LookAhead(masks, masks))
    started(core, Submit("form", PROMPTS[1], PARAMS, form=FORM))
    core.abort("form")
    assert names(core.step(), Ended) == ["form"]
    assert not core.has_work
    masks.go_on()
    assert masks.work == []


def test_a_grammar_that_breaks_costs_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(*_: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(GrammarControl, "directive", breaking)
    core = core_with(LookAhead())
    events = started(core, submits()[0], Submit("plain", PROMPTS[0], PARAMS))
    while core.has_work:
        events += core.step()
    assert {one.request_id: one.reason for one in events if isinstance(one, Ended)} == {
        "form 0": "error",
        "plain": "length",
    }


def test_a_row_with_slow_masks_guesses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated_row, "_SLOW_S", -1.0)
    core = core_with(LookAhead())
    answers(core, submits(prompt_lookup_num_tokens=3, temperature=0)[: len(PROMPTS)])
    assert core.stats()["total_draft_tokens"] == 0
