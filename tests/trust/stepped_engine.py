"""A real engine in the test's own process that steps when it is told to, behind the real endpoints on a real port."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from uvicorn.server import ServerState

from seed_oss.engine.build import build_core
from seed_oss.engine.client import EngineClient, RequestStream
from seed_oss.engine.core import EngineCore
from seed_oss.engine.messages import Pulse, Ready, Submit
from seed_oss.engine.request_queue import RequestQueue
from seed_oss.engine.spec import EngineSpec
from seed_oss.server.application import api_application
from seed_oss.server.limits import TransportLimits
from seed_oss.server.settings import ServeSettings
from seed_oss.server.transport import limited_protocol, server_config


class SteppedEngine(EngineClient):
    """See EngineClient. Commands reach the core at once; nothing is computed before `step`."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.streams: dict[str, RequestQueue] = {}
        self.num_submitted = 0
        self._ids = itertools.count()
        self._is_alive = True

    @property
    def ready(self) -> Ready | None:
        """See EngineClient."""
        return self.core.ready() if self._is_alive else None

    @property
    def pulse(self) -> Pulse | None:
        """See EngineClient."""
        return None

    async def submit(self, request: Submit) -> RequestStream:
        """See EngineClient."""
        wire_id = f"{next(self._ids)}-{request.request_id}"
        stream = RequestQueue(request, 2**18, lambda: self._leave(wire_id))
        if not self._is_alive:
            stream.fail("the engine is being started; try again later", "unavailable")
            return stream
        self.streams[wire_id] = stream
        self.core.submit(replace(request, request_id=wire_id))
        self.num_submitted += 1
        return stream

    async def close(self, *, drain: bool) -> None:
        """See EngineClient."""
        self.core.close()

    def step(self) -> None:
        """One step, and its events to their streams."""
        for event in self.core.step():
            stream = self.streams.get(event.request_id)  # type: ignore[union-attr]
            if stream is not None:
                stream.put(event)  # type: ignore[arg-type]
                if stream.has_ended:
                    del self.streams[event.request_id]  # type: ignore[union-attr]

    def die(self) -> None:
        """What a client does when its process has died; the next one has nothing to do."""
        self._is_alive = False
        streams, self.streams = self.streams, {}
        for wire_id, stream in streams.items():
            stream.fail("the engine has ended before the request was done; try again", "unavailable")
            self.core.abort(wire_id)
        self.core.step()

    def come_back(self) -> None:
        """The next process is ready."""
        self._is_alive = True

    def held(self) -> dict[str, int]:
        """All that requests may leave behind, by name; after their end every number is 0."""
        core, counters = self.core, self.core._scheduler.counters()
        return {
            "rows": counters.num_running + counters.num_waiting + len(core._stepper._rows),
            "requests": len(core._requests) + len(core._preparing),
            "blocks": counters.num_blocks - counters.num_free_blocks - counters.num_cached_blocks,
            "streams": len(self.streams),
        }

    def _leave(self, wire_id: str) -> None:
        if self.streams.pop(wire_id, None) is not None:
            self.core.abort(wire_id)


@dataclass
class SteppedServer:
    """The endpoints over a stepped engine, on a port."""

    engine: SteppedEngine
    port: int = 0
    state: ServerState = field(default_factory=ServerState)

    @property
    def is_quiet(self) -> bool:
        """Whether nobody is connected and nothing is being answered."""
        return not self.state.connections and not self.state.tasks


@contextlib.asynccontextmanager
async def stepped_server(folder: Path, **spec: Any) -> AsyncIterator[SteppedServer]:
    """A server over the checkpoint in a folder."""
    made = EngineSpec(str(folder), kv_cache_memory=2**20, **spec)
    engine = SteppedEngine(build_core(made))
    app = api_application(engine, ServeSettings(made, names=("tiny",)))
    limits, loop = TransportLimits(), asyncio.get_running_loop()
    config = server_config(app, limits, drain_s=1.0)
    config.load()
    kind, served = limited_protocol(limits), SteppedServer(engine)
    server = await loop.create_server(lambda: kind(config, served.state, {}, loop), "127.0.0.1", 0)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        await engine.close(drain=False)
