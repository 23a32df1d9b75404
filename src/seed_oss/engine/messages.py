"""What goes between a client and the engine: plain data, and its form on the wire. No torch.

    client -> engine   Submit | Abort | Close
    engine -> client   Ready, then per request Refused, or Started, any number of Tokens, and one Ended per choice;
                       of tasks that give no text Computed instead of Tokens; Pulse now and then

A message is one line of JSON. Tokens that come of one step are one line together, as a list of rows
`[request_id, choice, token_ids]`: they are nearly all that is said. Nothing that is read can make anything but these
classes.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import groupby
from typing import Any, Literal, cast, get_args, get_type_hints

from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.types import fits
from seed_oss.errors import InputError, StateError
from seed_oss.files import parse_json

Task = Literal["generate", "embed", "score", "classify", "token_classify", "question_answer"]
TASKS: tuple[Task, ...] = get_args(Task)
Kind = Literal["invalid", "overloaded", "unavailable", "internal"]
"""Whose fault an error is: the request's (400), the load's (429), a stopping engine's (503), ours (500)."""

MAX_MESSAGE_BYTES = 64 * 2**20
MAX_FLOAT_BYTES, MAX_TOKEN_ID_BYTES = 25, 9  # as JSON, the comma included


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What an answer of a chat is held to. JSON values, as OpenAI clients send them.

    Attributes:
        thinking_budget: tokens of thinking, 0 for none, None for no limit.
        budget_mode: "both", "soft" or "hard", see ThinkingBudget.
        tools: tool definitions, or None.
        tool_choice: None, "auto", "none", "required", or a function by name.
        response_format: None, or the form of the content.
        parallel_tool_calls: whether more than one call may come.
        loop_guard: end thinking or an answer that repeats itself.
    """

    thinking_budget: int | None = None
    budget_mode: str = "both"
    tools: Any = None
    tool_choice: Any = None
    response_format: Any = None
    parallel_tool_calls: bool = True
    loop_guard: bool = False


@dataclass(frozen=True, slots=True)
class Submit:
    """A request.

    Attributes:
        request_id: no other request that has not ended has the same.
        prompt_ids: tokens of the prompt.
        params: how it is continued.
        task: what is wanted of it.
        form: what the answer of a chat is held to; None for plain text.
        priority: the higher, the sooner.
        namespace: requests share cached prompts only within one.
        adapter: name of an adapter, or None.
        options: of tasks that give no text: `pooling` ("last", "mean") of "embed", and others.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    task: Task = "generate"
    form: AnswerForm | None = None
    priority: int = 0
    namespace: str = ""
    adapter: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Abort:
    """Nobody waits for a request any more. What is not known (any more) is passed over."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Close:
    """Take no more requests; `drain`: finish those that run first."""

    drain: bool = True


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine takes requests.

    Attributes:
        max_model_len: most tokens of a prompt and its answer.
        max_num_seqs: rows that run at the same time.
        vocab_size: length of the logits.
        tasks: what can be asked for.
        adapters: names of adapters.
        dtype: what the weights are and what they compute in, such as "int4, computed in float32".
        is_batch_invariant: whether the check at the start found equal bits.
        kv_cache_tokens: tokens that the cache has room for.
        max_num_rows: most rows that run or wait.
        max_queued_tokens: most tokens of prompts that wait.
    """

    max_model_len: int
    max_num_seqs: int
    vocab_size: int
    tasks: tuple[str, ...]
    adapters: tuple[str, ...] = ()
    dtype: str = ""
    is_batch_invariant: bool = True
    kv_cache_tokens: int = 0
    max_num_rows: int = 2**31 - 1
    max_queued_tokens: int = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Refused:
    """A request is not taken; nothing else comes of it.

    Attributes:
        request_id: of the request.
        kind: whose fault it is.
        message: what was given, what is allowed, what to do.
        param: the parameter at fault, or None.
        retry_after: seconds after which to try again, or None.
    """

    request_id: str
    kind: Kind
    message: str
    param: str | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A request is taken.

    Attributes:
        request_id: of the request.
        suffix_ids: tokens that the engine put behind the prompt (the closed block of thinking, for a budget of 0).
        max_tokens: most new tokens of each choice.
    """

    request_id: str
    suffix_ids: tuple[int, ...] = ()
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LogProbs:
    """Log-probabilities of tokens, as the model gave them.

    Attributes:
        values: of the tokens; None for the first of a prompt.
        top_ids: per token, the most probable ones.
        top_values: per token, theirs.
    """

    values: tuple[float | None, ...]
    top_ids: tuple[tuple[int, ...], ...]
    top_values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """New tokens of a choice, in order.

    Attributes:
        request_id: of the request.
        choice: 0 to n - 1.
        token_ids: the tokens. One that ended the answer (end of sequence) is among them.
        logprobs: if asked for.
    """

    request_id: str
    choice: int
    token_ids: tuple[int, ...]
    logprobs: LogProbs | None = None


@dataclass(frozen=True, slots=True)
class Computed:
    """The result of a task that gives no text, or the log-probabilities of a prompt.

    Attributes:
        request_id: of the request.
        values: numbers; for tasks per token one row each.
        logprobs: of the prompt's tokens, if asked for.
    """

    request_id: str
    values: tuple[tuple[float, ...], ...] = ()
    logprobs: LogProbs | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more comes of a choice.

    Attributes:
        request_id: of the request.
        choice: 0 to n - 1.
        reason: "eos", "stop_token", "stop_string", "length", "loop", "grammar_error", "abort", "timeout", "error".
        message: what went wrong, for "timeout" and "error".
        kind: whose fault that is.
        num_prompt_tokens: of the prompt, suffix included.
        num_cached_tokens: of these, found in the cache.
        num_reasoning_tokens: of the answer, thinking.
        stop: the text or token that ended the answer, for "stop_string" and "stop_token".
    """

    request_id: str
    choice: int
    reason: str
    message: str | None = None
    kind: Kind | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_reasoning_tokens: int = 0
    stop: str | int | None = None


@dataclass(frozen=True, slots=True)
class Pulse:
    """The engine has moved, or says for how long it has been at one step.

    Attributes:
        num_steps: steps so far.
        stats: numbers for a metrics page, by name.
        step_s: seconds that the step has run which runs now; 0 between two.
        longest_step_s: seconds that the longest step took so far.
    """

    num_steps: int
    stats: Mapping[str, float] = field(default_factory=dict[str, float])
    step_s: float = 0.0
    longest_step_s: float = 0.0


Command = Submit | Abort | Close
Event = Ready | Refused | Started | Tokens | Computed | Ended | Pulse

_CLASSES: dict[str, type[Any]] = {
    one.__name__: one for one in (Submit, Abort, Close, Ready, Refused, Started, Tokens, Computed, Ended, Pulse)
}
_NESTED: dict[str, type[Any]] = {"form": AnswerForm, "logprobs": LogProbs}
_AS_IT_IS = frozenset({"options", "stats", "tools", "tool_choice", "response_format"})


def encode(message: Command | Event) -> bytes:
    """A message as a line of JSON, its end included."""
    return _line({"is": type(message).__name__, **_fields(message)})


def encode_events(events: Iterable[Event]) -> Iterator[bytes]:
    """Events as lines, plain tokens that follow each other as one; what cannot be one line ends its choice instead."""
    for is_plain, some in groupby(events, _is_plain):
        if is_plain:
            yield _line([(one.request_id, one.choice, one.token_ids) for one in cast("Iterable[Tokens]", some)])
        else:
            yield from map(_bounded, some)


def decode(line: bytes) -> Command | Event:
    """A message from its line.

    Raises:
        CheckpointError: no strict JSON.
        InputError: no message.
    """
    return _message(_parsed(line))


def decode_events(line: bytes) -> list[Command | Event]:
    """The messages of a line of `encode_events`; raises what `decode` raises."""
    body = _parsed(line)
    return [_plain_tokens(row) for row in cast("list[Any]", body)] if isinstance(body, list) else [_message(body)]


def _line(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _bounded(event: Event) -> bytes:
    """A line that the other side takes: one that is too long, or has what is no number, would be the end of both."""
    try:
        line = encode(event)
    except ValueError:
        message = "the result has what is no number; check the weights, or load the model in bfloat16 or float32"
    else:
        if len(line) <= MAX_MESSAGE_BYTES:
            return line
        message = f"the result takes {len(line)} bytes; the limit is {MAX_MESSAGE_BYTES}; ask for less at once"
    if isinstance(event, Ready | Pulse):  # of no request
        raise StateError(message)
    choice = event.choice if isinstance(event, Tokens | Ended) else 0
    return encode(Ended(event.request_id, choice, "error", message, "internal"))


def _parsed(line: bytes) -> Any:
    return parse_json(line, source="a message of the engine", max_bytes=MAX_MESSAGE_BYTES, max_values=2**23)


def _is_plain(event: Event) -> bool:
    return isinstance(event, Tokens) and event.logprobs is None


def _plain_tokens(row: Any) -> Tokens:
    """Tokens from a row; checked by hand, for there is one per token."""
    if type(row) is list and len(row) == 3:  # type: ignore[arg-type]
        request_id, choice, ids = cast("list[Any]", row)
        if type(request_id) is str and type(choice) is int and type(ids) is list and all(type(i) is int for i in ids):  # type: ignore[reportUnknownVariableType]
            return Tokens(request_id, choice, tuple(cast("list[int]", ids)))
    raise InputError("a row of tokens of the engine is none; both sides must be of one version")


def _message(body: Any) -> Command | Event:
    kind = _CLASSES.get(str(body.pop("is", ""))) if isinstance(body, dict) else None  # type: ignore[arg-type]
    if kind is None:
        raise InputError("a message of the engine has no known kind; both sides must be of one version")
    return _made(kind, body)


def _fields(message: Any) -> dict[str, Any]:
    return {one.name: _plain(getattr(message, one.name)) for one in fields(message)}


def _plain(value: Any) -> Any:
    if isinstance(value, SamplingParams):
        return value.to_json()
    return _fields(value) if isinstance(value, AnswerForm | LogProbs) else value


def _made(kind: type[Any], body: Mapping[str, Any]) -> Any:
    names = {one.name for one in fields(kind)}
    if not body.keys() <= names:
        raise InputError(f"a message {kind.__name__} has fields that it cannot have; both sides must be of one version")
    values = {name: _field(name, value) for name, value in body.items()}
    wrong = next((name for name, value in values.items() if not fits(value, _hints(kind)[name])), None)
    if wrong is not None:
        raise InputError(f"{wrong} of a message {kind.__name__} has a wrong type; both sides must be of one version")
    try:
        return kind(**values)
    except TypeError:
        raise InputError(f"a message {kind.__name__} lacks fields; both sides must be of one version") from None


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _field(name: str, value: Any) -> Any:
    if name == "params" and isinstance(value, Mapping):
        return SamplingParams.from_json(cast("Mapping[str, Any]", value))
    if name in _AS_IT_IS or value is None:
        return value
    if name not in _NESTED:
        return _tuples(value)
    return _made(_NESTED[name], cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
