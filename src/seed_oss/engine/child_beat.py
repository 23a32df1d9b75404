"""What an engine's process does beside its steps: it says how long one has run, and collects garbage. No torch.

    a step runs ----1 s---- Pulse(step_s=1) ----1 s---- Pulse(step_s=2) ... done -> Pulse(step_s=0) from the loop itself

A step of a big model on a slow machine takes minutes, and a hang takes for ever; only the time that steps took so far
tells them apart, so both are said.
"""

import gc
import threading
from collections.abc import Callable, Iterable, Mapping

from seed_oss.engine.messages import Pulse, encode
from seed_oss.errors import StateError

_MOST_S = 300.0  # a process that is never idle collects now and then, too


class Beat:
    """Pulses from a thread of its own, while a step runs.

    Args:
        put: where lines go; may be called from any thread.
        clock: seconds that only grow.
        every_s: seconds between two pulses.
    """

    def __init__(self, put: Callable[[Iterable[bytes]], None], clock: Callable[[], float], every_s: float) -> None:
        self._put, self._clock, self._every_s = put, clock, every_s
        self._step: tuple[float, int, Mapping[str, float]] | None = None
        self._has_ended = threading.Event()
        self.longest_s = 0.0

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="pulses", daemon=True).start()

    def stop(self) -> None:
        """End the thread, as soon as it wakes up."""
        self._has_ended.set()

    def begin(self, now: float, num_steps: int, stats: Mapping[str, float]) -> None:
        """A step begins.

        Args:
            now: seconds.
            num_steps: steps so far.
            stats: the newest numbers, which the thread must not ask for.
        """
        self._step = now, num_steps, stats

    def end(self, now: float) -> None:
        """The step has ended."""
        if self._step is not None:
            self.longest_s = max(self.longest_s, now - self._step[0])
        self._step = None

    def tell(self) -> None:
        """Say how long the step has run, if it has run for a while."""
        step = self._step
        if step is None:
            return
        step_s = self._clock() - step[0]
        if step_s >= self._every_s:
            self._put([encode(Pulse(step[1], step[2], step_s, self.longest_s))])

    def _run(self) -> None:
        while not self._has_ended.wait(self._every_s):
            try:
                self.tell()
            except (OSError, StateError):  # nobody reads; the loop finds that out by itself
                return


class Garbage:
    """Python's collector, run where nobody waits for it: a run of its own accord may take longer than a step.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = clock()
        self._is_due = False

    def start(self) -> None:
        """Everything is loaded: what is there stays and is never looked at again."""
        gc.collect()
        gc.freeze()
        gc.disable()

    def look(self, *, is_idle: bool) -> None:
        """Collect, if there may be something, and it is a good moment or the last one is long ago.

        Args:
            is_idle: whether nothing is to be done.
        """
        if is_idle and not self._is_due:
            return
        self._is_due = True
        if is_idle or self._clock() - self._last >= _MOST_S:
            gc.collect()
            self._last, self._is_due = self._clock(), False
