"""Client text on its way through a foreign template: markers broken before, mended after.

A foreign template returns one string, in which its own control tokens and those that clients spell look the same. So
each marker that a client spells gets a random private-use text between its characters; what is whole in the result is
the template's own.
"""

import secrets
import string
from collections.abc import Callable
from typing import Any, cast

from seed_oss.chat.control_tokens import ControlToken
from seed_oss.chat.control_vocabulary import ControlVocabulary, Segment

_PRIVATE_USE = (0xF0000, 0xFFFFD)
_TRIES = 100  # to draw letters that are not taken


def private_text() -> str:
    """Two random private-use characters that are not the same; no client can foresee them."""
    first, last = _PRIVATE_USE
    one, other = (first + secrets.randbelow(last - first) for _ in range(2))
    return chr(one) + chr(other if other != one else last)


def letters(num_letters: int, allowed: str = string.ascii_lowercase) -> str:
    """Random letters."""
    return "".join(secrets.choice(allowed) for _ in range(num_letters))


class Breaker:
    """Breaks the markers in client data.

    Args:
        vocabulary: Whose added tokens are broken.
    """

    def __init__(self, vocabulary: ControlVocabulary) -> None:
        self._vocabulary = vocabulary
        self.nonce = private_text()
        self.num_broken = 0
        # Letters that no marker has make none with their neighbours either.
        taken = set("".join((*vocabulary.starts, *vocabulary.ends)))
        self._letters = "".join(sorted(set(string.ascii_lowercase) - taken)) or string.ascii_lowercase
        self._broken_markers: dict[str, str] = {}
        self._inert_markers: dict[str, str] = {}
        self._stand_ins: dict[str, str] = {}

    def broken(self, values: Any) -> Any:
        """A copy of plain data in which no text holds a marker, nor an end of one at its edge."""
        return self._mapped(values, self._broken)

    def inert(self, values: Any) -> Any:
        """A copy of plain data of the same shape, with letters for markers."""
        return self._mapped(values, self._inert)

    def mend(self, text: str) -> str:
        """The text as it would be without breaking."""
        return text.replace(self.nonce, "")

    def cut(self, text: str) -> list[Segment]:
        """Cut a rendered text at the control tokens that are the template's own; the other texts are mended."""
        segments: list[Segment] = []
        run: list[str] = []
        place = 0
        for segment in self._vocabulary.cut(text):
            source = text[place : place + segment.num_chars]
            place += segment.num_chars
            # A normalizer may drop private-use characters; what held one was a client's all the same.
            if isinstance(segment.piece, str) or self.nonce in source:
                run.append(source)
                continue
            _end_run(segments, self.mend("".join(run)))
            run = []
            segments.append(segment)
        _end_run(segments, self.mend("".join(run)))
        return segments

    def _mapped(self, value: Any, change: Callable[[str], str]) -> Any:
        if isinstance(value, str):
            return change(value)
        if isinstance(value, dict):
            items = cast("dict[Any, Any]", value).items()
            return {self._mapped(key, change): self._mapped(item, change) for key, item in items}
        if isinstance(value, list | tuple):
            rows = [self._mapped(item, change) for item in cast("list[Any]", value)]
            return tuple(rows) if isinstance(value, tuple) else rows
        return value

    def _broken(self, text: str) -> str:
        changed = self._replaced(text, self._broken_markers, self._broken_marker)
        start, end = self._edges(text)
        self.num_broken += changed != text or bool(start or end)
        return self.nonce * bool(start) + changed + self.nonce * bool(end)

    def _inert(self, text: str) -> str:
        changed = self._replaced(text, self._inert_markers, self._inert_marker)
        start, end = self._edges(text)
        kept = changed[start : max(start, len(changed) - end)]
        return self._letters_for(changed[:start]) + kept + self._letters_for(changed[start + len(kept) :])

    def _replaced(self, text: str, known: dict[str, str], replace: Callable[[str], str]) -> str:
        """The text with something else for each marker; whitespace is none, whatever the vocabulary has."""
        parts: list[str] = []
        place = 0
        for segment in self._vocabulary.cut(text):
            source = text[place : place + segment.num_chars]
            place += segment.num_chars
            if isinstance(segment.piece, ControlToken) and not source.isspace():
                if source not in known:
                    known[source] = replace(source)
                source = known[source]
            parts.append(source)
        return "".join(parts)

    def _broken_marker(self, marker: str) -> str:
        """The marker cut behind its first character, and everywhere if there is another in the rest."""
        if self._has_marker(marker[1:]):
            return self.nonce.join(["", *marker, ""])
        return f"{self.nonce}{marker[:1]}{self.nonce}{marker[1:]}{self.nonce}"

    def _inert_marker(self, marker: str) -> str:
        """A text as long as a marker that is none: the same signs, random letters, so that two stay two."""
        text = "".join(self._letters_for(char) if char.isalnum() else char for char in marker)
        return self._letters_for(marker) if self._has_marker(text) else text

    def _letters_for(self, text: str) -> str:
        """As many letters; the same for the same text, and others for every other text while there are any."""
        if text not in self._stand_ins:
            used = set(self._stand_ins.values())
            made = (letters(len(text), self._letters) for _ in range(_TRIES))
            self._stand_ins[text] = next((one for one in made if one not in used), letters(len(text)))
        return self._stand_ins[text]

    def _has_marker(self, text: str) -> bool:
        return any(isinstance(segment.piece, ControlToken) for segment in self._vocabulary.cut(text))

    def _edges(self, text: str) -> tuple[int, int]:
        """How many characters at the start end a marker, and how many at the end start one."""
        sizes = range(1, min(len(text), self._vocabulary.max_part_len) + 1)
        start = next((size for size in sizes if text[:size] in self._vocabulary.ends), 0)
        end = next((size for size in sizes if text[-size:] in self._vocabulary.starts), 0)
        return start, end


def _end_run(segments: list[Segment], run: str) -> None:
    if run:
        segments.append(Segment(run, len(run)))
