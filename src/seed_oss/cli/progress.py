"""A progress bar for work whose size is told while it runs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bytes_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr, if that is a terminal, for as long as the context lasts.

    Args:
        description: what is being done.

    Returns:
        A context manager that gives a function to call with (bytes done, bytes in all).
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
