"""What the engine does around its scheduler: requests that take a while to be made ready."""

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from seed_oss import SamplingParams
from seed_oss.engine import build
from seed_oss.engine.core import EngineCore
from seed_oss.engine.llm import LLM
from seed_oss.engine.messages import AnswerForm, Computed, Ended, Refused, Submit
from seed_oss.engine.prompt_tasks import PromptLogProbs
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import InputError
from seed_oss.generation.grammar_compiler import GrammarCompiler, GrammarLimits
from tests.engine.test_llm import PROMPTS, VOCAB_SIZE, llm, model
from tests.seed_tokenizer import seed_tokenizer

FORM = AnswerForm(response_format={"type": "json_object"})
PARAMS = SamplingParams(max_tokens=2, temperature=0)


class Slow(Executor):
    """Does nothing until it is told to."""

    def __init__(self) -> None:
        self.work: list[tuple[Future[Any], Any]] = []

    def submit(self, fn: Any, /, *arguments: Any, **_: Any) -> Any:
        future: Future[Any] = Future()
        self.work.append((future, lambda: fn(*arguments)))
        return future

    def go_on(self) -> None:
        while self.work:
            future, run = self.work.pop(0)
            if future.set_running_or_notify_cancel():
                future.set_result(run())


def slow_core() -> tuple[EngineCore, Slow]:
    engine: LLM = llm(max_model_len=512)
    helpers = Slow()
    engine.core._helpers = helpers
    return engine.core, helpers


def ends(core: EngineCore) -> dict[str, str]:
    found: dict[str, str] = {}
    while core.has_work:
        for event in core.step():
            if isinstance(event, Ended | Refused):
                found[event.request_id] = event.reason if isinstance(event, Ended) else event.kind
    return found


def test_others_go_on_while_a_form_is_compiled() -> None:
    core, helpers = slow_core()
    core.submit(Submit("form", PROMPTS[1], PARAMS, form=FORM))
    core.submit(Submit("plain", PROMPTS[1], PARAMS))
    events = [event for _ in range(4) for event in core.step()]
    assert [event.request_id for event in events if isinstance(event, Ended)] == ["plain"]
    helpers.go_on()
    assert ends(core) == {"form": "length"}


def test_others_go_on_while_breakers_are_looked_for() -> None:
    core, helpers = slow_core()
    params = SamplingParams(max_tokens=2, temperature=0, n=2, dry_multiplier=1.0, dry_sequence_breakers=["a", 7])
    core.submit(Submit("dry", PROMPTS[1], params))
    core.submit(Submit("plain", PROMPTS[1], PARAMS))
    events = [event for _ in range(4) for event in core.step()]
    assert [event.request_id for event in events if isinstance(event, Ended)] == ["plain"]
    helpers.go_on()
    assert ends(core) == {"dry": "length"}
    assert core._intake._breakers.cache_info()[:2] == (1, 1)  # looked for once, for two answers


def test_a_request_that_is_being_made_ready_can_be_aborted() -> None:
    core, helpers = slow_core()
    core.submit(Submit("form", PROMPTS[1], PARAMS, form=FORM))
    core.abort("form")
    assert ends(core) == {"form": "unavailable"}
    helpers.go_on()
    assert not core.has_work


def test_other_threads_may_write_to_what_is_made_ready_between_steps() -> None:
    core = llm(max_model_len=512).core
    with core.alone():
        core.submit(Submit("plain", PROMPTS[0], PARAMS))
        (row,) = core._stepper._rows.values()
    assert row.generated is not None
    assert not row.generated._ids.view().is_inference()
    assert ends(core) == {"plain": "length"}


def test_a_thread_that_steps_beside_another_one_s_steps_has_no_use_of_them() -> None:
    """Torch keeps its modes for each thread."""
    core = llm(max_model_len=512).core
    core.submit(Submit("plain", PROMPTS[0], PARAMS))
    with core.alone(), ThreadPoolExecutor(1) as other:
        assert other.submit(ends, core).result() == {"plain": "length"}


def test_threads_may_begin_and_end_their_steps_in_any_order() -> None:
    core = llm(max_model_len=512).core
    first, second = core.alone(), core.alone()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for pool, work in ((one, first.__enter__), (other, second.__enter__)):
            pool.submit(work).result()
        one.submit(first.__exit__, None, None, None).result()
        other.submit(second.__exit__, None, None, None).result()
        assert not any(pool.submit(lambda: core._stepper._here.is_alone).result() for pool in (one, other))
        core.submit(Submit("plain", PROMPTS[0], PARAMS))
        assert one.submit(ends, core).result() == {"plain": "length"}


def test_a_long_answer_may_be_given_up_between_steps() -> None:
    """Its tokens are looked at once more then, outside of the modes that steps run in."""
    core = llm(max_model_len=512).core
    params = SamplingParams(max_tokens=400, temperature=0, ignore_eos=True, prompt_lookup_num_tokens=2)
    core.submit(Submit("long", PROMPTS[0], params))
    (row,) = core._stepper._rows.values()
    assert row.generated is not None
    with core.alone():
        while len(row.generated._ids) < 300 or not row.generated._taken:
            core.step()
    core.abort("long")
    assert [event.reason for event in core.step() if isinstance(event, Ended)] == ["abort"]
    assert not core.has_work


def test_forms_that_wait_are_bounded() -> None:
    core, helpers = slow_core()
    for number in range(65):
        core.submit(Submit(str(number), PROMPTS[1], PARAMS, form=FORM))
    refused = [event for event in core.step() if isinstance(event, Refused)]
    assert [(one.request_id, one.kind, one.retry_after) for one in refused] == [("64", "overloaded", 1.0)]
    helpers.go_on()
    assert len(ends(core)) == 64
    assert not core.has_work


def test_an_id_may_come_again_only_after_its_request_has_ended() -> None:
    core, _ = slow_core()
    core.submit(Submit("a", PROMPTS[1], PARAMS))
    core.submit(Submit("a", PROMPTS[1], PARAMS))
    assert [event.kind for event in core.step() if isinstance(event, Refused)] == ["invalid"]
    assert ends(core) == {"a": "length"}
    core.submit(Submit("a", PROMPTS[1], PARAMS))
    assert ends(core) == {"a": "length"}


def test_log_probabilities_of_a_prompt_that_are_no_numbers_cost_their_request(monkeypatch: pytest.MonkeyPatch) -> None:
    core, _ = slow_core()
    result = PromptLogProbs.result

    def broken(task: PromptLogProbs, request_id: str) -> Computed:
        task._own[-1] = float("nan") if request_id == "broken" else task._own[-1]
        return result(task, request_id)

    monkeypatch.setattr(PromptLogProbs, "result", broken)
    params = SamplingParams(max_tokens=2, temperature=0, n=2, prompt_logprobs=1)
    core.submit(Submit("broken", PROMPTS[1], params))
    core.submit(Submit("fine", PROMPTS[1], params))
    assert ends(core) == {"broken": "error", "fine": "length"}


@pytest.mark.parametrize("is_equal", [True, False])
def test_a_machine_on_which_batches_change_bits_is_told_of_loudly(
    is_equal: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "is_batch_invariant", lambda *_: is_equal)
    assert llm().core.ready().is_batch_invariant == is_equal
    warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert [("depend on what else is in a batch" in one) for one in warned] == ([] if is_equal else [True])


def test_bounds_of_grammars_are_a_setting() -> None:
    tokenizer = seed_tokenizer(vocab_size=VOCAB_SIZE)
    spec = EngineSpec("(loaded)", max_num_seqs=1, max_model_len=256, grammar_s=0.5, grammar_cache_bytes=2**20)
    build.build_core(spec, build.LoadedModel(model(), tokenizer))
    assert GrammarCompiler.of(tokenizer).limits == GrammarLimits(0.5, 2**20)
    with pytest.raises(InputError, match="grammar_cache_bytes is 0"):
        EngineSpec("(loaded)", grammar_cache_bytes=0)


def test_answers_that_may_wait_are_a_setting() -> None:
    spec = EngineSpec("(loaded)", max_num_seqs=1, max_model_len=256, max_num_waiting=2)
    core = build.build_core(spec, build.LoadedModel(model(), None))
    for number in range(4):
        core.submit(Submit(str(number), PROMPTS[1], PARAMS))
    assert ends(core) == {"0": "length", "1": "length", "2": "length", "3": "overloaded"}
    assert (core.ready().max_num_rows, core.ready().max_queued_tokens) == (3, 2**20)
    with pytest.raises(InputError, match="max_num_waiting is 0"):
        EngineSpec("(loaded)", max_num_waiting=0)


@pytest.mark.parametrize(("ahead_s", "interval_s", "expected"), [(0.04, 0.0, 0.0), (0.04, 1.0, 0.04), (0.0, 1.0, 0.0)])
def test_a_step_takes_no_longer_than_pieces_of_a_stream_are_apart(
    ahead_s: float, interval_s: float, expected: float
) -> None:
    spec = EngineSpec("(loaded)", max_num_seqs=1, max_model_len=256, ahead_s=ahead_s, stream_interval_s=interval_s)
    assert build.build_core(spec, build.LoadedModel(model(), None))._scheduler.limits.ahead_s == expected


@pytest.mark.parametrize("name", ["ahead_s", "stream_interval_s"])
@pytest.mark.parametrize("value", ["0.04", None, True, -1, float("nan"), float("inf")])
def test_seconds_that_cannot_be(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} is .*seconds"):
        EngineSpec("(loaded)", **{name: value})
