"""Where weights come from: the files of a checkpoint folder, or tensors in memory.

Files are read with positioned reads straight into the finished tensor, or through a small buffer where dtype or device
differ. Numbers are never mapped, so there are no pages to drop and a file that shrinks meanwhile is an error, not a
crash; packed bytes are (`mapped`, docs/decisions/0016-mapped-weights.md). Measured on 538 MB of fp32 in the file cache,
one process each: 0.20 s into fp32 and 0.15 s into bf16 with two threads (0.37 s and 0.23 s with one; mapped files took
as long); most of it is the kernel handing out memory.
"""

import mmap
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError, InputError
from seed_oss.files import SINGLE_FILE, TensorInfo, model_file_exists, open_model_file, read_weight_map
from seed_oss.files.safetensors_header import MAX_TENSORS, parse_safetensors_header
from seed_oss.weights.dtypes import TORCH_DTYPES

BUFFER_BYTES = 2**20
PINNED_BUFFER_BYTES = 2**24
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # Python's mmap has no name for it before 3.13


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Dtype and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of its elements in bytes."""
        count = self.dtype.itemsize
        for size in self.shape:
            count *= size
        return count


class WeightSource(ABC):
    """Named tensors that can be read one at a time, from several threads.

    Attributes:
        name: Where they come from, for messages.
        specs: Tensor name -> dtype and shape, known before anything is read.
    """

    name: str
    specs: Mapping[str, TensorSpec]

    @abstractmethod
    def groups(self) -> list[list[str]]:
        """The names, grouped by what has to be open to read them."""

    @abstractmethod
    def opened(self, group: list[str]) -> AbstractContextManager[None]:
        """Open what the tensors of one group are read from."""

    @abstractmethod
    def read_into(self, name: str, out: Tensor) -> None:
        """Copy a tensor of an opened group into `out` (contiguous, same shape, any weight dtype and device)."""

    def finished(self, name: str, device: torch.device) -> Tensor | None:
        """A tensor of an opened group where the source itself makes it or has it, else None: `read_into` reads it."""
        return None

    def mapped(self, name: str) -> Tensor | None:
        """The bytes of a tensor of an opened group where they are, uint8 and flat; None where that cannot be."""
        return None


@final
class StateDictSource(WeightSource):
    """Tensors in memory; they are copied, never shared."""

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        for key, value in state_dict.items():
            if not isinstance(value, Tensor) or value.is_meta:
                kind = "a tensor on the meta device" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise InputError(f"state_dict[{key!r}] is {kind}; it must be a tensor with data")
        self.name = "state_dict"
        self._tensors = {key: value.detach() for key, value in state_dict.items()}
        self.specs = {key: TensorSpec(value.dtype, tuple(value.shape)) for key, value in self._tensors.items()}

    def groups(self) -> list[list[str]]:
        """One group: nothing has to be opened."""
        return [list(self._tensors)]

    def opened(self, group: list[str]) -> AbstractContextManager[None]:
        """Nothing to open."""
        return nullcontext()

    def read_into(self, name: str, out: Tensor) -> None:
        """Copy, converting dtype and device."""
        out.copy_(self._tensors[name])


@dataclass(frozen=True, slots=True)
class _Stored:
    file_name: str
    info: TensorInfo


@final
class CheckpointSource(WeightSource):
    """The safetensors files of a folder. Headers are read and checked on construction.

    Args:
        root: The model folder.
        files: names of the files to read; None for those of the model.

    Raises:
        MissingFileError, UnsafeFileError, CheckpointError: There are no weights, or a file or header is malformed.
    """

    def __init__(self, root: str | Path, files: Iterable[str] | None = None) -> None:
        self._root = Path(root)
        self.name = str(self._root)
        self._stored: dict[str, _Stored] = {}
        self._identities: dict[str, tuple[int, ...]] = {}
        if files is not None:
            for file_name in files:
                self._read_header(file_name)
        elif model_file_exists(root, SINGLE_FILE):
            self._read_header(SINGLE_FILE)
        else:
            self._read_shards(read_weight_map(root))
        self.specs = {
            name: TensorSpec(TORCH_DTYPES[stored.info.dtype], stored.info.shape)
            for name, stored in self._stored.items()
        }
        self._buffers = threading.local()
        self._files: dict[str, BinaryIO] = {}
        self._maps: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    def _read_shards(self, weight_map: Mapping[str, str]) -> None:
        for file_name in sorted(set(weight_map.values())):
            self._read_header(file_name)
        for name, file_name in weight_map.items():
            if name not in self._stored or self._stored[name].file_name != file_name:
                raise CheckpointError(
                    f"{self._root}: the index says that {file_name} holds {name!r}, and it does not; files of "
                    "different saves are mixed here, fetch the folder again"
                )

    def _read_header(self, file_name: str) -> None:
        source = str(self._root / file_name)
        with open_model_file(self._root, file_name) as file:
            self._identities[file_name] = file_identity(file)
            tensors = parse_safetensors_header(file, source=source, max_tensors=MAX_TENSORS - len(self._stored))
        for name, info in tensors.items():
            if name in self._stored:
                raise CheckpointError(f"{name!r} is both in {self._stored[name].file_name} and in {source}; keep one")
            self._stored[name] = _Stored(file_name, info)

    def groups(self) -> list[list[str]]:
        """One group per file, in the order of the bytes in it."""
        by_file: dict[str, list[str]] = {}
        for name, stored in self._stored.items():
            by_file.setdefault(stored.file_name, []).append(name)
        return list(by_file.values())

    @contextmanager
    def opened(self, group: list[str]) -> Iterator[None]:
        """Open the files of a group, and make sure they are those whose headers were checked.

        Raises:
            CheckpointError: A file was replaced meanwhile.
        """
        with ExitStack() as stack:
            for file_name in {self._stored[name].file_name for name in group}:
                file = stack.enter_context(open_model_file(self._root, file_name))
                if file_identity(file) != self._identities[file_name]:
                    raise CheckpointError(
                        f"{self._root / file_name} was changed while it was being loaded; load it again once that is "
                        "done"
                    )
                self._files[file_name] = file
            try:
                yield
            finally:
                self._files = {}

    def read_into(self, name: str, out: Tensor) -> None:
        """Read one tensor, converting dtype and device piece by piece.

        Raises:
            CheckpointError: The file ends early.
        """
        info, file = self._stored[name].info, self._file_of(name)
        dtype = TORCH_DTYPES[info.dtype]
        flat = out.view(-1)
        if out.device.type == "cpu" and out.dtype == dtype:
            self._read_at(file, info.start, _bytes_of(flat))
            return
        buffer = self._buffer(out.device)
        step = buffer.numel() // dtype.itemsize
        for begin in range(0, flat.numel(), step):
            part = flat[begin : begin + step]
            piece = buffer[: part.numel() * dtype.itemsize]
            self._read_at(file, info.start + begin * dtype.itemsize, _bytes_of(piece))
            part.copy_(piece.view(dtype))

    def mapped(self, name: str) -> Tensor | None:
        """The bytes of a tensor in the mapped file, private to this process: writing changes memory, never the file.

        The file may be replaced afterwards (by `save_pretrained` for example); it must not be written into.

        Raises:
            CheckpointError: The system does not map the file.
        """
        stored, file = self._stored[name], self._file_of(name)
        with self._lock:
            if stored.file_name not in self._maps:
                self._maps[stored.file_name] = _map_file(file, str(self._root / stored.file_name))
        return self._maps[stored.file_name][stored.info.start : stored.info.end]

    def _file_of(self, name: str) -> BinaryIO:
        file = self._files.get(self._stored[name].file_name)
        if file is None:
            raise RuntimeError("read outside of opened()")
        return file

    def _buffer(self, device: torch.device) -> Tensor:
        """A buffer of this thread; page-locked where the device copies from such memory faster."""
        buffer: Tensor | None = getattr(self._buffers, "value", None)
        if buffer is None:
            pinned = device.type == "cuda"
            size = PINNED_BUFFER_BYTES if pinned else BUFFER_BYTES
            buffer = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)
            self._buffers.value = buffer
        return buffer

    def _read_at(self, file: BinaryIO, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = _pread(file, view[done:], offset + done, self._lock)
            if count == 0:
                raise CheckpointError(f"{file.name} in {self._root} ended while it was being read; fetch it again")
            done += count


def _pread(file: BinaryIO, view: memoryview, offset: int, lock: threading.Lock) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [view], offset)
    with lock:  # Windows has no positioned read
        file.seek(offset)
        return file.readinto(view)  # type: ignore[attr-defined]


def _map_file(file: BinaryIO, shown: str) -> Tensor:
    try:
        if os.name == "nt":
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        else:  # not counted as memory that is promised: only pages that somebody writes to would be copied
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", _MAP_NORESERVE)
            memory = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shown} cannot be mapped ({error}); load with disable_mmap=True") from None
    return torch.frombuffer(memory, dtype=torch.uint8)


def _bytes_of(flat: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    return flat.view(torch.uint8).numpy().data


def file_identity(file: BinaryIO) -> tuple[int, ...]:
    """Which file this is, and in which state: another one after a change or an exchange."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
