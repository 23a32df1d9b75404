"""Small files that ask for much: each is refused with a typed error within 2 s of processor time, in bounded memory.

Every bomb goes off in a process of its own, so that its memory is its own.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trust import bomb_worker
from tests.trust.test_malformed import MAX_MEMORY_BYTES, MAX_SECONDS, make_examples


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_examples(tmp_path_factory.mktemp("examples"))


def outcomes(place: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    command = [sys.executable, bomb_worker.__file__, str(place), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_bombs_are_refused_quickly_and_in_little_memory(place: Path) -> None:
    found = outcomes(place, sorted(bomb_worker.BOMBS))
    assert found.keys() == bomb_worker.BOMBS.keys()
    for name, line in found.items():
        harmless = name in bomb_worker.HARMLESS and line["error"] == "none"
        assert harmless or line["error"] in bomb_worker.TYPED, f"{name}: {line}"
        assert line["seconds"] < MAX_SECONDS, f"{name}: {line}"
        assert line["bytes"] < MAX_MEMORY_BYTES, f"{name}: {line}"
        assert len(line["message"]) < 2000, f"{name}: {line}"


def test_the_measurement_sees_time_memory_and_untyped_errors(place: Path) -> None:
    found = outcomes(place, sorted(bomb_worker.CHECKS))
    assert found["slow"]["seconds"] >= MAX_SECONDS
    assert found["large"]["bytes"] >= MAX_MEMORY_BYTES
    assert found["untyped"]["error"] not in bomb_worker.TYPED
    assert found["accepted"]["error"] not in bomb_worker.TYPED
