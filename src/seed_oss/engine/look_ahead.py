"""Masks of grammars, computed beside the steps: a row whose next one is not there yet is left out, and nobody waits.

    a row grows ──► its next mask is begun ──► there within moments: the row is in the next step
                                          └──► not yet: the others go on, and the row comes back when it is

Computing a mask lets go of the interpreter; taking a token to the grammar does not, and takes about half as long.
"""

import os
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import NamedTuple

from seed_oss.engine.batch import RowKey
from seed_oss.engine.generated_row import GeneratedRow

WAIT_S = 0.003  # what a step waits for masks that may come at once; usual ones take 0.1 to 2 ms
_NICENESS = 5  # of the slow masks' thread: a quarter of a core beside a step that uses all of them


class _Mask(NamedTuple):
    future: Future[None]
    is_slow: bool


class LookAhead:
    """Asks grammars, each mask on a thread.

    Args:
        quick: for rows whose last mask was quick; None makes a thread.
        slow: for the others, whose thread yields to the steps where the system can do that; None makes it.
    """

    def __init__(self, quick: Executor | None = None, slow: Executor | None = None) -> None:
        self._quick = quick or ThreadPoolExecutor(1, "seed-oss-masks")
        self._slow = slow or ThreadPoolExecutor(1, "seed-oss-slow-masks", _yield_to_steps)
        self._wanted: dict[RowKey, GeneratedRow] = {}
        self._masks: dict[RowKey, _Mask] = {}

    def start(self, key: RowKey, row: GeneratedRow) -> None:
        """Have a row's next mask computed, if it wants one: it is begun when `held` is asked.

        Until it is there the row is held, and not to be touched.
        """
        if row.wants_mask:
            self._wanted[key] = row

    @property
    def has_work(self) -> bool:
        """Whether a mask is wanted, or was begun and is not known to be there."""
        return bool(self._wanted or self._masks)

    def held(self) -> frozenset[RowKey]:
        """The rows whose next mask is not there; waits for the quick ones a moment."""
        for key, row in self._wanted.items():
            is_slow = row.looks_slowly
            self._masks[key] = _Mask((self._slow if is_slow else self._quick).submit(row.look_ahead), is_slow)
        self._wanted.clear()
        quick = [mask.future for mask in self._masks.values() if not mask.is_slow]
        if quick:
            wait(quick, WAIT_S)
        # What a mask raised is raised again, and charged to its row, when the row asks for it.
        self._masks = {key: mask for key, mask in self._masks.items() if not mask.future.done()}
        return frozenset(self._masks)

    def wait(self, seconds: float) -> None:
        """Wait until some mask is there, where nothing else is to be done."""
        wait([mask.future for mask in self._masks.values()], seconds, FIRST_COMPLETED)

    def drop(self, key: RowKey) -> None:
        """The row has ended."""
        self._wanted.pop(key, None)
        mask = self._masks.pop(key, None)
        if mask is not None:
            mask.future.cancel()

    def close(self) -> None:
        """Begin nothing any more."""
        for threads in (self._quick, self._slow):
            threads.shutdown(wait=False, cancel_futures=True)


def _yield_to_steps() -> None:
    """On Linux each thread has a priority of its own."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
