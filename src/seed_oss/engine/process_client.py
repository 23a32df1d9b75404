"""An engine in a process of its own: started, watched, started again. No torch.

    not started -> starting -> ready -> (dies: every stream ends) -> waiting -> starting ...
                                                                 -> given up, after too many deaths

What the process says is not trusted: anything but messages of the engine is a death. Docs: docs/server.md.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from seed_oss.engine.child import Child
from seed_oss.engine.client import EngineClient, RequestStream
from seed_oss.engine.messages import (
    MAX_MESSAGE_BYTES,
    Abort,
    Close,
    Command,
    Event,
    Pulse,
    Ready,
    Refused,
    Submit,
    decode_events,
    encode,
)
from seed_oss.engine.request_queue import RequestQueue
from seed_oss.engine.restarts import Restarts
from seed_oss.engine.spec import EXIT_REFUSED
from seed_oss.errors import SeedOssError, StateError

TICK_S = 2.0  # how often it is looked at whether something takes too long
HANG_FACTOR = 10.0  # a step that takes so many times as long as the longest one before it does not end any more


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """Bounds of an engine's process.

    Attributes:
        start_s: seconds that it may take until it is ready.
        hang_s: seconds after which it is killed: of silence while requests run, or of one step, unless a tenth of that
            is what a step took before.
        close_s: seconds that it may take to end when it is told not to finish its requests.
        max_unread: most numbers of a request that wait to be read.
        restarts: how often it is started again.
    """

    start_s: float = 900.0
    hang_s: float = 120.0
    close_s: float = 5.0
    max_unread: int = 2**18
    restarts: Restarts = field(default_factory=Restarts)


class ProcessClient(EngineClient):
    """The engine that a command starts.

    Args:
        command: the program and its arguments; two follow, the descriptors of its pipes.
        settings: bounds.
        env: environment of the process; None for this process's own.
        clock: seconds that only grow.
        sleep: waits for seconds of that clock.
        tell: called with "ready" and what the engine says of itself, or "ended" and why, whenever a process is or has.
    """

    def __init__(
        self,
        command: Sequence[str],
        settings: ProcessSettings | None = None,
        *,
        env: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        tell: Callable[[str, object], None] = lambda what, more: None,
    ) -> None:
        self._command = tuple(command)
        self._settings = settings or ProcessSettings()
        self._env = env
        self._clock = clock
        self._sleep = sleep
        self._tell = tell
        self._restarts = self._settings.restarts
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[int] | None = None
        self._child: Child | None = None
        self._ready: Ready | None = None
        self._is_ready = asyncio.Event()
        self._pulse: Pulse | None = None
        self._seen = self._busy_since = 0.0
        self._streams: dict[str, RequestQueue] = {}
        self._ids = itertools.count()
        self._turn = asyncio.Lock()
        self._is_closing = False
        self._close_by: float | None = None
        self._cause = ""
        self.failure: str | None = None
        self.num_starts = 0

    async def start(self) -> None:
        """Start the process, without waiting until it is ready."""
        if self._task is not None:
            raise StateError("the engine's client was started before; make another one")
        self._task = asyncio.create_task(self._supervise())

    async def wait_ready(self) -> Ready:
        """Wait until the engine takes requests.

        Raises:
            StateError: it is closed, or was given up.
        """
        ready = asyncio.create_task(self._is_ready.wait())
        await asyncio.wait({ready, self._running()}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._ready is None:
            raise StateError(self.failure or "the engine is closed; start another client")
        return self._ready

    async def wait_ended(self) -> str | None:
        """Wait until there will be no process any more; why, or None if it was closed."""
        await asyncio.wait({self._running()})
        return self.failure

    @property
    def ready(self) -> Ready | None:
        """What the engine said of itself; None before, and while it is being started again."""
        return self._ready

    @property
    def pulse(self) -> Pulse | None:
        """The newest sign of life of the process that runs now, or None."""
        return self._pulse

    @property
    def silence_s(self) -> float | None:
        """Seconds since the engine said anything; None while it is not ready. It speaks every second."""
        return None if self._ready is None else self._clock() - self._seen

    @property
    def num_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._streams)

    @property
    def pid(self) -> int | None:
        """Id of the process, if there is one."""
        return None if self._child is None else self._child.pid

    async def submit(self, request: Submit) -> RequestStream:
        """Hand in a request; waits while the engine's pipe takes no more."""
        wire_id = f"{next(self._ids)}-{request.request_id}"  # nobody else's, even of one that is still being aborted
        settings = self._settings
        stream = RequestQueue(request, settings.max_unread, lambda: self._leave(wire_id))
        line = encode(replace(request, request_id=wire_id))
        if len(line) > MAX_MESSAGE_BYTES:
            message = f"the request takes {len(line)} bytes; the limit is {MAX_MESSAGE_BYTES}; send less"
            stream.put(Refused(request.request_id, "invalid", message))
            return stream
        try:
            await self._hand_over(wire_id, stream, line)
        except asyncio.CancelledError:
            await stream.close()
            raise
        return stream

    async def close(self, *, drain: bool) -> None:
        """Take no more requests and end; `drain` finishes those that run first, for as long as they take.

        A second call without `drain` cuts the first one short.
        """
        self._is_closing = True
        if self._task is None:
            return
        if self._child is None or self._ready is None:
            self._task.cancel()
        else:
            self._close_by = None if drain else self._clock() + self._settings.close_s
            self._send(Close(drain))
        await self._until_ended(self._task)

    async def kill(self) -> None:
        """End at once, whatever runs."""
        self._is_closing = True
        if self._task is not None:
            self._task.cancel()
            await self._until_ended(self._task)

    async def _until_ended(self, task: "asyncio.Task[None]") -> None:
        await asyncio.wait({task})
        if self._ending is not None:
            await asyncio.wait({self._ending})

    def _running(self) -> "asyncio.Task[None]":
        if self._task is None:
            raise StateError("the engine's client is not started; await its start() first")
        return self._task

    async def _hand_over(self, wire_id: str, stream: RequestQueue, line: bytes) -> None:
        async with self._turn:  # one request at a time fills the pipe; the others keep theirs
            child = self._child
            if child is None or self._ready is None or self._is_closing:
                stream.fail(self._why_not(), "unavailable")
                return
            if not self._streams:
                self._busy_since = self._clock()
            self._streams[wire_id] = stream
            child.write(line)
            await child.drain()

    def _why_not(self) -> str:
        if self.failure is not None:
            return "the engine has failed for good; the server is about to end"
        return "the server is about to end" if self._is_closing else "the engine is being started; try again later"

    def _leave(self, wire_id: str) -> None:
        if self._streams.pop(wire_id, None) is not None:
            self._send(Abort(wire_id))

    def _send(self, command: Command) -> None:
        if self._child is not None:
            self._child.write(encode(command))

    async def _supervise(self) -> None:
        try:
            await self._keep_running()
        except Exception as error:
            self.failure = f"the engine's client failed: {type(error).__name__}: {error}"
            raise

    async def _keep_running(self) -> None:
        """One process after the other."""
        while not self._is_closing:
            cause = await self._live()
            if self._is_closing:
                return
            self._tell("ended", cause)
            self._restarts = self._restarts.after_death(self._clock())
            delay = None if self._is_refused(cause) else self._restarts.delay_s
            if delay is None:
                self.failure = f"the engine failed and is not started again: {cause}"
                return
            await self._sleep(delay)

    @staticmethod
    def _is_refused(cause: str) -> bool:
        return cause == _exit_message(EXIT_REFUSED)

    async def _live(self) -> str:
        """One process, from its start to its end; why it ended."""
        self._cause = ""
        try:
            child = await Child.start(self._command, self._env)
        except StateError as error:
            return str(error)
        self._begin(child)
        watch = asyncio.create_task(self._watch(child))
        try:
            await self._listen(child)
        finally:
            watch.cancel()
            self._end_streams()
            self._ending = asyncio.create_task(child.end())  # goes on if this task is cancelled now
            await asyncio.wait({self._ending})
        return self._cause or _exit_message(self._ending.result())

    def _begin(self, child: Child) -> None:
        self._child = child
        self._seen = self._clock()
        self.num_starts += 1

    async def _listen(self, child: Child) -> None:
        try:
            async for lines in child.lines():
                for event in chain.from_iterable(map(decode_events, lines)):
                    self._take(event)
        except SeedOssError as error:
            self._cause = self._cause or f"it wrote what is no message of an engine ({error})"

    def _take(self, event: Event | Command) -> None:
        self._seen = self._clock()
        if isinstance(event, Submit | Abort | Close):
            raise StateError(f"a {type(event).__name__} from the engine; only its events may come")
        if isinstance(event, Ready):
            self._ready = event
            self._is_ready.set()
            self._tell("ready", event)
        elif isinstance(event, Pulse):
            self._pulse = event
        elif (stream := self._streams.get(event.request_id)) is not None:
            stream.put(event)
            if stream.has_ended:
                self._streams.pop(event.request_id, None)

    def _end_streams(self) -> None:
        self._ready = self._pulse = self._child = self._close_by = None
        self._is_ready.clear()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail("the engine has ended before the request was done; try again", "unavailable")

    async def _watch(self, child: Child) -> None:
        """Kill the process when it takes too long for anything."""
        while not (cause := self._overdue()):
            await self._sleep(TICK_S)
        self._cause = cause
        child.kill()

    def _overdue(self) -> str:
        now = self._clock()
        settings = self._settings
        if self._ready is None and now - self._seen >= settings.start_s:
            return f"it was not ready after {settings.start_s:g} s"
        if self._close_by is not None and now >= self._close_by:
            return f"it did not end within {settings.close_s:g} s"
        if self._streams and now - max(self._seen, self._busy_since) >= settings.hang_s:
            return f"it gave no sign of life for {settings.hang_s:g} s while requests ran"
        return _overdue_step(self._pulse, settings.hang_s)


def _overdue_step(pulse: Pulse | None, hang_s: float) -> str:
    if pulse is None or pulse.step_s < max(hang_s, HANG_FACTOR * pulse.longest_step_s):
        return ""
    longest = f"{pulse.longest_step_s:.1f} s"
    return f"a step has not ended after {pulse.step_s:.0f} s; the longest one before took {longest}"


def _exit_message(code: int) -> str:
    return f"its process ended with exit code {code}" if code >= 0 else f"its process was ended by signal {-code}"
