"""A save that dies before each single thing it does to the filesystem leaves the old version or the new one, whole."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seed_oss.files import DirectoryCommit
from tests.files import crash_worker
from tests.files.plain import versions_in, write_version

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


@pytest.fixture
def start() -> Iterator[Path]:
    """A checkpoint in memory if there is such a filesystem: a kill needs no disk, and waiting for one takes long."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        yield make_start(Path(place) / "start")


def make_start(folder: Path) -> Path:
    with DirectoryCommit(folder) as staging:
        write_version(staging, 1, 2)
    (folder / "sub").mkdir()
    (folder / "README.md").write_text("mine")
    (folder / "sub" / "deep").write_text("deep")
    return folder


def rounds(start: Path, way: str, kills: str) -> list[dict[str, Any]]:
    command = [sys.executable, crash_worker.__file__, str(start), str(start.parent / "rounds"), way, kills]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: dict[str, Any], allowed: set[int]) -> None:
    for state, versions in ((found["after"], allowed), (found["next"], {4})):
        assert len(state["versions"]) == 1, f"a mixture: {found}"
        assert set(state["versions"]) <= versions, found
        # Other programs see whole weights too, perhaps still the old ones.
        assert len(state["others"]) == 1, found
        assert state["foreign"] == ["mine", "deep"], found
    assert not found["next"]["left"], found


@pytest.mark.parametrize("way", ["exchange", "journal"])
def test_a_kill_before_every_step(start: Path, way: str) -> None:
    found = rounds(start, way, "once")
    for each in found:
        check(each, {1, 2})
    assert not found[-1]["died"]
    outcomes = [each["after"]["versions"][0] for each in found]
    # Old versions first, then new ones: the commit point is one step.
    assert outcomes == sorted(outcomes)
    assert outcomes.count(1) > 10
    assert outcomes.count(2) > 5
    beside = any(name.startswith(".out.seed-oss-save") for each in found for name in each["after"]["left"])
    assert beside == (way == "exchange")


@pytest.mark.parametrize("way", ["exchange", "journal"])
def test_a_kill_before_every_step_of_the_save_after_a_kill(start: Path, way: str) -> None:
    found = rounds(start, way, "twice")
    for each in found:
        check(each, {2, 3})
    assert found[0]["after"]["left"], "the first save left nothing to do"
    assert not found[-1]["died"]


def test_the_check_sees_a_mixture(start: Path) -> None:
    (start / "config.json").write_text('{"version": 2}')
    assert len(versions_in(start)) > 1
    with pytest.raises(AssertionError, match="a mixture"):
        check({"after": {"versions": [1, 2]}, "next": {}}, {1, 2})
