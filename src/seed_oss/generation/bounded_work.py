"""Work that may take too long, on threads of its own, a few at a time.

A thread that runs native code cannot be stopped. So who has waited long enough goes away, the thread goes on, and it
takes up one of a few places until it is through: whatever is asked for, there are never more threads than places.
"""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from seed_oss.errors import StateError

_stack_lock = threading.Lock()  # the size of the next thread's stack is a setting of the process


class BoundedWork:
    """Runs functions and waits for each only so long.

    Args:
        name: of the threads, and of the work in messages.
        max_running: how many may run at a time.
        stack_bytes: stack of each thread.
    """

    def __init__(self, name: str, max_running: int, stack_bytes: int) -> None:
        self._name, self._max_running, self._stack_bytes = name, max_running, stack_bytes
        self._places = threading.BoundedSemaphore(max_running)
        self._running: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()

    def result(self, key: Hashable, function: Callable[[], Any], seconds: float) -> Any:
        """What a function returns or raises.

        Args:
            key: what the work is; who asks for the same while it runs waits for the same thread.
            function: the work.
            seconds: how long to wait for a place, and then for the work.

        Raises:
            StateError: no place became free.
            TimeoutError: it takes longer, and goes on.
        """
        return self._future(key, function, seconds).result(seconds)

    def _future(self, key: Hashable, function: Callable[[], Any], seconds: float) -> Future[Any]:
        with self._lock:
            if key in self._running:
                return self._running[key]
        if not self._places.acquire(timeout=seconds):
            raise StateError(
                f"{self._max_running} threads are at work ({self._name}), the limit, and none was through within "
                f"{seconds:g} s; try again later"
            )
        with self._lock:
            if key in self._running:  # begun by someone else since
                self._places.release()
                return self._running[key]
            future = self._running[key] = Future[Any]()
        try:
            self._start(key, function, future)
        except BaseException as error:
            self._leave(key)
            future.set_exception(error)
            raise
        return future

    def _start(self, key: Hashable, function: Callable[[], Any], future: Future[Any]) -> None:
        thread = threading.Thread(target=self._run, args=(key, function, future), name=self._name)
        with _stack_lock:
            before = threading.stack_size(self._stack_bytes)
            try:
                thread.start()
            finally:
                threading.stack_size(before)

    def _run(self, key: Hashable, function: Callable[[], Any], future: Future[Any]) -> None:
        try:
            value = function()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._leave(key)
            future.set_exception(error)
        else:
            self._leave(key)
            future.set_result(value)

    def _leave(self, key: Hashable) -> None:
        with self._lock:
            del self._running[key]
        self._places.release()
