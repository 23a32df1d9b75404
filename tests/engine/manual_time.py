"""A clock that stands still until a test moves it, and sleeps that end when it does."""

import asyncio


class ManualTime:
    """Seconds, and who waits for them."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._sleepers: list[tuple[float, float, asyncio.Future[None]]] = []
        self._changed = asyncio.Event()

    def clock(self) -> float:
        """The time."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has moved the clock so far."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, seconds, future))
        self._changed.set()
        await future

    async def until_sleeping(self, seconds: float) -> None:
        """Wait until somebody sleeps for exactly so long."""
        while not any(length == seconds and not future.done() for _, length, future in self._sleepers):
            self._changed.clear()
            await self._changed.wait()

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self._now += seconds
        for until, _, future in self._sleepers:
            if until <= self._now and not future.done():
                future.set_result(None)
        self._sleepers = [one for one in self._sleepers if not one[2].done()]
