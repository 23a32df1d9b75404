"""An answer as clients see it, piece by piece: thinking, content and calls. The same for streams and whole answers.

What was written as a call and is none comes as content, so that no text is lost. Only a call that the limit of tokens
cuts off stays one, with the arguments that there are: a stream has shown them already.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from seed_oss.chat.control_tokens import REFLECT
from seed_oss.chat.events import (
    CallBlockClosed,
    CallBlockOpened,
    CallMarkup,
    ContentDelta,
    Event,
    Finished,
    LateThinkEnd,
    ReasoningDelta,
    Reflection,
    ThinkClosed,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
)


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """More thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentPart:
    """More content."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPart:
    """A call begins."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPart:
    """More of a call's arguments, as JSON text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEndPart:
    """A call is complete, or (`is_whole` false) will never be; `is_cut`: the answer ends in it."""

    index: int
    is_whole: bool = True
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class AllThinkingPart:
    """All that came before was thinking. A stream has shown it as content already."""

    text: str


Part = ReasoningPart | ContentPart | CallPart | ArgumentsPart | CallEndPart | AllThinkingPart


class _Trimmed:
    """Text without outer whitespace, while it comes."""

    def __init__(self, *, has_begun: bool = False) -> None:
        self.has_begun = has_begun
        self._blanks: list[str] = []

    def put(self, text: str) -> str:
        text = text if self.has_begun else text.lstrip()
        kept = text.rstrip()
        if not kept:
            self._blanks += [text] if text else []
            return ""
        shown = "".join(self._blanks) + kept
        self._blanks = [text[len(kept) :]] if len(kept) < len(text) else []
        self.has_begun = True
        return shown


class PartMaker:
    """Turns the stream parser's events into parts; for one answer.

    Args:
        has_tools: there are tools to call; otherwise what is written as a call is content.
        goes_on: the content's beginning stands in the prompt, so that blanks at its start belong to it.
    """

    def __init__(self, has_tools: bool, *, goes_on: bool = False) -> None:
        self._has_tools = has_tools
        self._content, self._thinking = _Trimmed(has_begun=goes_on), _Trimmed()
        self._thoughts_before = False
        self._all: list[str] = []
        self._opening = ""
        self._block: list[str] = []  # raw, of the call that is being written
        self.is_cut = False  # set at the end: the limit of tokens came before the model's own
        self.finished: Finished | None = None

    def take(self, event: Event) -> list[Part]:
        """The parts that an event stands for."""
        self._all.append(event.raw)
        if isinstance(event, ContentDelta):
            return self._say(event.raw)
        if isinstance(event, ReasoningDelta | Reflection):
            return self._think(event)
        if isinstance(event, ThinkClosed):
            self._thoughts_before = self._thoughts_before or self._thinking.has_begun
            self._thinking = _Trimmed()
        elif isinstance(event, LateThinkEnd):
            return self._all_was_thinking()
        elif isinstance(event, Finished):
            self.finished = event
        elif not self._has_tools:
            return self._say(event.raw) if isinstance(event, _OF_CALLS) else []
        else:
            return self._take_call(event)
        return []

    def _say(self, text: str) -> list[Part]:
        shown = self._content.put(text)
        return [ContentPart(shown)] if shown else []

    def _think(self, event: ReasoningDelta | Reflection) -> list[Part]:
        in_prompt = isinstance(event, Reflection) and event.text and not event.raw.startswith(REFLECT.text)
        is_new = not self._thinking.has_begun
        shown = self._thinking.put(REFLECT.text + event.raw if in_prompt else event.raw)
        between = "\n\n" if shown and is_new and self._thoughts_before else ""
        return [ReasoningPart(between + shown)] if shown else []

    def _all_was_thinking(self) -> list[Part]:
        text = "".join(self._all[:-1]).strip()
        self._content, self._thinking, self._thoughts_before = _Trimmed(), _Trimmed(), bool(text)
        return [AllThinkingPart(text)]

    def _take_call(self, event: Event) -> list[Part]:
        if isinstance(event, CallBlockOpened):
            self._opening, self._block = event.raw, [event.raw]
        elif isinstance(event, ToolCallStarted):
            return self._start_call(event)
        elif isinstance(event, ToolCallDelta):
            self._block.append(event.raw)
            return [ArgumentsPart(event.index, event.arguments)] if event.arguments else []
        elif isinstance(event, ToolCallFinished):
            self._block = []
            return [CallEndPart(event.index)]
        elif isinstance(event, ToolCallBroken):
            return self._break_call(event)
        elif isinstance(event, CallMarkup):
            self._block.append(event.raw)
        elif isinstance(event, CallBlockClosed):
            return self._stray_markup()
        return []

    def _start_call(self, event: ToolCallStarted) -> list[Part]:
        between = "".join(self._block).removeprefix(self._opening)
        stray = self._stray_markup()
        self._block = [self._opening, "" if between.strip() else between, event.raw]
        return [*stray, CallPart(event.index, event.id, event.name)]

    def _break_call(self, event: ToolCallBroken) -> list[Part]:
        raw, self._block = "".join(self._block), []
        if self.is_cut and event.index is not None:
            return [CallEndPart(event.index, is_whole=False, is_cut=True)]
        ends: list[Part] = [] if event.index is None else [CallEndPart(event.index, is_whole=False)]
        return [*ends, *self._say(raw)]

    def _stray_markup(self) -> list[Part]:
        """Text in a block that belongs to no call."""
        text = "".join(self._block).removeprefix(self._opening)
        self._block = []
        return self._say(text) if text.strip() else []


def merged(parts: Iterable[Part]) -> list[Part]:
    """Fewer parts that say the same: neighbouring texts of one kind are joined."""
    groups: list[list[Part]] = []
    for part in parts:
        if groups and _go_together(groups[-1][-1], part):
            groups[-1].append(part)
        else:
            groups.append([part])
    return [_joined(group) for group in groups]


def _go_together(one: Part, other: Part) -> bool:
    if isinstance(one, ArgumentsPart) and isinstance(other, ArgumentsPart):
        return one.index == other.index
    return type(one) is type(other) and isinstance(one, ContentPart | ReasoningPart)


def _joined(group: Sequence[Part]) -> Part:
    """Texts are joined once: there may be thousands, where a client has read nothing for a while."""
    first = group[0]
    if len(group) == 1 or not isinstance(first, ContentPart | ReasoningPart | ArgumentsPart):
        return first
    texts = [part.text for part in group if isinstance(part, ContentPart | ReasoningPart | ArgumentsPart)]
    return replace(first, text="".join(texts))


_OF_CALLS = (CallBlockOpened, CallBlockClosed, CallMarkup, ToolCallStarted, ToolCallDelta)


@dataclass
class Call:
    """A call, put together; one that is cut has arguments that are no JSON."""

    id: str
    name: str
    arguments: str = ""
    is_whole: bool = False
    is_cut: bool = False


@dataclass
class Answer:
    """A whole answer.

    Attributes:
        reasoning, content: without outer whitespace.
        calls: by index, those that were begun.
    """

    reasoning: str = ""
    content: str = ""
    calls: dict[int, Call] = field(default_factory=dict[int, Call])

    @property
    def tool_calls(self) -> list[Call]:
        """The complete calls, in order, and last the one that the limit of tokens has cut off."""
        return [call for _, call in sorted(self.calls.items()) if call.is_whole or call.is_cut]

    @classmethod
    def of(cls, parts: Iterable[Part]) -> "Answer":
        """Put parts together."""
        answer = cls()
        thinking: list[str] = []
        content: list[str] = []
        arguments: dict[int, list[str]] = {}
        for part in parts:
            if isinstance(part, ReasoningPart):
                thinking.append(part.text)
            elif isinstance(part, ContentPart):
                content.append(part.text)
            elif isinstance(part, AllThinkingPart):
                thinking, content, answer.calls, arguments = [part.text], [], {}, {}
            elif isinstance(part, CallPart):
                answer.calls[part.index] = Call(part.id, part.name)
            elif isinstance(part, ArgumentsPart):
                arguments.setdefault(part.index, []).append(part.text)
            else:
                call = answer.calls[part.index]
                call.is_whole, call.is_cut = part.is_whole, part.is_cut
        answer.reasoning, answer.content = "".join(thinking), "".join(content)
        for index, call in answer.calls.items():
            call.arguments = "".join(arguments.get(index, []))
        return answer
