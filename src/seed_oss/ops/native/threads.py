"""How many threads the kernels take, and keeping torch's own asleep beside them.

After each operation that torch shares out, its threads go on spinning for milliseconds, to be awake for the next one. A
step of a small model is over by then, and has had half of the cores. `alone` lets torch work in the calling thread.

`torch.set_num_threads` is for the calling thread and for all that have not used torch so far: one that begins during
another's `alone` would stay at one thread for good.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import ClassVar

import torch

_kept: ContextVar[int | None] = ContextVar("num_threads", default=None)


class _Blocks:
    """Those of `alone` in all threads: an entry for each that runs, and the number of threads outside of the latest."""

    running: ClassVar[list[None]] = []
    threads = 1


class _Known(threading.local):
    """Whether this thread's number is one that it was meant to have."""

    yes = False


_known = _Known()


def num_threads() -> int:
    """Threads for a call of the kernels: `torch.get_num_threads()`, within `alone` that of before."""
    kept = _kept.get()
    if kept:
        return kept
    if not _known.yes:
        _known.yes = True
        if torch.get_num_threads() == 1 < _Blocks.threads:
            torch.set_num_threads(_of_new_threads())
    return torch.get_num_threads()


def _of_new_threads() -> int:
    """What torch gives threads that begin outside of any `alone`."""
    found = [1]
    probe = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    if not _Blocks.running:
        with suppress(RuntimeError):  # a thread cannot be started: then one it is
            probe.start()
            probe.join()
    return _Blocks.threads if _Blocks.running else found[-1]


@contextmanager
def together() -> Iterator[None]:
    """Within `alone`, let torch use all threads again until the end of the block."""
    threads, before = _kept.get(), torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def alone(wanted: bool = True) -> Iterator[None]:
    """Let torch use one thread and the kernels all of them, in this thread and until the end of the block.

    Args:
        wanted: False changes nothing.
    """
    threads = num_threads()
    if not wanted or threads == 1 or (_kept.get() is not None and torch.get_num_threads() == 1):  # it is so already
        yield
        return
    before, token = torch.get_num_threads(), _kept.set(threads)
    _Blocks.threads = threads
    _Blocks.running.append(None)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _kept.reset(token)
        _Blocks.running.pop()
