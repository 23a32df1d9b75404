"""What the stream parser says about an answer, piece by piece.

Every event has the text it stands for in `raw`: the raw texts of all events, joined, are what the parser was given.
Deltas may come in any number of parts; `merged` joins them, and then the same answer gives the same events however it
was cut.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import ClassVar, Literal

Truncated = Literal["reasoning", "tool_call", "content"]
BrokenReason = Literal["truncated", "malformed"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing the parser has seen.

    Args:
        raw: The text it stands for, markers spelled out.
    """

    kind: ClassVar[str] = "event"
    raw: str

    def merge_key(self) -> Hashable:
        """Neighbouring events with the same key are parts of one; None for an event that stands alone."""
        return None


@dataclass(frozen=True, slots=True)
class ContentDelta(Event):
    """More of the answer's content."""

    kind: ClassVar[str] = "content"

    @property
    def text(self) -> str:
        """The new text, which is `raw`."""
        return self.raw

    def merge_key(self) -> Hashable:
        """Contents join."""
        return self.kind


@dataclass(frozen=True, slots=True)
class ReasoningDelta(Event):
    """More of the thinking; calls written inside thinking are nothing else."""

    kind: ClassVar[str] = "reasoning"

    @property
    def text(self) -> str:
        """The new text, which is `raw`."""
        return self.raw

    def merge_key(self) -> Hashable:
        """Reasonings join."""
        return self.kind


@dataclass(frozen=True, slots=True)
class ThinkOpened(Event):
    """A think block begins. There is none where the prompt had opened it."""

    kind: ClassVar[str] = "think_opened"


@dataclass(frozen=True, slots=True)
class ThinkClosed(Event):
    """The think block ends."""

    kind: ClassVar[str] = "think_closed"


@dataclass(frozen=True, slots=True)
class LateThinkEnd(Event):
    """A think block ends that nothing had opened: all that came before in this answer was thinking.

    That holds for content, and for tool calls too: what looks like a call inside thinking is none.
    """

    kind: ClassVar[str] = "late_think_end"


@dataclass(frozen=True, slots=True)
class Reflection(Event):
    """A reflection on the thinking budget.

    Args:
        text: What stands between the tags; empty where the opening one is missing, for then it came as a delta.
        used: Tokens that the model says it has used; None where it says nothing.
        remaining: Tokens that it says remain; 0 where it says that the budget is exhausted.
    """

    kind: ClassVar[str] = "reflection"
    text: str
    used: int | None
    remaining: int | None


@dataclass(frozen=True, slots=True)
class ToolCallStarted(Event):
    """A tool call begins.

    Args:
        index: 0 for the answer's first call, and so on.
        id: A name for this call that no other call has. Ids do not count when events are compared.
        name: The function.
        unknown: Tools were given, and it is none of them.
    """

    kind: ClassVar[str] = "tool_call_started"
    index: int
    id: str = field(compare=False)
    name: str
    unknown: bool


@dataclass(frozen=True, slots=True)
class ToolCallDelta(Event):
    """More of a call's arguments.

    Args:
        index: Which call.
        arguments: More JSON text; may be empty. All of a finished call's, joined, are one JSON object.
    """

    kind: ClassVar[str] = "tool_call_delta"
    index: int
    arguments: str

    def merge_key(self) -> Hashable:
        """Arguments of one call join."""
        return self.kind, self.index


@dataclass(frozen=True, slots=True)
class ToolCallFinished(Event):
    """A tool call is complete.

    Args:
        index: Which call.
        problems: What was wrong with it and how it was read nevertheless, such as a value that is not of its type.
    """

    kind: ClassVar[str] = "tool_call_finished"
    index: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ToolCallBroken(Event):
    """A tool call that must not be run.

    Args:
        index: Which call; None where not even its function's name was written.
        reason: "truncated": the answer ended, or went on elsewhere, inside it. "malformed": there is no function in it.
    """

    kind: ClassVar[str] = "tool_call_broken"
    index: int | None
    reason: BrokenReason


@dataclass(frozen=True, slots=True)
class CallBlockOpened(Event):
    """A block of tool calls begins; as a rule there is one call in it."""

    kind: ClassVar[str] = "call_block_opened"


@dataclass(frozen=True, slots=True)
class CallBlockClosed(Event):
    """The block of tool calls ends."""

    kind: ClassVar[str] = "call_block_closed"


@dataclass(frozen=True, slots=True)
class CallMarkup(Event):
    """What stands around the functions of a call block: line ends, and text that does not belong there."""

    kind: ClassVar[str] = "call_markup"

    def merge_key(self) -> Hashable:
        """Markup joins."""
        return self.kind


@dataclass(frozen=True, slots=True)
class StrayToken(Event):
    """A control token that opens or closes nothing where it stands. It is no part of the message."""

    kind: ClassVar[str] = "stray_token"


@dataclass(frozen=True, slots=True)
class AnswerEnded(Event):
    """The model ended its turn with `<seed:eos>`."""

    kind: ClassVar[str] = "answer_ended"


@dataclass(frozen=True, slots=True)
class TrailingText(Event):
    """What came after the end of the turn, such as padding. It is no part of the message."""

    kind: ClassVar[str] = "trailing_text"

    def merge_key(self) -> Hashable:
        """Trailing texts join."""
        return self.kind


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """The last event.

    Args:
        truncated: What was still open at the end; None for nothing. An answer cut inside its content cannot be told
            from a whole one.
        ended: The model ended its turn itself.
    """

    kind: ClassVar[str] = "finished"
    truncated: Truncated | None
    ended: bool


def merged(events: Iterable[Event]) -> list[Event]:
    """Join neighbouring deltas of one kind, so that events can be compared whatever the text's cuts were.

    Args:
        events: Events of one answer, in order.

    Returns:
        Fewer events with the same meaning and the same raw text.
    """
    together: list[Event] = []
    for key, group in groupby(events, key=lambda event: event.merge_key()):
        parts = list(group)
        together += parts if key is None else [_joined(parts)]
    return together


def _joined(parts: list[Event]) -> Event:
    first, raw = parts[0], "".join(part.raw for part in parts)
    if not isinstance(first, ToolCallDelta):
        return replace(first, raw=raw)
    arguments = "".join(part.arguments for part in parts if isinstance(part, ToolCallDelta))
    return replace(first, raw=raw, arguments=arguments)
