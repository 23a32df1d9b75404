"""Finds markers in text that comes in pieces, cut anywhere. Linear, and at most one marker's length is held back."""

import copy
import re
from collections.abc import Mapping
from enum import Enum

from seed_oss.chat.control_tokens import SEED_CONTROL_TOKENS, ControlToken


class CallTag(Enum):
    """The tags inside a tool call; plain text to the tokenizer, and tags only there."""

    FUNCTION = "<function="
    END_FUNCTION = "</function>"
    PARAMETER = "<parameter="
    END_PARAMETER = "</parameter>"

    def __str__(self) -> str:
        return self.value


Lexeme = str | ControlToken | CallTag

CALL_TAGS: dict[str, ControlToken | CallTag] = {tag.value: tag for tag in CallTag}
ALL_MARKERS: dict[str, ControlToken | CallTag] = {**{token.text: token for token in SEED_CONTROL_TOKENS}, **CALL_TAGS}


class MarkerScanner:
    """Splits text into markers and what stands between them.

    Every marker begins with `<` and has no other, and none is the beginning of another: so a marker is certain once its
    last character is there, and only the text from the last `<` on can become one.

    Args:
        markers: The markers by their text.
    """

    def __init__(self, markers: Mapping[str, ControlToken | CallTag]) -> None:
        self._markers = markers
        self._pattern = re.compile("|".join(map(re.escape, markers)))
        self._starts = frozenset(text[:length] for text in markers for length in range(1, len(text)))
        self._max_held = max(map(len, markers)) - 1
        self._held = ""

    def push(self, text: str) -> list[Lexeme]:
        """Take more text; return what is certain of it, never an empty string."""
        text = self._held + text
        lexemes: list[Lexeme] = []
        position = 0
        for match in self._pattern.finditer(text):
            if match.start() > position:
                lexemes.append(text[position : match.start()])
            lexemes.append(self._markers[match.group()])
            position = match.end()
        end = self._certain_until(text, position)
        if end > position:
            lexemes.append(text[position:end])
        self._held = text[end:]
        return lexemes

    def flush(self) -> list[Lexeme]:
        """Say that what is held becomes no marker."""
        held, self._held = self._held, ""
        return [held] if held else []

    def copy(self) -> "MarkerScanner":
        """A scanner in the same state that goes on by itself."""
        return copy.copy(self)

    def _certain_until(self, text: str, position: int) -> int:
        last = text.rfind("<", max(position, len(text) - self._max_held))
        return last if last >= 0 and text[last:] in self._starts else len(text)
