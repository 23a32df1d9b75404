"""Which file of a model folder holds which tensor."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from seed_oss.errors import CheckpointError, MissingFileError, SeedOssError, UnsafeFileError, UnsupportedModelError
from seed_oss.files.json_files import read_json
from seed_oss.files.names import check_plain_name, short
from seed_oss.files.opening import hub_repository_of, model_file_exists
from seed_oss.files.safetensors_header import MAX_TENSORS, read_safetensors_header

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_SHARDS = 4096
MAX_INDEX_BYTES = 32 * 2**20
_SHARD = re.compile(r"model(-[0-9a-f]{8})?-\d{5}-of-\d{5}\.safetensors")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_OTHER_FORMATS = (".gguf", ".h5", ".msgpack", ".onnx")


def is_weight_file(name: str) -> bool:
    """Whether a file name is one that a saved model's weights have: the single file, a shard, or the index."""
    return name in (SINGLE_FILE, INDEX_FILE) or _SHARD.fullmatch(name) is not None


def read_weight_map(root: str | Path, *, max_tensors: int = MAX_TENSORS) -> dict[str, str]:
    """Find the weights of a model folder: `model.safetensors`, or else the shards that its index names.

    Where both are there the single file counts, as in transformers.

    Args:
        root: The model folder.
        max_tensors: Largest accepted number of tensors.

    Returns:
        Tensor name -> name of the file that holds it (plain names, all existing). For a single file its header was
        checked; the headers of shards, and whether they hold what the index says, are left to the reader of the shards.

    Raises:
        MissingFileError: No weights, or shards that the index names are not there.
        UnsafeFileError: Only pickled weights are there, or the index names something that is not a plain name.
        UnsupportedModelError: Only weights in another format are there.
        CheckpointError: The header or index is malformed.
    """
    if model_file_exists(root, SINGLE_FILE):
        return dict.fromkeys(read_safetensors_header(root, SINGLE_FILE, max_tensors=max_tensors), SINGLE_FILE)
    if not model_file_exists(root, INDEX_FILE):
        raise _no_weights(Path(root))
    weight_map = read_index(root, max_tensors=max_tensors)
    missing = sorted(shard for shard in set(weight_map.values()) if not model_file_exists(root, shard))
    if missing:
        raise MissingFileError(
            f"{root} has no {_some(missing)}, which {INDEX_FILE} names; {len(missing)} of "
            f"{len(set(weight_map.values()))} shards are missing: fetch or copy the whole folder again"
        )
    return weight_map


def read_index(root: str | Path, *, max_tensors: int = MAX_TENSORS) -> dict[str, str]:
    """The checked `weight_map` of the index file; whether the shards exist is not looked at."""
    source = Path(root) / INDEX_FILE
    weight_map = read_json(root, INDEX_FILE, max_bytes=MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{source} has no weight_map that maps tensor names to files")
    entries = cast(dict[str, Any], weight_map)
    if len(entries) > max_tensors:
        raise CheckpointError(f"{source} lists {len(entries)} tensors; the limit is {max_tensors}")
    shards = {value if isinstance(value, str) else None for value in entries.values()}
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(f"{source} names {len(shards)} files; the limit is {MAX_SHARDS}")
    for shard in cast(set[Any], shards):
        check_plain_name(shard, where=f"shard in {source}")
        if not shard.endswith(".safetensors"):
            raise UnsafeFileError(f"{source} names {short(shard)}; only .safetensors files are read (no pickle)")
    return entries


def _no_weights(root: Path) -> SeedOssError:
    names = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else []
    pickled = [name for name in names if name.endswith(_PICKLED) and not name.startswith("training_args")]
    if pickled:
        return UnsafeFileError(
            f"{root} has weights only as pickle ({_some(pickled)}), which can run code when opened and is never read "
            "here; convert them once to safetensors where you trust them, or ask the publisher for safetensors files"
        )
    foreign = [name for name in names if name.endswith(_OTHER_FORMATS)]
    if foreign:
        return UnsupportedModelError(
            f"{root} has weights only as {_some(foreign)}; needed is {SINGLE_FILE} or {INDEX_FILE} with its shards "
            "(GGUF: give the file itself, or use seed-oss convert FILE.gguf OUT_DIR)"
        )
    if hub_repository_of(Path(os.path.realpath(root))) is not None:
        return MissingFileError(
            f"{root} has no weights: the repository has none as safetensors, or this copy from the hub is incomplete; "
            "load it once with the network on"
        )
    return MissingFileError(f"{root} has no weights: needed is {SINGLE_FILE}, or {INDEX_FILE} with its shards")


def _some(names: Iterable[str], limit: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(short(name) for name in listed[:limit]) + more
