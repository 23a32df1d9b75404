"""Threads for what would hold up the event loop: who waits for whom."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from seed_oss.server.errors import ApiError
from seed_oss.server.work import LONG_CHARS, WorkPool
from tests.server.api_calls import run

LONG = LONG_CHARS + 1


def blocked(go_on: threading.Event) -> Callable[[], bool]:
    """Work that waits for somebody else."""
    return lambda: go_on.wait(20)


def test_long_work_leaves_room_for_short() -> None:
    async def scenario() -> None:
        pool, go_on = WorkPool(1, 4, 20.0), threading.Event()
        long = [asyncio.create_task(pool.run(blocked(go_on), LONG)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="too many requests"):
            await pool.run(int, LONG)
        assert await pool.run(int) == 0
        go_on.set()
        assert await asyncio.gather(*long) == [True, True]
        assert await pool.run(int, LONG) == 0  # the room is free again
        pool.close()

    run(scenario())


def test_of_long_work_the_shortest_comes_first() -> None:
    async def scenario() -> None:
        pool, go_on, order = WorkPool(1, 10, 20.0), threading.Event(), list[int]()
        tasks = [asyncio.create_task(pool.run(blocked(go_on), LONG))]
        await asyncio.sleep(0)
        for more in (9, 1, 5):
            tasks.append(asyncio.create_task(pool.run(lambda more=more: order.append(more) is None, LONG + more)))
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*tasks)
        assert order == [1, 5, 9]
        pool.close()

    run(scenario())


def test_two_long_ones_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        pool, both = WorkPool(2, 8, 20.0), threading.Barrier(2, timeout=20)
        assert sorted(await asyncio.gather(pool.run(both.wait, LONG), pool.run(both.wait, LONG))) == [0, 1]
        pool.close()

    run(scenario())


def test_long_work_that_nobody_waits_for_any_more_is_not_begun() -> None:
    async def scenario() -> None:
        pool, go_on, begun = WorkPool(1, 8, 20.0), threading.Event(), list[int]()
        begun_first = threading.Event()
        first = asyncio.create_task(pool.run(lambda: begun_first.set() or go_on.wait(20), LONG))
        await asyncio.to_thread(begun_first.wait, 20)
        left = asyncio.create_task(pool.run(lambda: begun.append(1), LONG))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        go_on.set()
        await first
        assert await pool.run(int, LONG) == 0
        assert not begun
        pool.close()

    run(scenario())


def test_a_fault_is_that_of_the_work_and_the_end_tells_who_waits() -> None:
    async def scenario() -> None:
        pool, go_on = WorkPool(1, 8, 20.0), threading.Event()
        with pytest.raises(ValueError, match="invalid literal"):
            await pool.run(lambda: int("x"), LONG)
        begun = threading.Event()
        first = asyncio.create_task(pool.run(lambda: begun.set() or go_on.wait(20), LONG))
        await asyncio.to_thread(begun.wait, 20)
        waits = asyncio.create_task(pool.run(int, LONG))
        await asyncio.sleep(0)
        pool.close()
        with pytest.raises(asyncio.CancelledError):
            await waits
        go_on.set()
        assert await first

    run(scenario())
