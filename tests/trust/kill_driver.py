"""Kill processes that save, with SIGKILL at random moments, and look each time at what is left.

    python kill_driver.py FOLDER exchange|journal plain|model KILLS SEED

A child saves version after version into the folder and announces each one that is done. It is killed somewhere in the
first few saves; what the folder then holds must be one whole version, and not an older one than was announced. The
next child goes on from there, so that it also meets what the killed one left behind. Prints the counts as JSON.

plain: files written byte by byte, no torch. model: `save_pretrained` and `from_pretrained` of a tiny model.
"""

import contextlib
import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

Save = Callable[[Path, int, str], None]
Load = Callable[[Path], set[int]]
FOREIGN = {"README.md": "mine", "sub/deep": "deep"}


@dataclass
class Counts:
    """What the kills led to; `lost` and `mixed` must stay 0."""

    kills: int = 0
    while_saving: int = 0  # something of an unfinished save was left
    through_journal: int = 0  # the version was read through the journal
    lost: int = 0  # nothing loads, or an older version than was announced
    mixed: int = 0  # parts of two versions
    foreign_harmed: int = 0
    versions: int = 0


def save_plain(folder: Path, version: int, way: str) -> None:
    """One save of `tests.files.plain`; the number of shards changes from version to version."""
    from seed_oss.files import DirectoryCommit
    from tests.files.plain import write_version

    with DirectoryCommit(folder, exchange=way == "exchange") as staging:
        write_version(staging, version, 1 + version % 4)


def load_plain(folder: Path) -> set[int]:
    """Every version that the folder's content states."""
    from tests.files.plain import versions_in

    return versions_in(folder)


def model_functions() -> tuple[Save, Load]:
    """Saving and loading with the public classes. The weights, and one field of the config, are the version."""
    import torch

    from seed_oss import SeedOssForCausalLM
    from seed_oss.models import pretrained
    from tests.factory import tiny_model

    torch.set_num_threads(1)
    model: Any = tiny_model(SeedOssForCausalLM, num_hidden_layers=1, vocab_size=16)
    commit = pretrained.DirectoryCommit

    def save(folder: Path, version: int, way: str) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(version)
        model.config.max_position_embeddings = version
        # The way is not an argument of save_pretrained: only tests force it.
        pretrained.DirectoryCommit = lambda target: commit(target, exchange=way == "exchange")  # type: ignore[assignment,misc]
        model.save_pretrained(folder, max_shard_size="8KB" if version % 2 else "5GB")

    def load(folder: Path) -> set[int]:
        loaded: Any = SeedOssForCausalLM.from_pretrained(folder, show_progress=False)
        values = {int(value) for parameter in loaded.parameters() for value in parameter.unique()}
        return values | {int(loaded.config.max_position_embeddings)}

    return save, load


def save_until_killed(folder: Path, version: int, way: str, save: Save, announce: int) -> None:
    """The child: save and announce, version after version."""
    while True:
        save(folder, version, way)
        os.write(announce, f"{version}\n".encode())
        version += 1


def kill_once(folder: Path, version: int, way: str, save: Save, seconds: float, first_wait: float = 0.0) -> int:
    """Let a child save from `version` on, kill it after a time; the last version it announced (or version - 1).

    The time begins when it has announced one, or `first_wait` seconds have passed.
    """
    ear, mouth = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ear)
        save_until_killed(folder, version, way, save, mouth)
    os.close(mouth)
    heard = b""
    with os.fdopen(ear, "rb", buffering=0) as announced:
        select.select([announced], [], [], first_wait)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([announced], [], [], left)[0]:
                heard += announced.read(4096)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        heard += announced.read()
    complete = heard.decode().split("\n")[:-1]
    return int(complete[-1]) if complete else version - 1


def look(folder: Path, announced: int, load: Load, counts: Counts) -> int:
    """Judge what is left and return the version it is."""
    from seed_oss.errors import SeedOssError

    counts.kills += 1
    names = [path.name for path in [*folder.iterdir(), *folder.parent.iterdir()]]
    counts.while_saving += any("seed-oss-save" in name for name in names)
    counts.through_journal += ".seed-oss-commit.json" in names
    for name, content in FOREIGN.items():
        with contextlib.suppress(FileNotFoundError):
            content = "" if (folder / name).read_text() == content else content
        counts.foreign_harmed += content != ""
    try:
        versions = load(folder)
    except (SeedOssError, OSError, AssertionError) as error:
        sys.stderr.write(f"after version {announced}: {error}\n{sorted(names)}\n")
        counts.lost += 1
        return announced
    counts.mixed += len(versions) != 1
    counts.lost += len(versions) == 1 and min(versions) < announced
    return max(versions)


def main(folder: Path, way: str, kind: str, kills: int, seed: int) -> None:
    """Kill, look, go on."""
    save, load = (save_plain, load_plain) if kind == "plain" else model_functions()
    chance = random.Random(seed)
    save(folder, 1, way)
    (folder / "sub").mkdir()
    for name, content in FOREIGN.items():
        (folder / name).write_text(content)
    begin = time.monotonic()
    for version in range(2, 7):
        save(folder, version, way)
    one_save = (time.monotonic() - begin) / 5
    version, counts = 6, Counts()
    for number in range(1, kills + 1):
        first_wait = 60.0 if number == kills else 0.0  # one save at least has to end, however slow the machine is
        announced = kill_once(folder, version + 1, way, save, chance.uniform(0.0, 3 * one_save), first_wait)
        version = look(folder, announced, load, counts)
    counts.versions = version
    sys.stdout.write(json.dumps(asdict(counts)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
