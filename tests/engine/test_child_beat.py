"""What an engine's process does beside its steps: pulses of a long one, and garbage."""

import gc
import itertools
import os
import select
import threading
from collections.abc import Iterator

import pytest

from seed_oss.engine.child_beat import Beat, Garbage
from seed_oss.engine.child_pipes import Inbox, Outbox
from seed_oss.engine.messages import Event, Pulse, Ready, Started, decode, decode_events, encode
from seed_oss.engine.process_main import EngineLoop
from tests.engine.processes import PATIENCE_S, request
from tests.engine.scripted_core import ScriptedCore


class Hands:
    """A clock that is set by hand, and the pulses that came."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pulses: list[object] = []
        self.beat = Beat(lambda lines: self.pulses.extend(map(decode, lines)), lambda: self.now, 1.0)

    def tell(self, now: float) -> list[object]:
        """The pulses that come at this moment."""
        self.now, self.pulses[:] = now, []
        self.beat.tell()
        return list(self.pulses)


def test_only_a_step_that_runs_for_a_while_is_told_of() -> None:
    hands = Hands()
    assert hands.tell(5.0) == []
    hands.beat.begin(5.0, 3, {"rows": 2.0})
    assert hands.tell(5.9) == []
    assert hands.tell(6.0) == [Pulse(3, {"rows": 2.0}, 1.0, 0.0)]
    hands.beat.end(9.0)
    assert hands.tell(20.0) == []
    hands.beat.begin(20.0, 4, {})
    assert hands.tell(27.0) == [Pulse(4, {}, 7.0, 4.0)]
    hands.beat.end(21.0)
    assert hands.beat.longest_s == 4.0


class LongStep(ScriptedCore):
    """A core whose step does not end until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def step(self) -> list[Event]:
        """See Core."""
        self.let_go.wait()
        return super().step()


def events_from(source: int) -> Iterator[object]:
    """Events of a loop that runs in another thread."""
    with os.fdopen(os.dup(source), "rb") as lines:
        while select.select([lines], [], [], PATIENCE_S)[0]:
            yield from decode_events(lines.readline())


def test_a_loop_in_a_long_step_goes_on_pulsing() -> None:
    (source, sink), (commands, sender) = os.pipe(), os.pipe()
    core = LongStep()
    loop = EngineLoop(core, Inbox(commands, lambda: None), Outbox(sink))
    running = threading.Thread(target=loop.run, daemon=True)
    running.start()
    events = events_from(source)
    assert isinstance(next(events), Ready)
    os.write(sender, encode(request(1)))
    first = next(one for one in events if isinstance(one, Pulse) and one.step_s)
    again = next(one for one in events if isinstance(one, Pulse))
    assert 1.0 <= first.step_s <= again.step_s - 0.9
    core.let_go.set()
    assert any(isinstance(one, Started) for one in itertools.islice(events, 4))
    os.close(sender)
    running.join(PATIENCE_S)
    assert not running.is_alive()
    for one in (source, sink, commands):
        os.close(one)


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []
    for name in ("collect", "freeze", "disable"):
        monkeypatch.setattr(gc, name, lambda name=name: done.append(name))
    return done


def test_garbage_is_collected_when_idle_and_after_a_long_time_of_work(collected: list[str]) -> None:
    now = 0.0
    garbage = Garbage(lambda: now)
    garbage.start()
    assert collected == ["collect", "freeze", "disable"]
    collected.clear()
    garbage.look(is_idle=True)
    assert collected == []  # nothing has happened
    garbage.look(is_idle=False)
    assert collected == []
    garbage.look(is_idle=True)
    garbage.look(is_idle=True)
    assert collected == ["collect"]
    now = 299.0
    garbage.look(is_idle=False)
    assert collected == ["collect"]
    now = 300.0
    garbage.look(is_idle=False)
    garbage.look(is_idle=False)
    assert collected == ["collect"] * 2
