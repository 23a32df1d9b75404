"""What all endpoints share: the engine's client, the model, the threads, and the checks that come before the queue."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.client import EngineClient
from seed_oss.engine.conversation_memory import ConversationMemory, WrittenAnswer
from seed_oss.engine.messages import AnswerForm, Ready, Submit, Task
from seed_oss.server.bodies import Body, checked, parsed, read_raw, unwrapped
from seed_oss.server.errors import ApiError
from seed_oss.server.places import Places
from seed_oss.server.runs import RunEvent, Runs
from seed_oss.server.served import ApiSettings, ServedModel
from seed_oss.server.stored import ResponseStore
from seed_oss.server.streaming import unless_gone
from seed_oss.server.texts import Texts, num_chars, pieces_of, texts_in
from seed_oss.server.work import LONG_CHARS, WorkPool

_Model = TypeVar("_Model", bound=Body)
_T = TypeVar("_T")
_PIECE_CHARS = 2**16
INLINE_CHARS = 2**15  # of JSON that is read or written on the event loop
SPARE_CHARS = 4096  # what the template leaves out


class Api:
    """The endpoints' common ground.

    Args:
        client: the engine.
        served: the model.
        settings: how the endpoints behave.
    """

    def __init__(self, client: EngineClient, served: ServedModel, settings: ApiSettings) -> None:
        self.client, self.served, self.settings = client, served, settings
        self.texts = Texts(served.tokenizer)
        self.responses = ResponseStore(settings.max_stored_responses, settings.max_stored_bytes)
        self.memory = ConversationMemory(served.tokenizer, served.generation, settings.max_remembered_tokens)
        self.places = Places()
        self._pool = WorkPool(settings.num_threads, settings.max_preparing, settings.prepare_seconds)

    def close(self) -> None:
        """Take no more requests."""
        self._pool.close()

    async def read(self, request: Request, model: type[_Model]) -> tuple[_Model, dict[str, Any]]:
        """A request's body as typed fields, and as it came."""
        raw, limits = await read_raw(request), self.settings.limits
        request.state.num_body_bytes = len(raw)

        def read() -> tuple[_Model, dict[str, Any]]:
            body = parsed(raw, limits.json_depth)
            flat = unwrapped(body)
            asked = checked(flat, model)
            limits.check(flat)
            return asked, body

        return await self.made(request, read)

    async def made(self, request: Request, make: Callable[[], _T], num_more: int = 0) -> _T:
        """What is made of a request's body: at once where that is short, else in a thread.

        Args:
            request: whose body was read by `read`.
            make: makes it.
            num_more: bytes of what it is made of besides.
        """
        num = int(request.state.num_body_bytes) + num_more
        return make() if num <= INLINE_CHARS else await self._pool.run(make, num)

    async def work(self, work: Callable[[], _T], num_chars: int = 0) -> _T:
        """The result of what takes too long for the event loop; see `WorkPool.run`."""
        return await self._pool.run(work, num_chars)

    async def finish(self, work: Callable[[], _T], num_chars: int = 0) -> _T:
        """The same for what has been computed already; see `WorkPool.finish`."""
        return await self._pool.finish(work, num_chars)

    async def written(self, write: Callable[[], _T], num_chars: int) -> _T:
        """What has been computed, as it is sent: at once where it is short, else in a thread.

        Args:
            write: makes it.
            num_chars: of what is sent, about.
        """
        return write() if num_chars <= INLINE_CHARS else await self.finish(write, num_chars)

    def remember(self, owner: str, answer: WrittenAnswer) -> None:
        """Keep an answer for the next prompt of its conversation, which reads it if nobody has had the time before.

        Args:
            owner: see `owner_of`.
            answer: as it was generated.
        """
        self.memory.take(owner, answer)
        self._pool.later(lambda: self.memory.read_pending(owner))

    @property
    def ready(self) -> Ready:
        """What the engine said of itself.

        Raises:
            ApiError: it is not there.
        """
        ready = self.client.ready
        if ready is None:
            raise ApiError("unavailable", "the engine is starting; try again", retry_after=self.settings.retry_seconds)
        return ready

    @property
    def vocab_size(self) -> int:
        """Ids that a request may name."""
        ready = self.client.ready
        return self.texts.vocab_size if ready is None else ready.vocab_size

    @property
    def max_len(self) -> int:
        """Most tokens of a prompt and its answer."""
        ready = self.client.ready
        return min(self.served.context_length, self.served.context_length if ready is None else ready.max_model_len)

    @property
    def num_at_once(self) -> int:
        """Answers of one request that are in the engine's hands together: those that run, and as many again."""
        return min(2 * self.ready.max_num_seqs, self.ready.max_num_rows)

    def model_names(self) -> list[str]:
        """Whatever requests may ask for: the model's names, and adapters."""
        ready = self.client.ready
        return [*self.served.names, *(() if ready is None else ready.adapters)]

    def adapter_of(self, model: str | None) -> str | None:
        """The adapter that a request's `model` names, or None for the model itself.

        Raises:
            ApiError: there is no such model.
        """
        if model is None or model in self.served.names:
            return None
        if model not in self.ready.adapters:
            names = ", ".join(self.model_names()[:8])
            raise ApiError("model_not_found", f"there is no such model; served are {names}", param="model")
        return model

    def check_task(self, task: Task) -> None:
        """Refuse what the engine cannot do.

        Raises:
            ApiError: it cannot.
        """
        tasks = self.ready.tasks
        if task not in tasks:
            raise ApiError(
                "no_such_task", f"the model that is served cannot {task}; it can {', '.join(tasks) or 'nothing'}"
            )

    def check_length(self, num_prompt: int, max_tokens: int | None, param: str) -> None:
        """Refuse what has no room in the context.

        Raises:
            ApiError: it has none.
        """
        num_new = 1 if max_tokens is None else max_tokens
        if num_prompt < 1:
            raise ApiError("invalid", f"{param} has no tokens; give at least one", param=param)
        if num_prompt + num_new > self.max_len:
            raise ApiError(
                "context",
                f"{param} has {num_prompt} tokens and {num_new} are to follow; the context holds {self.max_len}: "
                "shorten it, or ask for fewer",
                param=param,
            )

    def check_chars(self, texts: Any, param: str, *, most: int | None = None) -> int:
        """Refuse texts that cannot fit before tokens are made of them, which takes long; their characters, if they can.

        Args:
            texts: a text, or JSON with texts in it.
            param: the field that they came from.
            most: characters; None for what the context could hold if every token were the longest.

        Raises:
            ApiError: they have more.
        """
        num = num_chars(texts)
        limit = self.max_len * self.texts.longest_token + SPARE_CHARS if most is None else most
        if num > limit:
            raise ApiError("context", f"{param} has {num} characters; at most {limit} fit: shorten it", param=param)
        return num

    async def check_long(self, texts: Any, param: str, *, markers_count: bool = False) -> None:
        """Refuse long texts that have too many tokens after as many of these as fit, and not after all.

        Args:
            texts: a text, or JSON with texts in it, that `check_chars` has let through.
            param: the field that they came from.
            markers_count: control tokens that a text spells are control tokens.

        Raises:
            ApiError: they have more tokens than the context holds, or counting takes too long.
        """
        if num_chars(texts) <= LONG_CHARS:
            return
        try:
            async with asyncio.timeout(self.settings.prepare_seconds):
                await self._check_pieces(texts, param, markers_count)
        except TimeoutError:
            seconds = self.settings.prepare_seconds
            raise ApiError(
                "unavailable", f"counting tokens of {param} took more than {seconds:g} s; send less"
            ) from None

    async def _check_pieces(self, texts: Any, param: str, markers_count: bool) -> None:
        count = self.texts.encode if markers_count else self.texts.encode_plain
        num, room = 0, self.max_len
        for piece in (piece for text in texts_in(texts) for piece in pieces_of(text, _PIECE_CHARS)):
            num += await self.work(lambda piece=piece: len(count(piece)), LONG_CHARS + 1)
            room += self.texts.longest_token  # what a cut may have added
            if num > room:
                raise ApiError(
                    "context",
                    f"{param} has more than {self.max_len} tokens, which the context holds: shorten it",
                    param=param,
                )

    def submit(
        self,
        request: Request,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        task: Task = "generate",
        form: AnswerForm | None = None,
        priority: int | None = None,
        adapter: str | None = None,
        **options: Any,
    ) -> Submit:
        """A request for the engine."""
        return Submit(
            request_id=f"{request_id(request)}-{secrets.token_hex(8)}",
            prompt_ids=tuple(prompt_ids),
            params=params,
            task=task,
            form=form,
            priority=priority or 0,
            namespace=namespace(request),
            adapter=adapter,
            options=options,
        )

    async def start(self, request: Request, submits: Sequence[Submit]) -> tuple[Runs, RunEvent | None]:
        """Hand requests in, as there is room, and wait a while for the first event, so that a refusal is no stream yet.

        Raises:
            ApiError: refused.
            ClientGoneError: nobody waits any more.
        """
        runs = Runs(self.client, submits, self.places, self.num_at_once)
        try:
            return runs, await unless_gone(request, self._first(runs))
        except BaseException:
            await runs.close()
            raise

    async def _first(self, runs: Runs) -> RunEvent | None:
        await runs.__aenter__()
        return await runs.first(self.settings.keep_alive_seconds)


def namespace(request: Request) -> str:
    """Whose request it is: cached prompts and stored answers are shared within one only."""
    return str(getattr(request.state, "namespace", ""))


def request_id(request: Request) -> str:
    """The name under which a request stands in the logs."""
    given = getattr(request.state, "request_id", None)
    if not isinstance(given, str) or not given:
        given = request.state.request_id = secrets.token_hex(12)
    return given


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())
