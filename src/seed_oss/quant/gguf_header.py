"""The header of a GGUF file: metadata and the table of tensors, every count and length bounded before it is used.

A GGUF file is a header (magic, version, two counts), key/value pairs, a table of tensors, padding, and the tensors'
bytes. The numbers in it are the file's own claims. They are checked here against fixed limits and against the bytes
that are left, so that a truncated or hostile file ends in a CheckpointError within moments, and no tensor is touched
before the whole table has been found sound. The layout is the one of ggml's docs/gguf.md.
"""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.files.names import short
from seed_oss.quant.gguf_package import require_gguf

if TYPE_CHECKING:
    from collections.abc import Mapping

# A value in the metadata. Arrays of numbers stay numpy arrays, arrays of strings become lists.
MetadataValue = str | int | float | bool | list[str] | np.ndarray

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

# Several times what the largest real files hold (a 200,000-word vocabulary has under 700,000 strings, in 20 MB).
MAX_HEADER_BYTES = 64 << 20
MAX_KEYS = 4_096
MAX_TENSORS = 16_384
MAX_STRINGS = 1 << 20
MAX_STRING_BYTES = 4 << 20
MAX_KEY_BYTES = 1_024
MAX_TENSOR_NAME_BYTES = 64
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 16

_WINDOW_BYTES = 1 << 20
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class GGUFTensor:
    """Where one tensor lies in a GGUF file.

    Attributes:
        name: The tensor's name in the file, such as "blk.0.attn_q.weight".
        type_name: ggml's name of its storage, such as "Q4_1" or "F32".
        shape: Sizes with the fastest-running dimension last (the file has it first).
        offset: First byte, counted from the start of the file.
        num_bytes: Bytes it takes in the file.
        block_len: Values per quantization block, along the last dimension.
        block_bytes: Bytes per block.
    """

    name: str
    type_name: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int
    block_len: int
    block_bytes: int


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says about itself.

    Attributes:
        source: Name of the file, for messages.
        version: Format version, 2 or 3.
        metadata: Key to value, as stored.
        tensors: Name to place, in the file's order.
    """

    source: str
    version: int
    metadata: Mapping[str, MetadataValue]
    tensors: Mapping[str, GGUFTensor]


def read_gguf_header(file: BinaryIO, *, source: str) -> GGUFHeader:
    """Read and check the header of an open GGUF file.

    Args:
        file: A seekable file, open for reading bytes.
        source: Its name, for messages.

    Returns:
        The header; every tensor in it lies inside the file and overlaps no other.

    Raises:
        CheckpointError: Not a GGUF file, truncated, over a limit, or inconsistent.
        UnsupportedModelError: A version, byte order or tensor type that cannot be read.
        MissingExtraError: The `gguf` package is not installed.
    """
    cursor = _Cursor(file, source)
    version, num_tensors, num_keys = _read_counts(cursor)
    metadata = _read_metadata(cursor, num_keys)
    infos = _read_tensor_infos(cursor, num_tensors)
    alignment = _alignment(metadata, source)
    data_start = -(-cursor.position // alignment) * alignment
    return GGUFHeader(source, version, metadata, _place_tensors(infos, data_start, alignment, cursor.size, source))


class _Cursor:
    """Reads forward through a file in windows and refuses to go past its end or past MAX_HEADER_BYTES."""

    def __init__(self, file: BinaryIO, source: str) -> None:
        self.source = source
        self.size = file.seek(0, 2)
        file.seek(0)
        self._file = file
        self._end = min(self.size, MAX_HEADER_BYTES)
        self._window = b""
        self._window_start = 0
        self._at = 0

    @property
    def position(self) -> int:
        return self._window_start + self._at

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: {message}, at byte {self.position} of the header")

    def take(self, count: int, what: str) -> bytes:
        start = self._at
        if start + count > len(self._window):
            self._load(count, what)
            start = 0
        self._at = start + count
        return self._window[start : self._at]

    def number(self, layout: struct.Struct, what: str) -> int:
        return int(layout.unpack(self.take(layout.size, what))[0])

    def text(self, max_bytes: int, what: str) -> str:
        count = self.number(_U64, f"the length of {what}")
        if count > max_bytes:
            raise self.fail(f"{what} is {count} bytes long, {max_bytes} are allowed")
        return self._decode(self.take(count, what), what)

    def texts(self, count: int, what: str) -> list[str]:
        """`count` strings, in one loop without a method call each: vocabularies have hundreds of thousands."""
        values: list[str] = []
        window, at = self._window, self._at
        for _ in range(count):
            end = at + 8
            if end <= len(window):
                end += _U64.unpack_from(window, at)[0]
            if end > len(window):
                self._at = at
                values.append(self.text(MAX_STRING_BYTES, what))
                window, at = self._window, self._at
                continue
            values.append(self._decode(window[at + 8 : end], what))
            at = end
        self._at = at
        return values

    def _decode(self, data: bytes, what: str) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not valid UTF-8") from None

    def _load(self, count: int, what: str) -> None:
        left = self._end - self.position
        if count > left:
            if self._end < self.size:
                raise self.fail(f"{what} needs {count} bytes, over the {MAX_HEADER_BYTES} allowed for a header")
            raise self.fail(f"{what} needs {count} bytes but the file has {left} left; it is truncated or damaged")
        kept = self._window[self._at :]
        self._window_start, self._at = self.position, 0
        wanted = min(max(count, _WINDOW_BYTES), left) - len(kept)
        self._window = kept + self._file.read(wanted)
        if len(self._window) < count:
            raise self.fail(f"{what} could not be read; the file changed while it was being read")


def _read_counts(cursor: _Cursor) -> tuple[int, int, int]:
    magic = cursor.take(4, "the magic number")
    if magic != MAGIC:
        raise cursor.fail(f"the file starts with {magic!r}, not {MAGIC!r}: it is not a GGUF file")
    version = cursor.number(_U32, "the version")
    if version and version & 0xFFFF == 0:
        raise UnsupportedModelError(f"{cursor.source}: big-endian GGUF files are not supported; convert it again")
    if version not in VERSIONS:
        raise UnsupportedModelError(f"{cursor.source}: GGUF version {version} is not supported, {VERSIONS} are")
    num_tensors = cursor.number(_U64, "the number of tensors")
    num_keys = cursor.number(_U64, "the number of metadata keys")
    for count, limit, what in ((num_tensors, MAX_TENSORS, "tensors"), (num_keys, MAX_KEYS, "metadata keys")):
        if count > limit:
            raise cursor.fail(f"the file claims {count} {what}, {limit} are allowed")
    return version, num_tensors, num_keys


def _read_metadata(cursor: _Cursor, num_keys: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    num_strings = 0
    for index in range(num_keys):
        key = cursor.text(MAX_KEY_BYTES, f"metadata key {index}")
        if not key or key in metadata:
            raise cursor.fail(f"metadata key {index} ({short(key)}) is {'there twice' if key else 'empty'}")
        value = _read_value(cursor, short(key), MAX_STRINGS - num_strings)
        num_strings += len(value) if isinstance(value, list) else 1
        metadata[key] = value
    return metadata


def _read_value(cursor: _Cursor, key: str, strings_left: int) -> MetadataValue:
    kind = cursor.number(_U32, f"the type of {key}")
    if kind == _STRING:
        return cursor.text(MAX_STRING_BYTES, key)
    if kind == _ARRAY:
        return _read_array(cursor, key, strings_left)
    if kind not in _SCALARS:
        raise cursor.fail(f"{key} has the unknown type {kind}")
    layout = _SCALARS[kind]
    value: int | float = struct.unpack(layout, cursor.take(struct.calcsize(layout), key))[0]
    if kind != _BOOL:
        return value
    if value not in (0, 1):
        raise cursor.fail(f"{key} is a truth value stored as {value}, 0 and 1 are allowed")
    return bool(value)


def _read_array(cursor: _Cursor, key: str, strings_left: int) -> MetadataValue:
    kind = cursor.number(_U32, f"the element type of {key}")
    count = cursor.number(_U64, f"the length of {key}")
    if kind == _STRING:
        if count > strings_left:
            raise cursor.fail(f"{key} claims {count} strings, {MAX_STRINGS} are allowed in a file")
        return cursor.texts(count, key)
    if kind not in _SCALARS:
        raise cursor.fail(f"{key} is an array of the type {kind}, which is unknown or nested")
    dtype = np.dtype(_SCALARS[kind])
    return np.frombuffer(cursor.take(count * dtype.itemsize, key), dtype=dtype)


def _read_tensor_infos(cursor: _Cursor, num_tensors: int) -> dict[str, tuple[tuple[int, ...], int, int]]:
    """Name to (shape with the fastest dimension last, type number, offset from the start of the data)."""
    infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for index in range(num_tensors):
        name = cursor.text(MAX_TENSOR_NAME_BYTES, f"the name of tensor {index}")
        if not name or name in infos:
            raise cursor.fail(f"the name of tensor {index} ({short(name)}) is {'there twice' if name else 'empty'}")
        shown = short(name)
        num_dims = cursor.number(_U32, f"the number of dimensions of {shown}")
        if not 1 <= num_dims <= MAX_DIMS:
            raise cursor.fail(f"tensor {shown} has {num_dims} dimensions, 1 to {MAX_DIMS} are allowed")
        sizes = struct.unpack(f"<{num_dims}Q", cursor.take(8 * num_dims, f"the shape of {shown}"))
        if 0 in sizes or math.prod(sizes) >= 1 << 63:
            raise cursor.fail(f"tensor {shown} has the impossible shape {sizes}")
        kind = cursor.number(_U32, f"the type of {shown}")
        infos[name] = (tuple(reversed(sizes)), kind, cursor.number(_U64, f"the offset of {shown}"))
    return infos


def _alignment(metadata: Mapping[str, MetadataValue], source: str) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(value) is not int or not 8 <= value <= MAX_ALIGNMENT or value & (value - 1):
        raise CheckpointError(
            f"{source}: general.alignment is {value!r}; a power of two from 8 to {MAX_ALIGNMENT} is allowed"
        )
    return value


def _place_tensors(
    infos: Mapping[str, tuple[tuple[int, ...], int, int]], data_start: int, alignment: int, size: int, source: str
) -> dict[str, GGUFTensor]:
    gguf = require_gguf()
    tensors: dict[str, GGUFTensor] = {}
    for name, (shape, kind, offset) in infos.items():
        try:
            ggml_type = gguf.GGMLQuantizationType(kind)
            block_len, block_bytes = gguf.GGML_QUANT_SIZES[ggml_type]
        except (ValueError, KeyError):
            raise UnsupportedModelError(
                f"{source}: tensor {short(name)} has the ggml type {kind}, which the installed gguf package "
                "does not know; a newer one may"
            ) from None
        if shape[-1] % block_len:
            raise CheckpointError(
                f"{source}: tensor {short(name)} has rows of {shape[-1]} values, not a multiple of the {block_len} in "
                f"a block of {ggml_type.name}"
            )
        if offset % alignment:
            raise CheckpointError(f"{source}: tensor {short(name)} starts at {offset}, not a multiple of {alignment}")
        num_bytes = math.prod(shape) // block_len * block_bytes
        start = data_start + offset
        if start + num_bytes > size:
            raise CheckpointError(
                f"{source}: tensor {short(name)} ends at byte {start + num_bytes}, the file has {size}; "
                "it is truncated, download it again"
            )
        tensors[name] = GGUFTensor(name, ggml_type.name, shape, start, num_bytes, block_len, block_bytes)
    _refuse_overlaps(tensors, source)
    return tensors


def _refuse_overlaps(tensors: Mapping[str, GGUFTensor], source: str) -> None:
    ordered = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for before, after in itertools.pairwise(ordered):
        if before.offset + before.num_bytes > after.offset:
            raise CheckpointError(f"{source}: tensors {short(before.name)} and {short(after.name)} overlap")
