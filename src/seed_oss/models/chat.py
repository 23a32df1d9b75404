"""Answering a conversation: prompt, thinking budget, generation and parser put together."""

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from seed_oss.chat.assistant_message import AssistantMessage
from seed_oss.chat.budget import ThinkingBudget
from seed_oss.chat.control_tokens import Piece
from seed_oss.chat.events import Event
from seed_oss.chat.stream_parser import StreamParser
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.errors import InputError, TokenizerError
from seed_oss.generation import generate
from seed_oss.generation.grammar import grammar_control
from seed_oss.generation.loop_guard import LoopGuard
from seed_oss.generation.row_control import GRAMMAR_ERROR, RowControl
from seed_oss.generation.stopping import StoppingCriteria, StoppingCriteriaList
from seed_oss.generation.streamers import BaseStreamer
from seed_oss.generation.thinking import ThinkingControl, ThinkingTokens

DEFAULT_MAX_NEW_TOKENS = 4096
_CUT_OFF = ("length", "time", GRAMMAR_ERROR)  # reasons of an end that was none of the model's


@dataclass(frozen=True)
class ChatTurn:
    """A prompt that is ready to be answered.

    Args:
        input_ids: int64 `[1, length]`, up to where the answer begins.
        max_new_tokens: most tokens of the answer.
        tools: the tools in the prompt.
        thinking: holds the answer to its thinking budget; None for a model that does not think.
        controls: what else steers the answer.
    """

    input_ids: Tensor
    max_new_tokens: int
    tools: Sequence[Mapping[str, Any]] | None = None
    thinking: ThinkingControl | None = None
    controls: tuple[RowControl, ...] = ()

    @property
    def row_controls(self) -> list[RowControl]:
        """All that steers the answer; the budget first, since it may force tokens."""
        return [*([self.thinking] if self.thinking is not None else []), *self.controls]

    def reasoning_tokens(self, new_ids: Sequence[int]) -> int:
        """How many tokens of an answer were thinking."""
        if self.thinking is None:
            return 0
        state = before = self.thinking.start(self.input_ids[0].tolist(), self.max_new_tokens)
        for token_id in new_ids:
            state = self.thinking.advance(state, token_id)
        return state.used - before.used


@dataclass(frozen=True, slots=True)
class ChatUsage:
    """How many tokens a turn took.

    Args:
        prompt_tokens: of the prompt, what a budget appended to it included.
        completion_tokens: of the answer.
        reasoning_tokens: of these, thinking, reflections included.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int


def prepare_turn(
    tokenizer: SeedOssTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: Any = None,
    response_format: Any = None,
    parallel_tool_calls: bool = True,
    thinking_budget: Any = None,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    vocab_size: int | None = None,
    end_token_ids: Sequence[int] = (),
    loop_guard: LoopGuard | None = None,
    controls: Sequence[RowControl] = (),
    **template_variables: Any,
) -> ChatTurn:
    """Render and encode a conversation, and set up what its budget needs.

    Args:
        tokenizer: with a chat template.
        messages: the conversation so far.
        tools: tools as JSON schemas.
        tool_choice, response_format, parallel_tool_calls: see `SeedOssForCausalLM.chat`.
        thinking_budget: a number, None for no limit, a ThinkingBudget, or fields of a request.
        max_new_tokens: most tokens of the answer.
        vocab_size: length of the model's logits, for an answer that is held to a form; None takes the tokenizer's.
        end_token_ids: ids that end an answer besides the tokenizer's own.
        loop_guard: ends thinking or an answer that repeats itself.
        controls: further controls of the answer.
        **template_variables: for the checkpoint's template.

    Raises:
        InputError: the budget is none, `max_new_tokens` is out of range, or the answer cannot be held to its form.
        MissingExtraError: a form, and the package that holds answers to it is not installed.
        TemplateError: the messages cannot be rendered.
        TokenizerError: a budget for a vocabulary without the markers of thinking, or calls for one without theirs.
    """
    budget = ThinkingBudget.of(thinking_budget)
    if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens!r}; it must be an integer >= 1")
    wanted = {
        "tool_choice": tool_choice,
        "response_format": response_format,
        "parallel_tool_calls": parallel_tool_calls,
    }
    form = _form_control(tokenizer, tools, wanted, vocab_size, end_token_ids)
    if budget.template_value != -1:
        template_variables["thinking_budget"] = budget.template_value
    ids: list[int] = tokenizer.apply_chat_template(
        list(messages), tools=tools, add_generation_prompt=True, return_dict=False, **template_variables
    )
    thinking = _thinking_control(tokenizer, budget, end_token_ids, loop_guard)
    if thinking is not None:
        ids = [*ids, *thinking.prompt_suffix(ids, max_new_tokens)]
    forms = () if form is None else (form,)
    return ChatTurn(torch.tensor([ids]), max_new_tokens, tools, thinking, (*forms, *controls))


def _form_control(
    tokenizer: SeedOssTokenizer, tools: Any, wanted: Mapping[str, Any], vocab_size: int | None, ends: Sequence[int]
) -> RowControl | None:
    """What holds the answer to a form or to its tools; None where nothing is asked for, tools or not."""
    parallel = wanted["parallel_tool_calls"]
    if not isinstance(parallel, bool):
        raise InputError(f"parallel_tool_calls is {parallel!r:.80}; it must be True or False")
    if parallel and wanted["tool_choice"] is None and wanted["response_format"] is None:
        return None
    return grammar_control(tokenizer, tools=tools, vocab_size=vocab_size, eos_token_id=ends, **wanted)


def _thinking_control(
    tokenizer: SeedOssTokenizer, budget: ThinkingBudget, ends: Sequence[int], guard: LoopGuard | None
) -> ThinkingControl | None:
    try:
        tokens = ThinkingTokens.of(tokenizer, ends)
    except TokenizerError:
        if budget.tokens:  # None and 0 hold by themselves where nothing thinks
            raise
        return None
    return ThinkingControl(tokens, budget, guard)


class ChatStream(Iterator[Event]):
    """The events of an answer while it is generated, in another thread; closing it, or leaving a `with`, stops that.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        turn: the prompt.
        settings: keyword arguments of `generate`.

    Attributes:
        new_ids: the answer's tokens so far.
        finish_reason: why the answer ended ("eos", "length", "stop_string", "time", "loop", "grammar_error" where the
            form of the answer left no token, "criteria" if it was closed), once it has.
    """

    def __init__(self, model: Any, tokenizer: SeedOssTokenizer, turn: ChatTurn, settings: Mapping[str, Any]) -> None:
        self.turn = turn
        self.new_ids: list[int] = []
        self.finish_reason: str | None = None
        self._events: list[Event] = []
        self._ready: list[Event] = []
        self._detokenizer = tokenizer.detokenizer(skip_special_tokens=True)
        self._parser = StreamParser(turn.tools, _prompt_pieces(tokenizer, turn.input_ids), text_is_plain=True)
        self._steps: queue.Queue[list[int] | BaseException | None] = queue.Queue()
        self._stop = threading.Event()
        self._is_over = False
        work = {"model": model, "tokenizer": tokenizer, "settings": dict(settings)}
        self._thread = threading.Thread(target=self._generate, kwargs=work, name="seed-oss-chat", daemon=True)
        self._thread.start()

    def __next__(self) -> Event:
        while not self._ready:
            if self._is_over:
                raise StopIteration
            self._take(self._steps.get())
        event = self._ready.pop(0)
        self._events.append(event)
        return event

    def __enter__(self) -> "ChatStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        stop = getattr(self, "_stop", None)
        if stop is not None:
            stop.set()

    def close(self) -> None:
        """Stop after the token that is being computed; what has come stays."""
        self._stop.set()
        self._thread.join()

    @property
    def message(self) -> AssistantMessage:
        """The answer as far as its events were taken; one that was cut off says so."""
        message = AssistantMessage.from_events(self._events)
        is_cut = self._is_over and self.finish_reason in _CUT_OFF and not message.ended
        return replace(message, truncated=message.truncated or "content") if is_cut else message

    @property
    def usage(self) -> ChatUsage:
        """Tokens so far."""
        reasoning = self.turn.reasoning_tokens(self.new_ids)
        return ChatUsage(self.turn.input_ids.shape[1], len(self.new_ids), reasoning)

    def _take(self, step: "list[int] | BaseException | None") -> None:
        if isinstance(step, BaseException):
            self._is_over = True
            raise step
        if step is None:
            self._is_over = True
            pieces = self._detokenizer.finish_pieces()
            self._ready += [event for piece in pieces for event in self._parser.feed(piece)]
            self._ready += self._parser.finish()
            return
        self.new_ids += step
        for piece in self._detokenizer.put_pieces(step):
            self._ready += self._parser.feed(piece)

    def _generate(self, model: Any, tokenizer: SeedOssTokenizer, settings: dict[str, Any]) -> None:
        criteria = StoppingCriteriaList([*(settings.pop("stopping_criteria", None) or ()), _Stopped(self._stop)])
        try:
            output: Any = generate(
                model,
                self.turn.input_ids.to(model.device),
                streamer=_StepStreamer(self._steps),
                stopping_criteria=criteria,
                row_controls=[self.turn.row_controls],
                tokenizer=tokenizer,
                max_new_tokens=self.turn.max_new_tokens,
                return_dict_in_generate=True,
                **{"num_return_sequences": 1, **settings},
            )
        except BaseException as error:  # noqa: BLE001 - raised again where the events are read
            self._steps.put(error)
        else:
            self.finish_reason = output.finish_reasons[0]
            self._steps.put(None)


@dataclass
class _Stopped(StoppingCriteria):
    """Stops when asked to."""

    stop: threading.Event = field(default_factory=threading.Event)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        """See StoppingCriteria."""
        return self.stop.is_set()


class _StepStreamer(BaseStreamer):
    """Hands each step's token on."""

    def __init__(self, steps: "queue.Queue[list[int] | BaseException | None]") -> None:
        self._steps = steps
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then each step's ids."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._steps.put(value.reshape(-1).tolist())

    def end(self) -> None:
        """Nothing more; the end is told once `generate` returns."""


def _prompt_pieces(tokenizer: SeedOssTokenizer, input_ids: Tensor) -> list[Piece]:
    detokenizer = tokenizer.detokenizer()
    return [*detokenizer.put_pieces(input_ids[0].tolist()), *detokenizer.finish_pieces()]


def chat(
    model: Any,
    tokenizer: SeedOssTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: Any = None,
    response_format: Any = None,
    parallel_tool_calls: bool = True,
    thinking_budget: Any = None,
    stream: bool = False,
    max_new_tokens: int | None = None,
    loop_guard: LoopGuard | None = None,
    row_controls: Sequence[RowControl] = (),
    template_variables: Mapping[str, Any] | None = None,
    **settings: Any,
) -> "ChatStream | AssistantMessage":
    """Answer a conversation; see `SeedOssForCausalLM.chat`."""
    config = model.generation_config
    ends = settings.get("eos_token_id", config.eos_token_id if config is not None else None)
    turn = prepare_turn(
        tokenizer,
        messages,
        tools=tools,
        tool_choice=tool_choice,
        response_format=response_format,
        parallel_tool_calls=parallel_tool_calls,
        vocab_size=model.config.vocab_size,
        thinking_budget=thinking_budget,
        max_new_tokens=_max_new_tokens(config) if max_new_tokens is None else max_new_tokens,
        end_token_ids=[ends] if isinstance(ends, int) else list(ends or ()),
        loop_guard=loop_guard,
        controls=row_controls,
        **(template_variables or {}),
    )
    answer = ChatStream(model, tokenizer, turn, settings)
    if stream:
        return answer
    with answer:
        for _ in answer:
            pass
    return answer.message


def _max_new_tokens(config: Any) -> int:
    advised = None if config is None else config.max_new_tokens
    return DEFAULT_MAX_NEW_TOKENS if advised is None else advised
