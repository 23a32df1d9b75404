"""Cores for an engine's process that do as they are told by a request's `namespace` and by the spec's `model`."""

import os
import threading
from contextlib import AbstractContextManager, nullcontext

from seed_oss.engine.messages import Ended, Event, Pulse, Ready, Refused, Started, Submit, Tokens
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import ConfigError

FACTORY = "tests.engine.scripted_core:build"


class ScriptedCore:
    """Continues a prompt (n,) by the tokens 0 to n - 1, one a step, for each choice.

    Namespaces: "hold" starts and gives nothing more; "exit", "hang" and "raise" do that in the next step; "flood" gives
    1,000 tokens a step; "refuse" is refused.
    """

    def __init__(self) -> None:
        self._running: dict[str, tuple[Submit, int]] = {}
        self._waiting: list[Event] = []

    @property
    def has_work(self) -> bool:
        """Whether a request wants tokens."""
        return bool(self._waiting) or any(request.namespace != "hold" for request, _ in self._running.values())

    def ready(self) -> Ready:
        """Anything."""
        return Ready(4096, 16, 1000, ("generate",), dtype="scripted")

    def submit(self, request: Submit) -> None:
        """Take it, or refuse it."""
        if request.namespace == "refuse":
            self._waiting.append(Refused(request.request_id, "overloaded", "later", retry_after=1.5))
            return
        self._waiting.append(Started(request.request_id, (), request.prompt_ids[0]))
        self._running[request.request_id] = (request, 0)

    def abort(self, request_id: str) -> None:
        """Forget it."""
        if request_id in self._running:
            request, _ = self._running.pop(request_id)
            self._waiting += [Ended(request_id, choice, "abort") for choice in range(request.params.n)]

    def alone(self) -> AbstractContextManager[None]:
        """See Core."""
        return nullcontext()

    def step(self) -> list[Event]:
        """One token of each, and a pulse: a test need not wait for the next second."""
        events, self._waiting = self._waiting, []
        for request_id, (request, done) in list(self._running.items()):
            events += self._advance(request_id, request, done)
        return [*events, Pulse(0, self.stats())]

    def close(self) -> None:
        """See Core."""

    def stats(self) -> dict[str, float]:
        """How many run."""
        return {"num_running": float(len(self._running))}

    def _advance(self, request_id: str, request: Submit, done: int) -> list[Event]:
        _misbehave(request.namespace)
        choices = range(request.params.n)
        if request.namespace == "hold":
            return []
        if request.namespace == "flood":
            return [Tokens(request_id, choice, tuple(range(1000))) for choice in choices]
        if done == request.prompt_ids[0]:
            del self._running[request_id]
            return [Ended(request_id, choice, "eos") for choice in choices]
        self._running[request_id] = (request, done + 1)
        return [Tokens(request_id, choice, (done,)) for choice in choices]


def _misbehave(how: str) -> None:
    if how == "exit":
        os._exit(3)
    if how == "raise":
        raise RuntimeError("as told")
    if how == "hang":
        threading.Event().wait()


def build(spec: EngineSpec) -> ScriptedCore:
    """The core that the model's name asks for."""
    if spec.model == "wrong":
        raise ConfigError("the model is wrong, as told")
    _misbehave(spec.model)
    return ScriptedCore()
