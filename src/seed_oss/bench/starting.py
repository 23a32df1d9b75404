"""From process start to the first token, fresh processes in turn."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from seed_oss.errors import StateError

IMPORT_TORCH = [sys.executable, "-c", "import torch; print('first', flush=True)"]


def first_token_command(python: str, module: str, load: Mapping[str, Any], **more: Any) -> list[str]:
    """What starts an engine, loads its model, makes one token and says so.

    Args:
        python: the interpreter.
        module: the engine's program.
        load: what it loads.
        **more: `question`, `ids` for engines without a tokenizer, `threads`.
    """
    return [python, "-m", module, "--first-token", json.dumps({**load, **more})]


def seconds_to_first_byte(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds from the process's start to the first byte on its stdout, and processor seconds that it took in all.

    Python may keep what it compiles, as it does for packages that pip installs: all engines are measured so.

    Raises:
        StateError: it ended without a byte or with an error; the message has its last line.
    """
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = os.times()
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**variables, **environment}
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.stdout.read()
        errors = process.stderr.read().decode(errors="replace").strip().splitlines()
    if not first or process.returncode:
        raise StateError(f"a process ended with status {process.returncode}: {(errors or ['no message'])[-1][:400]}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, used
