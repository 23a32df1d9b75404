"""Work on threads: never more than there are places, whatever is asked for."""

import threading
from typing import Any

import pytest

from seed_oss.chat.output_format import OutputFormat
from seed_oss.errors import ConfigError, InputError, StateError
from seed_oss.generation.bounded_work import BoundedWork
from seed_oss.generation.grammar_compiler import MAX_RUNNING_COMPILES, GrammarCompiler, GrammarLimits
from tests.generation.grammar_runs import tokenizer
from tests.seed_tokenizer import seed_tokenizer

NAME = "test work"


def num_threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def join_all(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join()


@pytest.fixture
def gate() -> Any:
    """Work waits for it; it opens at the end."""
    opened = threading.Event()
    yield opened
    opened.set()
    join_all(NAME)


def test_results_and_errors_come_through() -> None:
    work = BoundedWork(NAME, 1, 1 << 20)
    for _ in range(3):
        assert work.result("a", lambda: 3, 5) == 3
        with pytest.raises(ZeroDivisionError):
            work.result("b", lambda: 1 // 0, 5)


def test_no_more_threads_than_places(gate: threading.Event) -> None:
    work = BoundedWork(NAME, 2, 1 << 20)
    for key in range(2):
        with pytest.raises(TimeoutError):
            work.result(key, gate.wait, 0.01)
    for key in range(2, 20):
        with pytest.raises(StateError, match=r"2 threads are at work \(test work\), the limit"):
            work.result(key, gate.wait, 0.001)
    assert num_threads(NAME) == 2
    gate.set()
    assert work.result("next", lambda: 3, 5) == 3


def test_who_asks_for_the_same_waits_for_the_same(gate: threading.Event) -> None:
    work = BoundedWork(NAME, 2, 1 << 20)
    for _ in range(10):
        with pytest.raises(TimeoutError):
            work.result("same", gate.wait, 0.001)
    assert num_threads(NAME) == 1
    results: list[bool] = []
    others = [threading.Thread(target=lambda: results.append(work.result("same", gate.wait, 30))) for _ in range(5)]
    for other in others:
        other.start()
    gate.set()
    for other in others:
        other.join()
    assert results == [True] * 5


def test_a_thread_that_cannot_start_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    work = BoundedWork(NAME, 1, 1 << 20)

    def fails(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start"):
                work.result("a", lambda: 3, 0.01)
    assert work.result("a", lambda: 3, 5) == 3


def test_grammars_that_take_too_long_do_not_pile_up(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = GrammarCompiler(tokenizer(), GrammarLimits(compile_s=0.01))
    build = mine._build
    with monkeypatch.context() as patched:
        patched.setattr(mine, "_build", lambda source: (gate.wait(), build(source))[1])
        for number in range(MAX_RUNNING_COMPILES):
            for _ in range(2):
                with pytest.raises(InputError, match=r"regex took longer than 0\.01 s"):
                    mine.compile(OutputFormat.regex(f"slow{number}"))
        for number in range(10):
            with pytest.raises(StateError, match=r"compiling grammars.*try again later"):
                mine.compile(OutputFormat.regex(f"more{number}"))
        assert num_threads("compiling grammars") == MAX_RUNNING_COMPILES
        gate.set()
        join_all("compiling grammars")
    mine.limits = GrammarLimits()
    assert mine.compile(OutputFormat.regex("quick")).prototype is not None


def test_a_tokenizers_compiler_has_the_limits_that_were_set_for_it() -> None:
    mine, limits = seed_tokenizer(), GrammarLimits(compile_s=0.5, cache_bytes=1)
    GrammarCompiler.limit(mine, limits)
    assert GrammarCompiler.of(mine).limits == limits
    assert GrammarCompiler.of(mine) is GrammarCompiler.of(mine)
    assert GrammarCompiler.of(seed_tokenizer()).limits == GrammarLimits()


@pytest.mark.parametrize("limits", [{"compile_s": 0.0}, {"compile_s": float("nan")}, {"cache_bytes": 0}])
def test_limits_that_cannot_be(limits: Any) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        GrammarLimits(**limits)
