"""What every engine's process does: it answers lines of JSON on stdin, or runs once from start to first token.

    {"do": "load", ...}                                       {"load_s": ...}
    {"do": "run", "ids": [...], "new_tokens": n, "threads": n}  {"prefill_s": ..., "decode_s": ..., "ids": [...]}
    {"do": "read", "threads": n}                              {"bytes_per_s": ...}, null of peers

Standard library only: this is imported by interpreters that have nothing but the peer.
"""

import json
import os
import sys
import time
from typing import Any, Protocol, TextIO


class Engine(Protocol):
    """What is measured."""

    def import_all(self) -> None:
        """Import what loading needs; not part of the time that it takes."""
        ...

    def load(self, what: dict[str, Any]) -> dict[str, Any]:
        """Get the model ready; returns what the report shall say of it."""
        ...

    def run(self, prompt_ids: list[int], new_tokens: int, threads: int) -> tuple[float, float, list[int]]:
        """Seconds to the first new token, seconds from it to the last one, and the new ids."""
        ...

    def encode(self, question: str) -> list[int] | None:
        """A question as a conversation's ids, or None where the engine is given ids."""
        ...


class TokenClock:
    """A streamer that notes when each token arrives."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._times: list[float] = []

    def put(self, value: Any) -> None:
        """One step's tokens; the first call is the prompt's own."""
        self._times.append(time.perf_counter())

    def end(self) -> None:
        """The last token has arrived."""

    def seconds(self, new_tokens: int) -> tuple[float, float]:
        """From the clock's making to the first of the new tokens, and from that to the last one."""
        times = self._times[-new_tokens:]
        return times[0] - self._start, times[-1] - times[0]


def serve(engine: Engine) -> None:
    """Answer requests until stdin ends; with `--first-token JSON` load, make one token, say so and end."""
    out = _own_stdout()
    if len(sys.argv) > 2 and sys.argv[1] == "--first-token":
        _first_token(engine, json.loads(sys.argv[2]), out)
        return
    for line in sys.stdin:
        try:
            answer = _answer(engine, json.loads(line))
        except Exception as error:  # noqa: BLE001  # whatever a peer throws is told to the process that asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


def _answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "load":
        engine.import_all()
        start = time.perf_counter()
        told = engine.load(request)
        return {**told, "load_s": time.perf_counter() - start}
    if request["do"] == "read":
        read_rate: Any = getattr(engine, "read_rate", None)
        return {"bytes_per_s": None if read_rate is None else read_rate(request["threads"])}
    prefill, decode, ids = engine.run(request["ids"], request["new_tokens"], request["threads"])
    return {"prefill_s": prefill, "decode_s": decode, "ids": ids}


def _first_token(engine: Engine, what: dict[str, Any], out: TextIO) -> None:
    engine.import_all()
    engine.load(what)
    ids = engine.encode(what["question"]) or what["ids"]
    engine.run(ids, 1, what["threads"])
    out.write("first\n")
    out.flush()


def _own_stdout() -> TextIO:
    """The real stdout for answers; what libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out
