"""Blocks of keys and values on disk, so that a restarted engine finds the prompts that it has seen.

    FOLDER/secret                     32 random bytes, made once, mode 0600: keys the digests of prompts
    FOLDER/IDENTITY/DIGEST.safetensors    one block: BlockTensors by name, its tokens, and a checksum of all of it

IDENTITY stands for all that keys and values depend on beside tokens (see `identity.py`): another one is never looked
into. A block that cannot be read is removed. Several engines may share a folder; what one of them removes the others
compute again. Nothing of this is worth a step: whatever the disk says, the engine goes on.
"""

import hashlib
import logging
import os
import queue
import re
import secrets
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from seed_oss.cache import BlockTensors, PagedCache
from seed_oss.engine.batch import BlockStore, BlockTransfer
from seed_oss.errors import ConfigError, InputError, SeedOssError
from seed_oss.files import open_model_file
from seed_oss.files.kept_secret import kept_secret, unusable, write_new

SECRET_FILE = "secret"
_SUFFIX = ".safetensors"
_OTHER_BYTES = 2**16  # of a file, beside keys and values: header, tokens and checksum
_MAX_PENDING = 64  # blocks on their way to the disk; what comes beyond is not kept
_IDENTITY = re.compile(r"[0-9a-f]{40}")
_BLOCK = re.compile(r"[0-9a-f]{64}\.safetensors")
_PART = re.compile(r"[0-9a-f]{64}\.safetensors(\.[0-9a-f]{8})?\.part")
_LOG = logging.getLogger(__name__)


def folder_secret(folder: Path) -> bytes:
    """The secret of a cache folder, made with it if it is new; raises what `kept_secret` raises."""
    return kept_secret(folder, SECRET_FILE)


class BlockFolder(BlockStore):
    """Blocks of one cache on disk. One thread writes; all else is called by the engine.

    Args:
        folder: of all caches.
        identity: hexadecimal digest of what keys and values depend on beside tokens.
        cache: where blocks come from and go to.
        max_bytes: most bytes of blocks in the folder of all caches; those of other identities go first, then those that
            nobody read for the longest time.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(self, folder: Path, identity: str, cache: PagedCache, max_bytes: int) -> None:
        self._folder, self._cache, self._max_bytes = folder / identity, cache, max_bytes
        self._most_bytes = _bytes_of(cache.read_block(0)) + _OTHER_BYTES
        self._others = _blocks_of_others(folder, identity)
        self._sizes: OrderedDict[str, int] = OrderedDict()  # the one read last at the end
        self._lock = threading.Lock()
        self._pending: queue.Queue[tuple[str, dict[str, Tensor]] | None] = queue.Queue(_MAX_PENDING)
        self._look_around()
        self._make_room(0)
        self._writer = threading.Thread(target=self._write_all, name="seed-oss-disk-cache", daemon=True)
        self._writer.start()

    def __contains__(self, digest: object) -> bool:
        with self._lock:
            return isinstance(digest, bytes) and _name(digest) in self._sizes

    def save(self, transfers: Sequence[BlockTransfer]) -> None:
        """Keep blocks; they are copied now and written later."""
        for one in transfers:
            if one.digest in self or self._pending.full():
                continue
            self._pending.put_nowait((_name(one.digest), _with_check(self._cache.read_block(one.block_id), one)))

    def load(self, transfers: Sequence[BlockTransfer]) -> bool:
        """Read blocks into the cache.

        Returns:
            Whether all of them were there and whole. The first that was not is not contained from then on.
        """
        return all(self._load_one(one) for one in transfers)

    def close(self) -> None:
        """Write what is left, then stop."""
        self._pending.put(None)
        self._writer.join()

    def _load_one(self, transfer: BlockTransfer) -> bool:
        name = _name(transfer.digest)
        try:
            data = self._read(name)
            tensors = load(data)
            expected = _check_of(tensors)
            if tensors.pop("check").tolist() != expected or tensors.pop("token_ids").tolist() != [*transfer.token_ids]:
                raise InputError("the checksum or the tokens are others")
            self._cache.write_block(transfer.block_id, BlockTensors(**tensors))
        except (OSError, SafetensorError, SeedOssError, KeyError, TypeError, RuntimeError) as error:
            _LOG.warning("a block of the disk cache cannot be used and is removed: %s", error)
            self._remove(name)
            return False
        self._touch(name)
        return True

    def _read(self, name: str) -> bytes:
        with open_model_file(self._folder, name) as file:
            most = min(self._sizes.get(name, 0), self._most_bytes)
            return file.read(most + 1)  # one that has grown is none of ours

    def _touch(self, name: str) -> None:
        with self._lock:
            if name in self._sizes:
                self._sizes.move_to_end(name)
        with suppress(OSError):  # another engine may have removed it just now
            os.utime(self._folder / name)

    def _remove(self, name: str) -> None:
        with self._lock:
            self._sizes.pop(name, None)
        _unlink(self._folder / name)

    def _look_around(self) -> None:
        """What an engine before has left, the block read last at the end."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._folder.is_symlink():
                raise ConfigError(f"cache_dir: its folder {self._folder.name!r} is a link; remove it")
            found = list(_files_in(self._folder))
        except OSError as error:
            raise unusable(error) from None
        for _, size, path in sorted(found):
            if _BLOCK.fullmatch(path.name):
                self._sizes[path.name] = size
            elif _PART.fullmatch(path.name):
                _unlink(path)  # what a kill left half written

    def _write_all(self) -> None:
        while (item := self._pending.get()) is not None:
            try:
                self._write(*item)
            except Exception as error:  # noqa: BLE001 - without this thread nothing is written any more
                _LOG.warning("a block could not be written to the disk cache: %s", error)

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        data = save(tensors)
        if len(data) > self._max_bytes:
            return
        self._make_room(len(data))
        temporary = self._folder / f"{name}.{secrets.token_hex(4)}.part"  # another engine may write the same block
        try:
            write_new(temporary, data)
            temporary.replace(self._folder / name)
        except OSError:
            _unlink(temporary)  # half a block on a disk that is full
            raise
        with self._lock:
            self._sizes[name] = len(data)

    def _make_room(self, num_bytes: int) -> None:
        with self._lock:
            total = sum(self._others.values()) + sum(self._sizes.values()) + num_bytes
            gone: list[Path] = []
            while total > self._max_bytes and (self._others or self._sizes):
                if self._others:
                    path, size = self._others.popitem(last=False)
                else:
                    name, size = self._sizes.popitem(last=False)
                    path = self._folder / name
                gone.append(path)
                total -= size
        for path in gone:
            _unlink(path)


def _blocks_of_others(folder: Path, identity: str) -> OrderedDict[Path, int]:
    """Sizes of the blocks of other identities, as they are now; the one read last at the end."""
    try:
        caches = [one for one in os.scandir(folder) if one.is_dir(follow_symlinks=False) and one.name != identity]
        found = [one for cache in caches if _IDENTITY.fullmatch(cache.name) for one in _files_in(Path(cache))]
    except OSError:  # there is none yet, or another engine is at work there
        return OrderedDict()
    return OrderedDict((path, size) for _, size, path in sorted(found) if _BLOCK.fullmatch(path.name))


def _files_in(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Times, sizes and paths of the regular files in a folder, in which other engines may be at work."""
    with os.scandir(folder) as entries:
        for one in entries:
            with suppress(FileNotFoundError):
                found = one.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    yield found.st_mtime_ns, found.st_size, Path(one)


def _unlink(path: Path) -> None:
    """Remove a file, if that can be done."""
    with suppress(OSError):
        path.unlink()


def _bytes_of(block: BlockTensors) -> int:
    return sum(one.nbytes for one in block if one is not None)


def _name(digest: bytes) -> str:
    return digest.hex() + _SUFFIX


def _with_check(block: BlockTensors, transfer: BlockTransfer) -> dict[str, Tensor]:
    """A block as a file holds it."""
    tensors = {name: one.cpu() for name, one in block._asdict().items() if one is not None}
    tensors["token_ids"] = torch.tensor(transfer.token_ids, dtype=torch.int64)
    tensors["check"] = torch.tensor(_check_of(tensors), dtype=torch.uint8)
    return tensors


def _check_of(tensors: dict[str, Tensor]) -> list[int]:
    """Checksum of all tensors but "check" itself."""
    check = hashlib.blake2b(digest_size=32)
    for name in sorted(tensors.keys() - {"check"}):
        check.update(name.encode())
        check.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return list(check.digest())
