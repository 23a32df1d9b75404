"""One save at a time in a folder: a lock that the system releases when its holder dies."""

import errno
import os
import stat
import sys
from pathlib import Path
from types import TracebackType

from seed_oss.errors import InputError, UnsafeFileError
from seed_oss.files.durable import OWN_PREFIX

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_FILE = OWN_PREFIX + "lock"
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)


class SaveLock:
    """Holds the lock file of a folder. It does not wait: a second save is an error of its caller.

    `held` is False on a filesystem without locks; then nothing that may belong to another save is cleaned up.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._fd = -1
        self.held = False

    def __enter__(self) -> "SaveLock":
        while True:
            self._fd = self._open()
            try:
                self.held = self._try_lock()
                if not self.held or self._is_current():
                    return self
            except BaseException:
                os.close(self._fd)
                raise
            # The holder before us finished, and took the file away, between our open and our lock: it guards nothing.
            os.close(self._fd)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.held and sys.platform != "win32":
            self._path.unlink(missing_ok=True)
        os.close(self._fd)
        if self.held and sys.platform == "win32":
            self._path.unlink(missing_ok=True)

    def _open(self) -> int:
        if os.path.lexists(self._path) and not self._is_regular():
            raise UnsafeFileError(f"{self._path} is not a regular file, which no save leaves behind; delete it")
        return os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)

    def _is_regular(self) -> bool:
        try:
            return stat.S_ISREG(self._path.lstat().st_mode)
        except FileNotFoundError:  # its holder has just finished
            return True

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except FileNotFoundError:
            return False

    def _try_lock(self) -> bool:
        try:
            if sys.platform == "win32":
                msvcrt.locking(self._fd, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                raise InputError(
                    f"{self._path.parent} is being saved by another process or thread; wait for it, or save elsewhere"
                ) from None
            return False
        return True
