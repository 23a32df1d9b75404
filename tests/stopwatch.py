"""How long a piece of work takes, without Python's collector."""

import gc
import time
from collections.abc import Callable
from typing import Self


class Stopwatch:
    """Counts the seconds of a `with` block, without the collector's walk over all that the suite holds.

    That walk takes more than a second in a process that ran some thousand tests, and comes at any allocation.

    Args:
        clock: what counts them; as a rule what this thread computes, whatever else the process and the machine are at.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock

    def __enter__(self) -> Self:
        self._collects = gc.isenabled()
        gc.disable()
        self._began = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._clock() - self._began
        if self._collects:
            gc.enable()
