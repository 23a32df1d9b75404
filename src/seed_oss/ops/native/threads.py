"""How many threads the kernels take, and keeping torch's own asleep beside them.

After each operation that torch shares out, its threads go on spinning for milliseconds, to be awake for the next one. A
step of a small model is over by then, and has had half of the cores. `alone` lets torch work in the calling thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_kept: ContextVar[int | None] = ContextVar("num_threads", default=None)


def num_threads() -> int:
    """Threads for a call of the kernels: `torch.get_num_threads()`, within `alone` that of before."""
    return _kept.get() or torch.get_num_threads()


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
    if not wanted or threads == 1:
        yield
        return
    before, token = torch.get_num_threads(), _kept.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _kept.reset(token)
