"""The progress bar shows itself only to somebody who waits and looks."""

import io
import sys
import threading

import pytest

from seed_oss.weights import progress
from seed_oss.weights.progress import byte_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(monkeypatch: pytest.MonkeyPatch, stderr: object, seconds: float, *, enabled: bool = True) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    clock = Clock()
    with byte_progress("Loading weights", 100, enabled=enabled, clock=clock) as advance:
        for _ in range(4):
            clock.now += seconds / 4
            advance(25)


def test_on_a_terminal_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    run(monkeypatch, stderr, 2.0)
    assert "Loading weights" in stderr.getvalue()


@pytest.mark.parametrize("seconds", [0.0, progress.DELAY_S])
def test_not_before(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    stderr = Terminal()
    run(monkeypatch, stderr, seconds)
    assert stderr.getvalue() == ""


def test_not_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    run(monkeypatch, stderr, 2.0)
    assert stderr.getvalue() == ""


def test_not_without_a_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, None, 2.0)


def test_not_where_it_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    run(monkeypatch, stderr, 2.0, enabled=False)
    assert stderr.getvalue() == ""


def test_an_error_takes_the_bar_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    clock = Clock()

    def work() -> None:
        with byte_progress("Loading weights", 100, clock=clock) as advance:
            clock.now = 2.0
            advance(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    for thread in threading.enumerate():
        if "rich" in type(thread).__module__:
            thread.join(10.0)
            assert not thread.is_alive()
