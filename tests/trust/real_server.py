"""The whole server over a real engine on a tiny checkpoint: `python -m tests.trust.real_server FOLDER JSON`.

A prompt with the token `HANG` makes the step that computes it never end.
"""

import contextlib
import http.client
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seed_oss.engine.batch import ScheduledBatch
from seed_oss.engine.process_client import ProcessSettings
from seed_oss.engine.process_main import engine_command
from seed_oss.engine.restarts import Restarts
from seed_oss.engine.spec import EngineSpec
from seed_oss.server.serve import serve
from seed_oss.server.settings import ServeSettings
from tests.engine.processes import environment

HANG = 300
PATIENCE_S = 60.0
JSON = {"Content-Type": "application/json"}
ENDLESS = 100_000  # tokens that take longer than any test


def build(spec: EngineSpec) -> Any:
    """A real core whose step hangs at a token."""
    from seed_oss.engine.build import build_core

    core = build_core(spec)
    run = core._stepper.run

    def run_or_hang(batch: ScheduledBatch) -> Any:
        if any(HANG in row.token_ids for row in batch.rows if row.start == 0):
            threading.Event().wait()
        return run(batch)

    core._stepper.run = run_or_hang  # type: ignore[method-assign]
    return core


def main(folder: str, more: str) -> int:
    """Serve on a free port."""
    settings: dict[str, Any] = json.loads(more)
    restarts = Restarts(**settings.pop("restarts", {}))
    process = ProcessSettings(restarts=restarts, **settings.pop("process", {}))
    spec = EngineSpec(folder, threads=1, kv_cache_memory=2**28, **settings.pop("spec", {}))
    made = ServeSettings(spec, port=0, names=("tiny",), process=process, **settings)
    return serve(made, command=engine_command(spec, "tests.trust.real_server:build"))


class RealServer:
    """A server's process, its log read by a thread so that it never waits for us."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port: int = self.event("listening")["port"]

    def _read(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(ValueError):  # who has ended the process closes its log, maybe while this waits
            for line in self.process.stderr:
                if line.startswith("{") and (event := json.loads(line))["event"] != "request":
                    self._events.put(event)

    def event(self, name: str) -> dict[str, Any]:
        """The next one of this kind in the log."""
        while (event := self._events.get(timeout=PATIENCE_S))["event"] != name:
            pass
        return event

    def connection(self) -> http.client.HTTPConnection:
        """A new one."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(self, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of one request."""
        with contextlib.closing(self.connection()) as connection:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), JSON)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, json.loads(response.read())

    def stream(self, body: dict[str, Any]) -> "Stream":
        """An answer as it comes."""
        return Stream(self.connection(), {**body, "stream": True})

    def engine_pid(self) -> int | None:
        """The process that the server has started, if there is one."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = [int(one) for one in children if "process_main" in _command_of(one)]
        return found[0] if found else None

    def next_engine_pid(self, before: int | None) -> int:
        """The first process that is another one."""
        while (found := self.engine_pid()) in (before, None):
            assert self.process.poll() is None, "the server has ended"
            self.ask("/ready")
        assert found is not None
        return found


def _command_of(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


class Stream:
    """An open stream of /v1/completions."""

    def __init__(self, connection: http.client.HTTPConnection, body: dict[str, Any]) -> None:
        self._connection = connection
        connection.request("POST", "/v1/completions", json.dumps(body), JSON)
        self._response = connection.getresponse()
        self.status = self._response.status

    def until(self, start: bytes) -> None:
        """Read until a line that starts so."""
        while (line := self._response.readline()) and not line.startswith(start):
            pass
        assert line, "the stream has ended"

    def rest(self) -> list[Any]:
        """The data of all events that are left, "[DONE]" as it is."""
        with contextlib.closing(self._connection):
            lines = self._response.read().split(b"\n")
        said = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
        return [one.decode() if one == b"[DONE]" else json.loads(one) for one in said]


def completion(prompt: list[int], max_tokens: int, **more: Any) -> dict[str, Any]:
    """The body of a request whose answer is always the same."""
    return {"model": "tiny", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **more}


@contextlib.contextmanager
def real_server(folder: Path, **settings: Any) -> Iterator[RealServer]:
    """A server's process over the checkpoint in a folder."""
    command = [sys.executable, "-m", "tests.trust.real_server", str(folder), json.dumps(settings)]
    threads = {"OMP_NUM_THREADS": "1", **environment()}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=threads) as process:
        try:
            yield RealServer(process)
        finally:
            process.kill()


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
