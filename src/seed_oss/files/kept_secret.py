"""Secrets that outlive a process: random bytes in a file, made once, whoever else makes them at the same time."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from seed_oss.errors import ConfigError

SECRET_LEN = 32
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def kept_secret(folder: Path, name: str) -> bytes:
    """The secret of a cache folder, made with it if it is new.

    Args:
        folder: of what the secret is for, `cache_dir` in messages.
        name: of its file.

    Returns:
        32 bytes.

    Raises:
        ConfigError: the folder cannot be used, others may write in it, or may read the secret.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.name != "nt" and folder.stat().st_mode & stat.S_IWOTH:
            raise ConfigError("cache_dir may be written by everybody; chmod 700 it, or give another folder")
        if not path.exists():
            _make(path)
        secret = _read(path)
    except OSError as error:
        raise unusable(error) from None
    if len(secret) != SECRET_LEN:
        raise ConfigError(f"cache_dir: its file {name!r} is damaged; remove the folder's content")
    return secret


def unusable(error: OSError) -> ConfigError:
    """What is said of a cache folder with which the system fails."""
    return ConfigError(f"cache_dir cannot be used ({error.strerror}); give a folder that can be written")


def write_new(path: Path, data: bytes, *, is_synced: bool = False) -> None:
    """A file that only its owner may read; one that is there, or a link, is not written to.

    Args:
        path: of the file.
        data: all of it.
        is_synced: it is on the disk afterwards, whatever happens to the machine.

    Raises:
        OSError: it cannot be made; part of it may be there.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        if is_synced:
            file.flush()
            os.fsync(fd)


def _read(path: Path) -> bytes:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        return b""
    if os.name != "nt" and mode & 0o077:
        raise ConfigError(f"cache_dir: its file {path.name!r} may be read by others; chmod 600 it, or remove it")
    with path.open("rb") as file:
        return file.read(SECRET_LEN + 1)


def _make(path: Path) -> None:
    """All of it or nothing, and the one that came first where two make it."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        write_new(temporary, os.urandom(SECRET_LEN), is_synced=True)
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
