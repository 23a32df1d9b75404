"""Small files that ask for much: each is refused with a typed error within 2 s of processor time, in bounded memory.

Every bomb goes off in a process of its own, so that its memory is its own.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.trust import bomb_worker
from tests.trust.test_malformed import MAX_MEMORY_BYTES, MAX_SECONDS, make_examples

pytestmark = pytest.mark.xdist_group("bombs")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What every bomb, and every check of the measurement, led to."""
    place = make_examples(tmp_path_factory.mktemp("examples"))
    command = [sys.executable, bomb_worker.__file__, str(place), *bomb_worker.BOMBS, *bomb_worker.CHECKS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", sorted(bomb_worker.BOMBS))
def test_a_bomb_is_refused_quickly_and_in_little_memory(found: dict[str, dict[str, Any]], name: str) -> None:
    line = found[name]
    harmless = name in bomb_worker.HARMLESS and line["error"] == "none"
    assert harmless or line["error"] in bomb_worker.TYPED, line
    assert line["seconds"] < MAX_SECONDS, line
    assert line["bytes"] < MAX_MEMORY_BYTES, line
    assert len(line["message"]) < 2000, line


def test_the_measurement_sees_time_memory_and_untyped_errors(found: dict[str, dict[str, Any]]) -> None:
    assert found["slow"]["seconds"] >= MAX_SECONDS
    assert found["large"]["bytes"] >= MAX_MEMORY_BYTES
    assert found["untyped"]["error"] not in bomb_worker.TYPED
    assert found["accepted"]["error"] not in bomb_worker.TYPED
