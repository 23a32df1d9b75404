"""AsyncLLM: the engine in a process of its own, answers as they come, for programs that do other things meanwhile."""

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from seed_oss.chat.events import Event as ChatEvent
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.config.generation import GenerationConfig
from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.answers import Answers, score_of, token_vectors_of, vector_of
from seed_oss.engine.asks import Asks, ChatAsk, Prompt, chat_ask, lora_texts
from seed_oss.engine.client import RequestStream
from seed_oss.engine.gathered import Gathered
from seed_oss.engine.messages import AnswerForm, Ended, Ready, Submit, Task, Tokens
from seed_oss.engine.outputs import ChatOutput, Delta, RequestOutput, Score, TokenVectors, Vector
from seed_oss.engine.process_client import ProcessClient, ProcessSettings
from seed_oss.engine.process_main import engine_command
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import InputError, MissingFileError


class AsyncLLM:
    """A model that answers many prompts at once; this process loads neither the weights nor torch.

    Use it in an `async with`. Leaving a stream early, or cancelling a task that waits, ends its request.

    Args:
        model: a folder, a GGUF file, a hub id, or a named model such as "demo-int4".
        process: bounds of the engine's process.
        **settings: fields of `EngineSpec`, the same as arguments of `LLM` (`quantization`, `max_num_seqs`, ...), `lora`
            as folders by their names.

    Raises:
        InputError: an unknown setting, or one that cannot be.
    """

    def __init__(self, model: str, *, process: ProcessSettings | None = None, **settings: Any) -> None:
        known = [name for name in EngineSpec.__dataclass_fields__ if name != "model"]
        if not settings.keys() <= set(known):
            raise InputError(f"settings of the engine are {', '.join(known)}; got {', '.join(settings)}")
        spec = EngineSpec(model=str(model), **{**settings, "lora": lora_texts(settings.get("lora"))})
        self._spec = spec
        self._client = ProcessClient(engine_command(spec), process)
        self._asks, self._answers = Asks(None), Answers(None)
        self._numbers = itertools.count()

    async def __aenter__(self) -> "AsyncLLM":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def tokenizer(self) -> SeedOssTokenizer:
        """Of the model.

        Raises:
            TokenizerError: it has none, or the engine has not been started.
        """
        return self._asks.tokenizer

    async def start(self) -> Ready:
        """Start the engine and wait until it takes requests.

        Raises:
            StateError: it cannot be started; the message says why.
        """
        tokenizer = _tokenizer(self._spec)
        self._asks, self._answers = Asks(tokenizer, _generation(self._spec)), Answers(tokenizer)
        await self._client.start()
        return await self._client.wait_ready()

    async def close(self) -> None:
        """End the engine, after what runs."""
        await self._client.close(drain=True)

    async def generate(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> RequestOutput:
        """Continue a prompt; see `LLM.generate`.

        Raises:
            InputError: a prompt or a setting that cannot be.
            EngineError: the engine failed, or is busy.
        """
        found = await self._gather(self._submit(self._asks.encode(prompt), sampling_params, adapter))
        return self._answers.output(prompt, found)

    async def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> AsyncIterator[Delta]:
        """Continue a prompt, bit by bit; the last of each answer says why it ended.

        Raises:
            InputError, EngineError: see `generate`.
        """
        submit = self._submit(self._asks.encode(prompt), sampling_params, adapter)
        found, readers = Gathered(submit), {}
        async with await self._client.submit(submit) as events:
            async for event in events:
                found.take(event)
                if isinstance(event, Tokens | Ended):
                    stops = submit.params.stops
                    reader = readers.setdefault(event.choice, self._answers.text_reader(event.choice, stops))
                    yield reader.feed(event) if isinstance(event, Tokens) else reader.finish(event)

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling_params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        **form: Any,
    ) -> ChatOutput:
        """Answer a conversation; see `LLM.chat` for the other arguments.

        Raises:
            InputError, TemplateError, EngineError: see `LLM.chat`.
        """
        ask = _chat_ask(form)
        prompt = self._asks.chat(messages, ask, adapter)
        found = await self._gather(self._submit(prompt.ids, sampling_params, adapter, ask.form))
        self._asks.remember(found, ask)
        return self._answers.chat_output(found, form.get("tools"), prompt.turns)

    async def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling_params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        **form: Any,
    ) -> AsyncIterator[ChatEvent]:
        """The events of one answer, as they come: reasoning, content, tool calls; see `seed_oss.chat.StreamParser`.

        Raises:
            InputError, TemplateError, EngineError: see `LLM.chat`; `n` must be 1.
        """
        ask = _chat_ask(form)
        submit = self._submit(self._asks.chat(messages, ask, adapter).ids, sampling_params, adapter, ask.form)
        if submit.params.n != 1:
            raise InputError(f"n is {submit.params.n}; a stream of events is of one answer: call it for each")
        found = Gathered(submit)
        async with await self._client.submit(submit) as events:
            reader = None
            async for event in events:
                found.take(event)
                if reader is None and isinstance(event, Tokens | Ended):
                    reader = self._answers.chat_reader(found.prompt_ids, form.get("tools"), submit.params.stops)
                if reader is not None and isinstance(event, Tokens | Ended):
                    if found.is_done:
                        self._asks.remember(found, ask)
                    for one in reader.feed(event.token_ids) if isinstance(event, Tokens) else reader.finish(event):
                        yield one

    async def embed(
        self, prompt: Prompt, *, pooling: str = "last", normalize: bool = True, adapter: str | None = None
    ) -> Vector:
        """A vector for a prompt; see `LLM.embed`."""
        return vector_of(await self._compute(prompt, "embed", adapter, {"pooling": pooling, "normalize": normalize}))

    async def score(self, prompt: Prompt, *, adapter: str | None = None) -> Score:
        """How probable a text is; see `LLM.score`."""
        return score_of(await self._compute(prompt, "score", adapter))

    async def classify(self, prompt: Prompt, *, adapter: str | None = None) -> Vector:
        """Scores of the labels; see `LLM.classify`."""
        return vector_of(await self._compute(prompt, "classify", adapter))

    async def classify_tokens(self, prompt: Prompt, *, adapter: str | None = None) -> TokenVectors:
        """Scores of the labels of each token; see `LLM.classify_tokens`."""
        return token_vectors_of(await self._compute(prompt, "token_classify", adapter))

    async def find_answers(self, prompt: Prompt, *, adapter: str | None = None) -> TokenVectors:
        """Scores of each token as start and end of the answer; see `LLM.find_answers`."""
        return token_vectors_of(await self._compute(prompt, "question_answer", adapter))

    async def _compute(
        self, prompt: Prompt, task: Task, adapter: str | None, options: Mapping[str, Any] | None = None
    ) -> Gathered:
        submit = self._submit(self._asks.encode(prompt), None, adapter)
        return await self._gather(replace(submit, task=task, options=options or {}))

    def _submit(
        self,
        ids: tuple[int, ...],
        params: SamplingParams | None,
        adapter: str | None,
        form: AnswerForm | None = None,
    ) -> Submit:
        return Submit(str(next(self._numbers)), ids, params or SamplingParams(), form=form, adapter=adapter)

    async def _gather(self, submit: Submit) -> Gathered:
        found = Gathered(submit)
        events: RequestStream
        async with await self._client.submit(submit) as events:
            async for event in events:
                found.take(event)
        return found


def _chat_ask(given: Mapping[str, Any]) -> ChatAsk:
    known = {
        "thinking_budget": None,
        "tools": None,
        "tool_choice": None,
        "response_format": None,
        "parallel_tool_calls": True,
        "loop_guard": False,
        "cache_turns": True,
        "reuse_reasoning": False,
    }
    unknown = given.keys() - known
    if unknown:
        raise InputError(f"chat() got {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return chat_ask(**{**known, **given})


def _generation(spec: EngineSpec) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(spec.model, revision=spec.revision)
    except MissingFileError:
        return None


def _tokenizer(spec: EngineSpec) -> SeedOssTokenizer | None:
    try:
        return SeedOssTokenizer.from_pretrained(spec.model, revision=spec.revision)
    except MissingFileError:
        return None
