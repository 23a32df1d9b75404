"""A real engine that is killed or hangs, in every state: one error event per stream, 503, and back with equal answers.

`SEED_OSS_TRUST_DEATHS` is how often each way to die is gone through, 1 unless set.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import make_checkpoint
from tests.trust.real_server import ENDLESS, HANG, RealServer, Stream, completion, real_server

ROUNDS = int(os.environ.get("SEED_OSS_TRUST_DEATHS", "1"))
GOOD = completion([5, 60, 7, 80], 12, logprobs=1)
LONG_ANSWER = completion([9, 8, 7], ENDLESS)
LONG_PROMPT = completion([10 + number % 200 for number in range(ENDLESS)], 4)

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found through Linux's /proc"),
    pytest.mark.xdist_group("engine deaths"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("deaths") / "model")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RealServer]:
    restarts = {"first_s": 0.05, "max_deaths": 10**6}
    more: dict[str, Any] = {"process": {"hang_s": 2.0}, "keep_alive_s": 0.2, "spec": {"max_model_len": 2 * ENDLESS}}
    with real_server(folder, restarts=restarts, **more) as running:
        running.event("ready")
        yield running


@pytest.fixture(scope="module")
def usual(server: RealServer) -> Any:
    """What the good request is answered with."""
    return answer(server)


def answer(server: RealServer) -> Any:
    status, _, body = server.ask("/v1/completions", GOOD)
    assert status == 200, body
    return body["choices"]


def pid_of(server: RealServer) -> int:
    pid = server.engine_pid()
    assert pid is not None
    return pid


def open_streams(server: RealServer, *bodies: dict[str, Any]) -> list[Stream]:
    """Streams of long answers that have begun, and others of which nothing came yet."""
    decoding = [server.stream(LONG_ANSWER) for _ in range(2)]
    for one in decoding:
        one.until(b"data: ")
    waiting = [server.stream(body) for body in bodies]
    for one in waiting:
        one.until(b": keep-alive")
    return decoding + waiting


def check_ends(streams: list[Stream]) -> None:
    """Each has exactly one error event, then the last event, and no other end."""
    for one in streams:
        *events, done = one.rest()
        errors = [event["error"]["code"] for event in events if "error" in event]
        assert (errors, done) == (["unavailable"], "[DONE]")
        assert not any(choice["finish_reason"] for event in events for choice in event.get("choices", ()))


def check_is_gone(server: RealServer) -> None:
    status, headers, body = server.ask("/ready")
    assert (status, body["status"]) == (503, "starting")
    status, headers, body = server.ask("/v1/completions", GOOD)
    assert (status, body["error"]["code"]) == (503, "unavailable")
    assert int(headers["retry-after"]) >= 1


def check_is_back(server: RealServer, usual: Any) -> None:
    server.event("ready")
    assert server.ask("/ready")[0] == server.ask("/health")[0] == 200
    assert answer(server) == usual


@pytest.mark.parametrize("bodies", [(), (LONG_PROMPT,)], ids=["in decode", "in prefill"])
def test_killed(server: RealServer, usual: Any, bodies: tuple[dict[str, Any], ...]) -> None:
    for _ in range(ROUNDS):
        streams = open_streams(server, *bodies)
        os.kill(pid_of(server), signal.SIGKILL)
        check_ends(streams)
        check_is_gone(server)
        assert "signal 9" in server.event("engine_ended")["message"]
        check_is_back(server, usual)


def test_killed_while_it_starts(server: RealServer, usual: Any) -> None:
    for _ in range(ROUNDS):
        first = pid_of(server)
        os.kill(first, signal.SIGKILL)
        os.kill(server.next_engine_pid(first), signal.SIGKILL)
        for _ in range(2):
            assert "signal 9" in server.event("engine_ended")["message"]
        check_is_gone(server)
        check_is_back(server, usual)


def test_a_step_that_never_ends(server: RealServer, usual: Any) -> None:
    for _ in range(ROUNDS):
        streams = open_streams(server, completion([5, HANG], 4))
        check_ends(streams)
        assert "a step has not ended" in server.event("engine_ended")["message"]
        check_is_gone(server)
        check_is_back(server, usual)


def test_a_process_that_stands_still(server: RealServer, usual: Any) -> None:
    for _ in range(ROUNDS):
        streams = open_streams(server)
        os.kill(pid_of(server), signal.SIGSTOP)
        check_ends(streams)
        assert "no sign of life" in server.event("engine_ended")["message"]
        check_is_back(server, usual)


def test_three_deaths_end_the_server(folder: Path, counted: Callable[..., None]) -> None:
    with real_server(folder, restarts={"first_s": 0.05}) as server:
        before: int | None = None
        for _ in range(3):
            with contextlib.suppress(ConnectionError):
                before = server.next_engine_pid(before)
            assert before is not None
            os.kill(before, signal.SIGKILL)
        assert "signal 9" in server.event("engine_failed")["message"]
        assert server.process.wait(30.0) == 1
    counted(**{"rounds of 5 deaths": ROUNDS, "deaths that ended the server": 3})
