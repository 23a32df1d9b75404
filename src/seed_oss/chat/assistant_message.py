"""A whole answer, put together from the stream parser's events."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from seed_oss.chat.control_tokens import REFLECT
from seed_oss.chat.events import (
    BrokenReason,
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
    Truncated,
)

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call of a tool.

    Args:
        id: A name for this call; it does not count when calls are compared.
        name: The function.
        arguments: A JSON object, as text.
        unknown: Tools were given, and it is none of them: do not run it.
        problems: What was wrong with it and how it was read nevertheless.
    """

    id: str = field(compare=False)
    name: str
    arguments: str
    unknown: bool = False
    problems: tuple[str, ...] = ()

    def parsed_arguments(self) -> dict[str, Any]:
        """The arguments as values."""
        return json.loads(self.arguments)

    def to_openai(self) -> dict[str, Any]:
        """The call as OpenAI's API writes it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class BrokenCall:
    """A call that must not be run.

    Args:
        reason: "truncated": the answer ended, or went on elsewhere, inside it. "malformed": no function in it.
        raw: All that was written in the call block up to there, from its opening tag on, or from the last call in it.
        name: The function, if its name was written.
        arguments: As much of the arguments' JSON text as was certain.
    """

    reason: BrokenReason
    raw: str
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """What the model answered.

    Args:
        reasoning: The thinking, without outer whitespace; reflections stand in it as they were written, tags included
            (also one that the prompt opens), so that rendering the message again gives the same text. Several think
            blocks are joined by an empty line.
        content: The answer, without outer whitespace.
        tool_calls: The complete calls, in order.
        broken_calls: The calls that are not complete, or no calls.
        reflections: What the model said of its budget.
        truncated: What the answer left open, if anything: "reasoning" or "tool_call"; "content" where whoever
            generated it knows that it was cut off there, which a text does not tell.
        ended: The model ended its turn itself, with `<seed:eos>`. Often it is cut off before parsing.
        late_think_end: A think block was closed that nothing had opened; all before it became reasoning.
    """

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    broken_calls: tuple[BrokenCall, ...] = ()
    reflections: tuple[Reflection, ...] = ()
    truncated: Truncated | None = None
    ended: bool = False
    late_think_end: bool = False

    @classmethod
    def from_events(cls, events: Iterable[Event]) -> "AssistantMessage":
        """Put a message together.

        Args:
            events: All events of one answer, in order, merged or not. Without a `Finished` the message is what is known
                so far.
        """
        assembly = _Assembly()
        for event in events:
            assembly.add(event)
        return assembly.message()

    @property
    def finish_reason(self) -> FinishReason:
        """OpenAI's word for how the answer ended, as far as its text says.

        "length" if something was left open and the model did not end its turn there, "tool_calls" if there are calls,
        else "stop". Who knows that a token limit was hit knows better.
        """
        if self.truncated and not self.ended:
            return "length"
        return "tool_calls" if self.tool_calls else "stop"

    def to_openai(self) -> dict[str, Any]:
        """The message as OpenAI's API writes it, to send to clients and to put into the next prompt.

        Returns:
            `role`, `content` (None if there are only calls); `reasoning_content` and `reasoning`, the same text for
            clients of either kind, if there is any; `tool_calls` if there are any. Broken calls are left out.
        """
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message |= {"reasoning_content": self.reasoning, "reasoning": self.reasoning}
        if self.tool_calls:
            message["content"] = self.content or None
            message["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        return message


class _Assembly:
    """Gathers events."""

    def __init__(self) -> None:
        self._all: list[str] = []  # raw, while a late end of thinking may still come
        self._thinking: list[str] = []  # the block that is open
        self._thoughts: list[str] = []  # the blocks before it
        self._content: list[str] = []
        self._reflections: list[Reflection] = []
        self._calls: list[ToolCall] = []
        self._broken: list[BrokenCall] = []
        self._call: ToolCallStarted | None = None
        self._arguments: list[str] = []
        self._block: list[str] = []  # raw, since a call block or the last function in it began
        self._late = False
        self._end = Finished("", None, ended=False)

    def add(self, event: Event) -> None:
        """Take the next event."""
        self._all.append(event.raw)
        if isinstance(event, ContentDelta):
            self._content.append(event.raw)
        elif isinstance(event, ReasoningDelta):
            self._thinking.append(event.raw)
        elif isinstance(event, Reflection):
            self._reflections.append(event)
            in_prompt = event.text and not event.raw.startswith(REFLECT.text)
            self._thinking.append(REFLECT.text + event.raw if in_prompt else event.raw)
        elif isinstance(event, ThinkClosed):
            self._close_thinking()
        elif isinstance(event, LateThinkEnd):
            self._all_was_thinking()
        elif isinstance(event, Finished):
            self._end = event
        else:
            self._add_to_call(event)

    def message(self) -> AssistantMessage:
        """What is known."""
        self._close_thinking()
        return AssistantMessage(
            reasoning="\n\n".join(self._thoughts),
            content="".join(self._content).strip(),
            tool_calls=tuple(self._calls),
            broken_calls=tuple(self._broken),
            reflections=tuple(self._reflections),
            truncated=self._end.truncated,
            ended=self._end.ended,
            late_think_end=self._late,
        )

    def _close_thinking(self) -> None:
        thought = "".join(self._thinking).strip()
        self._thinking = []
        if thought:
            self._thoughts.append(thought)

    def _all_was_thinking(self) -> None:
        self._thinking = self._all[:-1]
        self._content, self._calls, self._broken, self._late = [], [], [], True
        self._close_thinking()

    def _add_to_call(self, event: Event) -> None:
        if isinstance(event, CallBlockOpened):
            self._block = [event.raw]
        elif isinstance(event, ToolCallStarted | ToolCallDelta | CallMarkup):
            self._block.append(event.raw)
        if isinstance(event, ToolCallStarted):
            self._call, self._arguments = event, []
        elif isinstance(event, ToolCallDelta):
            self._arguments.append(event.arguments)
        elif isinstance(event, ToolCallFinished) and self._call is not None:
            call, arguments = self._call, "".join(self._arguments)
            self._calls.append(ToolCall(call.id, call.name, arguments, call.unknown, event.problems))
            self._call, self._arguments, self._block = None, [], []
        elif isinstance(event, ToolCallBroken):
            name = None if event.index is None or self._call is None else self._call.name
            self._broken.append(BrokenCall(event.reason, "".join(self._block), name, "".join(self._arguments)))
            self._call, self._arguments, self._block = None, [], []
