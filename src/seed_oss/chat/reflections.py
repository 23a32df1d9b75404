"""Reflections on the thinking budget: finding where one ends, and the numbers in it."""

import re

from seed_oss.chat.control_tokens import REFLECT
from seed_oss.chat.events import Reflection

MAX_REFLECTION_LEN = 1024  # characters; the trained sentences have less than 120
MAX_SENTENCE_LEN = 200

_COUNTS = re.compile(r"I have used ([0-9]{1,12}) tokens?, and there are ([0-9]{1,12}) tokens? remaining")
_EXHAUSTED = "I have exhausted my token budget"
_BUDGET_ZERO = "The current thinking budget is 0,"


def reflected_numbers(text: str) -> tuple[int | None, int | None]:
    """Read what a reflection says of the budget.

    Args:
        text: The text of the reflection, or what stands before a closing tag.

    Returns:
        Tokens used and tokens remaining, each None where nothing is said of it. The last sentence counts.
    """
    counts = list(_COUNTS.finditer(text))
    last_count = counts[-1].start() if counts else -1
    exhausted, zero = text.rfind(_EXHAUSTED), text.rfind(_BUDGET_ZERO)
    last = max(last_count, exhausted, zero)
    if last < 0:
        return None, None
    if last == last_count:
        return int(counts[-1][1]), int(counts[-1][2])
    return (None, 0) if last == exhausted else (0, 0)


class ReflectionReader:
    """Gathers a reflection until it is closed.

    Where the closing tag is missing, the reflection is its first line and the rest is thinking. That it is missing is
    known when another control token comes, or after MAX_REFLECTION_LEN characters.

    Args:
        in_prompt: The opening tag stands in the prompt, not in the answer.
    """

    def __init__(self, *, in_prompt: bool = False) -> None:
        self._opening = "" if in_prompt else REFLECT.text
        self._text = ""

    def put(self, text: str) -> str | None:
        """Take text.

        Returns:
            None while it may still be closed; otherwise what is too much: take `unclosed`, then go on with this text.
        """
        room = MAX_REFLECTION_LEN - len(self._text)
        self._text += text[:room]
        return None if len(text) < room else text[room:]

    def closed(self, closing: str) -> Reflection:
        """The reflection, ended by its closing tag."""
        return self._reflection(self._text, closing)

    def unclosed(self) -> tuple[Reflection, str]:
        """The reflection without a closing tag, and the text after it."""
        blank = len(self._text) - len(self._text.lstrip())
        end = self._text.find("\n", blank)
        end = len(self._text) if end < 0 else end
        return self._reflection(self._text[:end], ""), self._text[end:]

    def copy(self) -> "ReflectionReader":
        """A reader in the same state that goes on by itself."""
        other = ReflectionReader()
        other._opening, other._text = self._opening, self._text
        return other

    def _reflection(self, text: str, closing: str) -> Reflection:
        used, remaining = reflected_numbers(text)
        return Reflection(self._opening + text + closing, text, used, remaining)
