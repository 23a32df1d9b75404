"""What would hold up the event loop, done in a few threads."""

import asyncio
import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from seed_oss.server.errors import ApiError

_T = TypeVar("_T")
LONG_CHARS = 2**18  # tokens of so many are made in about 0.2 s to 0.4 s


class WorkPool:
    """A few threads, and a bound on what waits for them. Long texts have threads of their own: the others never wait
    behind one, whose tokens may take many seconds and cannot be stopped once they are being made.

    Args:
        num_threads: threads for all that is not long, and as many for what is.
        max_waiting: pieces of work that run or wait; half of them may be long.
        seconds: how long one may take, its waiting included.
    """

    def __init__(self, num_threads: int, max_waiting: int, seconds: float) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="seed-oss-api")
        self._long = _ShortestFirst(num_threads)
        self._room = threading.BoundedSemaphore(max_waiting)
        self._room_for_long = threading.BoundedSemaphore(max(1, max_waiting // 2))
        self._seconds = seconds

    async def run(self, work: Callable[[], _T], num_chars: int = 0) -> _T:
        """The result of some work.

        Args:
            work: what is to be done.
            num_chars: of the texts that it reads.

        Raises:
            ApiError: too much is waiting, or it took too long. The work goes on behind the caller's back then.
        """
        future = self._started(work, num_chars)
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise ApiError(
                "unavailable", f"making tokens of the prompt took more than {self._seconds:g} s; send less"
            ) from None

    def _started(self, work: Callable[[], _T], num_chars: int) -> "Future[_T]":
        rooms = [self._room] if num_chars <= LONG_CHARS else [self._room_for_long, self._room]
        entered = list(itertools.takewhile(lambda room: room.acquire(blocking=False), rooms))
        if len(entered) < len(rooms):
            for room in entered:
                room.release()
            raise ApiError("overloaded", "too many requests are being read at the same time; try again later")
        future = self._threads.submit(work) if len(rooms) == 1 else self._long.submit(work, num_chars)
        for room in rooms:
            future.add_done_callback(lambda _, room=room: room.release())
        return future

    async def finish(self, work: Callable[[], _T], num_chars: int = 0) -> _T:
        """The result of work on what has been computed already: nothing is too much, or takes too long, any more.

        Args:
            work, num_chars: see `run`.
        """
        is_long = num_chars > LONG_CHARS
        future = self._long.submit(work, num_chars) if is_long else self._threads.submit(work)
        return await asyncio.wrap_future(future)

    def later(self, work: Callable[[], object]) -> None:
        """Do some work when there is time for it, unless nothing more is taken; it does not count as waiting."""
        with contextlib.suppress(RuntimeError):  # after `close`
            self._threads.submit(work)

    def close(self) -> None:
        """Take no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._long.close()


class _ShortestFirst:
    """Threads that take of what waits the shortest, so that nothing waits for what is longer and has not begun."""

    def __init__(self, num_threads: int) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="seed-oss-api-long")
        self._waiting: list[tuple[int, int, Future[Any], Callable[[], Any]]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], _T], num_chars: int) -> "Future[_T]":
        future: Future[_T] = Future()
        with self._lock:
            heapq.heappush(self._waiting, (num_chars, next(self._numbers), future, work))
        self._threads.submit(self._do_one)
        return future

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for _, _, future, _ in waiting:
            future.cancel()

    def _do_one(self) -> None:
        with self._lock:
            if not self._waiting:
                return
            _, _, future, work = heapq.heappop(self._waiting)
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            future.set_exception(error)
