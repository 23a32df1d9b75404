"""What is written in one turn of the loop is sent together."""

import asyncio
from typing import Any

import pytest

from seed_oss.server.gathered_writes import FLUSH_BYTES, GatheredTransport


class Wire(asyncio.Transport):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Any] = []
        self.is_shut = False

    def write(self, data: Any) -> None:
        self.said.append(bytes(data))

    def write_eof(self) -> None:
        self.said.append("eof")

    def close(self) -> None:
        self.is_shut = True
        self.said.append("close")

    def abort(self) -> None:
        self.is_shut = True
        self.said.append("abort")

    def is_closing(self) -> bool:
        return self.is_shut

    def get_write_buffer_size(self) -> int:
        return 100


@pytest.fixture
def wire() -> Wire:
    return Wire()


def run(wire: Wire, *calls: tuple[Any, ...]) -> list[Any]:
    """What was sent before the turn was over, a bar, and what came after it."""

    async def turn() -> None:
        transport = GatheredTransport(wire, asyncio.get_running_loop())
        for name, *more in calls:
            getattr(transport, name)(*more)
        wire.said.append("|")
        await asyncio.sleep(0)

    asyncio.run(turn())
    return wire.said


def test_writes_of_one_turn_are_one(wire: Wire) -> None:
    assert run(wire, ("write", b"a"), ("write", bytearray(b"b"))) == ["|", b"ab"]


def test_nothing_is_sent_where_nothing_was_written(wire: Wire) -> None:
    assert run(wire) == ["|"]


def test_a_fast_writer_does_not_fill_the_memory(wire: Wire) -> None:
    said = run(wire, ("write", b"a" * FLUSH_BYTES), ("write", b"b"), ("write", b"c"))
    assert said == [b"a" * FLUSH_BYTES + b"b", "|", b"c"]


@pytest.mark.parametrize(("name", "end"), [("close", "close"), ("write_eof", "eof")])
def test_the_rest_is_sent_before_an_end(wire: Wire, name: str, end: str) -> None:
    assert run(wire, ("write", b"a"), (name,)) == [b"a", end, "|"]


def test_nothing_is_sent_after_an_abort(wire: Wire) -> None:
    assert run(wire, ("write", b"a"), ("abort",)) == ["abort", "|"]


def test_nothing_is_sent_to_a_side_that_has_gone(wire: Wire) -> None:
    wire.is_shut = True
    assert run(wire, ("write", b"a")) == ["|"]


def test_its_buffer_counts() -> None:
    async def look() -> int:
        transport = GatheredTransport(Wire(), asyncio.get_running_loop())
        transport.write(b"abc")
        return transport.get_write_buffer_size()

    assert asyncio.run(look()) == 103
