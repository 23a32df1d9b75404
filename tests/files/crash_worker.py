"""A process that saves again and again, each time in a child that dies before the n-th thing it does to the filesystem.

    python crash_worker.py START PLACE exchange|journal once|twice

START is a checkpoint of version 1. Every round copies it, saves version 2 in a child that dies at a step, looks at
what is left, saves version 4 and looks again; one line of JSON per round tells what was found. In a round of `twice`
the first child dies just behind its commit point, when most is left to do, and it is a second save, of version 3, that
dies at one step after the other.

Python announces every call that changes the filesystem to audit hooks; the child has one that ends it, without any
clean-up, when the n-th is announced.
"""

import ctypes  # before the counting, as importing opens files
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from seed_oss.files import DirectoryCommit
from tests.files.plain import versions_in, weights_seen_by_others, write_version

CHANGES = {f"os.{name}" for name in ("rename", "remove", "rmdir", "mkdir", "link", "symlink", "chmod", "utime")}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MAX_STEPS = 1000
assert ctypes.CDLL


def save(folder: Path, version: int, way: str, num_shards: int) -> None:
    """Save a version, with its config files belonging to the save."""
    with DirectoryCommit(folder, exchange=way == "exchange") as staging:
        write_version(staging, version, num_shards)


def save_dying(folder: Path, version: int, way: str, step: int) -> bool:
    """Save in a child that dies at a step; True if it died before the end."""
    child = os.fork()
    if child == 0:
        _die_at(step)
        save(folder, version, way, 3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 9):
        raise SystemExit(f"the save at step {step} ended with {code}")
    return code == 9


def _die_at(step: int) -> None:
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        # The exchange itself is no event; it lies between the steps around it.
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            count += 1
            if count == step:
                os._exit(9)

    sys.addaudithook(hook)


def look(folder: Path) -> dict[str, object]:
    """What a folder holds: versions, foreign files, and what of ours is left in and beside it."""
    everything = [*folder.parent.iterdir(), *folder.iterdir()]
    return {
        "versions": sorted(versions_in(folder)),
        "others": sorted(weights_seen_by_others(folder)),
        "foreign": [(folder / name).read_text() for name in ("README.md", "sub/deep")],
        "left": [path.name for path in everything if "seed-oss" in path.name],
    }


def save_dying_behind_the_commit_point(start: Path, folder: Path, way: str, first_step: int) -> int:
    """Copy the start and save version 2 in a child that dies at a step after which it holds version 2; the step."""
    for step in range(first_step, MAX_STEPS):
        shutil.copytree(start, folder)
        save_dying(folder, 2, way, step)
        if versions_in(folder) == {2}:
            return step
        shutil.rmtree(folder.parent)
    raise SystemExit("no commit point found")


def main(start: Path, place: Path, way: str, kills: str) -> None:
    """Let saves die at one step after the other until one comes to its end."""
    commit_step = 1
    for step in range(1, MAX_STEPS):
        folder = place / str(step) / "out"
        if kills == "twice":
            commit_step = save_dying_behind_the_commit_point(start, folder, way, commit_step)
            died = save_dying(folder, 3, way, step)
        else:
            shutil.copytree(start, folder)
            died = save_dying(folder, 2, way, step)
        found = look(folder)
        save(folder, 4, way, 1)
        sys.stdout.write(json.dumps({"step": step, "died": died, "after": found, "next": look(folder)}) + "\n")
        shutil.rmtree(folder.parent)
        if not died:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
