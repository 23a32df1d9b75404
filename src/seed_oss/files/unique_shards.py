"""Giving new weights names that no old file has, so that moving them in cannot touch a file in use."""

import json
from pathlib import Path
from typing import Any

from seed_oss.files.json_files import read_json
from seed_oss.files.safetensors_header import read_safetensors_header
from seed_oss.files.weight_map import INDEX_FILE, MAX_INDEX_BYTES, SINGLE_FILE, read_index


def make_unique(staging: Path, names: list[str], token: str) -> list[str]:
    """Rename the weights of a folder to `model-<token>-00001-of-00002.safetensors` and write the index to match.

    Args:
        staging: A folder with either the single file or an index and its shards; one without weights is left alone.
        names: The names of the files of the save in it.
        token: Eight hexadecimal digits.

    Returns:
        The names of the files of the save as they are now.
    """
    if INDEX_FILE in names:
        index: dict[str, Any] = read_json(staging, INDEX_FILE, max_bytes=MAX_INDEX_BYTES)
        weight_map = read_index(staging)
    elif SINGLE_FILE in names:
        tensors = read_safetensors_header(staging, SINGLE_FILE)
        index = {"metadata": {"total_size": sum(info.end - info.start for info in tensors.values())}}
        weight_map = dict.fromkeys(tensors, SINGLE_FILE)
    else:
        return names
    shards = sorted(set(weight_map.values()))
    unique = {
        shard: f"model-{token}-{number:05d}-of-{len(shards):05d}.safetensors"
        for number, shard in enumerate(shards, start=1)
    }
    for shard, name in unique.items():
        (staging / shard).rename(staging / name)
    index["weight_map"] = {tensor: unique[shard] for tensor, shard in weight_map.items()}
    (staging / INDEX_FILE).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return sorted({*names, INDEX_FILE, *unique.values()} - unique.keys())
