"""Which file holds which tensor."""

import json
from pathlib import Path
from typing import Any

import pytest

from seed_oss.errors import CheckpointError, MissingFileError, UnsafeFileError, UnsupportedModelError
from seed_oss.files import INDEX_FILE, SINGLE_FILE, is_weight_file, read_weight_map
from seed_oss.files.weight_map import MAX_SHARDS
from tests.files.plain import safetensors_bytes

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def write_index(folder: Path, weight_map: Any, shards: list[str] | None = None) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for shard in SHARDS if shards is None else shards:
        (folder / shard).write_bytes(safetensors_bytes({}))


def test_single_file(tmp_path: Path) -> None:
    (tmp_path / SINGLE_FILE).write_bytes(safetensors_bytes({"a": ("U8", [1], b"x"), "b": ("U8", [1], b"y")}))
    assert read_weight_map(tmp_path) == {"a": SINGLE_FILE, "b": SINGLE_FILE}


def test_shards(tmp_path: Path) -> None:
    weight_map = {"a": SHARDS[0], "b": SHARDS[1]}
    write_index(tmp_path, weight_map)
    assert read_weight_map(tmp_path) == weight_map


def test_the_single_file_comes_first(tmp_path: Path) -> None:
    write_index(tmp_path, {"a": SHARDS[0]})
    (tmp_path / SINGLE_FILE).write_bytes(safetensors_bytes({"b": ("U8", [1], b"y")}))
    assert read_weight_map(tmp_path) == {"b": SINGLE_FILE}


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write_index(tmp_path, {"a": SHARDS[0], "b": SHARDS[1]}, SHARDS[:1])
    with pytest.raises(MissingFileError, match=r"no 'model-00002-of-00002\.safetensors'.*1 of 2 shards"):
        read_weight_map(tmp_path)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", ".x.safetensors", "", None, 3, []]
)
def test_shards_must_be_plain_names(tmp_path: Path, shard: object) -> None:
    write_index(tmp_path, {"a": shard})
    with pytest.raises(UnsafeFileError, match="shard in"):
        read_weight_map(tmp_path)


@pytest.mark.parametrize("shard", ["pytorch_model-00001-of-00002.bin", "model.pt", "model.safetensors.py"])
def test_shards_must_be_safetensors(tmp_path: Path, shard: str) -> None:
    write_index(tmp_path, {"a": shard})
    with pytest.raises(UnsafeFileError, match=r"only \.safetensors"):
        read_weight_map(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", 3])
def test_malformed_weight_maps(tmp_path: Path, weight_map: object) -> None:
    write_index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match="no weight_map"):
        read_weight_map(tmp_path)


def test_too_many_tensors(tmp_path: Path) -> None:
    write_index(tmp_path, {f"t{index}": SHARDS[0] for index in range(11)})
    with pytest.raises(CheckpointError, match="11 tensors; the limit is 10"):
        read_weight_map(tmp_path, max_tensors=10)


@pytest.mark.parametrize("num_shards", [MAX_SHARDS, MAX_SHARDS + 1])
def test_too_many_shards(tmp_path: Path, num_shards: int) -> None:
    write_index(tmp_path, {f"t{index}": f"s{index}.safetensors" for index in range(num_shards)})
    error, words = (MissingFileError, "shards are missing") if num_shards == MAX_SHARDS else (CheckpointError, "limit")
    with pytest.raises(error, match=words):
        read_weight_map(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "weights.ckpt"])
def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeFileError, match=r"only as pickle.*run code.*safetensors") as caught:
        read_weight_map(tmp_path)
    assert name in str(caught.value)


def test_other_formats_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(UnsupportedModelError, match=r"model\.gguf.*seed-oss convert"):
        read_weight_map(tmp_path)


def test_no_weights_at_all(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").touch()
    with pytest.raises(MissingFileError, match="has no weights"):
        read_weight_map(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (SINGLE_FILE, True),
        (INDEX_FILE, True),
        (SHARDS[0], True),
        ("model-0123abcd-00001-of-00001.safetensors", True),
        ("adapter_model.safetensors", False),
        ("model.safetensors.bak", False),
        ("my-model-00001-of-00002.safetensors", False),
        ("config.json", False),
        ("tokenizer.json", False),
    ],
)
def test_which_files_are_weights(name: str, expected: bool) -> None:
    assert is_weight_file(name) is expected
