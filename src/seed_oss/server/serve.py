"""`seed-oss serve`: the engine's process, the endpoints and the transport, from the first byte to the last.

signal     -> new requests get 503, open ones end within drain_s, then the listener, then the engine   exit code 0
              (past drain_s the engine ends first, so that what waits for it is told)
2nd signal -> everything ends at once                                                                 exit code 130
engine gave up -> as after a signal                                                                   exit code 1
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from typing import TextIO

import uvicorn

from seed_oss.engine.client import EngineClient
from seed_oss.engine.messages import Ready
from seed_oss.engine.process_client import ProcessClient
from seed_oss.engine.process_main import engine_command
from seed_oss.errors import InputError
from seed_oss.server.application import api_application, served_names, surrounded
from seed_oss.server.asgi import App
from seed_oss.server.auth import KEYS_VARIABLE, check_address, check_origins, is_loopback
from seed_oss.server.limits import TransportLimits
from seed_oss.server.metrics import MeteredClient, Metrics
from seed_oss.server.operations import Phase
from seed_oss.server.request_log import JsonHandler, JsonLog
from seed_oss.server.settings import ServeSettings
from seed_oss.server.transport import server_config

FORCED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_OTHER_FILES = 64  # descriptors besides those of connections
_LAST_WORDS_S = 1.0  # for what is told that the engine has ended
_TICK_S = 1.0  # the date in headers has seconds

MakeApp = Callable[[EngineClient, ServeSettings], App]


def serve(
    settings: ServeSettings,
    *,
    command: Sequence[str] | None = None,
    make_app: MakeApp = api_application,
    log_to: TextIO | None = None,
) -> int:
    """Serve until a signal comes or the engine cannot be kept running; the exit code.

    Args:
        settings: the server's.
        command: that starts the engine's process; None for `seed_oss.engine.process_main`.
        make_app: makes the endpoints.
        log_to: for lines of JSON; None for stderr.

    Raises:
        ConfigError: an address that others can reach, without keys.
        InputError: an address that cannot be listened on, an origin that is none, or a name of an adapter that is
            none, or the model's.
        SeedOssError: the model's files cannot be had or used.
    """
    check_address(settings.host, has_keys=bool(settings.keys), allow_unauthenticated=settings.allow_unauthenticated)
    check_origins(settings.origins)
    served_names(settings)  # before anything starts
    log = JsonLog(log_to or sys.stderr)
    with _logging_to(log):
        return asyncio.run(_Service(settings, log, command or engine_command(settings.spec)).run(make_app))


class _Service:
    """One run of a server."""

    def __init__(self, settings: ServeSettings, log: JsonLog, command: Sequence[str]) -> None:
        self._settings = settings
        self._log = log
        environment = {name: value for name, value in os.environ.items() if name != KEYS_VARIABLE}
        self._client = ProcessClient(command, settings.process, env=environment, tell=self._tell_engine)
        self._metrics = Metrics(self._client)
        self._phase = Phase()
        self._draining: asyncio.Task[None] | None = None
        self._num_signals = 0
        self._is_listening = False
        self._ready: Ready | None = None  # what the engine said of itself

    async def run(self, make_app: MakeApp) -> int:
        """From listening to the exit code."""
        settings = self._settings
        _allow_files(settings.limits, self._log)
        with contextlib.closing(_listen(settings.host, settings.port, settings.limits)) as listener:
            try:
                await self._client.start()
                client = MeteredClient(self._client, self._metrics, self._log)
                app = await asyncio.to_thread(make_app, client, settings)
                await self._serve(app, listener)
                await self._close_engine()
            finally:
                await self._client.kill()
        return self._exit_code()

    async def _serve(self, app: App, listener: socket.socket) -> None:
        settings = self._settings
        whole = surrounded(app, settings, self._client, self._metrics, self._phase, self._log)
        observe = self._metrics.observe_transport
        server = _Server(server_config(whole, settings.limits, drain_s=settings.drain_s, observe=observe))
        with self._signals_to(server):
            self._tell_address(listener)
            serving = asyncio.create_task(server.serve([listener]))
            given_up = asyncio.create_task(self._client.wait_ended())
            await asyncio.wait({serving, given_up}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done() and self._client.failure is not None:
                self._log.write("engine_failed", message=self._client.failure)
                self._begin_end(server)
            await serving
            given_up.cancel()
            if self._draining is not None:
                self._draining.cancel()

    def _begin_end(self, server: "_Server") -> None:
        self._phase.is_draining = True
        if self._num_signals > 1:
            server.end(0.0)
        elif self._draining is None:
            self._draining = asyncio.create_task(self._drain(server))

    async def _drain(self, server: "_Server") -> None:
        """The listener stays open meanwhile, so that whoever looks is told."""
        clock = asyncio.get_running_loop().time
        end = clock() + self._settings.drain_s
        try:
            await asyncio.wait_for(self._phase.wait_idle(), self._settings.drain_s)
        except TimeoutError:
            await self._client.close(drain=False)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._phase.wait_idle(), _LAST_WORDS_S)
        server.end(max(0.0, end - clock()))

    async def _close_engine(self) -> None:
        if self._num_signals > 1 or self._client.failure is not None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._client.close(drain=True), self._settings.process.close_s)

    def _exit_code(self) -> int:
        code = 1 if self._client.failure is not None else FORCED if self._num_signals > 1 else 0
        self._log.write("stopped", code=code)
        return code

    def _tell_address(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        name, *_ = served_names(self._settings)  # not the path, which logs do not need
        self._log.write("listening", host=host, port=port, model=name, needs_key=bool(self._settings.keys))
        if not self._settings.keys and not is_loopback(self._settings.host):
            self._log.write("warning", message="others can reach this server, and it asks for no key")
        self._is_listening = True
        if self._ready is not None:  # it was faster than this process
            self._tell_engine("ready", self._ready)

    def _tell_engine(self, what: str, more: object) -> None:
        if isinstance(more, Ready):
            self._ready = more
            if self._is_listening:
                self._log.write("ready", **asdict(more))
        else:
            self._log.write(f"engine_{what}", message=str(more))

    @contextlib.contextmanager
    def _signals_to(self, server: "_Server") -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()

        def arrive() -> None:
            self._num_signals += 1
            server.force_exit = self._num_signals > 1
            self._log.write("draining" if self._num_signals == 1 else "ending")
            self._begin_end(server)

        for one in _SIGNALS:
            loop.add_signal_handler(one, arrive)
        try:
            yield
        finally:
            for one in _SIGNALS:
                loop.remove_signal_handler(one)


class _Server(uvicorn.Server):
    """uvicorn's server, whose signals are ours, and which wakes up once a second instead of ten times."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._is_ending = asyncio.Event()

    def end(self, seconds: float) -> None:
        """Close the listener, and what has not ended so many seconds later."""
        self.config.timeout_graceful_shutdown = seconds  # type: ignore[assignment] - a float does as well
        self.should_exit = True
        self._is_ending.set()

    async def main_loop(self) -> None:
        """Set the date in the headers of answers each second, until the end."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_ending.wait(), _TICK_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave them alone."""
        yield


def _listen(host: str, port: int, limits: TransportLimits) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=limits.max_connections)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}, port {port}: {error.strerror}; take another --host or --port"
        ) from None


def _allow_files(limits: TransportLimits, log: JsonLog) -> None:
    """Every connection is a file, and some systems allow few."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.max_connections + _OTHER_FILES
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.write("warning", message=f"{allowed} files may be open and {wanted} are wanted; raise ulimit -n")


@contextlib.contextmanager
def _logging_to(log: JsonLog) -> Generator[None, None, None]:
    """What libraries log becomes lines of JSON, too."""
    handler, root = JsonHandler(log), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
