"""What a server is started with: plain data."""

from dataclasses import dataclass, field

from seed_oss.engine.process_client import ProcessSettings
from seed_oss.engine.spec import EngineSpec
from seed_oss.server.limits import TransportLimits
from seed_oss.server.request_limits import RequestLimits


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """A server's settings.

    Attributes:
        spec: the model, and how the engine runs it.
        host: address to listen on.
        port: 0 takes a free one.
        names: what requests may call the model; none takes the name it was given by.
        keys: API keys; none lets everybody in.
        allow_unauthenticated: listen where others can reach it although there are no keys.
        allowed_hosts: names of this server besides its address, for requests without keys.
        origins: of web pages that may ask (CORS).
        limits: bounds of connections.
        requests: bounds of what one request may ask for.
        process: bounds of the engine's process.
        drain_s: seconds that open requests are given when the server ends.
        health_s: seconds without a word of the engine after which /health is 503.
        keep_alive_s: seconds without anything in a stream after which a comment is sent.
        thinking_budget: tokens of thinking where a request does not say; None for no limit.
        loop_guard: end answers that repeat themselves, where a request does not say.
        cache_turns: generated tokens stand for answers in a history, where a request does not say.
    """

    spec: EngineSpec
    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = field(default=(), repr=False)
    allow_unauthenticated: bool = False
    allowed_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: TransportLimits = field(default_factory=TransportLimits)
    requests: RequestLimits = field(default_factory=RequestLimits)
    process: ProcessSettings = field(default_factory=ProcessSettings)
    drain_s: float = 30.0
    health_s: float = 30.0
    keep_alive_s: float = 15.0
    thinking_budget: int | None = None
    loop_guard: bool = False
    cache_turns: bool = True
