"""Reading and checking the header of a safetensors file before anything is made from it.

    8 bytes   header length n, little endian
    n bytes   JSON object: tensor name -> {dtype, shape, data_offsets}, and `__metadata__`
    the rest  the tensors' bytes, without holes or overlaps

Source: the format description of the safetensors project.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from seed_oss.errors import CheckpointError
from seed_oss.files.names import short
from seed_oss.files.opening import open_model_file
from seed_oss.files.strict_json import parse_json

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 16_384  # the released model has 771; quantized forms a few times as many
MAX_TENSOR_NAME_LEN = 512
MAX_DIMENSIONS = 8
_VALUES_PER_TENSOR = 12  # commas and brackets (and quotation marks) of an entry of two dimensions, rounded up
_VALUES_BESIDES = 8192  # for __metadata__

DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a safetensors file: its bytes are `file[start:end]` (offsets from the start of the file)."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_safetensors_header(root: str | Path, name: str, *, max_tensors: int = MAX_TENSORS) -> dict[str, TensorInfo]:
    """Read and check the header of a safetensors file of a model folder.

    Args:
        root: The model folder.
        name: A plain file name.
        max_tensors: Largest accepted number of tensors.

    Returns:
        Tensor name -> TensorInfo, in the order of the bytes in the file.

    Raises:
        CheckpointError: The file is truncated or its header is malformed, inconsistent or out of bounds.
        MissingFileError: There is no such file.
        UnsafeFileError: The name or the kind of file is not allowed.
    """
    with open_model_file(root, name) as file:
        return parse_safetensors_header(file, source=str(Path(root) / name), max_tensors=max_tensors)


def parse_safetensors_header(file: BinaryIO, *, source: str, max_tensors: int = MAX_TENSORS) -> dict[str, TensorInfo]:
    """The same for an open file, so that header and tensors can be read through one descriptor.

    Args:
        file: A file opened by `open_model_file`, at position 0; left behind the header.
        source: Name of the file for messages.
        max_tensors: Largest accepted number of tensors.
    """
    file_size = os.fstat(file.fileno()).st_size
    header = _read_header(file, file_size, source, max_tensors)
    data_start = file.tell()
    _check_metadata(header.pop("__metadata__", {}), source)
    if len(header) > max_tensors:
        raise CheckpointError(f"{source} lists {len(header)} tensors; the limit is {max_tensors}")
    tensors = {name: _tensor_info(name, entry, data_start, source) for name, entry in header.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_layout(ordered, data_start, file_size, source)
    return ordered


def _read_header(file: BinaryIO, file_size: int, source: str, max_tensors: int) -> dict[str, Any]:
    prefix = file.read(8)
    if len(prefix) < 8:
        raise CheckpointError(f"{source} has {file_size} bytes, too few for a safetensors file; fetch it again")
    header_len = int.from_bytes(prefix, "little")
    if header_len > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{source} announces a header of {header_len} bytes; the limit is {MAX_HEADER_BYTES}. "
            "It is not a safetensors file, or a damaged one"
        )
    data = file.read(header_len)
    if len(data) < header_len:
        raise CheckpointError(
            f"{source} is truncated: its header has {header_len} bytes, {len(data)} are there; fetch it again"
        )
    if not data.startswith(b"{"):
        raise CheckpointError(f"{source} is not a safetensors file: its header does not start with '{{'")
    num_tensors = data.count(b'"data_offsets"')
    if num_tensors > max_tensors:  # before the cost of parsing
        raise CheckpointError(f"{source} lists {num_tensors} tensors; the limit is {max_tensors}")
    max_values = _VALUES_PER_TENSOR * max_tensors + _VALUES_BESIDES
    header = parse_json(data, source=f"header of {source}", max_bytes=MAX_HEADER_BYTES, max_values=max_values)
    return cast(dict[str, Any], header)  # it starts with a brace, so it is an object


def _check_metadata(metadata: object, source: str) -> None:
    entries = cast(dict[str, object], metadata) if isinstance(metadata, dict) else None
    if entries is None or not all(isinstance(value, str) for value in entries.values()):
        raise CheckpointError(f"{source}: __metadata__ must map strings to strings")


def _tensor_info(name: str, entry: object, data_start: int, source: str) -> TensorInfo:
    if not name or len(name) > MAX_TENSOR_NAME_LEN or not name.isprintable():
        raise CheckpointError(
            f"{source}: tensor name {short(name)} must have 1 to {MAX_TENSOR_NAME_LEN} characters "
            "and only printable ones"
        )
    fields = cast(dict[str, object], entry) if isinstance(entry, dict) else {}
    if fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{source}: tensor {short(name)} must have exactly dtype, shape and data_offsets")
    dtype = fields["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise CheckpointError(
            f"{source}: tensor {short(name)} has dtype {short(dtype)}; known are {', '.join(DTYPE_BITS)}"
        )
    shape = _sizes(fields["shape"], MAX_DIMENSIONS)
    offsets = _sizes(fields["data_offsets"], 2)
    if shape is None or offsets is None or len(offsets) != 2:
        raise CheckpointError(
            f"{source}: tensor {short(name)} needs a shape of at most {MAX_DIMENSIONS} sizes below 2**63 and "
            "data_offsets [begin, end]"
        )
    _check_size(name, dtype, shape, offsets[1] - offsets[0], source)
    return TensorInfo(dtype, shape, data_start + offsets[0], data_start + offsets[1])


def _sizes(value: object, max_len: int) -> tuple[int, ...] | None:
    """A JSON list of non-negative integers as a tuple; None if it is anything else."""
    if not isinstance(value, list):
        return None
    items = cast(list[object], value)
    if len(items) > max_len:
        return None
    sizes = tuple(item for item in items if isinstance(item, int) and not isinstance(item, bool))
    in_range = len(sizes) == len(items) and all(0 <= size < 2**63 for size in sizes)
    return sizes if in_range else None


def _check_size(name: str, dtype: str, shape: tuple[int, ...], num_bytes: int, source: str) -> None:
    expected = DTYPE_BITS[dtype] // 8
    for size in shape:
        expected *= size
    if expected != num_bytes:
        raise CheckpointError(
            f"{source}: tensor {short(name)} of shape {list(shape)} and dtype {dtype} takes {expected} bytes, "
            f"its data_offsets give {num_bytes}"
        )


def _check_layout(tensors: dict[str, TensorInfo], data_start: int, file_size: int, source: str) -> None:
    position = data_start
    for name, info in tensors.items():
        if info.start != position:
            kind = "overlaps the tensor before it" if info.start < position else "leaves a hole before it"
            raise CheckpointError(f"{source}: tensor {short(name)} {kind} (offset {info.start}, expected {position})")
        position = info.end
    if position != file_size:
        state = "is truncated" if position > file_size else "has extra bytes at its end"
        raise CheckpointError(f"{source} {state}: its header describes {position} bytes, it has {file_size}")
