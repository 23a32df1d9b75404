"""Model folders made of plain bytes: no torch, so that processes which are started to be killed start fast."""

import json
import struct
from pathlib import Path
from typing import Any

Tensor = tuple[str, list[int], bytes]


def safetensors_bytes(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file of tensors given as (dtype, shape, bytes)."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(data)]}
        position += len(data)
    return with_header(json.dumps(header).encode(), b"".join(data for _, _, data in tensors.values()))


def with_header(header: bytes, data: bytes = b"") -> bytes:
    """A safetensors file with any bytes as its header."""
    return struct.pack("<Q", len(header)) + header + data


def write_version(folder: Path, version: int, num_shards: int) -> None:
    """Write a whole checkpoint in which every file and every byte of weights says which version it is."""
    names = [f"layers.{index}.weight" for index in range(6)]
    data = bytes([version % 256]) * 8192
    tensors: dict[str, Tensor] = {name: ("U8", [64, 128], data) for name in names}
    (folder / "config.json").write_text(json.dumps({"version": version}), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"version": version}), encoding="utf-8")
    if num_shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors, {"version": str(version)}))
        return
    weight_map = {
        name: f"model-{1 + index % num_shards:05d}-of-{num_shards:05d}.safetensors" for index, name in enumerate(names)
    }
    for shard in set(weight_map.values()):
        part = {name: tensors[name] for name in names if weight_map[name] == shard}
        (folder / shard).write_bytes(safetensors_bytes(part, {"version": str(version)}))
    index = {"metadata": {"total_size": 6 * len(data)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def versions_in(folder: Path) -> set[int]:
    """Load a checkpoint of `write_version` the way the library does; every version that anything in it states."""
    from seed_oss.files import open_model_file, parse_safetensors_header, read_json, read_weight_map

    weight_map = read_weight_map(folder)
    assert len(weight_map) == 6
    found = {read_json(folder, name)["version"] for name in ("config.json", "generation_config.json")}
    modulo: set[int] = set()
    for shard in set(weight_map.values()):
        with open_model_file(folder, shard) as file:
            tensors = parse_safetensors_header(file, source=shard)
            for name, info in tensors.items():
                assert weight_map[name] == shard
                file.seek(info.start)
                modulo.update(file.read(info.end - info.start))
    matching = {version for version in found if version % 256 in modulo}
    return found if len(modulo) == 1 and matching else found | {-value for value in modulo}


def weights_seen_by_others(folder: Path) -> set[int]:
    """The versions (modulo 256) of the weights as a program sees them that knows nothing of unfinished saves."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        files = {"model.safetensors"}
    else:
        files = set(json.loads(index.read_bytes())["weight_map"].values())
    seen: set[int] = set()
    for name in files:
        content = (folder / name).read_bytes()
        seen.update(content[8 + struct.unpack("<Q", content[:8])[0] :])
    return seen
