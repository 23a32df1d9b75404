"""A schema's pattern as it is handed on, so that a JSON string that comes of it fits the pattern itself.

The grammar package reads a pattern over the characters of JSON text. A class with control characters that need a \\u
escape would there let `\\"` and `\\\\` through as well, and of control characters outside classes nothing would be
written. So they are taken out of classes, and refused elsewhere. `\\W`, `\\D` and `\\S` keep what any validator takes
for a letter, a digit or a blank out, in Unicode or not.
"""

import re
import sys
from dataclasses import dataclass
from typing import Any, cast

from seed_oss.errors import InputError

WRITABLE = "\b\t\n\f\r"  # control characters that JSON writes without \u
SCHEMA_KEYWORDS = frozenset(("items", "additionalProperties"))
SCHEMA_LISTS = frozenset(("anyOf", "oneOf", "allOf", "prefixItems"))
SCHEMA_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions"))

_UNWRITABLE_CLASS = r"\x00-\x07\x0b\x0e-\x1f\x7f"
_WRITABLE_RANGES = ((0x08, 0x0A), (0x0C, 0x0D), (0x20, 0x7E), (0x80, 0x10FFFF))
_ESCAPE = re.compile(
    r"\\(?:[pP](?:\{[^}]{1,40}\}|.)|[xuU]\{([0-9a-fA-F]{1,8})\}|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})"
    r"|U([0-9a-fA-F]{8})|(?s:.))"
)
_NAMED = {"a": 0x07, "f": 0x0C, "n": 0x0A, "r": 0x0D, "t": 0x09, "v": 0x0B}
_SETS = frozenset("wWdDsSpP")
_ASCII = {"w": "0-9A-Za-z_", "d": "0-9"}
_MORE = {"w": r"\w\p{L}\p{N}", "d": r"\d\p{Nd}", "s": r"\s\x{FEFF}"}  # what other readers of a pattern take for these


def is_unwritable(code: int) -> bool:
    """Whether a character is a control character that would have to be written with \\u."""
    return (code < 0x20 or code == 0x7F) and chr(code) not in WRITABLE


def json_pattern(pattern: str, place: str) -> str:
    """The pattern to hand on for a JSON string.

    Args:
        pattern: of a schema.
        place: what it is called in messages.

    Raises:
        InputError: it asks for control characters, or has a class that readers of patterns understand differently.
    """
    return _Writer(pattern, place).whole()


def text_pattern(pattern: str, place: str) -> str:
    """The pattern to hand on for text that is not written as JSON: the same, and `\\w` and `\\d` give ASCII as they do
    in JSON strings.

    Args:
        pattern: of a schema.
        place: what it is called in messages.

    Raises:
        InputError: see `json_pattern`.
    """
    return _Writer(pattern, place, has_unicode_sets=True).whole()


def with_json_patterns(schema: Any, place: str) -> Any:
    """A checked schema with its patterns as they are handed on.

    Raises:
        InputError: see `json_pattern`.
    """
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for keyword, value in cast("dict[str, Any]", schema).items():
        here = f"{place}.{keyword}"
        if keyword == "pattern":
            value = json_pattern(value, here)
        elif keyword in SCHEMA_KEYWORDS:
            value = with_json_patterns(value, here)
        elif keyword in SCHEMA_LISTS:
            value = [with_json_patterns(one, here) for one in value]
        elif keyword in SCHEMA_MAPS:
            is_pattern = keyword == "patternProperties"
            named: dict[str, Any] = {}
            for name, one in cast("dict[str, Any]", value).items():
                written = json_pattern(name, here) if is_pattern else name
                if written in named:
                    raise InputError(f"{here} has {name!r:.80}, which is the same as a name before it; join the two")
                named[written] = with_json_patterns(one, here)
            value = named
        out[keyword] = value
    return out


@dataclass
class _Writer:
    """Reads a pattern from left to right, and writes it anew."""

    pattern: str
    place: str
    has_unicode_sets: bool = False  # who reads the result takes \w and \d for more than ASCII
    at: int = 0

    def whole(self) -> str:
        out: list[str] = []
        while self.at < len(self.pattern):
            char = self.pattern[self.at]
            if char == "[":
                out.append(self._class())
            elif char == "\\":
                out.append(self._outside(*self._escape()))
            else:
                self._refuse_control(ord(char))
                out.append(char)
                self.at += 1
        return "".join(out)

    def _escape(self) -> tuple[str, int | None]:
        """An escape as it stands, and the character that it means; None for a set or an assertion."""
        match = _ESCAPE.match(self.pattern, self.at)
        if match is None:
            raise InputError(f"{self.place} ends in a single backslash")
        self.at = match.end()
        digits = next((one for one in match.groups() if one), None)
        if digits is not None:
            code = int(digits, 16)
            if code > sys.maxunicode:
                raise InputError(f"{self.place} has {match[0]:.20}, which is beyond the last character, U+10FFFF")
            return match[0], code
        letter = match[0][1]
        return match[0], _NAMED.get(letter) if letter.isalnum() else ord(letter)

    def _outside(self, text: str, code: int | None) -> str:
        if code is not None:
            self._refuse_control(code)
        elif text[1] in "WDS":
            return f"[^{_MORE[text[1].lower()]}{_UNWRITABLE_CLASS}]"
        elif text[1] in "pP":
            return f"[{text}&&[^{_UNWRITABLE_CLASS}]]"
        elif self.has_unicode_sets and text[1] in _ASCII:
            return f"[{_ASCII[text[1]]}]"
        return text

    def _refuse_control(self, code: int) -> None:
        if is_unwritable(code):
            raise InputError(
                f"{self.place} asks for the control character U+{code:04X}, which is never written; leave it out"
            )

    def _class(self) -> str:
        self.at += 1
        is_negated = self.pattern.startswith("^", self.at)
        self.at += is_negated
        start, items = self.at, list[str]()
        while not self.pattern.startswith("]", self.at) or self.at == start:
            items.append(self._item(is_negated))
        self.at += 1
        inside = "".join(items)
        if is_negated:
            return f"[^{inside}{_UNWRITABLE_CLASS}]"
        if not inside:
            raise InputError(f"{self.place} has a class of control characters only, which are never written")
        return f"[{inside}]"

    def _item(self, is_negated: bool) -> str:
        """A character, a range or a set, as it is written in a class; nothing where all of it is unwritable."""
        text, low = self._member()
        if low is None:
            return self._set(text, is_negated)
        high = low
        if self.pattern.startswith("-", self.at) and not self.pattern.startswith("-]", self.at):
            self.at += 1
            _, last = self._member()
            if last is None or last < low:
                raise InputError(f"{self.place} has a class with a range that ends before it starts, or in a set")
            high = last
        if is_negated:
            return _range(low, high)
        parts = [(max(low, first), min(high, last)) for first, last in _WRITABLE_RANGES]
        return "".join(_range(first, last) for first, last in parts if first <= last)

    def _member(self) -> tuple[str, int | None]:
        if self.at >= len(self.pattern):
            raise InputError(f"{self.place} lacks a ]")
        if self.pattern.startswith(("[:", "[^", "&&", "--", "~~"), self.at):
            raise InputError(
                f"{self.place} has {self.pattern[self.at : self.at + 2]!r} inside a class, which is read in several "
                "ways; write the first of the two with a backslash"
            )
        if self.pattern[self.at] != "\\":
            self.at += 1
            return "", ord(self.pattern[self.at - 1])
        text, code = self._escape()
        if text == r"\b":
            return text, 0x08
        if code is None and text[1] not in _SETS:
            raise InputError(f"{self.place} has {text} inside a class, which is not supported")
        return text, code

    def _set(self, text: str, is_negated: bool) -> str:
        letter = text[1]
        if is_negated:
            return _MORE.get(letter, text)
        if letter in "WDS":
            return f"[^{_MORE[letter.lower()]}{_UNWRITABLE_CLASS}]"
        if self.has_unicode_sets and letter in _ASCII:
            return _ASCII[letter]
        return f"[{text}&&[^{_UNWRITABLE_CLASS}]]" if letter in "pP" else text


def _range(low: int, high: int) -> str:
    ends = [f"\\x{{{one:X}}}" if not chr(one).isalnum() or one > 0x7F else chr(one) for one in (low, high)]
    return ends[0] if low == high else "-".join(ends)
