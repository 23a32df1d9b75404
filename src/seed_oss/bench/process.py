"""An engine in a process of its own, which stays alive between trials, and the interpreter that it runs on."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seed_oss.errors import StateError

PACKAGE = Path(__file__).resolve().parents[1]
_SHOWN_LINES = 5


class EngineProcess:
    """Starts `python -m MODULE` and talks to it in lines of JSON, see peers.serving.

    Args:
        name: of the engine, for messages.
        module: its program.
        python: the interpreter.
        environment: of the process.
    """

    def __init__(self, name: str, module: str, python: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [python, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **environment},
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            StateError: the process ended, or answers with an error; the message says which.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; said below
        line = self._process.stdout.readline()
        if not line:
            raise StateError(f"{self.name} ended with status {self._process.wait()}: {self._last_errors()}")
        answer = json.loads(line)
        if "error" in answer:
            raise StateError(f"{self.name}: {answer['error'][:500]}")
        return answer

    def peak_rss_bytes(self) -> int | None:
        """The most memory that it had resident, mapped files included; None where the system does not tell."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return None
        lines = (line.split() for line in status.splitlines())
        return next((int(fields[1]) * 1024 for fields in lines if fields[:1] == ["VmHWM:"]), None)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended before
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _last_errors(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-_SHOWN_LINES:])[-500:]


def environment_for(python: str, links: Path) -> dict[str, str]:
    """What a process needs: no hub, and our package where the interpreter is another one.

    Args:
        python: the interpreter.
        links: a folder of ours that holds a link to the package and nothing else.
    """
    shared = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if python == sys.executable:
        return shared
    link = links / "seed_oss"
    if not link.exists():
        link.symlink_to(PACKAGE, target_is_directory=True)
    return {**shared, "PYTHONPATH": str(links)}
