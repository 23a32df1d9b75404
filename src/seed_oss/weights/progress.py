"""A progress bar for loading that appears only where somebody waits and looks."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

DELAY_S = 1.0


@contextmanager
def byte_progress(
    description: str, total: int, *, enabled: bool = True, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` bytes are done, on stderr, if it is a terminal and the work has taken over a second.

    Args:
        description: What is being done.
        total: Bytes to come.
        enabled: False never shows anything.
        clock: Seconds, rising.

    Returns:
        A context manager that gives a function to call with the number of bytes just done (from one thread).
    """
    bar = _Bar(description, total, enabled and sys.stderr is not None and sys.stderr.isatty(), clock)
    try:
        yield bar.advance
    finally:
        bar.close()


class _Bar:
    def __init__(self, description: str, total: int, enabled: bool, clock: Callable[[], float]) -> None:
        self._description = description
        self._total = total
        self._enabled = enabled
        self._clock = clock
        self._start = clock()
        self._done = 0
        self._shown: tuple[Progress, TaskID] | None = None

    def advance(self, num_bytes: int) -> None:
        self._done += num_bytes
        if not self._enabled:
            return
        if self._shown is None and self._clock() - self._start > DELAY_S:
            self._shown = self._show()
        if self._shown is not None:
            progress, task = self._shown
            progress.update(task, completed=self._done)

    def _show(self) -> "tuple[Progress, TaskID]":
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        task = progress.add_task(self._description, total=self._total)
        progress.start()
        return progress, task

    def close(self) -> None:
        if self._shown is not None:
            self._shown[0].stop()
