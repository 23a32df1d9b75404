"""Numbers about requests and the engine, health and readiness."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.client import EngineClient, RequestEvent, RequestStream
from seed_oss.engine.messages import Ended, Pulse, Ready, Refused, Started, Submit, Tokens
from seed_oss.server.app import ApiSettings, ServedModel, create_app
from seed_oss.server.metrics import MeteredClient, Metrics
from seed_oss.server.operations import Operations, Phase
from seed_oss.server.request_log import RequestLog
from tests.seed_tokenizer import seed_tokenizer
from tests.server.api_calls import ASK, MODEL, engine
from tests.server.asking import Echo, Lines, ask, error_of, log_to

READY = Ready(10, 1, 10, ("generate",))


class Engine(EngineClient):
    """An engine whose state and events are given."""

    def __init__(self, *events: RequestEvent) -> None:
        self.events = list(events)
        self.failure: str | None = None
        self.num_starts = 1
        self.silence_s: float | None = 0.5
        self._ready: Ready | None = READY
        self._pulse: Pulse | None = Pulse(
            7, {"num_running": 2.0, "total_preemptions": 3.0, "total_steps": 5.0, "total_ended_eos": 4.0}
        )

    @property
    def ready(self) -> Ready | None:
        return self._ready

    @property
    def pulse(self) -> Pulse | None:
        return self._pulse

    async def submit(self, request: Submit) -> RequestStream:
        return Events(self.events)

    async def close(self, *, drain: bool) -> None:
        return None

    def lose(self) -> None:
        """As when its process has died."""
        self._ready = self._pulse = self.silence_s = None


class Events(RequestStream):
    """Given events."""

    def __init__(self, events: list[RequestEvent]) -> None:
        self._events: AsyncIterator[RequestEvent] = self._all(events)
        self.is_closed = False

    async def _all(self, events: list[RequestEvent]) -> AsyncIterator[RequestEvent]:
        for event in events:
            yield event

    async def __anext__(self) -> RequestEvent:
        return await anext(self._events)

    async def close(self) -> None:
        self.is_closed = True


def values(metrics: Metrics) -> dict[str, float]:
    """Every sample of the page, by name and labels."""
    return {
        sample.name + "".join(f"{{{label}}}" for label in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


async def read(client: EngineClient, n: int = 1, limit: int = 99) -> list[RequestEvent]:
    """Events of a request; leaves after `limit`."""
    events: list[RequestEvent] = []
    async with await client.submit(Submit("r", (1,), SamplingParams(n=n))) as stream:
        async for event in stream:
            events.append(event)
            if len(events) == limit:
                break
    return events


def test_what_a_request_cost() -> None:
    events = [
        Started("r", (), 4),
        Tokens("r", 0, (1,)),
        Tokens("r", 1, (1, 2)),
        Tokens("r", 0, (2, 3)),
        Ended("r", 0, "eos", num_prompt_tokens=9, num_cached_tokens=4),
        Ended("r", 1, "length", num_prompt_tokens=9, num_cached_tokens=8),
    ]
    engine, lines, times = Engine(*events), Lines(), iter(range(100))
    metrics = Metrics(engine)
    client = MeteredClient(engine, metrics, log_to(lines), clock=lambda: float(next(times)))
    assert asyncio.run(read(client, n=2)) == events
    found = values(metrics)
    assert found["seed_oss_generated_tokens_total"] == 5
    assert (found["seed_oss_prompt_tokens_total"], found["seed_oss_cached_prompt_tokens_total"]) == (9, 8)
    assert found["seed_oss_time_to_first_token_seconds_sum"] == 1.0
    assert (found["seed_oss_inter_token_seconds_sum"], found["seed_oss_inter_token_seconds_count"]) == (1.0, 1)
    assert found["seed_oss_request_seconds_sum"] == 4.0
    assert (found["seed_oss_choices_ended_total{eos}"], found["seed_oss_choices_ended_total{length}"]) == (1, 1)
    assert found["seed_oss_open_requests"] == 0
    (line,) = lines.events("engine_request")
    assert (line["ended"], line["new_tokens"], line["first_token_s"]) == (["eos", "length"], 5, 1.0)


def test_a_request_that_is_left_counts_once() -> None:
    engine = Engine(Started("r", (), 4), Tokens("r", 0, (1,)), Ended("r", 0, "eos"))
    metrics = Metrics(engine)
    asyncio.run(read(MeteredClient(engine, metrics, log_to(Lines())), limit=1))
    found = values(metrics)
    assert (found["seed_oss_choices_ended_total{abort}"], found["seed_oss_open_requests"]) == (1, 0)
    assert found["seed_oss_request_seconds_count"] == 1
    assert "seed_oss_choices_ended_total{eos}" not in found


def test_a_refused_request_is_a_rejection() -> None:
    engine = Engine(Refused("r", "overloaded", "later"))
    metrics = Metrics(engine)
    asyncio.run(read(MeteredClient(engine, metrics, log_to(Lines()))))
    found = values(metrics)
    assert (found["seed_oss_rejections_total{overloaded}"], found["seed_oss_open_requests"]) == (1, 0)
    assert not [name for name in found if name.startswith("seed_oss_choices_ended_total")]


def test_requests_over_http_by_route_and_status() -> None:
    metrics = Metrics(Engine())
    for status in (200, 200, 401, 413):
        metrics.observe_http("/v1/models", status, 0.5)
    for status in (400, 408, 431):
        metrics.observe_transport(status)
    metrics.observe_transport(503, "too_many_connections")
    metrics.observe_transport(503, "too_many_bodies")
    found = values(metrics)
    assert found["seed_oss_http_requests_total{/v1/models}{200}"] == 2
    reasons = {"unauthenticated": 1, "too_large": 2, "malformed": 1, "too_slow": 1}
    reasons |= {"too_many_connections": 1, "too_many_bodies": 1}
    assert {reason: found[f"seed_oss_rejections_total{{{reason}}}"] for reason in reasons} == reasons
    assert found["seed_oss_http_request_seconds_sum{/v1/models}"] == 2.0


def test_the_engines_own_numbers() -> None:
    engine = Engine()
    metrics = Metrics(engine)
    engine.num_starts = 3
    found = values(metrics)
    assert (found["seed_oss_engine_up"], found["seed_oss_engine_restarts_total"]) == (1, 2)
    assert (found["seed_oss_engine_running"], found["seed_oss_engine_preemptions_total"]) == (2, 3)
    assert (found["seed_oss_engine_ended_total{eos}"], found["seed_oss_engine_rounds_total"]) == (4, 7)
    assert found["seed_oss_engine_silence_seconds"] == 0.5
    names = [line.split()[2] for line in metrics.text().decode().splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)), "a page with a name twice is not read"
    engine.lose()
    found = values(metrics)
    assert found["seed_oss_engine_up"] == 0
    assert "seed_oss_engine_running" not in found


def status_of(engine: Engine, path: str, phase: Phase | None = None) -> tuple[int, str]:
    """Status code and word of a probe."""
    app = Operations(Echo(), engine, Metrics(engine), phase or Phase(), max_silence_s=30.0)
    response = asyncio.run(ask(app, path))
    assert response.headers["cache-control"] == "no-store"
    return response.status_code, response.json()["status"]


@pytest.mark.parametrize(("silence_s", "expected"), [(29.9, (200, "ok")), (30.0, (200, "ok")), (30.1, (503, "silent"))])
def test_health_wants_a_fresh_word_of_the_engine(silence_s: float, expected: tuple[int, str]) -> None:
    engine = Engine()
    engine.silence_s = silence_s
    assert status_of(engine, "/health") == expected
    assert status_of(engine, "/ready") == (200, "ok")


@pytest.mark.parametrize(
    ("step_s", "longest_s", "expected"),
    [(60.0, 1.0, (200, "ok")), (60.1, 6.0, (503, "stuck")), (60.1, 6.1, (200, "ok")), (100.0, 9.9, (503, "stuck"))],
)
def test_health_wants_steps_that_end(step_s: float, longest_s: float, expected: tuple[int, str]) -> None:
    engine = Engine()
    engine._pulse = Pulse(7, {}, step_s, longest_s)
    assert status_of(engine, "/health") == expected
    engine._pulse = None
    assert status_of(engine, "/health") == (200, "ok")


def test_an_engine_that_starts_and_one_that_failed() -> None:
    engine = Engine()
    engine.lose()
    assert status_of(engine, "/health") == status_of(engine, "/ready") == (503, "starting")
    engine.failure = "three deaths"
    assert status_of(engine, "/health") == status_of(engine, "/ready") == (503, "failed")


def test_a_server_that_drains_is_healthy_and_not_ready() -> None:
    assert status_of(Engine(), "/ready", Phase(is_draining=True)) == (503, "draining")
    assert status_of(Engine(), "/health", Phase(is_draining=True)) == (200, "ok")


@pytest.mark.parametrize(("path", "is_anthropics"), [("/v1/chat/completions", False), ("/v1/messages", True)])
def test_what_a_server_that_drains_refuses_is_shaped_by_its_path(path: str, is_anthropics: bool) -> None:
    echo = Echo()
    app = Operations(echo, Engine(), Metrics(Engine()), Phase(is_draining=True), 30.0)
    response = asyncio.run(ask(app, path, "POST"))
    assert (response.status_code, response.headers["retry-after"], echo.paths) == (503, "1", [])
    assert (response.json().get("type") == "error") is is_anthropics
    assert response.json()["error"]["type"] == ("overloaded_error" if is_anthropics else "server_error")


def test_probes_are_counted_and_not_logged() -> None:
    engine, lines = Engine(), Lines()
    metrics = Metrics(engine)
    inner = Operations(Echo(), engine, metrics, Phase(), 30.0)
    app = RequestLog(inner, log_to(lines), metrics.observe_http)
    for path in ("/health", "/metrics", "/v1/models"):
        asyncio.run(ask(app, path))
    assert len(lines.events("request")) == 1
    assert values(metrics)["seed_oss_http_requests_total{/health}{200}"] == 1


def test_other_methods_and_other_paths() -> None:
    engine, echo = Engine(), Echo()
    app = Operations(echo, engine, Metrics(engine), Phase(), 30.0)
    response = asyncio.run(ask(app, "/health", "POST"))
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    response = asyncio.run(ask(app, "/metrics"))
    assert response.headers["content-type"].startswith("text/plain")
    assert "seed_oss_engine_up 1.0" in response.text
    assert echo.paths == []


@pytest.mark.parametrize(
    ("fields", "settings", "more", "status", "reason"),
    [
        ({"n": 99}, {}, {}, 400, "invalid"),
        ({"model": "none"}, {}, {}, 404, "not_found"),
        ({}, {"max_preparing": 0}, {}, 429, "overloaded"),
        ({}, {}, {"is_ready": False}, 503, "unavailable"),
        ({}, {}, {"refusal": lambda one: Refused(one.request_id, "overloaded", "later")}, 429, "overloaded"),
        ({}, {}, {"refusal": lambda one: Refused(one.request_id, "invalid", "no")}, 400, "invalid"),
    ],
)
def test_every_rejection_is_counted_once(
    fields: dict[str, Any], settings: dict[str, Any], more: dict[str, Any], status: int, reason: str
) -> None:
    metrics = Metrics(Engine())
    client = MeteredClient(engine(**more), metrics, log_to(Lines()))
    served = ServedModel((MODEL,), seed_tokenizer(), 2**20)
    inner = create_app(client, served, ApiSettings(**settings))
    app = RequestLog(inner, log_to(Lines()), metrics.observe_http)  # type: ignore[arg-type]
    body = {"model": MODEL, "messages": ASK, **fields}
    assert asyncio.run(ask(app, "/v1/chat/completions", "POST", json=body)).status_code == status
    found = {name: value for name, value in values(metrics).items() if "rejections_total" in name}
    assert found == {f"seed_oss_rejections_total{{{reason}}}": 1}


def test_a_probe_that_fails_is_no_rejection() -> None:
    gone = Engine()
    gone.lose()
    metrics = Metrics(gone)
    app = RequestLog(Operations(Echo(), gone, metrics, Phase(), 30.0), log_to(Lines()), metrics.observe_http)
    assert asyncio.run(ask(app, "/ready")).status_code == 503
    assert not [name for name in values(metrics) if "rejections_total" in name]
