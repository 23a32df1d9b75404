"""POST /v1/chat/completions."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.messages import Ended, Started, Tokens
from seed_oss.server.api import Api, now, request_id
from seed_oss.server.chat_chunks import choice_chunk, chunk, deltas, whole_choice
from seed_oss.server.chat_request import ChatRequest
from seed_oss.server.errors import ApiError
from seed_oss.server.parts import Answer, ContentPart, Part, ReasoningPart
from seed_oss.server.runs import RunEvent, Runs
from seed_oss.server.streaming import DONE, SLOT, DataTemplate, EventStream, JSONAnswer, data, unless_gone
from seed_oss.server.talk import begin
from seed_oss.server.token_probs import TokenProb, chat_form, num_chars_of
from seed_oss.server.turn import AnswerReader, Step, Turn
from seed_oss.server.usage import Usage, turns_shown

_CHARS_PER_TOKEN = 8


async def chat_completions(api: Api, request: Request) -> Response:
    """Answer a conversation."""
    asked, body = await api.read(request, ChatRequest)
    asked.check()
    api.check_task("generate")
    adapter = api.adapter_of(asked.model)
    params = asked.params(api.vocab_size)
    wanted = await unless_gone(request, api.made(request, lambda: asked.conversation(body, api.settings)))
    begun = await begin(api, request, wanted, params, priority=asked.priority, adapter=adapter)
    runs, first = begun.runs, begun.first
    reply = _Reply(api, request, asked, begun.turn, params)
    if asked.stream:
        seconds = api.settings.keep_alive_seconds
        return EventStream(reply.stream(runs, first), _last, runs.close, keep_alive_s=seconds)
    try:
        return await unless_gone(request, reply.whole(runs, first))
    finally:
        await runs.close()


def _last(error: ApiError) -> bytes:
    return data(error.body) + DONE


@dataclass
class _Choice:
    """A choice while it comes."""

    reader: AnswerReader
    parts: list[Part] = field(default_factory=list[Part])
    probs: list[TokenProb] = field(default_factory=list[TokenProb])
    ended: Ended | None = None
    templates: dict[type[Part], DataTemplate] = field(default_factory=dict[type[Part], DataTemplate])


class _Reply:
    """The answers to one request."""

    def __init__(self, api: Api, request: Request, asked: ChatRequest, turn: Turn, params: SamplingParams) -> None:
        self._api, self._request, self._asked, self._turn, self._params = api, request, asked, turn, params
        self._choices: dict[int, _Choice] = {}
        self._usage = Usage()
        self._num_suffix = 0
        self._head = {"id": f"chatcmpl-{request_id(request)}", "created": now(), "model": asked.model}

    async def whole(self, runs: Runs, first: RunEvent | None) -> Response:
        """The response in one."""
        async for event in runs.after(first):
            self._take(event)
        self._usage.tell(self._request)
        num_tokens = self._usage.completion_tokens
        num_chars = num_tokens * _CHARS_PER_TOKEN + num_chars_of(num_tokens, self._asked.num_top)
        return await self._api.written(self._answer, num_chars)

    def _answer(self) -> Response:
        return JSONAnswer(
            {
                **self._head,
                "object": "chat.completion",
                "choices": [self._whole_choice(index) for index in range(self._params.n)],
                "usage": self._usage_shown(),
                "system_fingerprint": None,
            }
        )

    async def stream(self, runs: Runs, first: RunEvent | None) -> AsyncGenerator[bytes, None]:
        """The response as server-sent events."""
        async for event in runs.after(first):
            for one in self._chunks(event):
                yield one
        self._usage.tell(self._request)
        if self._asked.wants_usage:
            yield data(chunk(self._head, [], self._usage_shown()))
        yield DONE

    def _usage_shown(self) -> dict[str, Any]:
        """The usage, and what became of the answers in the history: why the cache does not know them."""
        usage = self._usage.to_openai()
        usage["prompt_tokens_details"] |= turns_shown(self._turn.uses)
        return usage

    def _chunks(self, event: RunEvent) -> list[bytes]:
        """The chunks that an event brings."""
        step = self._take(event)
        if isinstance(event.event, Tokens) and not step.probs and len(step.parts) == 1 and not self._asked.wants_counts:
            part = step.parts[0]
            if isinstance(part, ContentPart | ReasoningPart):
                return [self._text_chunk(event.event.choice, part)]
        return [data(one) for one in self._other_chunks(event, step)]

    def _text_chunk(self, index: int, part: ContentPart | ReasoningPart) -> bytes:
        """A chunk like nearly all: it differs from the others in its text."""
        templates = self._choices[index].templates
        if type(part) not in templates:
            slot = deltas([replace(part, text=SLOT)])[0]
            templates[type(part)] = DataTemplate(self._chunk(index, slot))
        return templates[type(part)](part.text)

    def _other_chunks(self, event: RunEvent, step: Step) -> list[dict[str, Any]]:
        if isinstance(event.event, Started):
            said = {"role": "assistant", "content": ""}
            return [self._chunk(index, said) for index in range(self._params.n)]
        if not isinstance(event.event, Tokens | Ended):
            return []
        index = event.event.choice
        chunks = [self._chunk(index, delta) for delta in deltas(step.parts)]
        if step.probs:
            chunks = chunks or [self._chunk(index, {"content": ""})]
            chunks[0]["choices"][0]["logprobs"] = self._logprobs(step.probs)
        if isinstance(event.event, Ended):
            chunks.append(self._chunk(index, {}, event.event))
        return chunks

    def _take(self, event: RunEvent) -> Step:
        said = event.event
        if isinstance(said, Started):
            self._start(said)
        elif isinstance(said, Tokens):
            return self._kept(said.choice, self._choice(said.choice).reader.feed(said))
        elif isinstance(said, Ended):
            choice = self._choice(said.choice)
            choice.ended = said
            self._api.remember(self._turn.owner, choice.reader.written(said))
            self._usage.add(event.run, said, choice.reader.num_tokens)
            return self._kept(said.choice, choice.reader.finish(said))
        return Step()

    def _kept(self, index: int, step: Step) -> Step:
        choice = self._choices[index]
        if not self._asked.stream:
            choice.parts += step.parts
            choice.probs += step.probs
        return step

    def _start(self, started: Started) -> None:
        self._num_suffix = len(started.suffix_ids)
        for index in range(self._params.n):
            reader = AnswerReader(
                self._api.texts, self._turn, self._params.stops, started.suffix_ids, self._asked.num_top
            )
            self._choices[index] = _Choice(reader)

    def _choice(self, index: int) -> _Choice:
        if index not in self._choices:
            raise ApiError("internal")
        return self._choices[index]

    def _chunk(self, index: int, delta: dict[str, Any], ended: Ended | None = None) -> dict[str, Any]:
        reader = self._choices[index].reader
        made = choice_chunk(index, delta, reader, ended)
        so_far = self._so_far() if self._asked.wants_counts else None
        usage = (so_far,) if self._asked.wants_usage else ()
        return chunk(self._head, [made], *usage)

    def _so_far(self) -> dict[str, Any]:
        """The usage while answers come; what is found in the cache is known at the end."""
        num_prompt = len(self._turn.prompt_ids) + self._num_suffix
        num_new = sum(choice.reader.num_tokens for choice in self._choices.values())
        return {"prompt_tokens": num_prompt, "completion_tokens": num_new, "total_tokens": num_prompt + num_new}

    def _whole_choice(self, index: int) -> dict[str, Any]:
        choice = self._choice(index)
        if choice.ended is None:
            raise ApiError("internal")
        logprobs = None if self._asked.num_top is None else self._logprobs(choice.probs)
        return whole_choice(index, Answer.of(choice.parts), choice.reader, choice.ended, logprobs)

    def _logprobs(self, probs: list[TokenProb]) -> Any:
        return chat_form(self._api.texts, probs)
