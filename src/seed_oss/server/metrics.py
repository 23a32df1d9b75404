"""Numbers about requests and the engine, as Prometheus reads them.

What requests cost is seen where they go through: `MeteredClient` stands between the endpoints and the engine's client.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from seed_oss.engine.client import EngineClient, RequestEvent, RequestStream
from seed_oss.engine.messages import Ended, Pulse, Ready, Refused, Submit, Tokens
from seed_oss.server.request_log import JsonLog

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_REJECTED = {
    400: "invalid",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "not_found",
    413: "too_large",
    415: "invalid",
    429: "overloaded",
    503: "unavailable",
}
_CUT = {408: "too_slow", 413: "too_large", 414: "too_large", 431: "too_large"}


class EngineView(Protocol):
    """What metrics and health look at; `ProcessClient` has it."""

    num_starts: int
    failure: str | None

    @property
    def ready(self) -> Ready | None:
        """See EngineClient."""
        ...

    @property
    def pulse(self) -> Pulse | None:
        """See EngineClient."""
        ...

    @property
    def silence_s(self) -> float | None:
        """Seconds since the engine said anything; None while it is not ready."""
        ...


class Metrics:
    """All numbers, in a registry of their own.

    Args:
        engine: for its state and what its pulses say.
    """

    def __init__(self, engine: EngineView) -> None:
        self.registry = CollectorRegistry()
        count, times = self._counter, self._histogram
        self.http_requests = count("http_requests", "Requests over HTTP.", "route", "status")
        self.http_seconds = times("http_request_seconds", "From a request's head to the end of its answer.", "route")
        self.rejections = count("rejections", "Requests that were not taken.", "reason")
        self.ended = count("choices_ended", "Answers, by what ended them.", "reason")
        self.prompt_tokens = count("prompt_tokens", "Tokens of prompts.")
        self.cached_tokens = count("cached_prompt_tokens", "Tokens of prompts that were found in the cache.")
        self.new_tokens = count("generated_tokens", "Tokens of answers.")
        self.first_token = times("time_to_first_token_seconds", "From handing a request in to its first token.")
        self.between_tokens = Gaps()
        self.seconds = times("request_seconds", "From handing a request in to its end.")
        self.running = Gauge("seed_oss_open_requests", "Requests that have not ended.", registry=self.registry)
        self.registry.register(self.between_tokens)
        self.registry.register(_EngineCollector(engine))

    def observe_http(self, route: str, status: int, seconds: float, may_be_rejection: bool = True) -> None:
        """A request over HTTP has ended; see `request_log.Observer`."""
        self.http_requests.labels(route, str(status)).inc()
        self.http_seconds.labels(route).observe(seconds)
        if may_be_rejection and status in _REJECTED:
            self.rejections.labels(_REJECTED[status]).inc()

    def observe_transport(self, status: int, reason: str | None = None) -> None:
        """A request ended before it was one; None for what the status says."""
        self.rejections.labels(reason or _CUT.get(status, "malformed")).inc()

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"seed_oss_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"seed_oss_{name}", text, labels, buckets=_SECONDS, registry=self.registry)


class Gaps(Collector):
    """A histogram of the seconds between two tokens. Every token is counted, so that it must take next to no time."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a gap."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        """The histogram."""
        text = "Between two tokens of an answer, means of what came at once."
        counts = zip(map(str, (*_SECONDS, "+Inf")), accumulate(self._counts), strict=True)
        yield HistogramMetricFamily("seed_oss_inter_token_seconds", text, list(counts), self._sum)


class _EngineCollector(Collector):
    """The engine's state, and its own numbers: `num_x` is a gauge, `total_x` a counter."""

    def __init__(self, engine: EngineView) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """What there is now."""
        engine, pulse = self._engine, self._engine.pulse
        yield GaugeMetricFamily("seed_oss_engine_up", "1 while it takes requests.", float(engine.ready is not None))
        yield CounterMetricFamily("seed_oss_engine_restarts", "Starts after the first.", max(0, engine.num_starts - 1))
        if engine.silence_s is not None:
            yield GaugeMetricFamily("seed_oss_engine_silence_seconds", "Since it said anything.", engine.silence_s)
        if pulse is not None:
            yield CounterMetricFamily("seed_oss_engine_rounds", "Steps that its process went.", pulse.num_steps)
            yield from _families(pulse)


def _families(pulse: Pulse) -> Iterator[Metric]:
    ended = CounterMetricFamily("seed_oss_engine_ended", "Rows, by what ended them.", labels=["reason"])
    for name, value in sorted(pulse.stats.items()):
        text = f"`{name}` of the engine."
        if name.startswith("total_ended_"):
            ended.add_metric([name.removeprefix("total_ended_")], value)
        elif name.startswith("total_"):
            yield CounterMetricFamily(f"seed_oss_engine_{name.removeprefix('total_')}", text, value)
        else:
            yield GaugeMetricFamily(f"seed_oss_engine_{name.removeprefix('num_')}", text, value)
    if ended.samples:
        yield ended


class MeteredClient(EngineClient):
    """An engine's client that counts what goes through it.

    Args:
        client: the engine's.
        metrics: where it is counted.
        log: gets a line per request, without what was asked and answered.
        clock: seconds that only grow.
    """

    def __init__(
        self, client: EngineClient, metrics: Metrics, log: JsonLog, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._client, self._metrics, self._log, self._clock = client, metrics, log, clock

    @property
    def ready(self) -> Ready | None:
        """See EngineClient."""
        return self._client.ready

    @property
    def pulse(self) -> Pulse | None:
        """See EngineClient."""
        return self._client.pulse

    async def submit(self, request: Submit) -> RequestStream:
        """See EngineClient."""
        record = _Record(request, self._metrics, self._log, self._clock)
        try:
            return _MeteredStream(await self._client.submit(request), record)
        except BaseException:
            record.end("abort")
            raise

    async def close(self, *, drain: bool) -> None:
        """See EngineClient."""
        await self._client.close(drain=drain)


class _MeteredStream(RequestStream):
    def __init__(self, stream: RequestStream, record: "_Record") -> None:
        self._stream = stream
        self._record = record

    async def __anext__(self) -> RequestEvent:
        event = await anext(self._stream)
        self._record.see(event)
        return event

    async def close(self) -> None:
        self._record.end("abort")
        await self._stream.close()


class _Record:
    """What one request cost."""

    def __init__(self, request: Submit, metrics: Metrics, log: JsonLog, clock: Callable[[], float]) -> None:
        self._request, self._metrics, self._log, self._clock = request, metrics, log, clock
        self._open = set(range(request.params.n if request.task == "generate" else 1))
        self._started = clock()
        self._last: dict[int, float] = {}
        self._first_s: float | None = None
        self._num_new = self._num_prompt = self._num_cached = 0
        self._reasons: list[str] = []
        metrics.running.inc()

    def see(self, event: RequestEvent) -> None:
        """An event on its way to the reader."""
        if isinstance(event, Tokens):
            self._see_tokens(event)
        elif isinstance(event, Ended):
            self._see_end(event)
        elif isinstance(event, Refused):
            self._metrics.rejections.labels(event.kind).inc()
            self.end("refused")

    def end(self, reason: str) -> None:
        """Nothing more comes: `reason` is that of the choices which have not ended."""
        for _ in self._open:
            self._count_end(reason)
        if self._open:
            self._open.clear()
            self._finish()

    def _see_tokens(self, event: Tokens) -> None:
        now, number = self._clock(), len(event.token_ids)
        if self._first_s is None:
            self._first_s = now - self._started
            self._metrics.first_token.observe(self._first_s)
        last = self._last.get(event.choice)
        if last is not None and number:
            self._metrics.between_tokens.observe((now - last) / number)
        self._last[event.choice] = now
        self._num_new += number
        self._metrics.new_tokens.inc(number)

    def _see_end(self, event: Ended) -> None:
        if event.choice not in self._open:
            return
        self._open.discard(event.choice)
        self._num_prompt = max(self._num_prompt, event.num_prompt_tokens)
        self._num_cached = max(self._num_cached, event.num_cached_tokens)
        self._count_end(event.reason)
        if not self._open:
            self._finish()

    def _count_end(self, reason: str) -> None:
        self._reasons.append(reason)
        if reason != "refused":
            self._metrics.ended.labels(reason).inc()

    def _finish(self) -> None:
        seconds, metrics = self._clock() - self._started, self._metrics
        metrics.running.dec()
        metrics.seconds.observe(seconds)
        metrics.prompt_tokens.inc(self._num_prompt)
        metrics.cached_tokens.inc(self._num_cached)
        self._log.write(
            "engine_request",
            id=self._request.request_id,
            task=self._request.task,
            ended=self._reasons,
            seconds=round(seconds, 4),
            first_token_s=None if self._first_s is None else round(self._first_s, 4),
            prompt_tokens=self._num_prompt,
            cached_tokens=self._num_cached,
            new_tokens=self._num_new,
        )
