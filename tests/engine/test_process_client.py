"""The engine's process from outside: what comes of requests, and what happens when it dies in any state."""

import asyncio
import os
import signal
from collections.abc import Sequence

import pytest

from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.messages import Ended, Pulse, Ready, Refused, Started, Tokens, encode
from seed_oss.engine.process_client import TICK_S, ProcessClient, ProcessSettings
from seed_oss.errors import StateError
from tests.engine.manual_time import ManualTime
from tests.engine.processes import engine, events_of, program, request, run, scripted

FOR_EVER = "threading.Event().wait()"
READY = encode(Ready(10, 1, 10, ("generate",)))


def tokens_of(events: Sequence[object], choice: int = 0) -> list[int]:
    """The tokens of a choice, however they were cut."""
    return [one for event in events if isinstance(event, Tokens) and event.choice == choice for one in event.token_ids]


def test_a_request_comes_back_whole() -> None:
    async def scenario() -> None:
        async with engine(scripted()) as client:
            assert client.ready is None
            ready = await client.wait_ready()
            assert (ready, client.ready) == (Ready(4096, 16, 1000, ("generate",), dtype="scripted"), ready)
            events = await events_of(await client.submit(request(5, params=SamplingParams(n=2))))
            assert events[0] == Started("r", (), 5)
            assert tokens_of(events, 0) == tokens_of(events, 1) == [0, 1, 2, 3, 4]
            assert [event for event in events if isinstance(event, Ended)] == [
                Ended("r", 0, "eos"),
                Ended("r", 1, "eos"),
            ]
            assert isinstance(events[-1], Ended)
            assert client.num_requests == 0
            await client.close(drain=True)
            assert (client.failure, client.pid, client.num_starts) == (None, None, 1)

    run(scenario())


def test_many_requests_of_one_name_share_the_pipe() -> None:
    async def scenario() -> None:
        async with engine(scripted()) as client:
            await client.wait_ready()
            streams = [await client.submit(request(length)) for length in range(1, 40)]
            results = await asyncio.gather(*map(events_of, streams))
            assert [tokens_of(events) for events in results] == [list(range(length)) for length in range(1, 40)]

    run(scenario())


def test_a_refused_request() -> None:
    async def scenario() -> None:
        async with engine(scripted()) as client:
            await client.wait_ready()
            events = await events_of(await client.submit(request(5, "refuse")))
            assert events == [Refused("r", "overloaded", "later", retry_after=1.5)]
            assert client.num_requests == 0

    run(scenario())


async def until_pulse(client: ProcessClient, num_running: int) -> None:
    """Wait until the engine says that so many requests run. It is asked by commands, not by waiting."""
    while client.pulse is None or client.pulse.stats["num_running"] != num_running:
        await events_of(await client.submit(request(1)))


def test_leaving_a_stream_aborts_its_request() -> None:
    async def scenario() -> None:
        async with engine(scripted()) as client:
            await client.wait_ready()
            async with await client.submit(request(5, "hold")) as stream:
                assert isinstance(await anext(stream), Started)
                await until_pulse(client, 1)
            assert client.num_requests == 0
            assert await events_of(stream) == []
            await until_pulse(client, 0)

    run(scenario())


def test_a_reader_that_waits_ends_when_its_stream_is_closed() -> None:
    async def scenario() -> None:
        async with engine(scripted()) as client:
            await client.wait_ready()
            stream = await client.submit(request(5, "hold"))
            reading = asyncio.create_task(events_of(stream))
            await until_pulse(client, 1)
            await stream.close()
            assert await reading == [Started("r", (), 5)]

    run(scenario())


def test_a_slow_reader_loses_its_request_and_nobody_else_waits() -> None:
    async def scenario() -> None:
        async with engine(scripted(), ProcessSettings(max_unread=50_000)) as client:
            await client.wait_ready()
            slow = await client.submit(request(5, "flood", params=SamplingParams(n=2)))
            results = [await events_of(await client.submit(request(50))) for _ in range(3)]
            assert [tokens_of(events) for events in results] == [list(range(50))] * 3
            while client.num_requests:
                await events_of(await client.submit(request(1)))
            events = await events_of(slow)
            assert [(event.choice, event.reason, event.kind) for event in events if isinstance(event, Ended)] == [
                (0, "error", "overloaded"),
                (1, "error", "overloaded"),
            ]
            assert len(events) == 2
            await until_pulse(client, 0)

    run(scenario())


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_a_death_ends_every_stream_and_the_next_process_answers(how: str) -> None:
    async def scenario() -> None:
        time = ManualTime()
        async with engine(scripted(), None, time) as client:
            await client.wait_ready()
            held = await client.submit(request(5, "hold", params=SamplingParams(n=2)))
            await client.submit(request(5, how))
            events = await events_of(held)
            ends = [event for event in events if isinstance(event, Ended)]
            assert [(end.choice, end.reason, end.kind) for end in ends] == [
                (0, "error", "unavailable"),
                (1, "error", "unavailable"),
            ]
            assert (client.ready, client.pulse, client.num_requests) == (None, None, 0)
            (refused,) = await events_of(await client.submit(request(5)))
            assert isinstance(refused, Ended)
            assert (refused.reason, refused.kind) == ("error", "unavailable")
            await time.until_sleeping(0.5)
            time.advance(0.5)
            await client.wait_ready()
            assert tokens_of(await events_of(await client.submit(request(3)))) == [0, 1, 2]
            assert client.num_starts == 2

    run(scenario())


def kill(client: ProcessClient) -> None:
    """kill -9."""
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)


def test_killed_while_it_starts_while_idle_and_while_it_streams() -> None:
    async def scenario() -> None:
        time = ManualTime()
        async with engine(scripted(), None, time) as client:
            while client.pid is None:
                await asyncio.sleep(0)
            kill(client)
            await time.until_sleeping(0.5)
            time.advance(1000.0)  # the first death is forgotten
            await client.wait_ready()
            kill(client)
            await time.until_sleeping(0.5)
            time.advance(1000.0)
            await client.wait_ready()
            stream = await client.submit(request(10**6))
            assert isinstance(await anext(stream), Started)
            assert isinstance(await anext(stream), Tokens)
            kill(client)
            *_, last = await events_of(stream)
            assert isinstance(last, Ended)
            assert (last.reason, last.kind) == ("error", "unavailable")
            await time.until_sleeping(0.5)
            assert client.failure is None

    run(scenario())


def test_killed_while_requests_wait_for_the_pipe() -> None:
    async def scenario() -> None:
        async with engine(program(f"os.write(events, {READY!r}); {FOR_EVER}")) as client:
            await client.wait_ready()
            big = [request(5, options={"text": "x" * 2**20}) for _ in range(3)]
            submitting = [asyncio.create_task(client.submit(one)) for one in big]
            await asyncio.sleep(0)
            kill(client)
            for stream in await asyncio.gather(*submitting):
                (end,) = await events_of(stream)
                assert isinstance(end, Ended)
                assert end.kind == "unavailable"

    run(scenario())


def test_killed_while_it_closes() -> None:
    async def scenario() -> None:
        async with engine(scripted()) as client:
            await client.wait_ready()
            stream = await client.submit(request(10**6))
            closing = asyncio.create_task(client.close(drain=True))
            await asyncio.sleep(0)  # it has begun
            assert isinstance(await anext(stream), Started)
            kill(client)
            await closing
            *_, last = await events_of(stream)
            assert isinstance(last, Ended)
            assert last.kind == "unavailable"
            assert (client.failure, client.num_starts) == (None, 1)

    run(scenario())


def test_three_deaths_are_the_last() -> None:
    async def scenario() -> None:
        time = ManualTime()
        async with engine(scripted("exit"), None, time) as client:
            for seconds in (0.5, 1.0):
                await time.until_sleeping(seconds)
                assert client.failure is None
                time.advance(seconds)
            assert await client.wait_ended() == client.failure
            assert client.failure is not None
            assert "exit code 3" in client.failure
            assert client.num_starts == 3
            (end,) = await events_of(await client.submit(request(1)))
            assert isinstance(end, Ended)
            assert (end.reason, end.kind) == ("error", "unavailable")
            with pytest.raises(StateError, match="exit code 3"):
                await client.wait_ready()

    run(scenario())


def test_what_can_never_start_is_not_tried_again(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with engine(scripted("wrong")) as client:
            assert "exit code 78" in (await client.wait_ended() or "")
            assert client.num_starts == 1

    run(scenario())
    assert "error: the model is wrong, as told" in capfd.readouterr().err


def test_a_program_that_is_not_there() -> None:
    async def scenario() -> None:
        time = ManualTime()
        async with engine(["no-such-program"], None, time) as client:
            for seconds in (0.5, 1.0):
                await time.until_sleeping(seconds)
                time.advance(seconds)
            assert "no-such-program" in (await client.wait_ended() or "")

    run(scenario())


GARBAGE = {
    "no JSON": b"what?\n",
    "no message": b"{}\n",
    "a command": encode(request(1)),
    "a choice that was not asked for": encode(Ended("0-r", 1, "eos")),
}


@pytest.mark.parametrize("line", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_a_death(line: bytes) -> None:
    async def scenario() -> None:
        time = ManualTime()
        code = f"os.write(events, {READY!r}); os.read(commands, 9999); os.write(events, {line!r}); {FOR_EVER}"
        async with engine(program(code), None, time) as client:
            await client.wait_ready()
            (end,) = await events_of(await client.submit(request(1)))
            assert isinstance(end, Ended)
            assert end.kind == "unavailable"
            await time.until_sleeping(0.5)

    run(scenario())


def test_a_process_that_is_never_ready_is_killed() -> None:
    async def scenario() -> None:
        time = ManualTime()
        async with engine(scripted("hang"), ProcessSettings(start_s=900.0), time) as client:
            await time.until_sleeping(TICK_S)
            time.advance(900.0 - TICK_S)
            await time.until_sleeping(TICK_S)
            assert client.pid is not None
            time.advance(TICK_S)
            await time.until_sleeping(0.5)
            assert client.num_starts == 1

    run(scenario())


def beating(*pulses: Pulse) -> list[str]:
    """The command of a process that answers each command with the next pulse, and with nothing else."""
    lines = [encode(pulse) for pulse in pulses]
    answer = f"for line in {lines!r}: os.read(commands, 9999); os.write(events, line)"
    return program(f"os.write(events, {READY!r})\n{answer}\n{FOR_EVER}")


@pytest.mark.parametrize(("longest_s", "limit_s"), [(0.0, 120.0), (11.9, 120.0), (64.0, 640.0)])
def test_a_step_that_takes_too_long_for_what_steps_took_before_is_a_hang(longest_s: float, limit_s: float) -> None:
    async def scenario() -> None:
        time = ManualTime()
        pulses = [Pulse(7, {}, step_s, longest_s) for step_s in (limit_s - 0.1, limit_s)]
        async with engine(beating(*pulses), ProcessSettings(hang_s=120.0), time) as client:
            await client.wait_ready()
            stream = await client.submit(request(5))
            while client.pulse is None:
                await asyncio.sleep(0)
            await time.until_sleeping(TICK_S)
            time.advance(TICK_S)
            await time.until_sleeping(TICK_S)
            assert client.num_requests == 1
            await client.submit(request(5))
            while client.pulse is not None and client.pulse.step_s < limit_s:
                await asyncio.sleep(0)
            time.advance(TICK_S)
            (end,) = [event for event in await events_of(stream) if isinstance(event, Ended)]
            assert (end.reason, end.kind) == ("error", "unavailable")

    run(scenario())


def test_an_idle_process_that_is_silent_is_given_its_time_when_a_request_comes() -> None:
    async def scenario() -> None:
        time = ManualTime()
        code = f"os.write(events, {READY!r}); {FOR_EVER}"
        async with engine(program(code), ProcessSettings(hang_s=120.0), time) as client:
            await client.wait_ready()
            await time.until_sleeping(TICK_S)
            time.advance(1000.0)
            assert client.silence_s == 1000.0
            stream = await client.submit(request(1))
            await time.until_sleeping(TICK_S)
            time.advance(120.0 - TICK_S)
            await time.until_sleeping(TICK_S)
            assert client.num_requests == 1
            time.advance(TICK_S)
            assert len(await events_of(stream)) == 1

    run(scenario())


def test_draining_finishes_what_runs_and_takes_nothing_more() -> None:
    async def scenario() -> None:
        async with engine(scripted()) as client:
            await client.wait_ready()
            stream = await client.submit(request(500))
            closing = asyncio.create_task(client.close(drain=True))
            await asyncio.sleep(0)  # it has begun
            assert isinstance(await anext(stream), Started)
            (refused,) = await events_of(await client.submit(request(1)))
            assert isinstance(refused, Ended)
            assert refused.kind == "unavailable"
            events = await events_of(stream)
            assert (tokens_of(events), events[-1]) == (list(range(500)), Ended("r", 0, "eos"))
            await closing

    run(scenario())


def test_a_second_close_cuts_the_first_one_short() -> None:
    async def scenario() -> None:
        async with engine(scripted()) as client:
            await client.wait_ready()
            stream = await client.submit(request(10**9))
            draining = asyncio.create_task(client.close(drain=True))
            await asyncio.sleep(0)  # it has begun
            assert isinstance(await anext(stream), Started)
            await client.close(drain=False)
            await draining
            *_, last = await events_of(stream)
            assert isinstance(last, Ended)
            assert last.kind == "unavailable"

    run(scenario())


def test_a_process_that_does_not_close_is_killed() -> None:
    async def scenario() -> None:
        time = ManualTime()
        code = f"os.write(events, {READY!r}); {FOR_EVER}"
        async with engine(program(code), ProcessSettings(close_s=5.0), time) as client:
            await client.wait_ready()
            closing = asyncio.create_task(client.close(drain=False))
            await asyncio.sleep(0)  # it has begun
            await time.until_sleeping(TICK_S)
            time.advance(5.0)
            await closing
            assert client.pid is None

    run(scenario())


def test_closing_while_it_starts() -> None:
    async def scenario() -> None:
        async with engine(scripted("hang")) as client:
            while client.pid is None:
                await asyncio.sleep(0)
            await client.close(drain=True)
            assert await client.wait_ended() is None
            with pytest.raises(StateError, match="closed"):
                await client.wait_ready()

    run(scenario())


def test_a_pipe_that_a_child_of_the_process_keeps_open_is_no_life() -> None:
    async def scenario() -> None:
        time = ManualTime()
        until_it_closes = "os.read(commands, 1)"  # when the client is gone, so that nobody is left behind
        code = f"os.write(events, {READY!r})\nif os.fork(): os._exit(0)\n{until_it_closes}"
        async with engine(program(code), None, time) as client:
            await client.wait_ready()
            await time.until_sleeping(0.5)
            assert client.pid is None

    run(scenario())


def test_a_request_that_is_too_long_for_the_pipe() -> None:
    async def scenario() -> None:
        async with engine(scripted()) as client:
            await client.wait_ready()
            (event,) = await events_of(await client.submit(request(1, options={"text": "x" * 2**26})))
            assert isinstance(event, Refused)
            assert event.kind == "invalid"

    run(scenario())


def test_an_idle_engine_shows_that_it_lives() -> None:
    async def scenario() -> None:
        code = f"os.write(events, {READY!r} + {encode(Pulse(0, {'num_running': 0.0}))!r}); {FOR_EVER}"
        async with engine(program(code)) as client:
            await client.wait_ready()
            while client.pulse is None:
                await asyncio.sleep(0)
            assert client.pulse.num_steps == 0

    run(scenario())
