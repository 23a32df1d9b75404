"""Files that are made one after another, kept when the process dies, and put in place all at once at the end.

beside:  .NAME.seed-oss-quantize/   made while at work
             ledger.json            what is made, and size and SHA-256 of every finished file
             model-00001-of-....    finished shards
             calibrated-00003....   what shards will be made of, where a text is read: results of one layer each,
             hidden-00003....       and what the next layer gets
             ....part               the one at work
NAME                                appears, or changes, in one step when everything is there
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from seed_oss.errors import CheckpointError, InputError, MissingFileError
from seed_oss.files import open_model_file, parse_json
from seed_oss.files.durable import OWN_PREFIX, fsync_file, fsync_folder, replace_file
from seed_oss.files.locking import SaveLock

LEDGER = "ledger.json"
MAX_LEDGER_BYTES = 8 * 2**20
PIECE_BYTES = 2**20


class HashingFile:
    """A file that is written to once, from its beginning, and knows the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write all of it."""
        self._digest.update(data)
        self._file.write(data)
        return memoryview(data).nbytes

    @property
    def sha256(self) -> str:
        """Of everything so far."""
        return self._digest.hexdigest()


class ShardWorkshop:
    """The folder of unfinished work beside a target.

    Args:
        target: the folder that will appear.
        purpose: what is being made, JSON; work left over from another purpose is thrown away.
    """

    def __init__(self, target: Path, purpose: dict[str, Any]) -> None:
        self.folder = target.parent / f".{target.name}{OWN_PREFIX}quantize"
        self._purpose = hashlib.sha256(json.dumps(purpose, sort_keys=True).encode()).hexdigest()
        self.notes: dict[str, Any] = {}
        self._done: dict[str, dict[str, Any]] = {}
        self._checked: set[str] = set()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the folder for this process; what is of use in it is known inside.

        Raises:
            InputError: another process is at work in it, or it is a link or a file.
            OSError: it cannot be made.
        """
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise InputError(f"{self.folder} is in the way, and no folder that was left by this command; delete it")
        self.folder.mkdir(parents=True, exist_ok=True)
        with SaveLock(self.folder):
            self._read_ledger()
            yield

    def _read_ledger(self) -> None:
        try:
            with open_model_file(self.folder, LEDGER) as file:
                content = parse_json(file.read(MAX_LEDGER_BYTES), source=LEDGER)
        except (MissingFileError, CheckpointError):
            content = None
        known = cast(dict[str, Any], content) if isinstance(content, dict) else {}
        done, notes = known.get("done"), known.get("notes")
        if known.get("purpose") != self._purpose or not isinstance(done, dict) or not isinstance(notes, dict):
            self.start_anew()
            return
        self.notes = cast(dict[str, Any], notes)
        self._done = {name: entry for name, entry in cast(dict[str, Any], done).items() if isinstance(entry, dict)}

    def start_anew(self) -> None:
        """Throw away all that was left."""
        self.notes, self._done, self._checked = {}, {}, set()
        for entry in list(os.scandir(self.folder)):
            if not entry.name.startswith(OWN_PREFIX) and not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink()

    def is_finished(self, name: str) -> bool:
        """Whether a file is there as it was when it was finished; its bytes are looked at once."""
        entry = self._done.get(name)
        if entry is None:
            return False
        try:
            with open_model_file(self.folder, name) as file:
                same = os.fstat(file.fileno()).st_size == entry.get("size")
                if same and (name in self._checked or _sha256(file) == entry.get("sha256")):
                    self._checked.add(name)
                    return True
        except (MissingFileError, CheckpointError):
            pass
        return False

    def num_bytes(self) -> int:
        """Of all finished files."""
        return sum(entry["size"] for entry in self._done.values() if isinstance(entry.get("size"), int))

    def make(self, name: str, write: Callable[[HashingFile], None]) -> None:
        """Write a file; it counts, and `notes` are kept, once it is on disk as a whole.

        Raises:
            OSError: disk full and the like; what was finished before stays.
        """
        part = self.folder / f"{name}.part"
        with part.open("wb") as file:
            hashing = HashingFile(file)
            write(hashing)
        fsync_file(part)
        part.replace(self.folder / name)
        fsync_folder(self.folder)
        self._checked.discard(name)
        self._done[name] = {"size": (self.folder / name).stat().st_size, "sha256": hashing.sha256}
        self.save_notes()

    def drop(self, name: str) -> None:
        """Delete a finished file that is of no more use."""
        if self._done.pop(name, None) is not None:
            self.save_notes()
        (self.folder / name).unlink(missing_ok=True)

    def save_notes(self) -> None:
        """Put the ledger on disk."""
        content = json.dumps({"purpose": self._purpose, "notes": self.notes, "done": self._done})
        replace_file(self.folder / LEDGER, content.encode(), self.folder / f"{OWN_PREFIX}{os.urandom(8).hex()}.tmp")

    def hand_over(self, name: str, staging: Path) -> None:
        """Put a finished shard into a folder that is about to appear; here it stays until `remove`, where links can."""
        try:
            os.link(self.folder / name, staging / name)
        except OSError:
            shutil.move(self.folder / name, staging / name)

    def remove(self) -> None:
        """Take the folder away; the work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


@contextmanager
def explained_if_full(folder: Path) -> Iterator[None]:
    """Say what to do where a disk fills up meanwhile.

    Raises:
        InputError: it did.
        OSError: every other one as it is.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise InputError(
                f"the disk of {folder} is full; what is finished is kept there. Make room and run the same command "
                "again"
            ) from error
        raise


def check_room(folder: Path, num_bytes: int) -> None:
    """Raise where the disk has no room.

    Raises:
        InputError: says how much is needed and how much is free.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f"{folder} has {free / 1e9:.2f} GB free, and {num_bytes / 1e9:.2f} GB are still to be written; make "
            "room, or give another OUT"
        )


def is_disk_full(error: OSError) -> bool:
    """Whether the system refused for want of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
