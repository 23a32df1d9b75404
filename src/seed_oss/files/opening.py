"""The one place where files of a model folder are opened for reading.

A model folder is data that somebody else may have made. A name taken from it must not lead out of it, and what it names
must be a regular file: a pipe would block for ever, a device may do anything.

    root/name                 regular file      opened
    root/name -> inside root  symbolic link     opened at its real place, every component without following links
    root/name -> ../../blobs  hub-cache link    opened in the `blobs` folder of the same repository, or in the store of
                                                blobs that the repositories of one cache share
    root/name -> elsewhere    symbolic link     UnsafeFileError
"""

import contextlib
import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from seed_oss.errors import CheckpointError, MissingFileError, UnsafeFileError
from seed_oss.files.journal import locate
from seed_oss.files.names import check_plain_name

# A blob of the hub cache is named by its hash; unfinished ones carry a suffix and must not match.
_BLOB_NAME = re.compile(r"[0-9A-Za-z_-]{1,128}")
_SHARED_BLOB = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}")
_HAS_DIR_FD = os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
# O_NONBLOCK: opening a pipe that was put there after the check returns instead of waiting for a writer.
_FILE_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
)
_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


def open_model_file(root: str | Path, name: str) -> BinaryIO:
    """Open a file of a model folder for reading.

    Args:
        root: The model folder. It may be a symbolic link itself: the user gave it.
        name: A plain file name, possibly read from an untrusted file.

    Returns:
        A binary file object at position 0.

    Raises:
        UnsafeFileError: The name has path components, or the entry is not a regular file inside the folder.
        MissingFileError: There is no such folder or file.
        CheckpointError: The system refuses to open it, for want of permission for example.
    """
    check_plain_name(name)
    folder = Path(root)
    path = _located(folder, name)
    try:
        if path is not None and path.parent != folder:
            with contextlib.suppress(FileNotFoundError):  # just moved to its place by the save that is finishing
                return _open_in(path.parent, name, getattr(os, "O_NOFOLLOW", 0))
        if path is not None:
            return _open_in(folder, name)
    except MissingFileError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise _refused(error, folder / name) from None
    raise MissingFileError(_missing_message(folder, name))


def model_file_exists(root: str | Path, name: str) -> bool:
    """Tell whether a model folder has an entry of this name, of whatever kind.

    A link that leads out of the folder exists too, so that opening it reports it instead of passing it over.

    Raises:
        UnsafeFileError: The name is not a plain name.
    """
    path = _located(Path(root), check_plain_name(name))
    return path is not None and os.path.lexists(path)


def hub_repository_of(folder: Path) -> Path | None:
    """The `models--org--name` folder of the hub cache that a real path lies in a snapshot of, if any."""
    parts = folder.parts
    for index in range(len(parts) - 2, 0, -1):
        if parts[index] == "snapshots" and parts[index - 1].startswith("models--"):
            return Path(*parts[:index])
    return None


def _located(folder: Path, name: str) -> Path | None:
    try:
        return locate(folder, name)
    except OSError as error:
        raise _refused(error, folder) from None


def _open_in(folder: Path, name: str, more_flags: int = 0) -> BinaryIO:
    if not _HAS_DIR_FD:
        return _open_by_resolved_path(folder, name)
    root_fd = os.open(folder, _FOLDER_FLAGS | more_flags)
    try:
        mode = os.stat(name, dir_fd=root_fd, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            return _open_link(folder, name)
        _check_regular(mode, folder / name)
        return _open_regular(root_fd, (name,), folder / name)
    finally:
        os.close(root_fd)


def _open_link(folder: Path, name: str) -> BinaryIO:
    base, parts = _allowed_link_target(folder, name)
    base_fd = os.open(base, _FOLDER_FLAGS)
    try:
        return _open_regular(base_fd, parts, folder / name)
    finally:
        os.close(base_fd)


def _allowed_link_target(folder: Path, name: str) -> tuple[Path, tuple[str, ...]]:
    """Where a link of the folder leads: (a trusted folder, the components below it), or UnsafeFileError."""
    real_root = Path(os.path.realpath(folder))
    try:
        target = Path(os.path.realpath(folder / name, strict=True))
    except FileNotFoundError:
        raise MissingFileError(_missing_message(folder, name, dangling=True)) from None
    except OSError as error:  # a loop of links
        raise UnsafeFileError(f"{folder / name} is a link that cannot be followed ({error.strerror})") from None
    if target.is_relative_to(real_root):
        return real_root, target.relative_to(real_root).parts
    blob = _hub_blob(real_root, target)
    if blob is not None:
        return blob
    raise UnsafeFileError(
        f"{folder / name} is a symbolic link that leaves the model folder; put the file itself (a copy or a hard link) "
        "into the folder, or link the whole folder instead of its files"
    )


def _hub_blob(real_root: Path, target: Path) -> tuple[Path, tuple[str, ...]] | None:
    repository = hub_repository_of(real_root)
    if repository is None:
        return None
    if target.parent == repository / "blobs" and _BLOB_NAME.fullmatch(target.name):
        return repository, ("blobs", target.name)
    # Since huggingface_hub 2.x a repository's blob may be a link into `<cache>/blobs/ab/ab12...`, named by content.
    cache = repository.parent
    shared = "/".join(target.parts[-2:])
    if target.parent.parent == cache / "blobs" and _SHARED_BLOB.fullmatch(shared):
        return cache, ("blobs", *target.parts[-2:])
    return None


def _open_regular(base_fd: int, parts: tuple[str, ...], shown: Path) -> BinaryIO:
    """Open base/parts without following a link in any component, and check what was really opened."""
    folder_fd = os.dup(base_fd)
    try:
        for part in parts[:-1]:
            next_fd = os.open(part, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=folder_fd)
            os.close(folder_fd)
            folder_fd = next_fd
        fd = os.open(parts[-1], _FILE_FLAGS, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)
    return _as_file(fd, shown)


def _refused(error: OSError, shown: Path) -> CheckpointError:
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return UnsafeFileError(f"{shown} is a symbolic link where a regular file is required")
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return UnsafeFileError(f"{shown} is a pipe, socket or device where a regular file is required")
    return CheckpointError(f"{shown} cannot be opened: {error.strerror}")


def _as_file(fd: int, shown: Path) -> BinaryIO:
    try:
        _check_regular(os.fstat(fd).st_mode, shown)
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def _check_regular(mode: int, shown: Path) -> None:
    if stat.S_ISREG(mode):
        return
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
    raise UnsafeFileError(f"{shown} is {kind} where a regular file is required")


def _open_by_resolved_path(folder: Path, name: str) -> BinaryIO:
    """The twin of the above for systems without O_NOFOLLOW and dir_fd: check the resolved path before and after."""
    before = os.lstat(folder / name)
    if stat.S_ISLNK(before.st_mode):
        base, parts = _allowed_link_target(folder, name)
        path = base.joinpath(*parts)
    else:
        path = folder / name
    seen = os.lstat(path)
    _check_regular(seen.st_mode, folder / name)
    fd = os.open(path, _FILE_FLAGS)
    if not os.path.samestat(seen, os.fstat(fd)):
        os.close(fd)
        raise UnsafeFileError(f"{folder / name} was exchanged while it was being opened")
    return _as_file(fd, folder / name)


def _missing_message(folder: Path, name: str, *, dangling: bool = False) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder; give the folder of a checkpoint (with config.json and *.safetensors)"
    if hub_repository_of(Path(os.path.realpath(folder))) is not None:
        return f"{folder} has no {name}; this copy from the hub is incomplete: load it once with the network on"
    what = f"is a link to a missing file: {name}" if dangling else f"has no {name}"
    return f"{folder} {what}; give the folder of a whole checkpoint"
