"""The commit point of a save in place: one small file that says what the folder holds from now on.

    folder/.seed-oss-save-<id>/      the new files, whole and on disk
    folder/.seed-oss-commit.json     appears in one step: from here on the save has happened
    folder/...                       the new files are moved to their names, the old weights removed
    (both dot entries are removed)

Killed before the second line, the save has not happened; killed after it, readers look names up through the journal
(`locate`), and the next save finishes the moving first (`finish`). So a reader sees one whole version at any moment.
"""

import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from seed_oss.errors import CheckpointError
from seed_oss.files.durable import OWN_PREFIX, fsync_folder, replace_file
from seed_oss.files.names import check_plain_name
from seed_oss.files.strict_json import parse_json

JOURNAL_FILE = OWN_PREFIX + "commit.json"
STAGING_NAME = re.compile(re.escape(OWN_PREFIX) + r"save-[0-9a-f]{16}")
MAX_JOURNAL_BYTES = 4 * 2**20
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Journal:
    """A save that has happened: names in `install` are in the folder `staging` until they are moved."""

    staging: str
    install: tuple[str, ...]
    remove: tuple[str, ...]


def locate(folder: Path, name: str) -> Path | None:
    """The path of a file of a model folder, seen through an unfinished save if there is one.

    Returns:
        A path (not necessarily existing), or None for a file that the save has removed.
    """
    journal = read_journal(folder)
    if journal is None:
        return folder / name
    staged = folder / journal.staging / name
    if name in journal.install and os.path.lexists(staged):
        return staged
    return None if name in journal.remove else folder / name


def read_journal(folder: Path) -> Journal | None:
    """The journal of an unfinished save; None in the ordinary case that there is none.

    Raises:
        CheckpointError: There is one and it is malformed, or its staging folder is a link or a file, which a killed
            save does not leave behind.
    """
    path = folder / JOURNAL_FILE
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _malformed(path)
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(fd, "rb") as file:
        data = file.read(MAX_JOURNAL_BYTES + 1)
    journal = _parse(data, path)
    # The journal goes before its staging folder, so without the folder it says nothing any more.
    return journal if _is_own_folder(folder / journal.staging, path) else None


def write_journal(folder: Path, journal: Journal, temporary: Path) -> None:
    """The commit point: put the journal in place in one step, on disk when this returns."""
    record = {"format": _FORMAT, "staging": journal.staging, "install": journal.install, "remove": journal.remove}
    replace_file(folder / JOURNAL_FILE, _to_json(record), temporary)


def withdraw(folder: Path, staging: str) -> None:
    """Take back a journal that names this staging folder, before anything of it was carried out."""
    path = folder / JOURNAL_FILE
    journal = read_journal(folder)
    if journal is not None and journal.staging == staging:
        path.unlink()
        fsync_folder(folder)


def finish(folder: Path, journal: Journal, owned: Callable[[str], bool]) -> None:
    """Carry out a journal, as often as it takes: every step may have been done before.

    Args:
        folder: The model folder.
        journal: Its journal.
        owned: Which names a save may remove; others stay, whatever the journal says.

    Raises:
        CheckpointError: Something other than regular files was staged; nothing was moved then.
    """
    staging = folder / journal.staging
    _check_regular(journal.install, staging)
    weights = [name for name in journal.install if owned(name)]
    # Weights first, then what refers to them, then away with the old: readers that know no journal profit from it.
    _move(sorted(weights, key=lambda name: name.endswith(".json")), staging, folder)
    for name in journal.remove:
        if owned(name) and name not in journal.install:
            (folder / name).unlink(missing_ok=True)
    _move([name for name in journal.install if name not in weights], staging, folder)
    fsync_folder(folder)
    (folder / JOURNAL_FILE).unlink(missing_ok=True)
    fsync_folder(folder)
    shutil.rmtree(staging, ignore_errors=True)


def _is_own_folder(staging: Path, journal_path: Path) -> bool:
    """Whether the staging folder is there; a link in its place would lead the reader and the mover elsewhere."""
    try:
        mode = staging.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        raise _malformed(journal_path)
    return True


def _check_regular(names: Iterable[str], staging: Path) -> None:
    for name in names:
        path = staging / name
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise CheckpointError(
                f"{path} is not a regular file, which no save leaves behind; delete {staging} and {JOURNAL_FILE} "
                "beside it if you trust the rest of the folder"
            )


def _move(names: Iterable[str], source: Path, destination: Path) -> None:
    for name in names:
        try:
            (source / name).replace(destination / name)
        except FileNotFoundError:
            continue  # moved before the kill


def _parse(data: bytes, path: Path) -> Journal:
    if len(data) > MAX_JOURNAL_BYTES:
        raise _malformed(path)
    record = parse_json(data, source=str(path), max_bytes=MAX_JOURNAL_BYTES)
    fields = cast(dict[str, Any], record) if isinstance(record, dict) else {}
    if fields.keys() != {"format", "staging", "install", "remove"} or fields["format"] != _FORMAT:
        raise _malformed(path)
    staging = fields["staging"]
    if not isinstance(staging, str) or not STAGING_NAME.fullmatch(staging):
        raise _malformed(path)
    return Journal(staging, _names(fields["install"], path), _names(fields["remove"], path))


def _names(value: object, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _malformed(path)
    return tuple(check_plain_name(name, where=f"name in {path}") for name in cast(list[object], value))


def _malformed(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is not the record of an interrupted save; delete it if you trust this folder")


def _to_json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8")
