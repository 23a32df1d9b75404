"""Where what surrounds an answer is written: thinking, cards of tool calls, progress. All of it on stderr."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

from seed_oss.cli.terminal import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_REFRESH_S = 0.1
_BAR_WIDTH = 24


class Paper(ABC):
    """What can be written. Text of a model loses its control characters, and is never read as markup."""

    @abstractmethod
    def dim(self, text: str) -> None:
        """Write a piece of text that is not the answer itself."""

    @abstractmethod
    def card(self, title: str, lines: Sequence[str]) -> None:
        """Write some lines with a title around them."""

    @abstractmethod
    def size(self) -> tuple[int, int] | None:
        """Columns and rows that are seen at once; None where nothing goes out of sight."""

    @abstractmethod
    def progress(self, used: int, limit: int | None) -> None:
        """Show how many tokens of a budget are used, in one line that stays in its place."""

    @abstractmethod
    def end_progress(self) -> None:
        """Take that line away."""


@final
class PlainPaper(Paper):
    """Plain text, for pipes and files."""

    def dim(self, text: str) -> None:
        """See Paper."""
        sys.stderr.write(printable(text))
        sys.stderr.flush()

    def card(self, title: str, lines: Sequence[str]) -> None:
        """See Paper."""
        self.dim("".join(f"{line}\n" for line in (title, *("  " + line for line in lines))))

    def size(self) -> tuple[int, int] | None:
        """See Paper."""
        return None

    def progress(self, used: int, limit: int | None) -> None:
        """See Paper; a line that changes is nothing for a file."""

    def end_progress(self) -> None:
        """See Paper."""


@final
class RichPaper(Paper):
    """A terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live: Live | None = None
        self._shown = 0.0

    def dim(self, text: str) -> None:
        """See Paper."""
        from rich.text import Text

        self._console.print(Text(printable(text), style="dim"), end="", soft_wrap=True)

    def card(self, title: str, lines: Sequence[str]) -> None:
        """See Paper."""
        from rich.panel import Panel
        from rich.text import Text

        text = Text(printable("\n".join(lines)), overflow="fold")
        panel = Panel(text, title=Text(printable(title)), title_align="left", border_style="cyan", expand=False)
        self._console.print(panel)

    def size(self) -> tuple[int, int] | None:
        """See Paper."""
        return self._console.width, self._console.height

    def progress(self, used: int, limit: int | None) -> None:
        """See Paper."""
        from rich.live import Live

        now = time.monotonic()
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        elif now - self._shown < _REFRESH_S:
            return
        self._shown = now
        self._live.update(_progress_line(used, limit), refresh=True)

    def end_progress(self) -> None:
        """See Paper."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _progress_line(used: int, limit: int | None) -> "RenderableType":
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    if limit is None:
        return Text(f"thinking {used}", style="dim")
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(limit, 1), completed=min(used, limit), width=_BAR_WIDTH)
    line.add_row(Text(f"thinking {used}/{limit}", style="dim"), bar)
    return line


def make_paper() -> Paper:
    """A terminal where stderr is one, else plain text."""
    return RichPaper() if sys.stderr.isatty() else PlainPaper()
