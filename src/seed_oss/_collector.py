"""Python's collector, kept from looking for garbage where much is made and all of it stays.

It goes by how much is made: importing torch and this package, and reading a vocabulary, call it several times to go
over everything there is, which finds nothing and takes a tenth of the time from a process's start to its first token.
"""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Pauses:
    """Those that have begun and not ended, in all threads."""

    lock = threading.RLock()  # a signal's handler may begin one, too
    running = 0
    is_to_go_on = False  # after the last one


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collect nothing until the end of the block; all that is young is taken for long-lived then.

    For what is rare and large: the collector counts from nothing again, so that where this were done all the time it
    would hardly ever look at everything. Who turns it on or off in another thread meanwhile, or asks whether it is on,
    has to do so again.
    """
    process, has_begun = os.getpid(), False
    try:
        with _Pauses.lock:
            if not _Pauses.running:
                _Pauses.is_to_go_on = gc.isenabled()
                gc.disable()
            _Pauses.running += 1
            has_begun = True
        yield
    finally:
        if has_begun and os.getpid() == process:  # in the child of a fork it has ended already
            with _Pauses.lock:
                _Pauses.running -= 1
                if not _Pauses.running and _Pauses.is_to_go_on:
                    _let_it_go_on()


def _let_it_go_on() -> None:
    if not gc.get_freeze_count():  # else these two would undo what somebody wanted
        gc.freeze()  # to where it looks never, and on
        gc.unfreeze()  # to where it looks last
    gc.enable()


def _end_all() -> None:
    """In the child of a fork nobody is left who would end a pause of another thread."""
    _Pauses.lock = threading.RLock()
    if _Pauses.running and _Pauses.is_to_go_on:
        gc.enable()
    _Pauses.running = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_all)
