"""POST /v1/completions."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from seed_oss.chat.control_tokens import join
from seed_oss.config.sampling import MAX_LOGPROBS, SamplingParams
from seed_oss.engine.messages import Computed, Ended, LogProbs, Started, Tokens
from seed_oss.server.api import Api, now, request_id
from seed_oss.server.chat_request import StreamOptions
from seed_oss.server.errors import ApiError
from seed_oss.server.limits import MAX_CHOICES_OF_ALL, MAX_PROMPTS
from seed_oss.server.prompts import SCHEMA, GivenText, encode_all, read_prompts
from seed_oss.server.runs import RunEvent, Runs
from seed_oss.server.sampling_fields import MAX_TOKENS, SamplingFields
from seed_oss.server.streaming import DONE, SLOT, DataTemplate, EventStream, JSONAnswer, data, unless_gone
from seed_oss.server.text_reader import TextReader, TextStep
from seed_oss.server.texts import Texts
from seed_oss.server.token_probs import TokenProb, completion_form, num_chars_of, token_prob
from seed_oss.server.usage import Usage

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionRequest(SamplingFields):
    """A body of /v1/completions."""

    refused: ClassVar[dict[str, str]] = {
        "best_of": "give n, and choose among the answers by their logprobs",
        "suffix": "the model was not trained to fill in; put the text behind the gap into the prompt",
        "messages": "use /v1/chat/completions",
    }

    model: Annotated[str, Field(min_length=1, max_length=256)]
    prompt: Annotated[Any, WithJsonSchema(SCHEMA)]
    max_tokens: Annotated[int | None, Field(ge=0, le=MAX_TOKENS)] = None
    echo: bool | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def num_new(self) -> int:
        """Most new tokens; 0 asks for nothing but the prompt again."""
        return _DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    def check(self, num_prompts: int) -> None:
        """Refuse fields that do not go together.

        Raises:
            ApiError: they do not.
        """
        if self.stream_options is not None and not self.stream:
            raise ApiError("invalid", "stream_options is given without stream; set stream", param="stream_options")
        if self.max_tokens == 0 and not self.echo:
            raise ApiError("invalid", "max_tokens is 0, which gives nothing without echo", param="max_tokens")
        num = num_prompts * self.num_choices
        if num > MAX_CHOICES_OF_ALL:
            raise ApiError(
                "invalid",
                f"{num_prompts} prompts with n = {self.num_choices} make {num} answers; at most "
                f"{MAX_CHOICES_OF_ALL} are allowed",
                param="n",
            )

    def params(self, vocab_size: int) -> SamplingParams:
        """How each prompt is continued.

        Raises:
            ApiError: a value that is not allowed.
        """
        prompt = self.logprobs if self.echo else None
        return self.sampling(
            vocab_size, max_tokens=max(1, self.num_new), logprobs=self.logprobs, prompt_logprobs=prompt
        )


@dataclass(frozen=True)
class _Prompt:
    ids: tuple[int, ...]
    text: str  # what echo shows
    before: str  # its end, as long as the longest stop string


async def completions(api: Api, request: Request) -> Response:
    """Go on with texts."""
    asked, _ = await api.read(request, CompletionRequest)
    size = api.vocab_size
    given = await api.made(
        request, lambda: read_prompts(asked.prompt, "prompt", max_prompts=MAX_PROMPTS, vocab_size=size)
    )
    asked.check(len(given))
    api.check_task("generate")
    adapter = api.adapter_of(asked.model)
    params = asked.params(api.vocab_size)
    num = sum(api.check_chars(one.text, "prompt") for one in given)
    for one in given:
        await unless_gone(request, api.check_long(one.text, "prompt", markers_count=True))
    prompts = await unless_gone(request, api.work(lambda: _prepared(api.texts, given, params, bool(asked.echo)), num))
    for prompt in prompts:
        api.check_length(len(prompt.ids), asked.num_new, "prompt")
    submits = [api.submit(request, prompt.ids, params, priority=asked.priority, adapter=adapter) for prompt in prompts]
    runs, first = await api.start(request, submits)
    reply = _Reply(api, request, asked, prompts, params)
    if asked.stream:
        seconds = api.settings.keep_alive_seconds
        return EventStream(
            reply.stream(runs, first), lambda error: data(error.body) + DONE, runs.close, keep_alive_s=seconds
        )
    try:
        return await unless_gone(request, reply.whole(runs, first))
    finally:
        await runs.close()


def _prepared(texts: Texts, given: Sequence[GivenText], params: SamplingParams, echo: bool) -> list[_Prompt]:
    longest = max(map(len, params.stops), default=0)
    rows = encode_all(texts, given, "prompt", markers_count=True)
    return [
        _Prompt(
            ids,
            (join(texts.pieces(ids)) if one.text is None else one.text) if echo else "",
            texts.tail(ids, longest),
        )
        for one, ids in zip(given, rows, strict=True)
    ]


@dataclass
class _Choice:
    """A choice while it comes."""

    reader: TextReader
    steps: TextStep = field(default_factory=TextStep)
    ended: Ended | None = None
    prompt_form: dict[str, Any] | None = None  # the log-probabilities of the prompt, as they are shown
    has_echoed: bool = False
    template: DataTemplate | None = None


class _Reply:
    """The answers to one request."""

    def __init__(
        self,
        api: Api,
        request: Request,
        asked: CompletionRequest,
        prompts: Sequence[_Prompt],
        params: SamplingParams,
    ) -> None:
        self._api, self._request, self._asked, self._prompts, self._params = api, request, asked, prompts, params
        self._usage = Usage()
        self._head = {"id": f"cmpl-{request_id(request)}", "created": now(), "model": asked.model}
        self._choices = [
            _Choice(TextReader(api.texts, params.stops, prompt.before, asked.logprobs))
            for prompt in prompts
            for _ in range(params.n)
        ]

    async def whole(self, runs: Runs, first: RunEvent | None) -> Response:
        """The response in one."""
        async for event in runs.after(first):
            await self._read_prompt(event)
            self._take(event)
        self._usage.tell(self._request)
        return await self._api.written(self._answer, sum(map(self._num_chars, range(len(self._choices)))))

    def _answer(self) -> Response:
        choices = [self._shown(index, choice.steps) for index, choice in enumerate(self._choices)]
        return JSONAnswer({**self._body(choices), "usage": self._usage.to_openai()})

    async def stream(self, runs: Runs, first: RunEvent | None) -> AsyncGenerator[bytes, None]:
        """The response as server-sent events."""
        usage: dict[str, Any] = {"usage": None} if self._asked.wants_usage else {}
        async for event in runs.after(first):
            await self._read_prompt(event)
            for index in self._take(event):
                yield await self._written(index, usage)
        for index, choice in enumerate(self._choices):
            if not choice.has_echoed:
                yield await self._written(index, usage)
        self._usage.tell(self._request)
        if usage:
            yield data({**self._body([]), "usage": self._usage.to_openai()})
        yield DONE

    async def _read_prompt(self, event: RunEvent) -> None:
        """What a prompt's log-probabilities look like takes long to make."""
        probs = event.event.logprobs if isinstance(event.event, Computed) else None
        if probs is None:
            return
        texts, prompt, num_top = self._api.texts, self._prompts[event.run], self._asked.logprobs or 0
        form = await self._api.finish(lambda: _prompt_form(texts, prompt.ids, probs, num_top), len(prompt.text))
        for index in self._own(event):
            self._choices[index].prompt_form = form

    def _own(self, event: RunEvent) -> range:
        """The choices of an event's request."""
        return range(event.run * self._params.n, (event.run + 1) * self._params.n)

    def _take(self, event: RunEvent) -> list[int]:
        """Take an event; returns the choices that have something to show."""
        said = event.event
        if isinstance(said, Started):
            return []
        if isinstance(said, Computed):
            return [index for index in self._own(event) if self._has_more(index)]
        if not isinstance(said, Tokens | Ended):
            raise ApiError("internal")
        index = event.run * self._params.n + said.choice
        choice = self._choices[index]
        if isinstance(said, Tokens):
            if self._asked.num_new:
                choice.steps.add(choice.reader.feed(said))
        else:
            choice.ended = said
            choice.steps.add(choice.reader.finish(said))
            self._usage.add(event.run, said, choice.reader.num_tokens)
        return [index] if self._has_more(index) else []

    def _has_more(self, index: int) -> bool:
        """Whether a choice has something to show; its first piece waits for the probabilities of its prompt."""
        choice = self._choices[index]
        waits = bool(self._asked.echo) and self._asked.logprobs is not None and choice.prompt_form is None
        return not waits and (bool(choice.steps) or choice.ended is not None)

    async def _written(self, index: int, usage: dict[str, Any]) -> bytes:
        num_chars = self._num_chars(index)
        steps = self._drained(index)
        return await self._api.written(lambda: self._chunk(index, steps, usage), num_chars)

    def _num_chars(self, index: int) -> int:
        """About, of what a choice shows next."""
        choice, prompt = self._choices[index], self._prompts[index // self._params.n]
        echoes = bool(self._asked.echo) and not choice.has_echoed
        num_tokens = len(choice.steps.probs) + (len(prompt.ids) if echoes else 0)
        num_text = sum(map(len, choice.steps.texts)) + (len(prompt.text) if echoes else 0)
        return num_text + num_chars_of(num_tokens, self._asked.logprobs)

    def _chunk(self, index: int, steps: TextStep, usage: dict[str, Any]) -> bytes:
        choice = self._choices[index]
        is_text = self._asked.logprobs is None and choice.ended is None
        if not is_text or not choice.has_echoed:
            return data({**self._body([self._shown(index, steps)]), **usage})
        if choice.template is None:
            choice.template = DataTemplate({**self._body([self._shown(index, TextStep([SLOT]))]), **usage})
        return choice.template(steps.text)

    def _drained(self, index: int) -> TextStep:
        steps, self._choices[index].steps = self._choices[index].steps, TextStep()
        return steps

    def _shown(self, index: int, steps: TextStep) -> dict[str, Any]:
        choice, prompt = self._choices[index], self._prompts[index // self._params.n]
        echoes = bool(self._asked.echo) and not choice.has_echoed
        choice.has_echoed = True
        ended = choice.ended
        return {
            "index": index,
            "text": (prompt.text if echoes else "") + steps.text,
            "logprobs": self._logprobs(choice, prompt, steps, echoes),
            "finish_reason": None if ended is None else self._finish_reason(ended),
            "stop_reason": None if ended is None else choice.reader.stop_of(ended),
        }

    def _finish_reason(self, ended: Ended) -> str:
        is_cut = ended.reason in ("length", "grammar_error") or not self._asked.num_new
        return "length" if is_cut else "stop"

    def _logprobs(self, choice: _Choice, prompt: _Prompt, steps: TextStep, echoes: bool) -> Any:
        if self._asked.logprobs is None:
            return None
        texts, offset = self._api.texts, len(prompt.text)
        made = completion_form(texts, steps.probs, [one.value for one in steps.probs], offset)
        before = choice.prompt_form
        return made if not echoes or before is None else {name: [*before[name], *made[name]] for name in made}

    def _body(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "text_completion", "choices": choices, "system_fingerprint": None}


def _prompt_form(texts: Texts, ids: Sequence[int], probs: LogProbs, num_top: int) -> Any:
    """The log-probabilities of a prompt; its first token has none."""
    detokenizer, end = texts.tokenizer.detokenizer(), 0
    made: list[TokenProb] = []
    for place, token_id in enumerate(ids):
        start = end
        end += len(detokenizer.put([token_id]))
        made.append(token_prob(token_id, probs, place, num_top, start, end))
    form = completion_form(texts, made, probs.values, 0)
    form["top_logprobs"] = [
        None if value is None else top for value, top in zip(probs.values, form["top_logprobs"], strict=True)
    ]
    return form
