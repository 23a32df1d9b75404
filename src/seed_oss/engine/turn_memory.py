"""What was really generated after a prompt, so that a conversation which goes on from it finds its cached blocks.

A client sends back what was parsed out of an answer, and rendering that gives other tokens than the model wrote: blanks
are gone, reasoning is left out, a word is cut into tokens another way. Where a turn of the history says the same as the
answer that was generated right there, the generated tokens stand for it. No torch.
"""

import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast

from seed_oss.chat.assistant_message import AssistantMessage
from seed_oss.errors import SeedOssError

Render = Callable[[Sequence[Mapping[str, Any]], bool], Sequence[int]]
"""From messages, and whether the assistant's turn is opened behind them, to token ids."""

MAX_RENDERED = 2**22
"""Tokens, about, that looking up a history's answers may render in all; those further on are unknown."""


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
            just this history, forgotten, or behind too many that are), "content_changed", "tool_calls_changed",
            "reasoning_changed", "reasoning_not_returned", "unfinished" (it was cut off by a stop string, or by its
            limit within thinking, a call or a character), "off" (not wanted), "template" (it does not render a
            conversation piece by piece).
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
    """Answers after one prompt."""

    num_prompt: int
    said: dict[SaidTurn, tuple[int, ...]] = field(default_factory=dict[SaidTurn, tuple[int, ...]])

    @property
    def num_tokens(self) -> int:
        return self.num_prompt + sum(map(len, self.said.values()))


@dataclass(frozen=True)
class _Beginning:
    """What was put together for the first messages of a conversation, the last of them an answer.

    Attributes:
        num_messages: how many.
        num_rendered: tokens that a rendering has for them.
        rendered: digest of these.
        ids: what stands for them.
        turns: what became of their answers.
        before: where the one is kept that this one goes on from.
    """

    num_messages: int
    num_rendered: int
    rendered: bytes
    ids: tuple[int, ...]
    turns: tuple[TurnUse, ...]
    before: "_Key | None"

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


_Key = tuple[str, Hashable]  # a namespace, and what is found in it


def not_taken(messages: Sequence[Mapping[str, Any]], missed: str) -> tuple[TurnUse, ...]:
    """The same for all answers of a history: none is taken.

    Args:
        messages: the conversation.
        missed: why.
    """
    places = [index for index, one in enumerate(messages) if one.get("role") == "assistant"]
    return tuple(TurnUse(index, missed) for index in places)


class TurnMemory:
    """Remembers answers by the prompts they came after, up to a bound; the oldest are forgotten. Threads may share it,
    and none waits while another one renders.

    Args:
        max_tokens: of prompts and answers together.
        end_ids: tokens that end an answer.
    """

    def __init__(self, max_tokens: int, end_ids: frozenset[int]) -> None:
        self._max_tokens, self._end_ids = max_tokens, end_ids
        self._kept: OrderedDict[_Key, _Answers | _Beginning] = OrderedDict()
        self._num_tokens = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many prompts are known."""
        return sum(isinstance(one, _Answers) for one in self._kept.values())

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
            known = self._take_out(key)
            answers = known if isinstance(known, _Answers) else _Answers(len(prompt_ids))
            if said is not None:
                answers.said[said] = tuple(token_ids)
            self._keep(key, answers)

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
        keys = _keys_of_beginnings(namespace, messages, reuse_reasoning)
        begun = self._longest_beginning([keys[index] for index in reversed(places)], whole)
        rebuilt = _Rebuilt(messages, render, whole, self._end_ids, begun)
        first, turns = (0, []) if begun is None else (begun.num_messages, list(begun.turns))
        for index in places:
            if index >= first:
                turns.append(self._take(namespace, rebuilt, index, reuse_reasoning))
        self._begin(keys, rebuilt, turns, begun)
        return RememberedPrompt(rebuilt.finish(), tuple(turns))

    def _take(self, namespace: str, rebuilt: "_Rebuilt", index: int, reuse_reasoning: bool) -> TurnUse:
        if rebuilt.num_rendered > MAX_RENDERED:
            return TurnUse(index, "unknown")
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

    def _longest_beginning(self, keys: Sequence[_Key], whole: tuple[int, ...]) -> _Beginning | None:
        """The first that is known and that the conversation is rendered with."""
        for key in keys:
            with self._lock:
                found = self._kept.get(key)
            if isinstance(found, _Beginning) and found.rendered == _digest(whole[: found.num_rendered]):
                with self._lock:
                    if key in self._kept:
                        self._kept.move_to_end(key)
                return found
        return None

    def _begin(
        self, keys: Sequence[_Key], rebuilt: "_Rebuilt", turns: Sequence[TurnUse], begun: _Beginning | None
    ) -> None:
        """Keep what was put together, so that it is not looked up again, and stands when its answers are forgotten."""
        num = rebuilt.num_messages
        if not num or (begun is not None and begun.num_messages == num) or len(rebuilt.ids) > self._max_tokens // 2:
            return
        before = None if begun is None else keys[begun.num_messages - 1]
        own = tuple(one for one in turns if one.message_index < num)
        made = _Beginning(num, rebuilt.num_done, _digest(rebuilt.done), rebuilt.ids, own, before)
        with self._lock:
            if begun is not None and begun.before is not None:
                self._take_out(begun.before)  # the last two are enough for an answer that is asked for again
            self._take_out(keys[num - 1])
            self._keep(keys[num - 1], made)

    def _knows(self, namespace: str) -> bool:
        with self._lock:
            return any(key[0] == namespace for key in reversed(self._kept))

    def _said_after(self, namespace: str, prompt: tuple[int, ...]) -> dict[SaidTurn, tuple[int, ...]] | None:
        with self._lock:
            answers = self._kept.get((namespace, prompt))
            if not isinstance(answers, _Answers):
                return None
            self._kept.move_to_end((namespace, prompt))
            return dict(answers.said)

    def _take_out(self, key: _Key) -> _Answers | _Beginning | None:
        found = self._kept.pop(key, None)
        self._num_tokens -= 0 if found is None else found.num_tokens
        return found

    def _keep(self, key: _Key, value: _Answers | _Beginning) -> None:
        """As the newest; the oldest are forgotten."""
        self._kept[key] = value
        self._num_tokens += value.num_tokens
        while self._num_tokens > self._max_tokens and self._kept:
            self._num_tokens -= self._kept.popitem(last=False)[1].num_tokens


class _Rebuilt:
    """A prompt that is put together anew, up to a place in the rendered one.

    The rendered conversation up to some message must be the beginning of the whole one, token by token; then what was
    put in the place of a turn can be followed by what is rendered behind it.
    """

    def __init__(
        self,
        messages: Sequence[Mapping[str, Any]],
        render: Render,
        whole: tuple[int, ...],
        end_ids: frozenset[int],
        begun: _Beginning | None = None,
    ) -> None:
        self.messages, self._render, self._whole, self._end_ids = messages, render, whole, end_ids
        self._opening: tuple[int, ...] = ()  # rendered up to where the answer at hand begins
        self.ids = () if begun is None else begun.ids
        self.num_done = 0 if begun is None else begun.num_rendered  # tokens of the whole prompt that `ids` stand for
        self.num_messages = 0 if begun is None else begun.num_messages  # that these are
        self.num_rendered = 0  # tokens that were made only to find places

    @property
    def done(self) -> tuple[int, ...]:
        """The tokens of the whole prompt that `ids` stand for."""
        return self._whole[: self.num_done]

    def prompt_before(self, index: int) -> tuple[int, ...] | None:
        """The prompt that the answer at `index` came after; None where it is no beginning of the whole."""
        rendered = self._rendered(self.messages[:index], True)
        if rendered is None or rendered[: self.num_done] != self.done:
            return None
        self._opening = rendered
        return self.ids + rendered[self.num_done :]

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
        self.ids = prompt + token_ids + rendered[place + is_whole :]  # a template may write more behind the end
        self.num_done, self.num_messages = len(rendered), index + 1
        return True

    def finish(self) -> tuple[int, ...]:
        """The whole prompt."""
        return self.ids + self._whole[self.num_done :]

    def _rendered(self, messages: Sequence[Mapping[str, Any]], is_answered: bool) -> tuple[int, ...] | None:
        try:
            rendered = tuple(self._render(messages, is_answered))
        except SeedOssError:  # a template may refuse a conversation that breaks off here
            return None
        self.num_rendered += len(rendered)
        return rendered


def _keys_of_beginnings(namespace: str, messages: Sequence[Mapping[str, Any]], reuse_reasoning: bool) -> list[_Key]:
    """Where the beginning that ends with each of the messages is kept."""
    so_far = sha256()
    keys: list[_Key] = []
    for message in messages:
        so_far.update(json.dumps(message, sort_keys=True, default=str).encode() + b"\n")
        keys.append((namespace, (reuse_reasoning, so_far.digest())))
    return keys


def _digest(ids: Sequence[int]) -> bytes:
    return sha256(array("q", ids).tobytes()).digest()


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
