"""kill -9 during save: nothing lost, nothing mixed.

`SEED_OSS_TRUST_KILLS` is the number of kills in all, 30 unless set; `make trust` sets 1,000.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trust import kill_driver
from tests.trust.kill_driver import Counts

KILLS = int(os.environ.get("SEED_OSS_TRUST_KILLS", "30"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the processes that it kills")


def kill(folder: Path, way: str, kind: str, kills: int) -> Counts:
    command = [sys.executable, kill_driver.__file__, str(folder), way, kind, str(kills), "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = Counts(**json.loads(done.stdout.splitlines()[-1]))
    assert counts.kills == kills
    assert (counts.lost, counts.mixed, counts.foreign_harmed) == (0, 0, 0), f"{counts}\n{done.stderr}"
    return counts


@pytest.mark.parametrize("way", ["exchange", "journal"])
def test_files_survive(tmp_path: Path, way: str, counted: Callable[..., None]) -> None:
    counts = kill(tmp_path / "parent" / "out", way, "plain", -(-KILLS // 3))
    counted(kills=counts.kills, lost=counts.lost, mixed=counts.mixed)
    assert counts.while_saving >= counts.kills // 4, f"the kills came at the wrong moments: {counts}"


@pytest.mark.parametrize("way", ["exchange", "journal"])
def test_save_pretrained_survives(tmp_path: Path, way: str, counted: Callable[..., None]) -> None:
    counts = kill(tmp_path / "parent" / "out", way, "model", -(-KILLS // 6))
    counted(kills=counts.kills, lost=counts.lost, mixed=counts.mixed)
    assert counts.versions > 6


def test_the_judgement_sees_losses_and_mixtures(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    kill_driver.save_plain(folder, 5, "exchange")
    for name in kill_driver.FOREIGN:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(kill_driver.FOREIGN[name])
    counts = Counts()
    assert kill_driver.look(folder, 5, kill_driver.load_plain, counts) == 5
    assert counts == Counts(kills=1)
    kill_driver.look(folder, 6, kill_driver.load_plain, counts)
    assert counts == Counts(kills=2, lost=1)
    (folder / "config.json").write_text('{"version": 6}')
    kill_driver.look(folder, 5, kill_driver.load_plain, counts)
    assert counts == Counts(kills=3, lost=1, mixed=1)
    (folder / "config.json").unlink()
    (folder / "README.md").unlink()
    kill_driver.look(folder, 5, kill_driver.load_plain, counts)
    assert counts == Counts(kills=4, lost=2, mixed=1, foreign_harmed=1)
