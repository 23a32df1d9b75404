"""What whoever runs a server asks it: /health, /ready and /metrics."""

import asyncio
import json
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_LATEST

from seed_oss.engine.messages import Pulse
from seed_oss.engine.process_client import HANG_FACTOR
from seed_oss.server.asgi import App, Receive, Scope, Send, respond, respond_error, state_of
from seed_oss.server.metrics import EngineView, Metrics

_STEP_FACTOR = 2.0
_PATHS = ("/health", "/ready", "/metrics")


@dataclass
class Phase:
    """Whether the server is about to end, and what it has in hand.

    Attributes:
        is_draining: no request is taken any more.
        num_open: requests that were taken and have not ended.
    """

    is_draining: bool = False
    num_open: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def wait_idle(self) -> None:
        """Until nothing is open."""
        while self.num_open:
            self._changed.clear()
            await self._changed.wait()

    def begin(self) -> None:
        """A request is taken."""
        self.num_open += 1

    def end(self) -> None:
        """It has ended."""
        self.num_open -= 1
        self._changed.set()


class Operations:
    """ASGI middleware that answers these paths itself, also while the server drains; others get 503 then.

    /health is 200 while the engine's process shows that it moves: it speaks every second, also in a step that takes
    long, and a step does not take far longer than those before it. One whose step does not end is killed by its client.
    /ready is 200 while requests are taken: not while the engine starts, is started again, or the server drains.

    Args:
        app: what answers all other paths.
        engine: what is looked at.
        metrics: for /metrics.
        phase: set by whoever ends the server.
        max_silence_s: seconds without a word of the engine after which it is not healthy. Nor is it at a step that
            takes twice that, and ten times the longest one before.
    """

    def __init__(self, app: App, engine: EngineView, metrics: Metrics, phase: Phase, max_silence_s: float) -> None:
        self._app = app
        self._engine = engine
        self._metrics = metrics
        self._phase = phase
        self._max_silence_s = max_silence_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] not in _PATHS:
            await self._pass_on(scope, receive, send)
            return
        state_of(scope).update(route=scope["path"], is_probe=True)  # counted, and not logged every few seconds
        if scope["method"] not in ("GET", "HEAD"):
            await respond_error(send, 405, "this path answers GET", [("allow", "GET, HEAD")])
        elif scope["path"] == "/metrics":
            await respond(send, 200, self._metrics.text(), [("content-type", CONTENT_TYPE_LATEST)])
        else:
            status = self.health() if scope["path"] == "/health" else self.readiness()
            await self._tell(send, status)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._phase.is_draining:
            message = "the server is about to end; try again later"
            await respond_error(send, 503, message, [("retry-after", "1")], path=scope["path"])
            return
        self._phase.begin()
        try:
            await self._app(scope, receive, send)
        finally:
            self._phase.end()

    def health(self) -> str:
        """ "ok", or what is wrong."""
        engine = self._engine
        if engine.failure is not None:
            return "failed"
        if engine.silence_s is None:
            return "starting"
        if engine.silence_s > self._max_silence_s:
            return "silent"
        return "stuck" if self._is_stuck(engine.pulse) else "ok"

    def _is_stuck(self, pulse: Pulse | None) -> bool:
        """Whether the engine is at a step that takes too long: its process says so from a thread beside it."""
        if pulse is None:
            return False
        return pulse.step_s > max(_STEP_FACTOR * self._max_silence_s, HANG_FACTOR * pulse.longest_step_s)

    def readiness(self) -> str:
        """ "ok", or why no requests are taken."""
        if self._phase.is_draining:
            return "draining"
        return "failed" if self._engine.failure is not None else "starting" if self._engine.ready is None else "ok"

    async def _tell(self, send: Send, status: str) -> None:
        pulse, silence_s = self._engine.pulse, self._engine.silence_s
        body = {
            "status": status,
            "num_steps": None if pulse is None else pulse.num_steps,
            "silence_s": None if silence_s is None else round(silence_s, 3),
        }
        code, headers = (200, []) if status == "ok" else (503, [("retry-after", "1")])
        await respond(send, code, json.dumps(body).encode(), [("cache-control", "no-store"), *headers])
