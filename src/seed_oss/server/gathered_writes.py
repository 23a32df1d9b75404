"""A transport that sends what is written to it together, once whoever has something to say in this turn has said it.

A step of the engine gives every open stream its next piece. Sent at once, each piece wakes the process that waits for
it, which falls asleep again before the next one comes; waking costs more than all the rest of a piece. Sent together,
the first one wakes it.
"""

import asyncio
from typing import Any

FLUSH_BYTES = 2**16  # more than this does not wait: what holds back a fast writer is the transport behind


class GatheredTransport(asyncio.Transport):
    """See the module. All else is the other transport's.

    Args:
        transport: sends it.
        loop: whose turns count.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._num_bytes = 0

    def write(self, data: Any) -> None:
        """Send some bytes with the others of this turn."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(bytes(data))
        self._num_bytes += len(data)
        if self._num_bytes > FLUSH_BYTES:
            self.flush()

    def write_eof(self) -> None:
        """Say that nothing more is written."""
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Close it once everything is sent."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        self._parts, self._num_bytes = [], 0
        self._transport.abort()

    def can_write_eof(self) -> bool:
        """Whether our side alone can be closed."""
        return self._transport.can_write_eof()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def is_reading(self) -> bool:
        """Whether bytes are taken from the other side."""
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        """Take no bytes."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes again."""
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        return self._num_bytes + self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection."""
        return self._transport.get_extra_info(name, default)

    def flush(self) -> None:
        """Send what was written, without waiting for the end of the turn."""
        parts, self._parts, self._num_bytes = self._parts, [], 0
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))
