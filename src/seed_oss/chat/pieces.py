"""Prompts under construction: text and control tokens in turn, and which of it the assistant wrote."""

from dataclasses import dataclass

from seed_oss.chat.control_tokens import ControlToken, Piece, join


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A prompt in pieces.

    Args:
        pieces: Text and control tokens; two texts never stand side by side.
        assistant_spans: What counts as written by the assistant, as ranges `[start, end)` of characters of `text`:
            reasoning, content, calls and the end of the turn. In order, without overlaps.
    """

    pieces: tuple[Piece, ...]
    assistant_spans: tuple[tuple[int, int], ...] = ()

    @property
    def text(self) -> str:
        """The prompt as one string, markers spelled out."""
        return join(self.pieces)


class PieceBuilder:
    """Collects pieces. Neighbouring texts become one."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._run: list[str] = []
        self._spans: list[tuple[int, int]] = []
        self._len = 0
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def write(self, *pieces: Piece) -> None:
        """Append pieces."""
        if self._stopped:
            return
        for piece in pieces:
            self._len += len(piece.text if isinstance(piece, ControlToken) else piece)
            if isinstance(piece, str):
                self._run.append(piece)
            else:
                self._end_run()
                self._pieces.append(piece)

    def write_as_assistant(self, *pieces: Piece) -> None:
        """Append pieces that the assistant wrote."""
        start = self._len
        self.write(*pieces)
        if self._len == start:
            return
        if self._spans and self._spans[-1][1] == start:
            start = self._spans.pop()[0]
        self._spans.append((start, self._len))

    def stop(self, *, strip: bool) -> None:
        """Ignore whatever is written from now on.

        Args:
            strip: Whether whitespace at the end is removed.
        """
        if strip and not self._stopped:
            run = "".join(self._run)
            kept = run.rstrip()
            self._run, self._len = [kept], self._len - (len(run) - len(kept))
            self._spans = [(start, min(end, self._len)) for start, end in self._spans if start < self._len]
        self._stopped = True

    def finish(self) -> RenderedChat:
        """The pieces so far."""
        self._end_run()
        return RenderedChat(tuple(self._pieces), tuple(self._spans))

    def _end_run(self) -> None:
        run = "".join(self._run)
        self._run = []
        if run:
            self._pieces.append(run)
