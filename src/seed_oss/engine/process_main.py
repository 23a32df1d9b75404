"""The engine's process: `python -m seed_oss.engine.process_main FACTORY SPEC COMMANDS EVENTS`.

It takes commands from one pipe and writes events to another. What computes is made by the factory; torch is imported
there and nowhere here. The process ends when its parent does.
"""

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from seed_oss.engine.child_beat import Beat, Garbage
from seed_oss.engine.child_pipes import Inbox, Outbox
from seed_oss.engine.messages import Abort, Close, Event, Pulse, Ready, Refused, Submit, decode, encode, encode_events
from seed_oss.engine.pace import Pace
from seed_oss.engine.spec import EXIT_REFUSED, EngineSpec
from seed_oss.errors import InputError, SeedOssError

BUILD_CORE = "seed_oss.engine.build:build_core"
_PULSE_S = 1.0
GRACE_S = 5.0  # to end a step, once the parent is gone
_PR_SET_PDEATHSIG = 1


class Core(Protocol):
    """What computes. One thread uses it."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        ...

    def ready(self) -> Ready:
        """What it can do."""
        ...

    def submit(self, request: Submit) -> None:
        """Take a request; what comes of it, Refused too, comes with the next steps."""
        ...

    def abort(self, request_id: str) -> None:
        """Nobody waits for a request any more; an unknown one is passed over."""
        ...

    def step(self) -> list[Event]:
        """Compute a little; what came of it."""
        ...

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """To be held around many steps."""
        ...

    def stats(self) -> dict[str, float]:
        """Numbers for a metrics page."""
        ...

    def close(self) -> None:
        """Finish what goes on beside; nothing is asked of it after that."""
        ...


def engine_command(spec: EngineSpec, factory: str = BUILD_CORE) -> list[str]:
    """The command that starts an engine's process.

    Args:
        spec: the model, and how it runs.
        factory: "module:function" that makes the core from the spec.
    """
    return [sys.executable, "-P", "-m", "seed_oss.engine.process_main", factory, spec.to_json()]


class EngineLoop:
    """The loop of the process.

    Args:
        core: what computes.
        inbox: commands.
        outbox: events.
        clock: seconds that only grow.
        rest: called after each round, with whether nothing is to be done.
        pace: when tokens are said; None says those of each step at once.
    """

    def __init__(
        self,
        core: Core,
        inbox: Inbox,
        outbox: Outbox,
        clock: Callable[[], float] = time.monotonic,
        rest: Callable[[bool], None] = lambda is_idle: None,
        pace: Pace | None = None,
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._outbox = outbox
        self._clock = clock
        self._num_steps = 0
        self._last_pulse = clock() - _PULSE_S
        self._closing: Close | None = None
        self._stats: dict[str, float] = {}
        self._beat = Beat(outbox.put, clock, _PULSE_S)
        self._rest = rest
        self._pace = Pace(0.0) if pace is None else pace

    def run(self) -> None:
        """Serve until told to close, or until the other side is gone."""
        self._outbox.put([encode(self._core.ready())])
        self._beat.start()
        try:
            while not self._is_done():
                lines = self._inbox.take(self._wait_s())
                if lines:  # what they ask for may take long
                    self._say(self._pace.rest())
                self._say(self._round(lines))
                self._rest(not self._core.has_work)
        except EOFError:
            return
        finally:
            self._beat.stop()
        self._say(self._pace.rest())
        self._outbox.flush()

    def _say(self, events: list[Event]) -> None:
        if events:
            self._outbox.put(encode_events(events))

    def _round(self, lines: list[bytes]) -> list[Event]:
        """Obey commands and do a step; what is to be said of it now."""
        if lines or self._core.has_work:
            self._beat.begin(self._clock(), self._num_steps, self._stats)
        events = [event for line in lines for event in self._obey(line)]
        if lines or self._core.has_work:
            self._num_steps += self._core.has_work
            events += self._core.step()
        now = self._clock()
        self._beat.end(now)
        return self._pace.take([*events, *self._pulses(now)], now)

    def _is_done(self) -> bool:
        return self._closing is not None and not (self._closing.drain and self._core.has_work)

    def _wait_s(self) -> float:
        """Seconds to wait for commands. An idle engine wakes up now and then, to show that it would answer."""
        if self._core.has_work:
            return 0.0
        if self._outbox.num_kept:
            self._outbox.flush()
        return max(0.0, self._last_pulse + _PULSE_S - self._clock())

    def _obey(self, line: bytes) -> list[Event]:
        command = decode(line)
        if isinstance(command, Submit):
            if self._closing is not None:
                return [Refused(command.request_id, "unavailable", "the engine is about to end; ask another one")]
            self._core.submit(command)
        elif isinstance(command, Abort):
            self._core.abort(command.request_id)
        elif isinstance(command, Close):
            self._closing = command
        else:
            raise InputError(f"a {type(command).__name__} is no command; both sides must be of one version")
        return []

    def _pulses(self, now: float) -> list[Event]:
        if now - self._last_pulse < _PULSE_S:
            return []
        self._last_pulse = now
        self._stats = self._core.stats()
        return [Pulse(self._num_steps, self._stats, longest_step_s=self._beat.longest_s)]


def main(arguments: Sequence[str]) -> int:
    """Run an engine; the exit code: 0 when closed, EXIT_REFUSED when it cannot be built from its settings.

    Args:
        arguments: factory, spec, and the descriptors for commands and events.
    """
    factory, spec, commands, events = arguments
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    for descriptor in (int(commands), int(events)):
        os.set_inheritable(descriptor, False)
    outbox = Outbox(int(events))
    inbox = Inbox(int(commands), _end_soon)
    try:
        settings = EngineSpec.from_json(spec)
        core = _build(factory, settings)
    except SeedOssError as error:
        _tell(error)
        return EXIT_REFUSED
    garbage = Garbage(time.monotonic)
    garbage.start()
    with contextlib.suppress(BrokenPipeError), core.alone():  # the parent may be gone, and nobody left to tell
        EngineLoop(
            core,
            inbox,
            outbox,
            rest=lambda is_idle: garbage.look(is_idle=is_idle),
            pace=Pace.for_machine(settings.stream_interval_s),
        ).run()
    core.close()
    return 0


def _build(factory: str, spec: EngineSpec) -> Core:
    module, _, name = factory.partition(":")
    return getattr(importlib.import_module(module), name)(spec)


def _end_with_parent() -> None:
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended just now; the signal would not come any more
        os._exit(1)


def _end_soon() -> None:
    """The parent is gone: a step that runs may end, but not run on for ever."""
    timer = threading.Timer(GRACE_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _tell(error: SeedOssError) -> None:
    sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # threads of libraries have nothing more to say
