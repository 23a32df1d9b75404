"""Reading from and writing to the terminal."""

import io
import os
import sys
import unicodedata
import warnings
from typing import TextIO

import typer

from seed_oss.errors import InputError
from seed_oss.files.names import escaped


def prepare_streams() -> None:
    """Characters that the terminal cannot show become '?', and warnings become one line each."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    show_note(f"warning: {message}")


def show_note(text: str) -> None:
    """Write a line about the work, not of it: to stderr, dim where that is possible."""
    text = escaped(text)
    typer.echo(typer.style(text, dim=True) if _has_colors() else text, err=True)


def show_error(text: str) -> None:
    """Write the one line that says why nothing more comes."""
    text = escaped(text)
    typer.echo(typer.style("error: ", fg="red", bold=True) + text if _has_colors() else f"error: {text}", err=True)


def _has_colors() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def write_piece(text: str) -> None:
    """Write a piece of an answer at once; on a terminal without the characters that would command it."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def write_printable(text: str) -> None:
    """Write a piece of an answer at once, to a terminal or not without the characters that would command one."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def printable(text: str) -> str:
    """The text without control characters other than line breaks and tabs: a model must not command the terminal."""
    if text.isprintable():
        return text
    return "".join(one for one in text if one in "\n\t" or unicodedata.category(one) != "Cc")


def read_stdin() -> str:
    """All of stdin as text, without the last line break.

    Raises:
        InputError: it is not UTF-8.
    """
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"the text on stdin is not UTF-8 (byte {error.start}); convert it first") from None
