"""The engine's process from inside: its loop, its pipes, and its end."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import pytest

from seed_oss.engine.child_pipes import Inbox, Outbox
from seed_oss.engine.lines import LineSplitter
from seed_oss.engine.messages import (
    Abort,
    Close,
    Ended,
    Event,
    Pulse,
    Ready,
    Refused,
    Started,
    Tokens,
    decode_events,
    encode,
)
from seed_oss.engine.process_main import GRACE_S, EngineLoop
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import CheckpointError, InputError, StateError
from tests.engine.processes import PATIENCE_S, environment, request, scripted
from tests.engine.scripted_core import ScriptedCore


class Process:
    """An engine's process whose pipes a test holds."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, events: int) -> None:
        self.process = process
        self.commands = commands
        self._lines = os.fdopen(events, "rb")
        self._events = chain.from_iterable(map(decode_events, self._lines))

    def send(self, *messages: object) -> None:
        """Write commands."""
        os.write(self.commands, b"".join(encode(one) for one in messages))  # type: ignore[arg-type]

    def next(self) -> Event | object:
        """The next event that is no pulse."""
        return next(event for event in self._events if not isinstance(event, Pulse))

    def pulse(self) -> Pulse:
        """The next pulse."""
        return next(event for event in self._events if isinstance(event, Pulse))

    def rest(self) -> list[object]:
        """All that comes until the process ends."""
        return list(self._events)


@contextmanager
def running(model: str = "fine") -> Iterator[Process]:
    """A process with a scripted core."""
    its_commands, commands = os.pipe()
    events, its_events = os.pipe()
    command = [*scripted(model), str(its_commands), str(its_events)]
    process = subprocess.Popen(command, pass_fds=(its_commands, its_events), env=environment())
    os.close(its_commands)
    os.close(its_events)
    held = Process(process, commands, events)
    try:
        yield held
    finally:
        process.kill()
        process.wait()
        held._lines.close()
        os.close(commands)


def test_a_request_and_a_close() -> None:
    with running() as engine:
        assert isinstance(engine.next(), Ready)
        engine.send(request(2), Close(drain=True))
        assert [engine.next() for _ in range(4)] == [
            Started("r", (), 2),
            Tokens("r", 0, (0,)),
            Tokens("r", 0, (1,)),
            Ended("r", 0, "eos"),
        ]
        assert all(isinstance(one, Pulse) for one in engine.rest())
        assert engine.process.wait(PATIENCE_S) == 0


def test_an_idle_process_pulses_and_ends_when_its_pipe_closes() -> None:
    with running() as engine:
        assert isinstance(engine.next(), Ready)
        assert engine.pulse() == Pulse(0, {"num_running": 0.0})
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - a descriptor is wanted
            os.dup2(nothing.fileno(), engine.commands)  # closes the pipe
        assert engine.process.wait(PATIENCE_S) == 0


def test_after_a_close_new_requests_are_refused() -> None:
    with running() as engine:
        engine.send(request(1), Close(drain=True), request(1, request_id="late"))
        *_, refused = [one for one in engine.rest() if isinstance(one, Refused)]
        assert (refused.request_id, refused.kind) == ("late", "unavailable")
        assert engine.process.wait(PATIENCE_S) == 0


def test_a_close_without_draining_leaves_requests_as_they_are() -> None:
    with running() as engine:
        engine.send(request(10**9), Close(drain=False))
        assert not any(isinstance(one, Ended) for one in engine.rest())
        assert engine.process.wait(PATIENCE_S) == 0


def test_an_unknown_command_ends_the_process() -> None:
    with running() as engine:
        engine.send(Abort("unknown"), Started("r"))
        engine.rest()
        assert engine.process.wait(PATIENCE_S) == 1


PARENT = """
import asyncio
from tests.engine.processes import engine, request, scripted
async def main():
    async with engine(scripted()) as client:
        await client.wait_ready()
        await client.submit(request(5, "hang"))
        print(client.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the signal at a parent's death is Linux's")
def test_the_process_does_not_outlive_its_parent_even_if_it_hangs() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as parent:
        assert parent.stdout is not None
        handle = os.pidfd_open(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
        try:
            assert select.select([handle], [], [], GRACE_S - 1.0)[0], "it outlives its parent"
        finally:
            os.close(handle)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's ends, closed afterwards."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def test_an_outbox_keeps_what_nobody_reads_up_to_its_bound() -> None:
    with pipe() as (source, sink):
        outbox = Outbox(sink, max_bytes=2**20, patience_s=0.0)
        line = b"x" * 2**16
        while not outbox.num_kept:
            outbox.put([line])
        in_pipe = 2**16 - outbox.num_kept % 2**16
        outbox.put([line] * 15)
        assert outbox.num_kept <= 2**20
        with pytest.raises(StateError, match="nobody reads"):
            outbox.put([line, line])
        assert os.read(source, in_pipe)
        with pytest.raises(StateError):
            outbox.flush()


def test_an_outbox_gives_every_byte_in_order() -> None:
    with pipe() as (source, sink):
        outbox = Outbox(sink, max_bytes=2**20)
        lines = [b"%d\n" % number for number in range(50_000)]
        outbox.put(lines)
        read = bytearray()
        while outbox.num_kept:
            read += os.read(source, 2**16)
            outbox.put([])
        while len(read) < len(b"".join(lines)):
            read += os.read(source, 2**16)
        assert bytes(read) == b"".join(lines)


def test_an_inbox_gives_what_came_before_the_end() -> None:
    source, sink = os.pipe()
    inbox = Inbox(source, lambda: None)
    os.write(sink, b"a\nb\nc")
    os.close(sink)
    lines = inbox.take(PATIENCE_S)
    while len(lines) < 2:
        lines += inbox.take(PATIENCE_S)
    assert lines == [b"a", b"b"]
    with pytest.raises(EOFError):
        inbox.take(PATIENCE_S)
    os.close(source)


def test_the_loop_pulses_once_a_second_and_counts_its_steps() -> None:
    times = iter(range(0, 100_000))
    with pipe() as (source, sink), pipe() as (commands, sender):
        inbox = Inbox(os.dup(commands), lambda: None)
        os.write(sender, encode(request(12)) + encode(Close(drain=True)))
        EngineLoop(ScriptedCore(), inbox, Outbox(sink), clock=lambda: next(times) / 8).run()
        events = [event for line in os.read(source, 2**16).splitlines() for event in decode_events(line)]
    pulses = [one.num_steps for one in events if isinstance(one, Pulse) and one.num_steps]
    assert pulses == sorted(pulses)
    assert 1 <= len(pulses) <= 4, "13 steps in under 4 seconds of this clock"


def test_the_loop_does_not_end_before_everything_is_read() -> None:
    with pipe() as (source, sink), pipe() as (commands, sender):
        inbox = Inbox(os.dup(commands), lambda: None)
        os.write(sender, encode(request(3000)) + encode(Close(drain=True)))
        loop = threading.Thread(target=EngineLoop(ScriptedCore(), inbox, Outbox(sink)).run)
        loop.start()
        loop.join(0.5)  # it stands, with more than a pipe holds
        splitter, events = LineSplitter(2**20), list[object]()
        while not any(isinstance(one, Ended) for one in events) and select.select([source], [], [], PATIENCE_S)[0]:
            events += chain.from_iterable(map(decode_events, splitter.feed(os.read(source, 2**16))))
        loop.join()
    assert sum(isinstance(one, Tokens) for one in events) == 3000


def test_lines_come_out_however_they_are_cut() -> None:
    text = b"a\n\nlonger\n" * 3 + b"rest"
    for size in range(1, len(text)):
        splitter = LineSplitter(8)
        lines = [line for at in range(0, len(text), size) for line in splitter.feed(text[at : at + size])]
        assert lines == [b"a", b"", b"longer"] * 3


@pytest.mark.parametrize("piece", [1, 3, 100])
def test_a_line_that_is_too_long(piece: int) -> None:
    fits, too_long = b"x" * 7 + b"\n", b"x" * 8 + b"\n"
    assert LineSplitter(8).feed(fits) == [b"x" * 7]
    splitter = LineSplitter(8)
    pieces = [too_long[at : at + piece] for at in range(0, 9, piece)]
    with pytest.raises(InputError, match="limit is 8"):
        list(map(splitter.feed, pieces))


def test_a_spec_comes_back_as_it_was() -> None:
    spec = EngineSpec("demo", quantization="int4", threads=2, kv_cache_memory=2**30, cache_dir="é")
    assert EngineSpec.from_json(spec.to_json()) == spec
    with pytest.raises(InputError, match="model"):
        EngineSpec.from_json('{"no": 1}')
    with pytest.raises(CheckpointError):
        EngineSpec.from_json("{")


def test_the_process_needs_no_torch_of_its_own() -> None:
    code = "import sys, seed_oss.engine.process_main, seed_oss.engine.process_client; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
