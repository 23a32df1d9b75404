"""Write weights as safetensors files, one tensor after another, so that saving needs no second copy of the model.

The bytes are those that the safetensors library writes for the same tensors: the header's entries come in the order of
the data, wide dtypes first and then by name, and spaces fill it up to a multiple of eight.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.files import INDEX_FILE, SINGLE_FILE
from seed_oss.files.names import short
from seed_oss.weights.dtypes import FILE_NAMES, dtype_name
from seed_oss.weights.source import TensorSpec

PIECE_BYTES = 2**24
ALIGNMENT = 64  # a cache line
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]+)\s*", re.ASCII)
# The order in which the safetensors library puts dtypes into a file.
_DTYPE_ORDER = (
    *("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16", "BF16"),
    *("I32", "U32", "F32", "C64", "F64", "I64", "U64"),
)


def size_in_bytes(size: int | str) -> int:
    """A shard size as bytes.

    Args:
        size: Bytes, or a number with a unit: "5GB" (powers of 1000), "5GiB" (powers of 1024).

    Raises:
        InputError: It is neither, or not above zero.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match and match.group(2).upper() in _UNITS:
        result = int(float(match.group(1)) * _UNITS[match.group(2).upper()])
        if result > 0:
            return result
    raise InputError(f"max_shard_size is {short(size)}; it must be a number of bytes above 0, or like '5GB' or '500MB'")


def plan_shards(specs: Mapping[str, TensorSpec], max_shard_size: int) -> dict[str, list[str]]:
    """Deal tensors out to files in their order; one that is larger than the limit gets a file of its own.

    Args:
        specs: Tensor name -> dtype and shape.
        max_shard_size: Bytes of tensors per file.

    Returns:
        File name -> tensor names: one `model.safetensors`, or `model-00001-of-00002.safetensors` and so on.

    Source: huggingface_hub serialization/_base.py for where a file ends.
    """
    shards: list[list[str]] = []
    current: list[str] = []
    size = 0
    for name, spec in specs.items():
        if spec.num_bytes > max_shard_size:
            shards.append([name])
            continue
        if size + spec.num_bytes > max_shard_size:
            shards.append(current)
            current, size = [], 0
        current.append(name)
        size += spec.num_bytes
    shards.append(current)
    filled = [names for names in shards if names]
    if len(filled) <= 1:
        return {SINGLE_FILE: filled[0] if filled else []}
    count = len(filled)
    return {f"model-{number:05d}-of-{count:05d}.safetensors": names for number, names in enumerate(filled, start=1)}


def save_tensors(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    pieces_of: Callable[[str], Iterable[memoryview]],
    *,
    max_shard_size: int | str = "5GB",
    num_parameters: int | None = None,
    advance: Callable[[int], None] | None = None,
    packed_first: bool = False,
) -> None:
    """Write tensors into a folder, which must not hold others (see DirectoryCommit).

    Args:
        folder: Where to.
        specs: Tensor name -> dtype and shape, in the order of the model.
        pieces_of: Called once per name for the bytes of this tensor, piece by piece.
        max_shard_size: Bytes per file, or like "5GB".
        num_parameters: Written into the index, as transformers does.
        advance: Called with the number of bytes just written.
        packed_first: Bytes (uint8) come first, and at multiples of 64 where their sizes allow it, to be used in place.

    Raises:
        InputError: A wrong max_shard_size, or pieces that are not as many bytes as the spec says.
        OSError: Disk full and the like.
    """
    shards = plan_shards(specs, size_in_bytes(max_shard_size))
    for file_name, names in shards.items():
        with (folder / file_name).open("wb") as file:
            write_file(file, {name: specs[name] for name in names}, pieces_of, advance, packed_first=packed_first)
    if len(shards) == 1:
        return
    metadata = {"total_size": sum(spec.num_bytes for spec in specs.values())}
    if num_parameters is not None:
        metadata["total_parameters"] = num_parameters
    index = {"metadata": metadata, "weight_map": {name: file for file, names in shards.items() for name in names}}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def tensor_spec(name: str, tensor: object) -> TensorSpec:
    """Dtype and shape of a tensor that is to be written.

    Raises:
        InputError: It cannot be written.
    """
    if not isinstance(tensor, Tensor):
        raise InputError(f"{name} is a {type(tensor).__name__}; only tensors can be saved")
    if tensor.is_meta:
        raise InputError(f"{name} is on the meta device and has no data; load or initialise the model before saving it")
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        raise InputError(f"{name} is a {type(tensor).__name__} ({tensor.layout}); gather it into a plain tensor first")
    if tensor.dtype not in FILE_NAMES:
        raise InputError(f"{name} is {dtype_name(tensor.dtype)}, which safetensors files cannot hold; convert it first")
    return TensorSpec(tensor.dtype, tuple(tensor.shape))


class Writable(Protocol):
    """What a file is written to."""

    def write(self, data: Any, /) -> int:
        """Write all of it; returns the number of bytes."""
        ...


def write_file(
    file: Writable,
    specs: Mapping[str, TensorSpec],
    pieces_of: Callable[[str], Iterable[memoryview]],
    advance: Callable[[int], None] | None,
    *,
    packed_first: bool = False,
) -> None:
    """Write one file; see `save_tensors`."""
    if packed_first:
        names = sorted(specs, key=lambda name: _place_of_packed(name, specs[name]))
    else:
        names = sorted(specs, key=lambda name: (-_DTYPE_ORDER.index(FILE_NAMES[specs[name].dtype]), name))
    file.write(_header(names, specs, ALIGNMENT if packed_first else 8))
    for name in names:
        written = 0
        for piece in pieces_of(name):
            written += file.write(piece)
            if advance is not None:
                advance(piece.nbytes)
        if written != specs[name].num_bytes:
            raise InputError(f"{name} has {written} bytes; {specs[name]} takes {specs[name].num_bytes}")


def _place_of_packed(name: str, spec: TensorSpec) -> tuple[int, int, str]:
    """What keeps the alignment comes before what does not, bytes before numbers, wide numbers before narrow ones."""
    if spec.dtype == torch.uint8:
        return (0, 0, name) if spec.num_bytes % ALIGNMENT == 0 else (1, 0, name)
    return 2, -_DTYPE_ORDER.index(FILE_NAMES[spec.dtype]), name


def _header(names: Sequence[str], specs: Mapping[str, TensorSpec], alignment: int) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in names:
        spec = specs[name]
        end = begin + spec.num_bytes
        header[name] = {"dtype": FILE_NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    return len(text).to_bytes(8, "little") + text


def tensor_pieces(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor: of CPU memory itself, or copied to the CPU piece by piece."""
    flat = tensor.detach().contiguous().view(-1)
    step = max(PIECE_BYTES // flat.dtype.itemsize, 1)
    for begin in range(0, flat.numel(), step):
        yield flat[begin : begin + step].cpu().view(torch.uint8).numpy().data
