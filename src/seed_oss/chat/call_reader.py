"""The inside of a tool-call block, read while it is written.

    \n<function=NAME>\n<parameter=KEY>VALUE</parameter>\n ... </function>\n

A value may hold anything, tags of this very format included. It ends

- at the first `</parameter>` that is followed, after nothing but whitespace, by `<parameter=`, by `</function>` or by
  the end of the call;
- where `</parameter>` is missing, at a `</function>` followed by nothing but whitespace up to the end of the call;
- else at the end of the call.

The end of the call is `</seed:tool_call>`, or the end of the answer; after a closing tag also a new `<seed:tool_call>`.
Other control tokens inside a value are its text.
A closing tag that may end the value waits, with the whitespace after it, until the next character decides. Names reach
to the first `>`, on one line, and have 1 to MAX_NAME_LEN characters; what has not is text that belongs nowhere.
"""

from enum import Enum, auto

from seed_oss.chat.argument_writer import ArgumentWriter
from seed_oss.chat.control_tokens import END_TOOL_CALL, EOS, TOOL_CALL, ControlToken
from seed_oss.chat.events import (
    CallMarkup,
    Event,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from seed_oss.chat.marker_scanner import CallTag, Lexeme
from seed_oss.chat.tool_values import ToolTypes

MAX_NAME_LEN = 256


class _State(Enum):
    BETWEEN = auto()  # in the block, in no function
    NAME = auto()
    FUNCTION = auto()  # in a function, in no parameter
    KEY = auto()
    VALUE = auto()


class CallReader:
    """Reads the calls of an answer, block by block.

    Args:
        types: The tools.
        id_prefix: The calls are named by this and their index.
    """

    def __init__(self, types: ToolTypes, id_prefix: str) -> None:
        self._types = types
        self._id_prefix = id_prefix
        self._num_calls = 0
        self._state = _State.BETWEEN
        self._found = False  # a function in this block
        self._held = ""  # the beginning of a name or key, its tag included
        self._closing: CallTag | None = None  # a tag that may end the value
        self._waiting: list[str] = []  # that tag and the whitespace after it
        self._writer = ArgumentWriter(types, "")

    def holds(self, token: ControlToken) -> bool:
        """Whether a control token is text of a value here, rather than one that ends the call."""
        ends = token in (END_TOOL_CALL, EOS) or (token == TOOL_CALL and self._closing is not None)
        return self._state is _State.VALUE and not ends

    def open(self) -> None:
        """A block begins."""
        self._state, self._found = _State.BETWEEN, False

    def take(self, lexeme: Lexeme) -> list[Event]:
        """Take what stands in the block next; a control token counts as its text."""
        if self._state is _State.BETWEEN:
            return self._between(lexeme)
        if self._state is _State.VALUE:
            return self._value(lexeme)
        if self._state is _State.FUNCTION:
            return self._function(lexeme)
        return self._name_or_key(lexeme)

    def close(self) -> list[Event]:
        """The block's end was written, or another block begins."""
        events = self._drop_held()
        if self._state is _State.VALUE:
            events += self._end_value(closed=self._closing is CallTag.END_PARAMETER)
        if self._state is _State.FUNCTION:
            events += self._end_function("")
        if not self._found:
            events.append(ToolCallBroken("", None, "malformed"))
        return events

    def break_off(self) -> list[Event]:
        """The answer ends, or goes on elsewhere, in the block."""
        events = self._drop_held()
        inside = self._state in (_State.FUNCTION, _State.VALUE)
        self._state, self._closing, self._waiting = _State.BETWEEN, None, []
        if inside:
            events.append(ToolCallBroken("", self._num_calls - 1, "truncated"))
        elif not self._found:
            events.append(ToolCallBroken("", None, "truncated"))
        return events

    def hold_nothing(self) -> list[Event]:
        """Something that is no part of the call comes between: a name that is being written becomes none."""
        return self._drop_held()

    def copy(self) -> "CallReader":
        """A reader in the same state that goes on by itself."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._waiting, other._writer = list(self._waiting), self._writer.copy()
        return other

    def _between(self, lexeme: Lexeme) -> list[Event]:
        if lexeme is CallTag.FUNCTION:
            self._state, self._held = _State.NAME, str(lexeme)
            return []
        return [CallMarkup(str(lexeme))]

    def _function(self, lexeme: Lexeme) -> list[Event]:
        if lexeme is CallTag.PARAMETER:
            self._state, self._held = _State.KEY, str(lexeme)
            return []
        if lexeme is CallTag.END_FUNCTION:
            return self._end_function(str(lexeme))
        if lexeme is CallTag.FUNCTION:
            return [*self._end_function(""), *self._between(lexeme)]
        return [self._delta("", str(lexeme))]

    def _name_or_key(self, lexeme: Lexeme) -> list[Event]:
        if not isinstance(lexeme, str):
            return [*self._drop_held(), *self.take(lexeme)]
        tag = CallTag.FUNCTION if self._state is _State.NAME else CallTag.PARAMETER
        start, text = len(str(tag)), self._held + lexeme
        end = _name_end(text, start)
        if end is None:
            self._held = text
            return []
        self._held, rest = text[: end + 1], text[end + 1 :]
        if not _is_name(text[start:end], text[end]):
            events = self._drop_held()
        elif self._state is _State.NAME:
            events = self._start_call(text[start:end])
        else:
            events = self._start_value(text[start:end])
        return [*events, *(self.take(rest) if rest else [])]

    def _value(self, lexeme: Lexeme) -> list[Event]:
        text = str(lexeme)
        if self._closing is not None:
            if isinstance(lexeme, str) and text.isspace():
                self._waiting.append(text)
                return [self._delta("", text)]
            if self._closing is CallTag.END_PARAMETER and lexeme in (CallTag.PARAMETER, CallTag.END_FUNCTION):
                return [*self._end_value(closed=True), *self._function(lexeme)]
            before = "".join(self._waiting)
            self._closing, self._waiting = None, []
        else:
            before = ""
        if lexeme is CallTag.END_PARAMETER or lexeme is CallTag.END_FUNCTION:
            self._closing, self._waiting = lexeme, [text]
            return [self._delta(self._writer.put(before) if before else "", text)]
        return [self._delta(self._writer.put(before + text), text)]

    def _start_call(self, name: str) -> list[Event]:
        raw, self._held = self._held, ""
        name = name if self._types.has(name) else name.strip()
        self._writer = ArgumentWriter(self._types, name)
        index = self._num_calls
        self._num_calls += 1
        self._state, self._found = _State.FUNCTION, True
        unknown = self._types.given and not self._types.has(name)
        return [ToolCallStarted(raw, index, f"{self._id_prefix}{index}", name, unknown)]

    def _start_value(self, key: str) -> list[Event]:
        raw, self._held, self._state = self._held, "", _State.VALUE
        return [self._delta(self._writer.open(key), raw)]

    def _end_value(self, *, closed: bool) -> list[Event]:
        if not closed:
            self._writer.note("has no closing tag")
        self._state, self._closing, self._waiting = _State.FUNCTION, None, []
        return [self._delta(self._writer.close(), "")]

    def _end_function(self, raw: str) -> list[Event]:
        self._state = _State.BETWEEN
        finished = ToolCallFinished("", self._num_calls - 1, tuple(self._writer.problems))
        return [self._delta(self._writer.finish(), raw), finished]

    def _drop_held(self) -> list[Event]:
        """Take the beginning of a name or key that became none as text that belongs nowhere."""
        raw, self._held = self._held, ""
        if self._state is _State.NAME:
            self._state = _State.BETWEEN
            return [CallMarkup(raw)]
        if self._state is _State.KEY:
            self._state = _State.FUNCTION
            return [self._delta("", raw)]
        return []

    def _delta(self, arguments: str, raw: str) -> Event:
        return ToolCallDelta(raw, self._num_calls - 1, arguments)


def _name_end(text: str, start: int) -> int | None:
    """Where the name is over, for good or bad; None while that is open."""
    limit = start + MAX_NAME_LEN
    places = [place for char in ">\n" if (place := text.find(char, start, limit + 1)) >= 0]
    if places:
        return min(places)
    return limit if len(text) > limit else None


def _is_name(name: str, end: str) -> bool:
    return end == ">" and bool(name.strip())
