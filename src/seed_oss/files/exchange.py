"""Swapping two folders in one step (Linux), and taking along what is not ours."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

MAX_CARRIED = 20_000
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange_folders(first: Path, second: Path) -> None:
    """Swap two folders of one filesystem in one step.

    Raises:
        OSError: The system or filesystem cannot do it, or one of them is a mount point; nothing has changed.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "no exchange of folders on this system")
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, "the C library has no renameat2") from None
    renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    renameat2.restype = ctypes.c_int
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(first), None, str(second))


def make_twin(target: Path, twin: Path) -> None:
    """Make an empty folder beside `target` with its owner, mode and attributes, if the two can be exchanged.

    Raises:
        OSError: They cannot, or this process may not make such a folder; `twin` does not exist then.
    """
    like = target.stat()
    if like.st_dev != target.parent.stat().st_dev:
        raise OSError(errno.EXDEV, "the folder is a mount point")
    probe = twin.with_name(twin.name + "p")
    twin.mkdir(mode=0o700)
    try:
        probe.mkdir(mode=0o700)
        exchange_folders(twin, probe)
        made = twin.stat()
        if (made.st_uid, made.st_gid) != (like.st_uid, like.st_gid):
            os.chown(twin, like.st_uid, like.st_gid)
        shutil.copystat(target, twin)
    except BaseException:
        twin.rmdir()
        raise
    finally:
        if probe.exists():
            probe.rmdir()


def link_entries(source: Path, destination: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> None:
    """Make the wanted entries of one folder appear in another one too: files as hard links, folders entry by entry.

    Raises:
        OSError: The filesystem has no hard links, something is not ours to link, or there are too many entries.
    """
    budget = [MAX_CARRIED]
    device = source.stat().st_dev
    with os.scandir(source) as entries:
        for entry in entries:
            if wanted(entry):
                _link_entry(entry, destination / entry.name, device, budget)


def _link_entry(entry: os.DirEntry[str], new: Path, device: int, budget: list[int]) -> None:
    budget[0] -= 1
    if budget[0] < 0:
        raise OSError(errno.EMLINK, f"more than {MAX_CARRIED} entries to take along")
    if entry.is_symlink():
        new.symlink_to(Path(entry.path).readlink())
    elif entry.is_dir(follow_symlinks=False):
        _link_folder(entry, new, device, budget)
    else:
        os.link(entry.path, new, follow_symlinks=False)


def _link_folder(entry: os.DirEntry[str], new: Path, device: int, budget: list[int]) -> None:
    status = entry.stat(follow_symlinks=False)
    new.mkdir(mode=0o700)
    made = new.stat()
    if status.st_dev != device or (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
        raise OSError(errno.EPERM, "a subfolder is a mount point or belongs to somebody else")
    with os.scandir(entry.path) as entries:
        for inner in entries:
            _link_entry(inner, new / inner.name, device, budget)
    shutil.copystat(entry.path, new)


def move_missing(source: Path, destination: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> None:
    """Move wanted entries that the destination lacks: those that somebody made between the linking and the swap."""
    with os.scandir(source) as entries:
        for entry in entries:
            new = destination / entry.name
            if not wanted(entry):
                continue
            if not os.path.lexists(new):
                Path(entry.path).rename(new)
            elif entry.is_dir(follow_symlinks=False) and new.is_dir() and not new.is_symlink():
                move_missing(Path(entry.path), new, lambda _: True)
