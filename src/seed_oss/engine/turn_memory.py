"""What was really generated after a prompt, so that a conversation which goes on from it finds its cached blocks.

A client sends back what was parsed out of an answer, and rendering that gives other tokens than the model wrote: blanks
are gone, reasoning is left out, a word is cut into tokens another way. Where a turn of the history says the same as the
answer that was generated right there, the generated tokens stand for it. No torch.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from seed_oss.chat.assistant_message import AssistantMessage
from seed_oss.errors import SeedOssError

Render = Callable[[Sequence[Mapping[str, Any]], bool], Sequence[int]]
"""From messages, and whether the assistant's turn is opened behind them, to token ids."""

MAX_LOOKED_AT = 64
"""Answers of a history that are looked up, the last ones."""


@dataclass(frozen=True, slots=True)
class SaidTurn:
    """What an answer said, as far as it is compared.

    Attributes:
        content: text, without blanks at its ends.
        tool_calls: name and arguments of each, as canonical JSON.
        reasoning: text, without blanks at its ends.
    """

    content: str = ""
    tool_calls: str = "[]"
    reasoning: str = ""

    @classmethod
    def of_answer(cls, message: AssistantMessage) -> "SaidTurn":
        """Of an answer that was generated."""
        calls = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in message.tool_calls]
        return cls((message.content or "").strip(), _canonical(calls), (message.reasoning or "").strip())

    @classmethod
    def of_message(cls, message: Mapping[str, Any]) -> "SaidTurn | None":
        """Of a message that a client sent; None where it has more than can be compared."""
        content = _text(message.get("content"))
        reasoning = _text(message.get("reasoning_content") or message.get("reasoning"))
        try:
            calls = [_call(one) for one in message.get("tool_calls") or ()]
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if content is None or reasoning is None:
            return None
        return cls(content.strip(), _canonical(calls), reasoning.strip())


@dataclass(frozen=True, slots=True)
class TurnUse:
    """What became of one answer in a history.

    Attributes:
        message_index: of the message.
        missed: why its generated tokens do not stand for it, or None where they do: "unknown" (not generated here after
            just this history, or forgotten), "content_changed", "tool_calls_changed", "reasoning_changed",
            "reasoning_not_returned", "unfinished" (it was cut off by a stop string, or by its limit within thinking, a
            call or a character), "off" (not wanted), "template" (it does not render a conversation piece by piece).
    """

    message_index: int
    missed: str | None


@dataclass(frozen=True, slots=True)
class RememberedPrompt:
    """A prompt, with what was generated in the place of what would be rendered.

    Attributes:
        ids: the prompt.
        turns: what became of each answer of the history that was looked up.
    """

    ids: tuple[int, ...]
    turns: tuple[TurnUse, ...] = ()


@dataclass
class _Answers:
    said: dict[SaidTurn, tuple[int, ...]] = field(default_factory=dict[SaidTurn, tuple[int, ...]])


def not_taken(messages: Sequence[Mapping[str, Any]], missed: str) -> tuple[TurnUse, ...]:
    """The same for all answers of a history: none is taken.

    Args:
        messages: the conversation.
        missed: why.
    """
    places = [index for index, one in enumerate(messages) if one.get("role") == "assistant"]
    return tuple(TurnUse(index, missed) for index in places[-MAX_LOOKED_AT:])


class TurnMemory:
    """Remembers answers by the prompts they came after, up to a bound; the oldest are forgotten. Threads may share it,
    and none waits while another one renders.

    Args:
        max_tokens: of prompts and answers together.
        end_ids: tokens that end an answer.
    """

    def __init__(self, max_tokens: int, end_ids: frozenset[int]) -> None:
        self._max_tokens, self._end_ids = max_tokens, end_ids
        self._answers: OrderedDict[tuple[str, tuple[int, ...]], _Answers] = OrderedDict()
        self._num_tokens = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many prompts are known."""
        return len(self._answers)

    def remember(
        self,
        namespace: str,
        prompt_ids: Sequence[int],
        token_ids: Sequence[int],
        message: AssistantMessage,
        *,
        is_cut: bool = False,
    ) -> None:
        """Keep an answer.

        Args:
            namespace: only conversations of the same one find it.
            prompt_ids: what it came after.
            token_ids: what was generated; of what does not end with an end of the turn only that is kept, except where
                the limit cut content off.
            message: the same, parsed.
            is_cut: the limit of tokens ended it.
        """
        is_whole = bool(token_ids) and token_ids[-1] in self._end_ids
        if is_whole and message.broken_calls:
            return
        stands = is_whole or (is_cut and _is_content(message))
        key, said = (namespace, tuple(prompt_ids)), SaidTurn.of_answer(message) if stands else None
        with self._lock:
            if key not in self._answers:
                self._num_tokens += len(prompt_ids)
            answers = self._answers.setdefault(key, _Answers())
            if said is not None:
                self._num_tokens += len(token_ids) - len(answers.said.get(said, ()))
                answers.said[said] = tuple(token_ids)
            self._answers.move_to_end(key)
            self._forget()

    def prompt(
        self,
        namespace: str,
        messages: Sequence[Mapping[str, Any]],
        render: Render,
        *,
        reuse_reasoning: bool = False,
        is_answered: bool = True,
    ) -> RememberedPrompt:
        """Render a conversation, generated tokens standing for the answers that are known.

        Args:
            namespace: see `remember`.
            messages: the conversation.
            render: its template.
            reuse_reasoning: an answer counts as the same, too, where the client left out its reasoning, which then
                stays in the prompt.
            is_answered: the assistant's turn is opened at the end.

        Raises:
            SeedOssError: the conversation cannot be rendered.
        """
        whole = tuple(render(messages, is_answered))
        places = [index for index, one in enumerate(messages) if one.get("role") == "assistant"]
        if not places or not self._knows(namespace):
            return RememberedPrompt(whole, not_taken(messages, "unknown"))
        rebuilt = _Rebuilt(messages, render, whole, self._end_ids)
        turns = [self._take(namespace, rebuilt, index, reuse_reasoning) for index in places[-MAX_LOOKED_AT:]]
        return RememberedPrompt(rebuilt.finish(), tuple(turns))

    def _take(self, namespace: str, rebuilt: "_Rebuilt", index: int, reuse_reasoning: bool) -> TurnUse:
        prompt = rebuilt.prompt_before(index)
        if prompt is None:
            return TurnUse(index, "template")
        said = self._said_after(namespace, prompt)
        if said is None:
            return TurnUse(index, "unknown")
        token_ids, missed = _match(said, SaidTurn.of_message(rebuilt.messages[index]), reuse_reasoning)
        if token_ids is not None and not rebuilt.put(index, prompt, token_ids):
            missed = "template"
        return TurnUse(index, missed)

    def _knows(self, namespace: str) -> bool:
        with self._lock:
            return any(key[0] == namespace for key in reversed(self._answers))

    def _said_after(self, namespace: str, prompt: tuple[int, ...]) -> dict[SaidTurn, tuple[int, ...]] | None:
        with self._lock:
            answers = self._answers.get((namespace, prompt))
            if answers is None:
                return None
            self._answers.move_to_end((namespace, prompt))
            return dict(answers.said)

    def _forget(self) -> None:
        while self._num_tokens > self._max_tokens and self._answers:
            (_, prompt), answers = self._answers.popitem(last=False)
            self._num_tokens -= len(prompt) + sum(map(len, answers.said.values()))


class _Rebuilt:
    """A prompt that is put together anew, up to a place in the rendered one.

    The rendered conversation up to some message must be the beginning of the whole one, token by token; then what was
    put in the place of a turn can be followed by what is rendered behind it.
    """

    def __init__(
        self, messages: Sequence[Mapping[str, Any]], render: Render, whole: tuple[int, ...], end_ids: frozenset[int]
    ) -> None:
        self.messages, self._render, self._whole, self._end_ids = messages, render, whole, end_ids
        self._opening: tuple[int, ...] = ()  # rendered up to where the answer at hand begins
        self._ids: tuple[int, ...] = ()
        self._done = 0  # tokens of the whole prompt that `_ids` stand for

    def prompt_before(self, index: int) -> tuple[int, ...] | None:
        """The prompt that the answer at `index` came after; None where it is no beginning of the whole."""
        rendered = self._rendered(self.messages[:index], True)
        if rendered is None or rendered[: self._done] != self._whole[: self._done]:
            return None
        self._opening = rendered
        return self._ids + rendered[self._done :]

    def put(self, index: int, prompt: tuple[int, ...], token_ids: tuple[int, ...]) -> bool:
        """Let tokens stand for the answer at `index`; False where its end is not to be found in the whole prompt."""
        rendered = self._rendered(self.messages[: index + 1], False)
        if rendered is None or rendered != self._whole[: len(rendered)]:
            return False
        is_whole = token_ids[-1] in self._end_ids
        ends = {token_ids[-1]} if is_whole else self._end_ids
        own = _num_equal(self._opening, rendered)  # ends before are those of earlier messages
        place = next((at for at in range(len(rendered) - 1, own - 1, -1) if rendered[at] in ends), None)
        if place is None:  # Seed's templates write no end behind a turn that has only thinking
            return False
        self._ids = prompt + token_ids + rendered[place + is_whole :]  # a template may write more behind the end
        self._done = len(rendered)
        return True

    def finish(self) -> tuple[int, ...]:
        """The whole prompt."""
        return self._ids + self._whole[self._done :]

    def _rendered(self, messages: Sequence[Mapping[str, Any]], is_answered: bool) -> tuple[int, ...] | None:
        try:
            return tuple(self._render(messages, is_answered))
        except SeedOssError:  # a template may refuse a conversation that breaks off here
            return None


def _is_content(message: AssistantMessage) -> bool:
    """Whether an answer without an end could have ended there: nothing is left open but its content."""
    texts = f"{message.content}{message.reasoning}"
    is_open = message.truncated in ("reasoning", "tool_call") or bool(message.broken_calls)
    return bool(message.content or message.tool_calls) and not is_open and "\ufffd" not in texts


def _num_equal(first: Sequence[int], second: Sequence[int]) -> int:
    """How many numbers are the same from the start."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))


def _match(
    said: Mapping[SaidTurn, tuple[int, ...]], sent: SaidTurn | None, reuse_reasoning: bool
) -> tuple[tuple[int, ...] | None, str | None]:
    """The tokens that stand for a turn that was sent, or why none do."""
    if not said:
        return None, "unfinished"
    if sent is None:
        return None, "content_changed"
    if sent in said:
        return said[sent], None
    for one, token_ids in reversed(list(said.items())):
        if (one.content, one.tool_calls) == (sent.content, sent.tool_calls):
            if sent.reasoning:
                return None, "reasoning_changed"
            return (token_ids, None) if reuse_reasoning else (None, "reasoning_not_returned")
    same_content = any(one.content == sent.content for one in said)
    return None, "tool_calls_changed" if same_content else "content_changed"


def _text(content: Any) -> str | None:
    """Content as text: itself, or its parts' texts; None for anything else."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list | tuple):
        return None
    parts = [_text_of_part(one) for one in cast("Sequence[Any]", content)]
    texts = [one for one in parts if one is not None]
    return "".join(texts) if len(texts) == len(parts) else None


def _text_of_part(part: Any) -> str | None:
    text: Any = cast("Mapping[str, Any]", part).get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else None


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function: Mapping[str, Any] = call.get("function", call)
    arguments: Any = function.get("arguments") or {}
    return {"name": function["name"], "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
