"""Stop strings on their way out: what may be the start of one is held back, and one that ended the answer is cut off.

Whether a string ends an answer is the engine's business: here is only what is shown of the text.
"""

from collections.abc import Sequence

from seed_oss.chat.control_tokens import END_THINK, THINK, TOOL_CALL, ControlToken, Piece, join
from seed_oss.engine.messages import Ended


class StopCutter:
    """Lets the pieces of one answer through, token by token, as far as they are no part of a stop string.

    Args:
        stops: the strings; with none, everything goes through at once.
        before: the end of the prompt's text: a match may begin, but not end, in it.
        start: of a chat, the pieces of the turn that stand in the prompt; None for plain text. In a chat the blanks
            between the end of thinking and the answer count for nothing, nor does what stands before them.
    """

    def __init__(self, stops: Sequence[str], before: str = "", start: Sequence[Piece] | None = None) -> None:
        self._stops = tuple(stops)
        self._is_chat = start is not None
        self._is_blank = False  # nothing but blanks has come since the end of thinking
        self._floor = 0  # where in the held text a match may begin
        for piece in start or ():
            self._raise_floor(0, piece)
        before, self._floor = "" if self._is_blank else before, 0
        first = self._start_of_prefix(before)
        self._hidden = len(before) - first  # characters of the prompt among those held
        self._held: list[Piece] = [before[first:]] if self._hidden else []
        self._num_old = self._hidden  # characters that were there before the newest token
        self.stop: str | None = None  # that ended the answer
        self.num_taken = 0
        self.num_let = 0

    def feed(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Take the pieces of the next token.

        Returns:
            What is certain to be shown.
        """
        self.num_taken += sum(len(str(piece)) for piece in pieces)
        if not self._stops:
            self.num_let = self.num_taken
            return list(pieces)
        self._num_old = size = len(join(self._held))
        for piece in pieces:
            self._raise_floor(size, piece)
            size += len(str(piece))
        self._held += pieces
        text = join(self._held)
        return self._let(min(self._first_match(text), self._start_of_prefix(text)))

    def finish(self, pieces: Sequence[Piece], ended: Ended) -> list[Piece]:
        """Nothing follows.

        Args:
            pieces: the last ones, that belong to no token.
            ended: why; where a string ended the answer and it does not say which, the one that is complete first.

        Returns:
            The rest of what is shown.
        """
        self.num_taken += sum(len(str(piece)) for piece in pieces)
        self._held += pieces
        text, start = join(self._held), None
        if ended.reason == "stop_string":
            start, self.stop = self._match(text, ended.stop)
        return self._let(len(text) if start is None else start)

    def _raise_floor(self, size: int, piece: Piece) -> None:
        """Look at a piece that comes after so many characters."""
        if not self._is_chat:
            return
        if piece in (THINK, END_THINK):
            self._is_blank = piece == END_THINK
        if not self._is_blank:
            return
        text = str(piece)
        is_seen = piece == TOOL_CALL if isinstance(piece, ControlToken) else bool(text.strip())
        self._floor = size + (len(text) - len(text.lstrip()) if is_seen else len(text))
        self._is_blank = not is_seen

    def _match(self, text: str, named: str | int | None) -> tuple[int | None, str | None]:
        """Where the string that ended the answer begins, and which it is."""
        stops = [named] if isinstance(named, str) else self._stops
        starts = [(text.find(stop, self._least(stop)), stop) for stop in stops]
        found = [(start + len(stop), start, stop) for start, stop in starts if start >= 0]
        if not found:
            return None, named if isinstance(named, str) else None
        _, start, stop = min(found)
        return start, stop

    def _first_match(self, text: str) -> int:
        """Where a string begins that the newest token has completed: only this one may have ended the answer."""
        starts = [text.find(stop, self._least(stop)) for stop in self._stops]
        return min((start for start in starts if start >= 0), default=len(text))

    def _least(self, stop: str) -> int:
        """Where a string may begin that the newest token has completed."""
        return max(self._floor, self._num_old - len(stop) + 1)

    def _start_of_prefix(self, text: str) -> int:
        """Where the longest end of a text begins that is the start of some string."""
        longest = max(map(len, self._stops), default=1)
        for start in range(max(self._floor, len(text) - longest + 1), len(text)):
            end = text[start:]
            if any(stop.startswith(end) for stop in self._stops):
                return start
        return len(text)

    def _let(self, size: int) -> list[Piece]:
        """Let the first characters of what is held go."""
        gone: list[Piece] = []
        while self._held and size > 0:
            piece = self._held[0]
            length = len(str(piece))
            if length > size and not isinstance(piece, str):
                break  # a marker is not cut
            gone.append(piece[:size] if isinstance(piece, str) else piece)
            self._held[:1] = [piece[size:]] if isinstance(piece, str) and length > size else []
            size -= min(length, size)
        self._num_old, self._floor = (max(0, one - len(join(gone))) for one in (self._num_old, self._floor))
        return self._shown(gone)

    def _shown(self, gone: list[Piece]) -> list[Piece]:
        """Without what belongs to the prompt."""
        shown: list[Piece] = []
        for piece in gone:
            hidden = min(self._hidden, len(str(piece)))
            self._hidden -= hidden
            rest = piece if not hidden else piece[hidden:] if isinstance(piece, str) else ""
            shown += [rest] if rest else []
        self.num_let += sum(len(str(piece)) for piece in shown)
        return shown
