"""Making files and folders reach the disk before a step that relies on them."""

import os
from pathlib import Path

OWN_PREFIX = ".seed-oss-"  # every temporary entry of ours in a model folder starts so


def fsync_file(path: Path) -> None:
    """Wait until the content of a file is on disk."""
    # Windows flushes only through a handle that may write.
    fd = os.open(path, (os.O_RDWR if os.name == "nt" else os.O_RDONLY) | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_folder(path: Path) -> None:
    """Wait until the entries of a folder are on disk (Windows has no call for it and needs none)."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes, temporary: Path) -> None:
    """Give a file a new content in one step: after a kill or power cut it has the old or the new one."""
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
