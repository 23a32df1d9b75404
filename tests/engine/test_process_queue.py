"""Events of a request on their way to a reader that is faster or slower, and when a process is started again."""

import asyncio
import random
from collections import defaultdict

import pytest

from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.messages import Computed, Ended, LogProbs, Refused, Started, Submit, Tokens
from seed_oss.engine.request_queue import MAX_RUN, RequestQueue
from seed_oss.engine.restarts import Restarts
from seed_oss.errors import InputError
from tests.engine.processes import events_of, run


def queue(n: int = 1, max_unread: int = 10_000, left: list[str] | None = None, **fields: object) -> RequestQueue:
    """The queue of a request with `n` choices; that it was left is noted."""
    notes = [] if left is None else left
    request = Submit("mine", (1,), SamplingParams(n=n), **fields)  # type: ignore[arg-type]
    return RequestQueue(request, max_unread, lambda: notes.append("left"))


def logprobs(*ids: int) -> LogProbs:
    """Log-probabilities that can be told apart."""
    return LogProbs(tuple(-float(one) for one in ids), tuple((one, one + 1) for one in ids), ((-1.0, -2.0),) * len(ids))


def tokens(*ids: int, choice: int = 0, with_logprobs: bool = False) -> Tokens:
    """Tokens as they come from a process, under its name for the request."""
    return Tokens("0-mine", choice, ids, logprobs(*ids) if with_logprobs else None)


def test_tokens_that_nobody_has_read_come_at_once() -> None:
    async def scenario() -> None:
        stream = queue()
        for event in (Started("0-mine"), tokens(1), tokens(2, 3), Ended("0-mine", 0, "eos")):
            stream.put(event)
        assert await events_of(stream) == [Started("mine"), Tokens("mine", 0, (1, 2, 3)), Ended("mine", 0, "eos")]

    run(scenario())


def test_a_reader_gets_long_answers_in_pieces() -> None:
    async def scenario() -> None:
        stream = queue(2)
        for number in range(MAX_RUN + 9):
            stream.put(tokens(number))
            stream.put(tokens(number, choice=1))
        for choice in range(2):
            stream.put(Ended("0-mine", choice, "eos"))
        found = await events_of(stream)
        sizes = [len(one.token_ids) for one in found if isinstance(one, Tokens)]
        assert sizes == [MAX_RUN, MAX_RUN, 9, 9]
        for choice in range(2):
            runs = [one.token_ids for one in found if isinstance(one, Tokens) and one.choice == choice]
            assert [one for ids in runs for one in ids] == list(range(MAX_RUN + 9))

    run(scenario())


def test_log_probabilities_stay_with_their_tokens() -> None:
    async def scenario() -> None:
        stream = queue()
        for event in (tokens(1, with_logprobs=True), tokens(2, 3, with_logprobs=True), tokens(4), tokens(5)):
            stream.put(event)
        stream.put(Ended("0-mine", 0, "eos"))
        assert (await events_of(stream))[:2] == [
            Tokens("mine", 0, (1, 2, 3), logprobs(1, 2, 3)),
            Tokens("mine", 0, (4, 5)),
        ]

    run(scenario())


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_lost_whenever_it_is_read(seed: int) -> None:
    async def scenario() -> None:
        draw, stream = random.Random(seed), queue(n=3)
        given, read = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
        ended = list[int]()

        async def read_one() -> None:
            event = await anext(stream)
            if isinstance(event, Tokens):
                assert event.choice not in ended
                read[event.choice] += event.token_ids
            elif isinstance(event, Ended):
                ended.append(event.choice)

        unread = 0
        for number in range(200):
            choice = draw.randrange(3)
            given[choice].append(number)
            stream.put(tokens(number, choice=choice))
            unread = 1
            if draw.random() < 0.3 and unread:
                await read_one()
                unread = 0
                while stream._queue and draw.random() < 0.5:
                    await read_one()
        for choice in range(3):
            stream.put(Ended("0-mine", choice, "eos"))
        while len(ended) < 3:
            await read_one()
        assert read == given
        assert stream._num_unread == 0
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    run(scenario())


@pytest.mark.parametrize(("num_tokens", "is_left"), [(9, False), (10, False), (11, True)])
def test_the_bound_on_what_waits(num_tokens: int, is_left: bool) -> None:
    async def scenario() -> None:
        left = list[str]()
        stream = queue(max_unread=10, left=left)
        for number in range(num_tokens):
            stream.put(tokens(number))
        assert left == ["left"] * is_left
        if is_left:
            stream.put(tokens(99))
            (end,) = await events_of(stream)
            assert isinstance(end, Ended)
            assert (end.reason, end.kind, left) == ("error", "overloaded", ["left"])

    run(scenario())


def test_log_probabilities_count() -> None:
    left = list[str]()
    stream = queue(max_unread=11, left=left)
    stream.put(tokens(1, with_logprobs=True))  # a token, its own, and two alternatives: 6 numbers
    assert left == []
    stream.put(tokens(2, with_logprobs=True))
    assert left == ["left"]


def test_what_was_read_does_not_count() -> None:
    async def scenario() -> None:
        left = list[str]()
        stream = queue(max_unread=10, left=left)
        for number in range(100):
            stream.put(tokens(*range(10)))
            assert (await anext(stream)).request_id == "mine", number
        assert left == []

    run(scenario())


def test_closing_tells_once_and_not_after_the_end() -> None:
    async def scenario() -> None:
        left = list[str]()
        stream = queue(left=left)
        await stream.close()
        await stream.close()
        assert left == ["left"]
        ended = queue(left=left)
        ended.put(Ended("0-mine", 0, "eos"))
        await ended.close()
        assert left == ["left"]
        refused = queue(n=4, left=left)
        refused.put(Refused("0-mine", "invalid", "no"))
        assert refused.has_ended

    run(scenario())


def test_only_generating_has_several_choices() -> None:
    stream = queue(n=2, task="embed")
    stream.put(Computed("0-mine", ((1.0,),)))
    stream.put(Ended("0-mine", 0, "length"))
    assert stream.has_ended
    with pytest.raises(InputError, match="choice 1"):
        queue().put(tokens(1, choice=1))


def test_a_reader_that_waits_is_woken() -> None:
    async def scenario() -> None:
        stream = queue()
        reading = asyncio.create_task(events_of(stream))
        await asyncio.sleep(0)
        stream.put(tokens(1))
        await asyncio.sleep(0)
        stream.fail("it died", "unavailable")
        assert len(await reading) == 2

    run(scenario())


def test_waits_double_up_to_a_bound() -> None:
    state, delays = Restarts(max_deaths=100), list[float | None]()
    for now in range(8):
        state = state.after_death(float(now))
        delays.append(state.delay_s)
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@pytest.mark.parametrize(("gap", "is_last"), [(149.9, True), (150.0, False), (1000.0, False)])
def test_three_deaths_within_five_minutes_are_the_last(gap: float, is_last: bool) -> None:
    state = Restarts()
    for number in range(3):
        state = state.after_death(number * gap)
    assert (state.delay_s is None) == is_last
