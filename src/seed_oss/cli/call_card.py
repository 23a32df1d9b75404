"""A tool call as lines of text that somebody can judge: nothing in it is unseen, and all of it fits the screen."""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from rich.cells import cell_len

_ROWS_AROUND = 10  # for the frame, the question, and what stood there before
_MIN_ROWS = 4
_MAX_NAME_LEN = 200
_MAX_MARKS = 2  # on one letter, as scripts with vowel signs have them

# Default_Ignorable_Code_Point of Unicode 16, and two signs that are blank: some count as printable letters.
_BLANK = (
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x2800, 0x2800), (0x3164, 0x3164), (0xFE00, 0xFE0F)),
    *((0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D159, 0x1D159)),
    *((0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)


def visible(text: str) -> str:
    """The text with every character spelled out that is not seen, or changes how others are.

    Marks on letters are shown in scripts that cannot do without, a few for each letter.
    """
    return text if text.isascii() and text.isprintable() else "".join(_shown(text))


def _shown(text: str) -> Iterator[str]:
    marks = _MAX_MARKS  # on the letter before
    for one in text:
        category = unicodedata.category(one)
        marks = marks + 1 if category in ("Mn", "Me") else 0 if category == "Lo" and not _is_blank(one) else _MAX_MARKS
        is_seen = one.isprintable() and not _is_blank(one) and (category not in ("Mn", "Me") or marks <= _MAX_MARKS)
        yield one if is_seen else one.encode("unicode_escape").decode()


def _is_blank(one: str) -> bool:
    return any(first <= ord(one) <= last for first, last in _BLANK)


def title(name: str) -> str:
    """The call's name."""
    return f"tool call: {visible(_cut(name, _MAX_NAME_LEN))}"


def lines(arguments: Mapping[str, Any], size: tuple[int, int] | None = None) -> list[str]:
    """The arguments, each on lines of its own.

    Args:
        arguments: names and values.
        size: columns and rows that there are for a whole screen; longer values are shown by their beginning and their
            end, with the number of characters between, and lines are broken. None shows all, unbroken.
    """
    whole = [f"{visible(name)} = {visible(json.dumps(value, ensure_ascii=False))}" for name, value in arguments.items()]
    if not whole:
        return ["(no arguments)"]
    if size is None:
        return whole
    width, rows = max(size[0] - 4, 20), max(size[1] - _ROWS_AROUND, _MIN_ROWS)
    if sum(_num_rows(line, width) for line in whole) <= rows:
        return _folded(whole, width)
    shown = whole if len(whole) <= rows else whole[: rows - 1]
    rest = [] if shown is whole else [f"... {len(whole) - len(shown)} more arguments ..."]
    return [*_folded(_shared(shown, width, rows - len(rest)), width), *rest]


def _shared(whole: list[str], width: int, rows: int) -> list[str]:
    """The lines cut so that they take no more rows than there are; what the short ones leave is for the long ones."""
    share = rows // len(whole)
    short = [_num_rows(line, width) for line in whole if _num_rows(line, width) <= share]
    if len(short) < len(whole):
        share = (rows - sum(short)) // (len(whole) - len(short))
    return [_cut(line, share * width) for line in whole]


def _folded(whole: list[str], width: int) -> list[str]:
    """Broken after so many cells, not between words: these could make a line take many more rows."""
    broken: list[str] = []
    for line in whole:
        while (end := _num_fitting(line, width)) < len(line):
            broken.append(line[:end])
            line = line[end:]
        broken.append(line)
    return broken


def _num_rows(line: str, width: int) -> int:
    return -(-_num_cells(line) // width)


def _num_cells(text: str) -> int:
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(one: str) -> int:
    # Never fewer than what rich will count, whose tables are newer.
    return max(cell_len(one), 2 if unicodedata.east_asian_width(one) in "WF" else 1)


def _cut(text: str, num_cells: int) -> str:
    """The beginning and the end of a text that has more cells."""
    if _num_cells(text) <= num_cells:
        return text
    left = num_cells - len(_gap(len(text)))
    tail = left // 3
    head = left - tail
    start = _num_fitting(text, head)
    end = _num_fitting(text[::-1], tail)
    return text[:start] + _gap(len(text) - start - end) + text[len(text) - end :]


def _gap(num_chars: int) -> str:
    return f" ... {num_chars} more characters ... "


def _num_fitting(text: str, num_cells: int) -> int:
    """How many characters at the beginning fit."""
    used = 0
    for index, one in enumerate(text):
        used += _cells(one)
        if used > num_cells:
            return index
    return len(text)
