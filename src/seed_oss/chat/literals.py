"""Values written as JSON, or as Python writes them (`[1, 'a', None]`), read without ever evaluating anything.

The template shows the model its own earlier calls in Python's form, so it answers in both.
"""

import math
import re
from typing import Any

from seed_oss.errors import CheckpointError
from seed_oss.files import parse_json

MAX_LITERAL_LEN = 2**20  # characters
MAX_DEPTH = 64
MAX_NUMBER_LEN = 64

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z]{1,5}")
_SPACE = re.compile(r"[ \t\r\n]*")
_WORDS: dict[str, bool | None] = {
    "True": True,
    "true": True,
    "False": False,
    "false": False,
    "None": None,
    "null": None,
}
_ESCAPES = {
    **{"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"},
    **{char: char for char in "\\'\"/"},
}
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
_HEX = re.compile(r"[0-9a-fA-F]+")


class NotALiteralError(ValueError):
    """Text that is no value; it never leaves this package's reading of arguments."""


def read_number(text: str) -> int | float:
    """Read a number in JSON's grammar, so without leading zeros.

    Raises:
        NotALiteralError: It is none, is not finite, or has more than MAX_NUMBER_LEN characters.
    """
    if len(text) > MAX_NUMBER_LEN or not _NUMBER.fullmatch(text):
        raise NotALiteralError
    if _INTEGER.fullmatch(text):
        return int(text)
    value = float(text)
    if not math.isfinite(value):
        raise NotALiteralError
    return value


def read_literal(text: str) -> Any:
    """Read a value: JSON if it is JSON, else Python's form.

    Args:
        text: At most MAX_LITERAL_LEN characters.

    Returns:
        dict (with string keys, each once), list, str, int, float, bool or None; at most MAX_DEPTH deep.

    Raises:
        NotALiteralError: It is neither, or exceeds a bound.
    """
    if len(text) > MAX_LITERAL_LEN:
        raise NotALiteralError
    try:
        return parse_json(text, source="value")
    except CheckpointError:
        return _LiteralReader(text).read()


class _LiteralReader:
    """Reads one value; recursion is bounded by MAX_DEPTH, the looks at each character by a constant."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def read(self) -> Any:
        value = self._value(0)
        if self._next():
            raise NotALiteralError
        return value

    def _next(self) -> str:
        """The next character that is no space, not yet taken; empty at the end."""
        match = _SPACE.match(self._text, self._position)
        self._position = self._position if match is None else match.end()
        return self._text[self._position : self._position + 1]

    def _value(self, depth: int) -> Any:
        char = self._next()
        if depth > MAX_DEPTH or not char:
            raise NotALiteralError
        if char in "'\"":
            return self._string(char)
        if char == "[":
            return self._list(depth)
        if char == "{":
            return self._dict(depth)
        return self._word() if char.isalpha() else self._number()

    def _list(self, depth: int) -> list[Any]:
        values: list[Any] = []
        self._position += 1
        while self._next() != "]":
            values.append(self._value(depth + 1))
            self._separator("]")
        self._position += 1
        return values

    def _dict(self, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        self._position += 1
        while (char := self._next()) != "}":
            if not char or char not in "'\"":
                raise NotALiteralError
            key = self._string(char)
            if self._next() != ":" or key in values:
                raise NotALiteralError
            self._position += 1
            values[key] = self._value(depth + 1)
            self._separator("}")
        self._position += 1
        return values

    def _separator(self, closing: str) -> None:
        char = self._next()
        if char == ",":
            self._position += 1
        elif char != closing:
            raise NotALiteralError

    def _word(self) -> bool | None:
        match = _WORD.match(self._text, self._position)
        if match is None or match.group() not in _WORDS:
            raise NotALiteralError
        self._position = match.end()
        return _WORDS[match.group()]

    def _number(self) -> int | float:
        match = _NUMBER.match(self._text, self._position)
        if match is None:
            raise NotALiteralError
        self._position = match.end()
        return read_number(match.group())

    def _string(self, quote: str) -> str:
        parts: list[str] = []
        ends = _STRING_ENDS[quote]
        self._position += 1
        while True:
            match = ends.search(self._text, self._position)
            if match is None or match.group() in "\r\n":
                raise NotALiteralError
            parts.append(self._text[self._position : match.start()])
            self._position = match.end()
            if match.group() == quote:
                return "".join(parts)
            parts.append(self._escape())

    def _escape(self) -> str:
        char = self._text[self._position : self._position + 1]
        self._position += 1
        if char in _HEX_LENGTHS:
            return self._code_point(_HEX_LENGTHS[char])
        if char not in _ESCAPES:
            raise NotALiteralError
        return _ESCAPES[char]

    def _code_point(self, length: int) -> str:
        digits = self._text[self._position : self._position + length]
        self._position += length
        if len(digits) < length or not _HEX.fullmatch(digits):
            raise NotALiteralError
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise NotALiteralError
        return chr(code)


_STRING_ENDS = {quote: re.compile(rf"[{quote}\\\r\n]") for quote in "'\""}
