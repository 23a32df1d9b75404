"""A process that is spoken to in lines, by two pipes that it inherits. No torch, no port, no shared memory."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Self

from seed_oss.engine.lines import LineSplitter
from seed_oss.engine.messages import MAX_MESSAGE_BYTES
from seed_oss.errors import StateError

READ_BYTES = 2**16
_LAST_WORDS_S = 1.0  # for what a process wrote before it ended, where something else holds its pipe open


class Child:
    """A running process. Made by `start`; whoever makes it awaits `end`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        source: asyncio.ReadTransport,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._source = source
        self._writer = writer
        self._exit = asyncio.create_task(self._watch_exit())

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str] | None = None) -> Self:
        """Start a process.

        Args:
            command: the program and its arguments; two follow, the descriptors that it reads from and writes to.
            env: its environment; None for this process's own.

        Raises:
            StateError: the system cannot start it.
        """
        if sys.platform == "win32":
            raise StateError("the engine's process needs POSIX pipes; on Windows run it in WSL")
        its_commands, our_commands = os.pipe()
        our_events, its_events = os.pipe()
        writer = await _open_writer(our_commands)
        reader, source = await _open_reader(our_events)
        try:
            process = await _spawn(command, its_commands, its_events, env)
        except BaseException:
            source.close()
            writer.transport.abort()
            raise
        finally:
            os.close(its_commands)
            os.close(its_events)
        return cls(process, reader, source, writer)

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def write(self, line: bytes) -> None:
        """Hand a line over; what the pipe does not take yet is kept."""
        self._writer.write(line)

    async def drain(self) -> None:
        """Wait until the pipe takes more. Returns at once if the process has ended."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def lines(self) -> AsyncIterator[list[bytes]]:
        """What the process writes, until it ends.

        Raises:
            InputError: a line that is longer than a message can be.
        """
        splitter = LineSplitter(MAX_MESSAGE_BYTES)
        while data := await self._reader.read(READ_BYTES):
            yield splitter.feed(data)
            await asyncio.sleep(0)  # others get their turn, however much there is to read

    def kill(self) -> None:
        """End the process and those that it started, at once."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> int:
        """Kill the process if it still runs; its exit code, negative for a signal."""
        self.kill()
        if not self._writer.transport.is_closing():
            self._writer.transport.abort()
        code = await self._process.wait()
        self._exit.cancel()
        self._source.close()
        await asyncio.sleep(0)  # the transports close in the next round of the loop
        return code

    async def _watch_exit(self) -> None:
        await self._process.wait()
        await asyncio.sleep(_LAST_WORDS_S)
        self._source.close()


async def _spawn(
    command: Sequence[str], commands: int, events: int, env: Mapping[str, str] | None
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            str(commands),
            str(events),
            pass_fds=(commands, events),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=2,  # whatever prints in it must not get into our own output
            env=env,
            start_new_session=True,  # Ctrl-C on a terminal is for us
        )
    except OSError as error:
        raise StateError(f"the engine's process cannot be started: {error.strerror}; command: {command[0]}") from error


async def _open_reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=READ_BYTES)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader, transport


async def _open_writer(descriptor: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(descriptor, "wb", buffering=0)
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())  # for its flow control
    transport, _ = await loop.connect_write_pipe(lambda: protocol, pipe)
    return asyncio.StreamWriter(transport, protocol, None, loop)
