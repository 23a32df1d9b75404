"""Requests of many parts are taken or refused as a whole: what is handed in later finds its place kept."""

import asyncio
import random
from dataclasses import dataclass, replace
from typing import Any

import pytest

from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.client import RequestEvent, RequestStream
from seed_oss.engine.messages import Computed, Ended, Ready, Refused, Submit, Tokens
from seed_oss.server import api as server_api
from seed_oss.server.places import Need, Places, Share
from tests.seed_tokenizer import seed_tokenizer
from tests.server.api_calls import ASK, MODEL, app, post, run
from tests.server.fake_engine import FakeEngine, Script
from tests.server.raw_call import RawCall

CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@dataclass
class StrictEngine(FakeEngine):
    """Takes as many answers and tokens that wait as it says, and refuses more, as the real one does."""

    max_num_seqs: int = 2
    max_num_rows: int = 5
    max_queued_tokens: int = 1000
    num_rows: int = 0
    num_tokens: int = 0
    most_tokens: int = 0
    num_refused: int = 0

    @property
    def ready(self) -> Ready | None:
        """See EngineClient."""
        limits = ("max_num_seqs", "max_num_rows", "max_queued_tokens")
        ready = super().ready
        return None if ready is None else replace(ready, **{name: getattr(self, name) for name in limits})

    async def submit(self, request: Submit) -> RequestStream:
        """See EngineClient."""
        num = request.params.n if request.task == "generate" else 1
        num_rows, num_tokens = self.num_rows + num, self.num_tokens + num * len(request.prompt_ids)
        if num_rows > self.max_num_rows or num_tokens > self.max_queued_tokens:
            self.num_refused += 1
            self.refusal = lambda one: Refused(one.request_id, "overloaded", "full")
            stream = await super().submit(request)
            self.refusal = None
            return stream
        self.num_rows, self.num_tokens = num_rows, num_tokens
        self.most_tokens = max(self.most_tokens, num_tokens)
        return _Counted(self, await super().submit(request), len(request.prompt_ids), num)


class _Counted(RequestStream):
    def __init__(self, engine: StrictEngine, stream: RequestStream, num_prompt: int, num_rows: int) -> None:
        self._engine, self._stream, self._num_prompt = engine, stream, num_prompt
        self._waiting, self._open = set(range(num_rows)), set(range(num_rows))

    async def __anext__(self) -> RequestEvent:
        event = await anext(self._stream)
        if isinstance(event, Tokens | Computed | Ended):
            self._begin(getattr(event, "choice", 0))
        if isinstance(event, Ended):
            self._end(event.choice)
        return event

    async def close(self) -> None:
        await self._stream.close()
        for choice in tuple(self._open):
            self._begin(choice)
            self._end(choice)

    def _begin(self, choice: int) -> None:
        self._engine.num_tokens -= self._num_prompt * (choice in self._waiting)
        self._waiting.discard(choice)

    def _end(self, choice: int) -> None:
        self._engine.num_rows -= choice in self._open
        self._open.discard(choice)


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[Places]:
    """Those of the servers that a test makes."""
    made: list[Places] = []

    def make() -> Places:
        made.append(Places())
        return made[-1]

    monkeypatch.setattr(server_api, "Places", make)
    return made


def strict(**more: Any) -> StrictEngine:
    return StrictEngine(seed_tokenizer(), **more)


def texts(num: int, n: int = 1, length: int = 3) -> dict[str, Any]:
    return {"model": MODEL, "prompt": [[20] * length] * num, "n": n}


def test_a_share_that_was_given_back_takes_nothing_any_more() -> None:
    places = Places()
    parts = [Submit(str(number), (1, 2, 3), SamplingParams(n=2)) for number in range(3)]
    share = Share(places, parts, 4)
    share.take(Ready(100, 4, 100, ("generate",)))
    assert places.taken == Need(4, 12)
    share.enter(0, parts[0])
    share.see(0, Tokens("0", 1, (5,)))
    assert places.taken == Need(4, 12), "as many still come"
    share.give_back()
    share.see(0, Ended("0", 1, "eos"))
    share.give_back()
    assert places.taken == Need()


@pytest.mark.parametrize("max_num_rows", [3, 4, 5, 100])
@pytest.mark.parametrize("max_queued_tokens", [6, 7, 1000])
def test_many_prompts_are_taken_by_an_idle_server_however_short_its_queue_is(
    max_num_rows: int, max_queued_tokens: int, places: list[Places]
) -> None:
    client = strict(max_num_rows=max_num_rows, max_queued_tokens=max_queued_tokens)
    answer = post(client, TEXT, texts(9, n=2))
    assert (answer.status, len(answer.body["choices"])) == (200, 18)
    assert post(client, VECTORS, {"model": MODEL, "input": [[20] * 6] * 40}).status == 200
    assert client.num_refused == 0
    assert client.most_tokens <= max_queued_tokens
    assert [one.taken for one in places] == [Need(), Need()]


@pytest.mark.parametrize(
    ("path", "body", "limits", "param", "said"),
    [
        (TEXT, texts(1, n=6), {}, "n", "has places for 5 answers"),
        (CHAT, {"model": MODEL, "messages": ASK, "n": 6}, {}, "n", "has places for 5 answers"),
        (TEXT, texts(2, n=2, length=6), {"max_queued_tokens": 11}, None, "the queue, which holds 11"),
        (VECTORS, {"model": MODEL, "input": [[20], [20] * 12]}, {"max_queued_tokens": 11}, None, "which holds 11"),
    ],
)
def test_what_can_never_be_taken_is_refused_for_good(
    path: str, body: Any, limits: dict[str, int], param: str | None, said: str
) -> None:
    client = strict(**limits)
    answer = post(client, path, body)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert said in answer.error["message"]
    assert client.submits == []


@pytest.mark.parametrize(
    ("first", "second", "limits"),
    [
        (texts(2), texts(4), {}),
        (texts(1, n=2), texts(1, n=4), {}),
        (texts(1, n=2), texts(1, length=7), {"max_queued_tokens": 12}),
    ],
)
def test_a_request_that_has_no_room_is_refused_before_anything_of_it_runs(
    first: Any, second: Any, limits: dict[str, int], places: list[Places]
) -> None:
    async def work() -> tuple[RawCall, RawCall, RawCall, int]:
        client = strict(hold_after=0, **limits)
        application = app(client)
        running = RawCall(application, TEXT, first)
        await client.waits.wait()
        num_before = len(client.submits)
        refused = RawCall(application, TEXT, second)
        await refused.task
        num_after = len(client.submits) - num_before
        client.gate.set()
        await running.task
        again = RawCall(application, TEXT, second)
        await again.task
        return running, refused, again, num_after

    running, refused, again, num_after = run(work())
    assert (running.status, refused.status, again.status, num_after) == (200, 429, 200, 0)
    assert b"try again later" in b"".join(refused.sent)
    assert [one.taken for one in places] == [Need()]


def test_parts_that_come_later_find_their_places_kept(places: list[Places]) -> None:
    async def work() -> list[int | None]:
        client = strict(hold_after=0)
        application = app(client)
        many = RawCall(application, TEXT, texts(9))  # four at once, five later
        await client.waits.wait()
        others = [RawCall(application, TEXT, texts(1)) for _ in range(3)]
        await asyncio.gather(*(one.task for one in others[1:]))
        client.gate.set()
        await asyncio.gather(many.task, others[0].task)
        assert client.num_refused == 0
        return [many.status, *(one.status for one in others)]

    assert run(work()) == [200, 200, 429, 429]
    assert [one.taken for one in places] == [Need()]


@pytest.mark.parametrize("seed", range(8))
def test_under_any_load_requests_are_answered_or_refused_as_a_whole(seed: int, places: list[Places]) -> None:
    rng = random.Random(seed)

    async def ask(application: Any, client: StrictEngine) -> int | None:
        await asyncio.sleep(0)
        num, n, stream = rng.randint(1, 12), rng.randint(1, 5), rng.random() < 0.5
        body = {**texts(num, n, rng.randint(1, 9)), "stream": stream}
        call = RawCall(application, TEXT, body)
        if rng.random() < 0.3:
            for _ in range(rng.randint(0, 30)):
                await asyncio.sleep(0)
            call.disconnect()
        await asyncio.wait([call.task])
        assert call.status != 200 or b'"error"' not in b"".join(call.sent)
        return call.status

    async def work() -> tuple[set[int | None], StrictEngine]:
        script = Script(rng.choice(["Four.", "One two three four.<seed:eos>"]), num_together=2)
        client = strict(scripts=[script], max_num_rows=rng.randint(3, 12), max_queued_tokens=rng.randint(20, 60))
        application = app(client, max_preparing=1000)
        found = await asyncio.gather(*(ask(application, client) for _ in range(40)))
        return set(found), client

    statuses, client = run(work())
    assert client.num_refused == 0
    assert statuses <= {None, 200, 400, 429, 499}
    assert 200 in statuses
    assert (client.num_rows, client.num_tokens) == (0, 0)
    assert [one.taken for one in places] == [Need()]
