"""Lines out of a stream of bytes, each of bounded length. No torch."""

from seed_oss.errors import InputError


class LineSplitter:
    """Cuts what comes, in pieces of any size, at its line ends.

    Args:
        max_bytes: most bytes of a line, its end included.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now, without their ends.

        Raises:
            InputError: a line is longer than allowed.
        """
        searched = len(self._rest)
        self._rest += data
        if self._rest.find(b"\n", searched) < 0:  # the old part has none: a long line is not searched again
            return self._checked([])
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return self._checked(lines)

    def _checked(self, lines: list[bytes]) -> list[bytes]:
        longest = max(len(self._rest), max(map(len, lines), default=0)) + 1
        if longest > self._max_bytes:
            raise InputError(f"a line has {longest} bytes or more; the limit is {self._max_bytes}")
        return lines
