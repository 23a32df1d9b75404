"""An answer on the screen: content on stdout, everything else on stderr."""

from collections.abc import Callable
from typing import Literal

from seed_oss.chat.assistant_message import ToolCall
from seed_oss.chat.events import (
    AnswerEnded,
    ContentDelta,
    Event,
    Finished,
    LateThinkEnd,
    ReasoningDelta,
    Reflection,
    ThinkClosed,
    TrailingText,
)
from seed_oss.cli import call_card
from seed_oss.cli.paper import Paper
from seed_oss.cli.terminal import write_piece

MAX_RESULT_LINES = 8
MAX_LINE_LEN = 200


class AnswerView:
    """Shows the events of answers as they come.

    Args:
        paper: where thinking and cards go.
        write: takes pieces of content.
        folded: show of the thinking only how long it is.

    Attributes:
        thinking: the thinking since the last `begin`, as it was written.
    """

    def __init__(self, paper: Paper, write: Callable[[str], None] = write_piece, *, folded: bool = False) -> None:
        self.folded = folded
        self.thinking: list[str] = []
        self._paper = paper
        self._write = write
        self._limit: int | None = None
        self._is_seed = False
        self._open: Literal["content", "thinking"] | None = None  # the line that is being written
        self._blanks = ""  # of the content, until more of it comes
        self._num_folded: int | None = None

    def begin(self, limit: int | None = None, *, is_seed: bool = False) -> None:
        """An answer begins.

        Args:
            limit: the thinking budget in tokens, None for no limit.
            is_seed: the answer is written in the Seed format, where line ends around blocks are no part of the content.
        """
        self._limit, self._is_seed = limit, is_seed
        self._blanks = ""

    def show(self, event: Event, num_thinking: int = 0) -> None:
        """Show what has come.

        Args:
            event: the next event.
            num_thinking: tokens of thinking so far.
        """
        if isinstance(event, ContentDelta):
            self._show_content(event.text)
        elif isinstance(event, ReasoningDelta):
            self._show_thinking(event.raw, num_thinking)
        elif isinstance(event, Reflection) and event.text:
            self._show_thinking(f"[{event.text.strip()}]", num_thinking)
        elif isinstance(event, ThinkClosed):
            self.end_line()
        elif isinstance(event, LateThinkEnd):
            self.end_line()
            self._paper.dim("(what was written so far was thinking)\n")

    def show_raw(self, event: Event, num_thinking: int = 0) -> None:
        """Show the text as the model wrote it, markers included, as content."""
        if not isinstance(event, AnswerEnded | TrailingText | Finished) and event.raw:
            self._put(event.raw)

    def end_line(self) -> None:
        """End the line that is being written, so that something else may follow."""
        if self._num_folded is not None:
            self._paper.end_progress()
            tokens = "token" if self._num_folded == 1 else "tokens"
            self._paper.dim(f"thought for {self._num_folded} {tokens} (/show prints it)\n")
            self._num_folded = None
        if self._open == "content":
            self._write("\n")
        elif self._open == "thinking":
            self._paper.dim("\n")
        self._open, self._blanks = None, ""

    def show_card(self, call: ToolCall, *, whole: bool = False) -> None:
        """Show a tool call; nothing in it can make it look like another one.

        Args:
            call: the call.
            whole: show all of it, though it may be more than a screen.
        """
        self.end_line()
        size = None if whole else self._paper.size()
        self._paper.card(call_card.title(call.name), call_card.lines(call.parsed_arguments(), size))

    def show_result(self, text: str) -> None:
        """Show the beginning of a tool's result."""
        self.end_line()
        lines = text[: MAX_RESULT_LINES * MAX_LINE_LEN + 1].splitlines() or [""]
        shown = [line[:MAX_LINE_LEN] for line in lines[:MAX_RESULT_LINES]]
        rest = len(text) > sum(map(len, shown)) + len(shown)
        self._paper.dim(
            "".join(f"  {line}\n" for line in shown) + ("  ... (the model gets all of it)\n" if rest else "")
        )

    def show_last_thinking(self) -> None:
        """Print the thinking of the last answer, folded or not."""
        text = "".join(self.thinking).strip()
        self._paper.dim((text or "There was no thinking in the last answer.") + "\n")

    def _show_content(self, text: str) -> None:
        if self._open == "thinking" or self._num_folded is not None:
            self.end_line()
        if not self._is_seed:
            self._put(text)
            return
        text = self._blanks + text
        kept = text.rstrip()
        self._blanks = text[len(kept) :]
        if kept:
            self._put(kept if self._open == "content" else kept.lstrip("\n"))

    def _put(self, text: str) -> None:
        self._write(text)
        self._open = None if text.endswith("\n") and not self._is_seed else "content"

    def _show_thinking(self, text: str, num_thinking: int) -> None:
        self.thinking.append(text)
        if self._open == "content":
            self.end_line()
        if self.folded:
            self._num_folded = num_thinking
            self._paper.progress(num_thinking, self._limit)
            return
        if self._num_folded is None and self._open is None:
            text = text.lstrip("\n")
        if text:
            self._paper.dim(text)
            self._open = None if text.endswith("\n") else "thinking"
