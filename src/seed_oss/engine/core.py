"""The engine: requests in, events out, a step at a time. One owner; a step waits for nothing but the model."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, wait
from contextlib import AbstractContextManager
from dataclasses import asdict

from seed_oss.engine import events as scheduled
from seed_oss.engine.batch import RowKey, ScheduledBatch
from seed_oss.engine.generated_row import Growth
from seed_oss.engine.intake import Intake, ReadyRequest
from seed_oss.engine.messages import Ended, Event, Kind, Ready, Refused, Started, Submit, Tokens
from seed_oss.engine.scheduler import Scheduler
from seed_oss.engine.stepper import Stepper
from seed_oss.errors import EngineError, MissingExtraError, SeedOssError, StateError

Clock = Callable[[], float]

RETRY_AFTER_S = 1.0
_MAX_PREPARING = 64
_WAIT_S = 0.005  # for a request that is made ready, or a mask, where nothing else is to be done
_LOG = logging.getLogger(__name__)
_REFUSALS: dict[str, tuple[Kind, float | None]] = {
    "impossible": ("invalid", None),
    "overloaded": ("overloaded", RETRY_AFTER_S),
    "draining": ("unavailable", RETRY_AFTER_S),
}


class _Request:
    """A request that runs."""

    def __init__(self, ready: ReadyRequest) -> None:
        self.ready = ready
        self.left = {row.row.key.choice for row in ready.rows}
        self.wants_computed = ready.rows[0].prompt_task is not None


class EngineCore:
    """Puts intake, scheduler and stepper together.

    A step that fails is run again in halves until one row is left to blame. Before it is blamed, one token that nobody
    sent is run: where that fails, too, no row is guilty but the device or the memory, which only a new process cures.
    So a broken model ends the engine after `log2(rows) + 1` failed steps, and a request that breaks steps costs itself.

    Args:
        intake: makes requests ready.
        scheduler: decides what runs.
        stepper: runs it.
        ready: what the engine says of itself.
        clock: seconds, from whenever.
        helpers: where requests are made ready that may take a while (grammars, breakers of DRY).
    """

    def __init__(
        self, intake: Intake, scheduler: Scheduler, stepper: Stepper, ready: Ready, clock: Clock, helpers: Executor
    ) -> None:
        self._intake, self._scheduler, self._stepper, self._ready = intake, scheduler, stepper, ready
        self._clock, self._helpers = clock, helpers
        self._preparing: dict[str, tuple[Submit, Future[ReadyRequest]]] = {}
        self._requests: dict[str, _Request] = {}
        self._events: list[Event] = []

    def ready(self) -> Ready:
        """What the engine says of itself."""
        return self._ready

    def alone(self) -> AbstractContextManager[None]:
        """To be held around many steps, see Stepper.alone."""
        return self._stepper.alone()

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._events or self._preparing or self._requests or self._scheduler.has_work)

    def stats(self) -> dict[str, float]:
        """Numbers for a metrics page, by name; those of ends have the reason in theirs."""
        counters = asdict(self._scheduler.counters())
        ended: Mapping[str, int] = counters.pop("total_ended")
        ends = {f"total_ended_{reason}": float(count) for reason, count in ended.items()}
        return {name: float(value) for name, value in counters.items()} | ends

    def submit(self, submit: Submit) -> None:
        """Take a request; what comes of it are events of the steps that follow."""
        if submit.request_id in self._preparing or submit.request_id in self._requests:
            self._refuse(submit, "invalid", "request_id is that of a request which has not ended; take another one")
            return
        now = self._clock()
        if self._intake.may_take_long(submit):
            if len(self._preparing) >= _MAX_PREPARING:
                message = f"{_MAX_PREPARING} requests are being made ready; try again when there is less to do"
                self._refuse(submit, "overloaded", message, RETRY_AFTER_S)
                return
            future = self._helpers.submit(self._intake.prepare, submit, now)
            self._preparing[submit.request_id] = submit, future
        else:
            self._start(submit, lambda: self._intake.prepare(submit, now))

    def abort(self, request_id: str) -> None:
        """Nobody waits for a request any more."""
        if (found := self._preparing.pop(request_id, None)) is not None:
            found[1].cancel()
            self._refuse(found[0], "unavailable", "the request was aborted")
        self._tell(self._scheduler.abort(request_id, self._clock()), {})

    def step(self) -> list[Event]:
        """Do some work.

        Returns:
            What has come of it, and of what was submitted and aborted since the last step.

        Raises:
            EngineError: the model fails whatever it is given; the engine has to be made anew.
        """
        self._start_prepared()
        held = self._stepper.held()
        now = self._clock()
        self._tell(self._scheduler.expire(now), {})
        batch = self._scheduler.schedule(now, held)
        if not self._stepper.transfer(batch):
            self._scheduler.unloaded(batch, self._clock())
        elif batch.rows:
            self._run(batch)
        elif held:
            self._stepper.wait(_WAIT_S)
        events, self._events = self._events, []
        return events

    def drain(self) -> None:
        """Take no more requests."""
        self._scheduler.drain()

    def close(self) -> None:
        """Write what goes to the disk; nothing may be asked of the engine after that."""
        self._helpers.shutdown(wait=False, cancel_futures=True)
        self._stepper.close()

    def _start_prepared(self) -> None:
        if self._preparing and not self._requests:
            wait([future for _, future in self._preparing.values()], _WAIT_S, "FIRST_COMPLETED")
        for request_id, (submit, future) in list(self._preparing.items()):
            if future.done():
                del self._preparing[request_id]
                self._start(submit, future.result)

    def _start(self, submit: Submit, prepare: Callable[[], ReadyRequest]) -> None:
        try:
            ready = prepare()
        except SeedOssError as error:
            is_busy = isinstance(error, StateError)
            kind = "overloaded" if is_busy else "unavailable" if isinstance(error, MissingExtraError) else "invalid"
            self._refuse(submit, kind, str(error), RETRY_AFTER_S if is_busy else None)
            return
        except Exception as error:  # noqa: BLE001 - the request may be to blame, the engine goes on
            _LOG.error("a request could not be made ready", exc_info=error)
            self._refuse(submit, "internal", "the request could not be made ready; see the engine's log")
            return
        self._enter(ready)

    def _enter(self, ready: ReadyRequest) -> None:
        rows = [one.row for one in ready.rows]
        refusal = self._scheduler.refusal(rows)
        if refusal is not None:
            kind, retry_after = _REFUSALS[refusal.reason]
            self._refuse(ready.submit, kind, refusal.message, retry_after)
            return
        for one in ready.rows:
            self._stepper.add(one)
        self._requests[ready.submit.request_id] = _Request(ready)
        self._events.append(Started(ready.submit.request_id, ready.suffix_ids, ready.max_tokens))
        self._tell(self._scheduler.add(rows, self._clock()), {})

    def _refuse(self, submit: Submit, kind: Kind, message: str, retry_after: float | None = None) -> None:
        self._events.append(Refused(submit.request_id, kind, message, _param_in(message), retry_after))

    def _run(self, batch: ScheduledBatch) -> None:
        try:
            outcome = self._stepper.run(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the scheduler finds out whose fault
            _LOG.error("a step of %d rows failed", len(batch.rows), exc_info=error)
            events = self._scheduler.failed(batch, (), self._clock())
            if len(batch.rows) == 1:
                self._check_model()
            self._tell(events, {})
            return
        self._tell(self._scheduler.update(batch, outcome.result, self._clock()), outcome.growths)

    def _check_model(self) -> None:
        pool = self._scheduler.pool
        block_ids = pool.take(1)
        if block_ids is None:
            return
        failure = self._stepper.failure(block_ids[0])
        pool.release(block_ids)
        if failure is not None:
            raise EngineError("a step of one token that nobody sent fails, too; restart the engine") from failure

    def _tell(self, events: list[scheduled.Event], growths: Mapping[RowKey, Growth]) -> None:
        for event in events:
            request = self._requests.get(event.key.request_id)
            if request is None:  # its other rows ended with one that came before in this list
                continue
            if isinstance(event, scheduled.Tokens):
                try:
                    self._tell_computed(request, event.key)
                except SeedOssError as error:
                    self._tell(self._scheduler.abort(event.key.request_id, self._clock(), "error", str(error)), {})
                    continue
                growth = growths.get(event.key)
                logprobs = None if growth is None else growth.logprobs
                self._events.append(Tokens(*event.key, event.token_ids, logprobs))
            else:
                self._end(request, event)

    def _tell_computed(self, request: _Request, key: RowKey) -> None:
        """What the prompt came to, once, before the first token."""
        if request.wants_computed and key.choice == 0:
            request.wants_computed = False
            self._events.append(self._stepper.computed(key))

    def _end(self, request: _Request, event: scheduled.Ended) -> None:
        key, ready = event.key, request.ready
        is_done = event.reason not in ("error", "timeout", "abort")
        kind: Kind | None = {"error": "internal", "timeout": "overloaded"}.get(event.reason)  # type: ignore[assignment]
        reason, message = event.reason, event.message
        try:
            if is_done:
                self._tell_computed(request, key)
        except SeedOssError as error:
            reason, message, kind = "error", str(error), "internal"
        request.left.discard(key.choice)
        if not request.left:
            del self._requests[ready.submit.request_id]
        end = self._stepper.end(key, reason)
        self._events.append(
            Ended(
                *key,
                reason=end.reason,
                message=message,
                kind=kind,
                num_prompt_tokens=event.num_prompt_tokens,
                num_cached_tokens=event.num_cached_tokens,
                num_reasoning_tokens=end.num_reasoning_tokens,
                stop=end.stop,
            )
        )


def _param_in(message: str) -> str | None:
    """The parameter that a message of ours begins with: `max_tokens is 7; ...`."""
    first, _, rest = message.partition(" ")
    return first if rest.startswith(("is ", "has ", "names ", "must ")) and first.isidentifier() else None
