"""A turn of a conversation, whatever protocol asks for it: messages to a prompt, and an answer's tokens to parts.

request -> Conversation -> prepare() -> Turn -> Submit ... Tokens -> AnswerReader -> parts -> response
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from seed_oss.chat.budget import ThinkingBudget
from seed_oss.chat.control_tokens import Piece
from seed_oss.chat.normalize import normalize_chat
from seed_oss.chat.output_format import OutputFormat
from seed_oss.chat.schema_checks import MAX_SCHEMA_DEPTH
from seed_oss.chat.stream_parser import StreamParser
from seed_oss.chat.tool_choice import ToolChoice, tool_functions
from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.asks import conversation_ids
from seed_oss.engine.conversation_memory import ConversationMemory, WrittenAnswer
from seed_oss.engine.messages import AnswerForm, Ended, Tokens
from seed_oss.engine.stops import StopCutter
from seed_oss.engine.turn_memory import RememberedPrompt, TurnUse
from seed_oss.server.errors import ApiError, refusing
from seed_oss.server.parts import Part, PartMaker, merged
from seed_oss.server.texts import Texts
from seed_oss.server.token_probs import TokenProb, TokenProbs

_CUT = ("length", "grammar_error")
_MAX_ANSWERS_COUNTED = 64  # of most histories a beginning is remembered that is not rendered again


@dataclass(frozen=True)
class Conversation:
    """What a request asks to be answered.

    Attributes:
        messages: as OpenAI's API has them; roles are those of the Seed templates.
        tools: tools as JSON schemas, or None.
        tool_choice, response_format, parallel_tool_calls: see `AnswerForm`.
        budget: tokens of thinking.
        loop_guard: end an answer that repeats itself.
        variables: of the template.
        goes_on: the last message is the beginning of the answer.
        is_answered: an answer follows, so that its turn is opened.
        reuse_reasoning: answers whose thinking the client left out keep it, where it is remembered.
        takes_turns: generated tokens stand for the answers of the history, and the answer is remembered.
        thinking_wish: the field by which thinking was asked for, or None.
        form_param: the field that `response_format` came from.
        messages_param: the field that the messages were made of, or None where they are those of the request.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: Any = None
    response_format: Any = None
    parallel_tool_calls: bool = True
    budget: ThinkingBudget = ThinkingBudget()  # noqa: RUF009 - frozen
    loop_guard: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    goes_on: bool = False
    is_answered: bool = True
    reuse_reasoning: bool = False
    takes_turns: bool = True
    thinking_wish: str | None = None
    form_param: str = "response_format"
    messages_param: str | None = None


@dataclass(frozen=True)
class Turn:
    """A conversation made ready to be answered.

    Attributes:
        prompt_ids: up to where the answer begins.
        form: what the answer is held to.
        tools: the tools in the prompt.
        open_turn: the pieces of the prompt's last turn.
        before: the end of the prompt's text, as long as the longest stop string.
        goes_on: the prompt ends inside the answer.
        uses: what became of the answers in the history.
        is_remembered: the answer may stand in later prompts as it was generated.
        owner: whose memory knows it.
    """

    prompt_ids: tuple[int, ...]
    form: AnswerForm
    tools: Sequence[Mapping[str, Any]] | None
    open_turn: tuple[Piece, ...]
    before: str = ""
    goes_on: bool = False
    uses: tuple[TurnUse, ...] = ()
    is_remembered: bool = True
    owner: str = ""


def prepare(
    texts: Texts,
    memory: ConversationMemory,
    owner: str,
    wanted: Conversation,
    params: SamplingParams,
    max_schema_depth: int = MAX_SCHEMA_DEPTH,
) -> Turn:
    """Check, render and encode a conversation. It may take long: not for the event loop.

    Args:
        texts: of the model.
        memory: of what was generated before.
        owner: whose conversation it is; see `owner_of`.
        wanted: the conversation.
        params: how it is continued.
        max_schema_depth: most levels of the schemas of answers and tools.

    Raises:
        ApiError: what cannot be shown to the model, or an answer that cannot be held to its form.
    """
    if wanted.thinking_wish is not None and not texts.thinks:
        raise ApiError(
            "invalid",
            f"{wanted.thinking_wish} asks for thinking, and this model has no markers of thinking; leave it out",
            param=wanted.thinking_wish,
        )
    with refusing_in(wanted):
        tools = wanted.tools or None
        normalize_chat(wanted.messages, tools, strict=True)
        _check_form(wanted, tools, max_schema_depth)
        prompt = _remembered(texts, memory, owner, wanted)
    ids = prompt.ids
    form = AnswerForm(
        thinking_budget=wanted.budget.tokens,
        budget_mode=wanted.budget.mode,
        tools=tools,
        tool_choice=wanted.tool_choice if tools else None,
        response_format=wanted.response_format,
        parallel_tool_calls=wanted.parallel_tool_calls or not tools,
        loop_guard=wanted.loop_guard,
    )
    before = texts.tail(ids, max(map(len, params.stops), default=0))
    opening, is_remembered = tuple(texts.open_turn(ids)), wanted.takes_turns
    return Turn(ids, form, tools, opening, before, wanted.goes_on, prompt.turns, is_remembered, owner)


@contextmanager
def refusing_in(wanted: Conversation) -> Generator[None, None, None]:
    """Like `refusing`; a message that the request does not have as such is named by what it was made of."""
    try:
        with refusing():
            yield
    except ApiError as error:
        if wanted.messages_param is None or not (error.param or "").startswith("messages"):
            raise
        raise ApiError(error.fault, error.message, param=wanted.messages_param) from None


def num_renderings(wanted: Conversation) -> int:
    """About how often a conversation is rendered at most: again up to each answer of a history that is not known."""
    if wanted.goes_on or not wanted.takes_turns:
        return 1
    num_answers = sum(one.get("role") == "assistant" for one in wanted.messages)
    return 1 + min(num_answers, _MAX_ANSWERS_COUNTED) // 2


def _remembered(texts: Texts, memory: ConversationMemory, owner: str, wanted: Conversation) -> RememberedPrompt:
    if wanted.goes_on:
        return RememberedPrompt(prompt_ids(texts, wanted))

    def render(messages: Sequence[Mapping[str, Any]], is_answered: bool) -> Sequence[int]:
        return prompt_ids(texts, replace(wanted, messages=messages, is_answered=is_answered))

    takes, reuses = wanted.takes_turns, wanted.reuse_reasoning
    return memory.prompt(owner, wanted.messages, render, takes_turns=takes, reuse_reasoning=reuses)


def prompt_ids(texts: Texts, wanted: Conversation) -> tuple[int, ...]:
    """The tokens of a conversation.

    Raises:
        TemplateError, TokenizerError, InputError: it cannot be rendered.
    """
    return conversation_ids(
        texts.tokenizer,
        wanted.messages,
        tools=wanted.tools,
        budget=wanted.budget,
        variables=wanted.variables,
        is_answered=wanted.is_answered,
        goes_on=wanted.goes_on,
    )


def _check_form(wanted: Conversation, tools: Sequence[Mapping[str, Any]] | None, max_schema_depth: int) -> None:
    """Whether the engine can hold an answer to what is asked for; it says so itself, but later."""
    with refusing(wanted.form_param):
        OutputFormat.of(wanted.response_format, max_schema_depth)
    with refusing(otherwise="tools"):
        functions = tool_functions(tools, max_schema_depth)
    with refusing("tool_choice"):
        ToolChoice.of(wanted.tool_choice, functions)


@dataclass
class Step:
    """What has become certain of an answer.

    Attributes:
        parts: of the answer.
        probs: of content's tokens, if they were asked for.
    """

    parts: list[Part] = field(default_factory=list[Part])
    probs: list[TokenProb] = field(default_factory=list[TokenProb])

    def __bool__(self) -> bool:
        return bool(self.parts or self.probs)


class AnswerReader:
    """Reads the tokens of one choice.

    Args:
        texts: of the model.
        turn: the prompt.
        stops: strings that may end the answer.
        suffix_ids: what the engine put behind the prompt.
        num_top: how many probable tokens are shown beside each; None shows no probabilities.
    """

    def __init__(
        self,
        texts: Texts,
        turn: Turn,
        stops: Sequence[str] = (),
        suffix_ids: Sequence[int] = (),
        num_top: int | None = None,
    ) -> None:
        start = [*turn.open_turn, *(texts.pieces(suffix_ids) if suffix_ids else ())]
        longest = max(map(len, stops), default=0)
        before = texts.tail(suffix_ids, longest) if suffix_ids else turn.before
        self._detokenizer = texts.detokenizer()
        self._cutter = StopCutter(stops, before, start)
        self._parser = StreamParser(turn.tools, start, text_is_plain=True)
        self._maker = PartMaker(bool(turn.tools), goes_on=turn.goes_on)
        self._probs = None if num_top is None else TokenProbs(texts, num_top, start, goes_on=turn.goes_on)
        self._turn, self._suffix_ids, self._start = turn, tuple(suffix_ids), tuple(start)
        self._token_ids: list[int] = []
        self.num_whole_calls = 0
        self.truncated: str | None = None

    def feed(self, tokens: Tokens) -> Step:
        """Take new tokens."""
        step = Step()
        for place, token_id in enumerate(tokens.token_ids):
            pieces = self._detokenizer.put_pieces([token_id])
            start = self._cutter.num_taken
            shown = self._cutter.feed(pieces)
            if self._probs is not None:
                self._probs.put(tokens, place, pieces, start, self._cutter.num_taken)
                step.probs += self._probs.let(self._cutter.num_let)
            step.parts += self._read(shown)
        self._token_ids += tokens.token_ids
        step.parts = merged(step.parts)
        return step

    def stop_of(self, ended: Ended) -> str | int | None:
        """The text or token that ended the answer, once it has."""
        return self._cutter.stop if ended.stop is None else ended.stop

    def finish(self, ended: Ended) -> Step:
        """Nothing follows."""
        shown = self._cutter.finish(self._detokenizer.finish_pieces(), ended)
        step = Step(self._read(shown))
        self._maker.is_cut = ended.reason in _CUT
        step.parts += [part for event in self._parser.finish() for part in self._made(event)]
        if self._probs is not None:
            was_cut = self._cutter.num_let < self._cutter.num_taken
            step.probs += self._probs.rest(self._cutter.num_let if was_cut else None)
        step.parts = merged(step.parts)
        if self._maker.finished is not None:
            self.truncated = self._maker.finished.truncated
        return step

    @property
    def num_tokens(self) -> int:
        """Of the answer, so far."""
        return len(self._token_ids)

    def written(self, ended: Ended) -> WrittenAnswer:
        """The answer as it was generated, once it has ended."""
        turn = self._turn
        return WrittenAnswer(
            turn.prompt_ids,
            self._suffix_ids,
            tuple(self._token_ids),
            turn.tools,
            self._start,
            turn.is_remembered,
            ended.reason == "length",
        )

    def finish_reason(self, reason: str) -> str:
        """OpenAI's word for why the answer ended.

        Args:
            reason: the engine's.
        """
        if reason in _CUT:
            return "length"
        return "tool_calls" if self.num_whole_calls else "stop"

    def _read(self, pieces: Sequence[Piece]) -> list[Part]:
        return [part for piece in pieces for event in self._parser.feed(piece) for part in self._made(event)]

    def _made(self, event: Any) -> list[Part]:
        parts = self._maker.take(event)
        self.num_whole_calls += sum(getattr(part, "is_whole", False) for part in parts)
        return parts
