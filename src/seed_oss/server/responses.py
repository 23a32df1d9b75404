"""/v1/responses: create, retrieve, delete."""

import json
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from seed_oss.server.api import Api, namespace, now
from seed_oss.server.errors import ApiError
from seed_oss.server.responses_items import Event, ItemWriter
from seed_oss.server.responses_request import ResponsesRequest
from seed_oss.server.stored import StoredResponse
from seed_oss.server.streaming import EventStream, JSONAnswer, data, to_json, unless_gone
from seed_oss.server.talk import Talk, begin
from seed_oss.server.turn import Conversation
from seed_oss.server.usage import Usage

_T = TypeVar("_T")
_CHARS_PER_TOKEN = 8


async def create_response(api: Api, request: Request) -> Response:
    """Answer an input."""
    asked, body = await api.read(request, ResponsesRequest)
    asked.check()
    api.check_task("generate")
    adapter = api.adapter_of(asked.model)
    params = asked.params(api.vocab_size)
    earlier = _earlier(api, request, asked)

    def make() -> tuple[list[Mapping[str, Any]], Conversation]:
        messages: list[Mapping[str, Any]] = [*json.loads(earlier), *asked.messages()]
        return messages, asked.conversation(messages, body, api.settings)

    messages, wanted = await unless_gone(request, api.made(request, make, len(earlier)))
    begun = await begin(api, request, wanted, params, param="input", priority=asked.priority, adapter=adapter)
    reply = _Reply(api, request, asked, messages, Talk(api, request, begun, params))
    if asked.stream:
        seconds = api.settings.keep_alive_seconds
        return EventStream(reply.stream(), reply.last, begun.runs.close, keep_alive_s=seconds)
    try:
        return await unless_gone(request, reply.whole())
    finally:
        await begun.runs.close()


async def get_response(api: Api, request: Request) -> Response:
    """A response that was stored."""
    stored = api.responses.get(namespace(request), request.path_params["response_id"])
    return Response(stored.body, media_type=JSONAnswer.media_type)


async def delete_response(api: Api, request: Request) -> Response:
    """Forget a response."""
    name = str(request.path_params["response_id"])
    api.responses.delete(namespace(request), name)
    return JSONAnswer({"id": name, "object": "response", "deleted": True})


def _earlier(api: Api, request: Request, asked: ResponsesRequest) -> bytes:
    """The conversation that is gone on with, as JSON."""
    if asked.previous_response_id is None:
        return b"[]"
    return api.responses.get(namespace(request), asked.previous_response_id, "previous_response_id").messages


class _Reply:
    """One response."""

    def __init__(
        self, api: Api, request: Request, asked: ResponsesRequest, messages: Sequence[Mapping[str, Any]], talk: Talk
    ) -> None:
        self._api, self._request, self._asked, self._messages, self._talk = api, request, asked, messages, talk
        self._writer = ItemWriter(is_streamed=bool(asked.stream))
        self._id, self._created = f"resp_{secrets.token_hex(16)}", now()
        self._num_events = 0

    async def whole(self) -> Response:
        """The response in one."""
        async for step in self._talk.steps():
            self._writer.take(step.parts)
        self._writer.finish(self._status)
        return await self._written(lambda: JSONAnswer(self._ended()))

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The response as events."""
        for kind in ("response.created", "response.in_progress"):
            begun = {"type": kind, "response": self._body("in_progress")}
            yield await self._written(lambda begun=begun: self._sent(begun))
        async for step in self._talk.steps():
            for event in self._writer.take(step.parts):
                yield self._sent(event)
        for event in self._writer.finish(self._status):
            yield self._sent(event)
        kind = f"response.{self._status}"
        yield await self._written(lambda: self._sent({"type": kind, "response": self._ended()}))

    async def _written(self, write: Callable[[], _T]) -> _T:
        """What has the whole response in it, which says again what the request said."""
        num_tokens = self._talk.usage.prompt_tokens + self._talk.usage.completion_tokens  # what is kept has both
        num_chars = int(self._request.state.num_body_bytes) + _CHARS_PER_TOKEN * num_tokens
        return await self._api.written(write, num_chars)

    def last(self, error: ApiError) -> bytes:
        """The events that end a stream in which something went wrong."""
        told = {"code": error.body["error"]["code"] or error.type, "message": error.message}
        failed = {**self._body("failed"), "error": told}
        return self._sent({"type": "error", **told, "param": error.param}) + self._sent(
            {"type": "response.failed", "response": failed}
        )

    @property
    def _status(self) -> str:
        return "incomplete" if self._talk.finish_reason == "length" else "completed"

    def _sent(self, event: Event) -> bytes:
        self._num_events += 1
        return data({**event, "sequence_number": self._num_events - 1}, event["type"])

    def _ended(self) -> dict[str, Any]:
        """The response at its end, which is kept if it may be."""
        body = self._body(self._status, self._talk.usage)
        owner, message = namespace(self._request), _as_message(self._writer.items)
        if self._asked.store is not False:
            stored = StoredResponse(to_json(body), to_json([*self._messages, message]))
            self._api.responses.put(owner, self._id, stored)
        return body

    def _body(self, status: str, usage: Usage | None = None) -> dict[str, Any]:
        asked = self._asked
        is_over = status in ("completed", "incomplete")
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": now() if is_over else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": asked.model,
            "output": [dict(item) for item in self._writer.items] if is_over else [],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": asked.effort, "summary": None},
            "store": asked.store is not False,
            "temperature": asked.temperature,
            "text": {"format": (asked.text.format if asked.text else None) or {"type": "text"}},
            "tool_choice": "auto" if asked.tool_choice is None else asked.tool_choice,
            "tools": asked.tools or [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage, self._talk.turns),
            "user": asked.user,
            "metadata": asked.metadata or {},
        }


def _usage(usage: Usage, turns: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0, **turns},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _as_message(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An answer as a message of the conversation."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for item in items:
        if item["type"] == "reasoning":
            message["reasoning_content"] = message.get("reasoning_content", "") + item["content"][0]["text"]
        elif item["type"] == "message":
            message["content"] += item["content"][0]["text"]
        else:
            call = {"id": item["call_id"], "name": item["name"], "arguments": item["arguments"]}
            message.setdefault("tool_calls", []).append(call)
    return message
