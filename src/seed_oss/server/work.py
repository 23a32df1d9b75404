"""What would hold up the event loop, done in a few threads."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from seed_oss.server.errors import ApiError

_T = TypeVar("_T")
LONG_CHARS = 2**18  # tokens of so many are made in about 0.2 s to 0.4 s


class WorkPool:
    """A few threads, and a bound on what waits for them. Long texts have a thread of their own: the others never wait
    behind one, whose tokens may take many seconds and cannot be stopped once they are being made.

    Args:
        num_threads: threads for all that is not long.
        max_waiting: pieces of work that run or wait.
        seconds: how long one may take, its waiting included.
    """

    def __init__(self, num_threads: int, max_waiting: int, seconds: float) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="seed-oss-api")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="seed-oss-api-long")
        self._room = threading.BoundedSemaphore(max_waiting)
        self._seconds = seconds

    async def run(self, work: Callable[[], _T], num_chars: int = 0) -> _T:
        """The result of some work.

        Args:
            work: what is to be done.
            num_chars: of the texts that it reads.

        Raises:
            ApiError: too much is waiting, or it took too long. The work goes on behind the caller's back then.
        """
        if not self._room.acquire(blocking=False):
            raise ApiError("overloaded", "too many requests are being read at the same time; try again later")
        future: Future[_T] = (self._threads if num_chars <= LONG_CHARS else self._long).submit(work)
        future.add_done_callback(self._leave)
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise ApiError(
                "unavailable", f"making tokens of the prompt took more than {self._seconds:g} s; send less"
            ) from None

    def later(self, work: Callable[[], object]) -> None:
        """Do some work when there is time for it; not at all where too much is waiting."""
        if self._room.acquire(blocking=False):
            self._threads.submit(work).add_done_callback(self._leave)

    def close(self) -> None:
        """Take no more work."""
        for threads in (self._threads, self._long):
            threads.shutdown(wait=False, cancel_futures=True)

    def _leave(self, _: object) -> None:
        self._room.release()
