"""The engine's ends of the two pipes: a thread takes commands in, events go out and never block for ever. No torch."""

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from seed_oss.engine.lines import LineSplitter
from seed_oss.engine.messages import MAX_MESSAGE_BYTES
from seed_oss.errors import InputError, StateError

READ_BYTES = 2**16
MAX_WAITING_BYTES = 2 * MAX_MESSAGE_BYTES
_PATIENCE_S = 30.0


class Inbox:
    """Lines that a thread reads from a pipe. One that nobody takes from stops reading, so that the other side waits.

    Args:
        descriptor: of the pipe; taken over.
        on_end: called in the thread when the other side has closed the pipe.
    """

    def __init__(self, descriptor: int, on_end: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_end = on_end
        self._lines: deque[bytes] = deque()
        self._num_bytes = 0
        self._has_ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def take(self, wait_s: float) -> list[bytes]:
        """All lines that have come; waits so long for the first one.

        Args:
            wait_s: seconds; 0 does not wait.

        Raises:
            EOFError: the other side has closed the pipe, and every line was taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._has_ended, wait_s)
            if self._has_ended and not self._lines:
                raise EOFError
            lines = list(self._lines)
            self._lines.clear()
            self._num_bytes = 0
            self._changed.notify_all()
        return lines

    def _read(self) -> None:
        splitter = LineSplitter(MAX_MESSAGE_BYTES)
        try:
            while data := os.read(self._descriptor, READ_BYTES):
                self._put(splitter.feed(data))
        except (OSError, InputError):
            pass  # a pipe that is broken, or a line that cannot be a message, is the end of both
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        self._on_end()

    def _put(self, lines: list[bytes]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._num_bytes < MAX_WAITING_BYTES)
            self._lines.extend(lines)
            self._num_bytes += sum(map(len, lines))
            self._changed.notify_all()


class Outbox:
    """Lines to a pipe, written as far as it takes them at once; the rest is kept, up to a bound. For any thread.

    Args:
        descriptor: of the pipe; taken over.
        max_bytes: most bytes that are kept.
        patience_s: seconds to wait for a reader when more would be kept.
    """

    def __init__(self, descriptor: int, max_bytes: int = MAX_WAITING_BYTES, patience_s: float = _PATIENCE_S) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._kept = bytearray()
        self._lock = threading.Lock()

    @property
    def num_kept(self) -> int:
        """Bytes that the pipe has not taken yet."""
        return len(self._kept)

    def put(self, lines: Iterable[bytes]) -> None:
        """Write lines.

        Raises:
            StateError: the reader takes nothing for too long.
            BrokenPipeError: there is no reader.
        """
        with self._lock:
            self._kept += b"".join(lines)
            self._write()
            if len(self._kept) > self._max_bytes:
                self._flush(self._max_bytes)

    def flush(self, up_to: int = 0) -> None:
        """Wait until no more than so many bytes are kept; raises what `put` raises."""
        with self._lock:
            self._flush(up_to)

    def _flush(self, up_to: int) -> None:
        deadline = time.monotonic() + self._patience_s
        while len(self._kept) > up_to:
            _, writable, _ = select.select((), (self._descriptor,), (), max(0.0, deadline - time.monotonic()))
            if not writable:
                raise StateError(
                    f"{len(self._kept)} bytes of events wait and nobody reads them for {self._patience_s:g} s; "
                    f"the limit is {up_to}; the engine ends"
                )
            self._write()

    def _write(self) -> None:
        while self._kept:
            try:
                done = os.write(self._descriptor, memoryview(self._kept)[:READ_BYTES].tobytes())
            except BlockingIOError:
                return
            del self._kept[:done]
