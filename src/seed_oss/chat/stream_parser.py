"""Reads an answer while it is generated: reasoning, reflections, content and tool calls, as events.

    outside    <seed:think>  ->  thinking      <seed:tool_call>  ->  call      <seed:eos>  ->  ended
    thinking   </seed:think> ->  outside       everything else is reasoning, calls too
    call       </seed:tool_call>  ->  outside  values hold control tokens as text

Reflection blocks may stand in all of them but calls, and either of their tags may be missing.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from seed_oss.chat.answer_start import Start, checked_start
from seed_oss.chat.assistant_message import AssistantMessage
from seed_oss.chat.call_reader import CallReader
from seed_oss.chat.control_tokens import (
    END_REFLECT,
    END_THINK,
    END_TOOL_CALL,
    EOS,
    REFLECT,
    THINK,
    TOOL_CALL,
    ControlToken,
    Piece,
)
from seed_oss.chat.events import (
    AnswerEnded,
    CallBlockClosed,
    CallBlockOpened,
    ContentDelta,
    Event,
    Finished,
    LateThinkEnd,
    ReasoningDelta,
    Reflection,
    StrayToken,
    ThinkClosed,
    ThinkOpened,
    ToolCallBroken,
    TrailingText,
    Truncated,
)
from seed_oss.chat.marker_scanner import ALL_MARKERS, CALL_TAGS, Lexeme, MarkerScanner
from seed_oss.chat.reflections import MAX_SENTENCE_LEN, ReflectionReader, reflected_numbers
from seed_oss.chat.tool_values import ToolTypes
from seed_oss.errors import InputError, StateError

_Mode = Literal["outside", "thinking", "call", "ended"]


class StreamParser:
    """Turns an answer into events as it comes; for one answer.

    No text makes it raise, its time is linear in the text's length, the events' raw texts joined are the text, and the
    events do not depend on where the text was cut (`events.merged` joins the deltas that do).

    Args:
        tools: The tools that the model was shown, as OpenAI's API takes them; their schemas say what type an argument
            is. None for no tools known: then every argument is a string, and no function is unknown.
        prompt: The rendered prompt, as text or pieces; it says whether a think block is open where the answer starts.
        start: The same, said outright: "absent", "thinking", "reflecting" (in a reflection of an open think block) or
            "closed". It counts before `prompt`. With neither, the answer starts outside thinking.
        text_is_plain: Text is nothing but text, and only a ControlToken opens or closes a block: so for the pieces of
            `Detokenizer.put_pieces`. By default markers in text count, also when cut across pieces.
        id_prefix: Calls are named by this and their index. By default it is random, so that ids differ between answers.

    Raises:
        InputError: A start that there is not, or a prompt that is neither text nor pieces.
    """

    def __init__(
        self,
        tools: Sequence[Mapping[str, Any]] | None = None,
        prompt: str | Iterable[Piece] | None = None,
        start: Start | None = None,
        *,
        text_is_plain: bool = False,
        id_prefix: str | None = None,
    ) -> None:
        begins = checked_start(start, prompt)
        self._scanner = MarkerScanner(CALL_TAGS if text_is_plain else ALL_MARKERS)
        self._calls = CallReader(ToolTypes(tools), id_prefix or f"call_{secrets.token_hex(8)}_")
        self._mode: _Mode = "thinking" if begins in ("thinking", "reflecting") else "outside"
        self._reflection = ReflectionReader(in_prompt=True) if begins == "reflecting" else None
        self._may_end_late = begins in (None, "absent")
        self._recent = ""  # text since the last control token, its end
        self._truncated: Truncated | None = None
        self._finished = False

    def feed(self, piece: Piece) -> list[Event]:
        """Take the next piece.

        Args:
            piece: Text, cut anywhere, or a control token.

        Returns:
            The events that have become certain.

        Raises:
            InputError: The piece is neither.
            StateError: `finish` was called before.
        """
        if self._finished:
            raise StateError("this parser has finished; make a new StreamParser for the next answer")
        return [event for lexeme in self._lexemes(piece) for event in self._take(lexeme)]

    def finish(self) -> list[Event]:
        """Say that nothing follows.

        Returns:
            The remaining events, `Finished` last; none when called again.
        """
        if self._finished:
            return []
        events = [event for lexeme in self._scanner.flush() for event in self._take(lexeme)]
        events += self._close_reflection()
        ended = self._mode == "ended"
        events += [] if ended else self._leave_open()
        self._finished = True
        return [*events, Finished("", self._truncated, ended)]

    def copy(self) -> "StreamParser":
        """A parser in the same state that goes on by itself."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._scanner, other._calls = self._scanner.copy(), self._calls.copy()
        other._reflection = None if self._reflection is None else self._reflection.copy()
        return other

    def _lexemes(self, piece: object) -> list[Lexeme]:
        if isinstance(piece, ControlToken):
            return [*self._scanner.flush(), piece]
        if not isinstance(piece, str):
            raise InputError(f"a piece of an answer is of type {type(piece).__name__}; give str or ControlToken")
        return self._scanner.push(piece)

    def _take(self, lexeme: Lexeme) -> list[Event]:
        if self._mode == "ended":
            return [TrailingText(str(lexeme))]
        if isinstance(lexeme, ControlToken):
            return self._take_control(lexeme)
        if self._mode == "call":
            return self._calls.take(lexeme)
        return self._take_text(str(lexeme))

    def _take_text(self, text: str) -> list[Event]:
        if self._reflection is not None:
            too_much = self._reflection.put(text)
            if too_much is None:
                return []
            return [*self._close_reflection(), *(self._take_text(too_much) if too_much else [])]
        self._recent = (self._recent + text[-MAX_SENTENCE_LEN:])[-MAX_SENTENCE_LEN:]
        return [ReasoningDelta(text) if self._mode == "thinking" else ContentDelta(text)]

    def _take_control(self, token: ControlToken) -> list[Event]:
        if self._mode == "call" and self._calls.holds(token):
            return self._calls.take(token)
        if token == END_REFLECT and self._mode != "call":
            return [self._end_reflection(token.text)]
        events = self._close_reflection()
        self._recent = ""
        if token == EOS:
            events += self._leave_open()
            self._mode = "ended"
            return [*events, AnswerEnded(token.text)]
        by_mode = {"outside": self._control_outside, "thinking": self._control_thinking, "call": self._control_in_call}
        return [*events, *by_mode[self._mode](token)]

    def _control_outside(self, token: ControlToken) -> list[Event]:
        if token == THINK:
            self._mode, self._may_end_late = "thinking", False
            return [ThinkOpened(token.text)]
        if token == END_THINK and self._may_end_late:
            self._may_end_late = False
            return [LateThinkEnd(token.text)]
        if token == TOOL_CALL:
            self._mode = "call"
            self._calls.open()
            return [CallBlockOpened(token.text)]
        if token == REFLECT:
            self._reflection = ReflectionReader()
            return []
        return [StrayToken(token.text)]

    def _control_thinking(self, token: ControlToken) -> list[Event]:
        if token == END_THINK:
            self._mode = "outside"
            return [ThinkClosed(token.text)]
        if token == REFLECT:
            self._reflection = ReflectionReader()
            return []
        if token in (TOOL_CALL, END_TOOL_CALL):
            return [ReasoningDelta(token.text)]
        return [StrayToken(token.text)]

    def _control_in_call(self, token: ControlToken) -> list[Event]:
        if token == END_TOOL_CALL:
            self._mode = "outside"
            return [*self._calls.close(), CallBlockClosed(token.text)]
        if token == TOOL_CALL:
            return [*self._calls.close(), *self._control_outside(token)]
        if token == THINK or (token == END_THINK and self._may_end_late):
            return [*self._leave_call(), *self._control_outside(token)]
        return [*self._calls.hold_nothing(), StrayToken(token.text)]

    def _leave_call(self) -> list[Event]:
        if self._mode != "call":
            return []
        self._mode = "outside"
        return self._calls.break_off()

    def _leave_open(self) -> list[Event]:
        """The answer ends here: note what it leaves open."""
        if self._mode == "thinking":
            self._truncated = "reasoning"
        events = self._leave_call()
        if any(isinstance(event, ToolCallBroken) for event in events):
            self._truncated = "tool_call"
        return events

    def _end_reflection(self, closing: str) -> Event:
        """The reflection that is open ends; or one whose opening tag is missing, of which the text is gone by."""
        reader, self._reflection = self._reflection, None
        recent, self._recent = self._recent, ""
        if reader is not None:
            return reader.closed(closing)
        used, remaining = reflected_numbers(recent)
        return Reflection(closing, "", used, remaining)

    def _close_reflection(self) -> list[Event]:
        """Where the closing tag is missing: the reflection, and the text after it."""
        reader, self._reflection = self._reflection, None
        if reader is None:
            return []
        reflection, rest = reader.unclosed()
        return [reflection, *(self._take_text(rest) if rest else [])]


def parse(
    text: str | Iterable[Piece],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    prompt: str | Iterable[Piece] | None = None,
    start: Start | None = None,
    id_prefix: str | None = None,
) -> AssistantMessage:
    """Read a whole answer.

    Args:
        text: The answer, in which markers count; or its pieces from `Detokenizer.put_pieces`, in which only control
            tokens do.
        tools: The tools that the model was shown; see `StreamParser`.
        prompt: The rendered prompt, as text or pieces.
        start: Where the answer starts, if there is no prompt to say it.
        id_prefix: Calls are named by this and their index.

    Returns:
        The message.

    Raises:
        InputError: An argument is of a wrong type, or a start that there is not.
    """
    in_pieces = not isinstance(text, str)
    parser = StreamParser(tools, prompt, start, text_is_plain=in_pieces, id_prefix=id_prefix)
    events = [event for piece in _pieces(text) for event in parser.feed(piece)]
    return AssistantMessage.from_events([*events, *parser.finish()])


def _pieces(answer: object) -> Iterable[Piece]:
    if isinstance(answer, str):
        return [answer]
    if not isinstance(answer, Iterable):
        raise InputError(f"the answer is of type {type(answer).__name__}; give its text, or its pieces")
    return cast("Iterable[Piece]", answer)  # feed checks each of them
