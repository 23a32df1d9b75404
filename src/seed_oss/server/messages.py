"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic has them."""

import contextlib
import re
import secrets
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from seed_oss.chat.normalize import normalize_chat
from seed_oss.errors import CheckpointError
from seed_oss.files import parse_json
from seed_oss.server.api import Api
from seed_oss.server.errors import ApiError
from seed_oss.server.framing import shaped
from seed_oss.server.messages_request import CountRequest, MessagesRequest
from seed_oss.server.parts import Answer, ArgumentsPart, Call, CallEndPart, CallPart, ContentPart, Part, ReasoningPart
from seed_oss.server.served import MAX_COUNTED_CHARS
from seed_oss.server.streaming import EventStream, JSONAnswer, data, unless_gone
from seed_oss.server.talk import Talk, begin
from seed_oss.server.texts import Texts
from seed_oss.server.turn import Conversation, prompt_ids, refusing_in

_STRING = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)')
_CHARS_PER_TOKEN = 8
_STOPS = {"length": "max_tokens", "tool_calls": "tool_use"}


async def create_message(api: Api, request: Request) -> Response:
    """Answer a conversation."""
    asked, body = await api.read(request, MessagesRequest)
    api.check_task("generate")
    adapter = api.adapter_of(asked.model)
    params = asked.params(api.vocab_size)
    wanted = await unless_gone(request, api.made(request, lambda: asked.conversation(body, api.settings)))
    begun = await begin(api, request, wanted, params, priority=asked.priority, adapter=adapter)
    reply = _Reply(api, asked, Talk(api, request, begun, params), len(begun.turn.prompt_ids))
    if asked.stream:
        seconds, ping = api.settings.keep_alive_seconds, _event("ping", {})
        return EventStream(reply.stream(), _last, begun.runs.close, keep_alive_s=seconds, keep_alive=ping)
    try:
        return await unless_gone(request, reply.whole())
    finally:
        await begun.runs.close()


async def count_tokens(api: Api, request: Request) -> Response:
    """How many tokens a conversation has."""
    asked, body = await api.read(request, CountRequest)
    api.adapter_of(asked.model)
    wanted = await unless_gone(request, api.made(request, lambda: asked.conversation(body, api.settings)))
    texts = [wanted.messages, wanted.tools]
    num = await api.made(request, lambda: api.check_chars(texts, "messages", most=MAX_COUNTED_CHARS))
    num_tokens = await unless_gone(request, api.work(lambda: _count(api.texts, wanted), num))
    return JSONAnswer({"input_tokens": num_tokens})


def _count(texts: Texts, wanted: Conversation) -> int:
    with refusing_in(wanted):
        normalize_chat(wanted.messages, wanted.tools, strict=True)
        return len(prompt_ids(texts, wanted))


def _last(error: ApiError) -> bytes:
    return _event("error", shaped(error.body, error.status))


def _event(kind: str, body: dict[str, Any]) -> bytes:
    return data({"type": kind, **body}, kind)


class _Blocks:
    """The events of a message's blocks."""

    def __init__(self) -> None:
        self._index = -1
        self._kind: str | None = None

    def take(self, parts: Iterable[Part]) -> list[bytes]:
        return [event for part in parts for event in self._take(part)]

    def close(self) -> list[bytes]:
        if self._kind is None:
            return []
        signed: list[bytes] = []
        if self._kind == "thinking":
            signed = [self._delta({"type": "signature_delta", "signature": ""})]
        self._kind = None
        return [*signed, _event("content_block_stop", {"index": self._index})]

    def _take(self, part: Part) -> list[bytes]:
        if isinstance(part, ReasoningPart):
            opened = self._open({"type": "thinking", "thinking": "", "signature": ""})
            return [*opened, self._delta({"type": "thinking_delta", "thinking": part.text})]
        if isinstance(part, ContentPart):
            return [*self._open({"type": "text", "text": ""}), self._delta({"type": "text_delta", "text": part.text})]
        if isinstance(part, CallPart):
            return self._open({"type": "tool_use", "id": part.id, "name": part.name, "input": {}})
        if isinstance(part, ArgumentsPart):
            return [self._delta({"type": "input_json_delta", "partial_json": part.text})]
        return self.close() if isinstance(part, CallEndPart) else []

    def _open(self, block: dict[str, Any]) -> list[bytes]:
        if self._kind == block["type"]:
            return []
        before = self.close()
        self._kind = block["type"]
        self._index += 1
        return [*before, _event("content_block_start", {"index": self._index, "content_block": block})]

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})


class _Reply:
    """One message."""

    def __init__(self, api: Api, asked: MessagesRequest, talk: Talk, num_prompt: int) -> None:
        self._api, self._asked, self._talk, self._num_prompt = api, asked, talk, num_prompt
        self._id = f"msg_{secrets.token_hex(12)}"
        self._parts: list[Part] = []

    async def whole(self) -> Response:
        """The message in one."""
        async for step in self._talk.steps():
            self._parts += step.parts
        return await self._api.written(self._answer, _CHARS_PER_TOKEN * self._talk.usage.completion_tokens)

    def _answer(self) -> Response:
        content = _content(Answer.of(self._parts))
        return JSONAnswer({**self._head(content), **self._ending(), "usage": self._usage()})

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The message as events."""
        usage = {"input_tokens": self._num_prompt, "output_tokens": 0}
        start = {**self._head([]), "stop_reason": None, "stop_sequence": None, "usage": usage}
        yield _event("message_start", {"message": start})
        blocks = _Blocks()
        async for step in self._talk.steps():
            for event in blocks.take(step.parts):
                yield event
        for event in blocks.close():
            yield event
        yield _event("message_delta", {"delta": self._ending(), "usage": self._usage()})
        yield _event("message_stop", {})

    def _head(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._asked.model,
            "content": content,
        }

    def _ending(self) -> dict[str, Any]:
        reason, stop = self._talk.finish_reason, self._talk.stop
        usual = "end_turn" if stop is None else "stop_sequence"
        return {"stop_reason": _STOPS.get(reason, usual), "stop_sequence": stop}

    def _usage(self) -> dict[str, Any]:
        usage = self._talk.usage
        return {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
            **self._talk.turns,
        }


def _content(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
    if answer.content or not answer.tool_calls:
        blocks.append({"type": "text", "text": answer.content})
    return blocks + [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)} for call in answer.tool_calls
    ]


def _input(call: Call) -> Any:
    """A call's arguments; whatever is in them, the answer is not thrown away."""
    text = _without_open_key(call.arguments) or "{"
    for end in ("}", '"}') if call.is_cut else ("",):
        with contextlib.suppress(CheckpointError):
            return parse_json(text + end, source="arguments")
    return {"arguments": call.arguments}


def _without_open_key(arguments: str) -> str:
    """Without a name at the end whose value has not come; in one pass over what the model wrote."""
    if not arguments.endswith('": '):
        return arguments
    start, end = 0, 0
    for match in _STRING.finditer(arguments):
        start, end = match.span()
    return arguments[:start].removesuffix(", ") if end == len(arguments) - 2 else arguments
