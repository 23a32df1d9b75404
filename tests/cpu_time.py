"""How long a piece of work takes, whatever else the machine and the suite's own process are at."""

import gc
import time
from typing import Self


class CpuTime:
    """Counts what this thread computes in a `with` block, without the collector's walk over all that the suite holds.

    That walk takes more than a second in a process that ran some thousand tests, and comes at any allocation.
    """

    def __enter__(self) -> Self:
        self._collects = gc.isenabled()
        gc.disable()
        self._began = time.thread_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.thread_time() - self._began
        if self._collects:
            gc.enable()
