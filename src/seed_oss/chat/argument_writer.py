"""The arguments of a tool call as JSON text that grows while the model writes them."""

import json
from typing import Literal

from seed_oss.chat.tool_values import ToolTypes, ValueType
from seed_oss.files.names import short

MAX_PROBLEMS = 16

_Mode = Literal["none", "text", "nullable", "whole", "skip"]
_NULLS = ("null", "None")


class ArgumentWriter:
    """Writes one call's arguments; every method returns the JSON text that has become certain.

    A string grows with the model. A value of another type needs its last character before its first is certain, so it
    comes whole; of a string that may also be null, the first four characters wait.

    Args:
        types: The tools.
        function: The function's name.
    """

    def __init__(self, types: ToolTypes, function: str) -> None:
        self._types = types
        self._function = function
        self._keys: set[str] = set()
        self._key = ""
        self._type = ValueType()
        self._mode: _Mode = "none"
        self._waiting: list[str] = []
        self.problems: list[str] = []

    def open(self, key: str) -> str:
        """Begin a parameter. Of two with one name the first counts."""
        if not self._types.has_parameter(self._function, key):
            key = key.strip()
        self._key = key
        if key in self._keys:
            self._mode = "skip"
            self.note("stands twice; the first one counts")
            return ""
        before = ", " if self._keys else "{"
        self._keys.add(key)
        self._type = self._types.of(self._function, key)
        self._mode = "text" if self._type.is_text else "nullable" if self._type.is_nullable_text else "whole"
        return f"{before}{_json(key)}: " + ('"' if self._mode == "text" else "")

    def put(self, text: str) -> str:
        """Take more of the value."""
        if self._mode == "text":
            return _json(text)[1:-1]
        if self._mode == "skip":
            return ""
        self._waiting.append(text)
        if self._mode == "nullable":
            so_far = "".join(self._waiting)
            if not any(null.startswith(so_far) for null in _NULLS):
                self._mode, self._waiting = "text", []
                return _json(so_far)[:-1]
            self._waiting = [so_far]
        return ""

    def close(self) -> str:
        """End the parameter."""
        mode, self._mode = self._mode, "none"
        if mode == "text":
            return '"'
        if mode == "skip":
            return ""
        text, self._waiting = "".join(self._waiting), []
        if mode == "nullable":
            return "null" if text in _NULLS else _json(text)
        value, fits = self._type.convert(text)
        if not fits:
            self.note(f"is not of type {self._expected()}; kept as a string")
        return _json(value)

    def finish(self) -> str:
        """End the arguments."""
        return "}" if self._keys else "{}"

    def note(self, problem: str) -> None:
        """Remember what was wrong with the current parameter."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"parameter {short(self._key)} {problem}")

    def copy(self) -> "ArgumentWriter":
        """A writer in the same state that goes on by itself."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._keys, other._waiting, other.problems = set(self._keys), list(self._waiting), list(self.problems)
        return other

    def _expected(self) -> str:
        return "/".join(sorted(self._type.kinds)) or "enum"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
