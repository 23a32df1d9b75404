"""Saving into a folder all at once: a reader, also after kill -9 or a power cut, finds the old files or the new ones.

Where the system can swap two folders (Linux, local filesystems), the new version is built beside the target and the two
are exchanged. Elsewhere, and where that would pull the folder from under somebody (a mount point, the working folder of
this process), the files are staged inside the target and a journal is the commit point (journal.py); weights get names
then that no old file has, with the index naming them.

    beside:  .NAME.seed-oss-save-<id>/    before the swap the new version (it holds the marker), after it the old one
    inside:  .seed-oss-save-<id>/, .seed-oss-commit.json, .seed-oss-lock
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from seed_oss.errors import InputError
from seed_oss.files.durable import OWN_PREFIX, fsync_file, fsync_folder, replace_file
from seed_oss.files.exchange import exchange_folders, link_entries, make_twin, move_missing
from seed_oss.files.journal import STAGING_NAME, Journal, finish, read_journal, withdraw, write_journal
from seed_oss.files.locking import LOCK_FILE, SaveLock
from seed_oss.files.names import check_plain_name, short
from seed_oss.files.unique_shards import make_unique
from seed_oss.files.weight_map import is_weight_file

_MARKER = OWN_PREFIX + "unfinished"  # in a folder beside the target: it is a new version that was not swapped in yet
_TEMPORARY = re.compile(re.escape(OWN_PREFIX) + r"[0-9a-f]{16}\.tmp")


class DirectoryCommit:
    """Replaces the files of a save in a folder all at once.

    ```
    with DirectoryCommit(folder) as staging:
        (staging / "config.json").write_text(...)
    ```
    On a clean exit the folder holds the staged files and no older file that `replaces` matches; everything else in it
    (tokenizer, README, subfolders) stays. On an exception it is as before. What a killed save left behind is cleaned
    up by the next one.

    Args:
        target: The folder; made if it is not there. A symbolic link is followed.
        replaces: Which file names belong to a save and go away when it does not write them anew: by default the
            weights. Staged files replace those of the same name in any case.
        exchange: False forces the journal also where folders can be swapped.

    Raises:
        InputError: The target is a file, another save into it is running, or something other than plain files was
            staged.
        OSError: The system refused (disk full, no permission); the folder is as before.
    """

    def __init__(
        self, target: str | Path, *, replaces: Callable[[str], bool] = is_weight_file, exchange: bool = True
    ) -> None:
        self._target = _real_folder(target)
        self._replaces = replaces
        self._exchange = exchange
        self._made_target = False

    def __enter__(self) -> Path:
        self._made_target = _make_folder(self._target)
        self._lock = SaveLock(self._target)
        self._lock.__enter__()
        try:
            if self._lock.held:
                clean_up(self._target, self._replaces)
            self._staging = self._make_staging()
        except BaseException:
            self._leave()
            raise
        return self._staging

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
            else:
                shutil.rmtree(self._staging, ignore_errors=True)
        finally:
            self._leave()

    def _make_staging(self) -> Path:
        token = os.urandom(8).hex()
        if self._exchange and not _is_working_folder(self._target):
            twin = self._target.parent / f".{self._target.name}{OWN_PREFIX}save-{token}"
            try:
                make_twin(self._target, twin)
            except OSError:
                pass  # no exchange here: stage inside
            else:
                (twin / _MARKER).touch()
                return twin
        staging = self._target / f"{OWN_PREFIX}save-{token}"
        staging.mkdir()
        return staging

    def _commit(self) -> None:
        staging = self._staging
        try:
            names = _staged_names(staging, self._target)
            for name in names:
                fsync_file(staging / name)
            if staging.parent != self._target:
                if self._swap(staging, names):
                    return
                staging = _move_inside(staging, names, self._target)
            journal = self._prepare(staging, names)
        except BaseException:
            # An interrupt may come just after the commit point; without its journal the old version stands untouched.
            withdraw(self._target, staging.name)
            shutil.rmtree(staging, ignore_errors=True)
            shutil.rmtree(self._staging, ignore_errors=True)
            raise
        finish(self._target, journal, self._replaces)

    def _swap(self, staging: Path, names: list[str]) -> bool:
        """Take the foreign entries along and exchange the folders; False, with nothing changed, if that cannot be."""
        foreign = _is_foreign(names, self._replaces)
        try:
            os.link(self._target / LOCK_FILE, staging / LOCK_FILE)
            link_entries(self._target, staging, foreign)
            fsync_folder(staging)
            exchange_folders(staging, self._target)
        except OSError:
            return False
        fsync_folder(self._target.parent)
        move_missing(staging, self._target, foreign)
        shutil.rmtree(staging, ignore_errors=True)
        (self._target / _MARKER).unlink(missing_ok=True)
        return True

    def _prepare(self, staging: Path, names: list[str]) -> Journal:
        """Everything up to and including the commit point of a save in place."""
        old = [
            entry.name
            for entry in _entries(self._target)
            if self._replaces(entry.name) and not entry.is_dir(follow_symlinks=False)
        ]
        if any(is_weight_file(name) for name in old):
            names = make_unique(staging, names, staging.name[-8:])
            for name in names:
                fsync_file(staging / name)
        fsync_folder(staging)
        fsync_folder(self._target)
        journal = Journal(staging.name, tuple(names), tuple(name for name in old if name not in names))
        write_journal(self._target, journal, staging / f"{OWN_PREFIX}{os.urandom(8).hex()}.tmp")
        return journal

    def _leave(self) -> None:
        self._lock.__exit__(None, None, None)
        if self._made_target:
            _remove_if_empty(self._target)


def write_model_file(root: str | Path, name: str, data: bytes) -> None:
    """Write one file of a model folder all at once, making the folder if it is not there.

    Args:
        root: The model folder.
        name: A plain file name; an existing file, or link, of this name is replaced.
        data: The whole content.

    Raises:
        UnsafeFileError: The name is not a plain name.
        InputError: The folder is a file, has a folder of this name, or is being saved by another process.
    """
    folder = _real_folder(root)
    _make_folder(folder)
    _check_not_in_the_way(folder, check_plain_name(name))
    with SaveLock(folder) as lock:
        if lock.held:  # a save that a kill left unfinished would put its own file over this one
            _finish_journal(folder, is_weight_file)
        replace_file(folder / name, data, folder / f"{OWN_PREFIX}{os.urandom(8).hex()}.tmp")


def clean_up(target: Path, replaces: Callable[[str], bool]) -> None:
    """Finish or remove what killed saves left behind. The caller holds the lock, so none of it is in use."""
    _finish_journal(target, replaces)
    for entry in _entries(target):
        if entry.is_dir(follow_symlinks=False) and STAGING_NAME.fullmatch(entry.name):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif entry.name == _MARKER or _TEMPORARY.fullmatch(entry.name):
            Path(entry.path).unlink(missing_ok=True)
    beside = re.compile(re.escape(f".{target.name}{OWN_PREFIX}save-") + r"[0-9a-f]{16}p?")
    for path in _entries_beside(target):
        if beside.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            if not (path / _MARKER).exists():  # swapped out: an old version
                move_missing(path, target, _is_foreign([], replaces))
            shutil.rmtree(path, ignore_errors=True)


def _finish_journal(target: Path, replaces: Callable[[str], bool]) -> None:
    journal = read_journal(target)
    if journal is not None:
        finish(target, journal, replaces)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _entries_beside(target: Path) -> list[Path]:
    try:
        return list(target.parent.iterdir())
    except PermissionError:
        return []


def _is_foreign(names: list[str], replaces: Callable[[str], bool]) -> Callable[[os.DirEntry[str]], bool]:
    """Which entries of the target a save leaves alone."""
    staged = frozenset(names)

    def is_foreign(entry: os.DirEntry[str]) -> bool:
        if entry.name in staged or entry.name.startswith(OWN_PREFIX):
            return False
        return entry.is_dir(follow_symlinks=False) or not replaces(entry.name)

    return is_foreign


def _staged_names(staging: Path, target: Path) -> list[str]:
    names: list[str] = []
    for entry in _entries(staging):
        if entry.name.startswith(OWN_PREFIX):
            continue
        check_plain_name(entry.name, where="staged file")
        if not entry.is_file(follow_symlinks=False):
            raise InputError(f"only plain files can be saved, {entry.name!r} is none")
        _check_not_in_the_way(target, entry.name)
        names.append(entry.name)
    return sorted(names)


def _check_not_in_the_way(target: Path, name: str) -> None:
    path = target / name
    if path.is_dir() and not path.is_symlink():
        raise InputError(f"{path} is a folder where a file of the save has to go; move it away")


def _move_inside(staging: Path, names: list[str], target: Path) -> Path:
    """Turn a folder beside the target into one inside it, copying where renaming cannot cross."""
    inside = target / f"{OWN_PREFIX}save-{staging.name[-16:]}"
    try:
        staging.rename(inside)
    except OSError:
        inside.mkdir()
        for name in names:
            shutil.copyfile(staging / name, inside / name)
            fsync_file(inside / name)
        shutil.rmtree(staging, ignore_errors=True)
    return inside


def _real_folder(path: str | Path) -> Path:
    if "\0" in os.fspath(path):
        raise InputError(f"{short(os.fspath(path))} holds a zero byte, which no path may; give another folder")
    return Path(os.path.realpath(path))


def _make_folder(folder: Path) -> bool:
    """Make a folder with its parents; True if it was not there."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise InputError(f"{folder} is a file; give a folder to save into") from None
        return False
    except NotADirectoryError:
        raise InputError(f"{folder} cannot be made: a file is in the way; give another folder") from None
    fsync_folder(folder.parent)
    return True


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _is_working_folder(target: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(target)
    except FileNotFoundError:  # the working folder itself is gone
        return False
