"""The header check of safetensors files, beside the safetensors package."""

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from seed_oss.errors import CheckpointError, MissingFileError
from seed_oss.files import TensorInfo, read_safetensors_header
from seed_oss.files.safetensors_header import MAX_HEADER_BYTES
from tests.files.plain import safetensors_bytes, with_header
from tests.stopwatch import Stopwatch

NAME = "model.safetensors"
GOOD: dict[str, Any] = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def header_of(tmp_path: Path, content: bytes, **limits: int) -> dict[str, TensorInfo]:
    (tmp_path / NAME).write_bytes(content)
    return read_safetensors_header(tmp_path, NAME, **limits)


def with_entry(name: str = "a", **changes: Any) -> bytes:
    return with_header(json.dumps({name: {**GOOD, **changes}}).encode(), bytes(24))


def test_reads_what_the_safetensors_package_writes(tmp_path: Path) -> None:
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.arange(4, dtype=np.int64),
        "scalar": np.array(3.5, dtype=np.float16),
        "empty": np.zeros((0, 5), dtype=np.uint8),
    }
    save_file(tensors, tmp_path / NAME, metadata={"format": "pt"})
    header = read_safetensors_header(tmp_path, NAME)
    content = (tmp_path / NAME).read_bytes()
    assert header.keys() == tensors.keys()
    for name, info in header.items():
        assert info.shape == tensors[name].shape
        assert content[info.start : info.end] == tensors[name].tobytes()
    starts = [info.start for info in header.values()]
    assert starts == sorted(starts)


def test_a_file_without_tensors_is_allowed(tmp_path: Path) -> None:
    assert header_of(tmp_path, with_header(b"{}")) == {}
    assert header_of(tmp_path, with_header(b'{"__metadata__": {"format": "pt"}}   ')) == {}


def test_the_size_of_the_released_model_is_allowed(tmp_path: Path) -> None:
    names = {
        f"model.layers.{layer}.part{part}.weight": ("BF16", [0, 8], b"") for layer in range(64) for part in range(12)
    }
    assert len(header_of(tmp_path, safetensors_bytes({**names, "x": ("BF16", [1], b"ab")}))) == 769


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "too few"),
        (b"1234567", "too few"),
        (b"\xff" * 8, "limit is"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), "limit is"),
        ((100).to_bytes(8, "little") + b"{}", "truncated"),
        (with_header(b""), "does not start"),
        (with_header(b" {}"), "does not start"),
        (with_header(b"[]"), "does not start"),
        (with_header(b"{} x"), "not valid JSON"),
        (with_header(b'{"a": 1}'), "exactly dtype, shape and data_offsets"),
        (with_header(b'{"__metadata__": []}'), "strings to strings"),
        (with_header(b'{"__metadata__": {"a": 1}}'), "strings to strings"),
        (with_header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "x": 1}}', bytes(4)), "exactly"),
        (with_header(b'{"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0], "dtype": "U8"}}'), "twice"),
        (with_header(b'{"a": {}, "a": {}}'), "twice"),
        (with_entry("")[:], "must have 1 to 512"),
        (with_entry("x" * 513), "must have 1 to 512"),
        (with_entry("a\u0000b"), "only printable"),
        (with_entry("a\nb"), "only printable"),
        (with_entry("a\u009b31m"), "only printable"),
        (with_entry("a\u202eb"), "only printable"),
        (with_entry(dtype="F128"), "known are"),
        (with_entry(dtype=4), "known are"),
        (with_entry(shape=[-2, -3]), "needs a shape"),
        (with_entry(shape=[2.0, 3]), "needs a shape"),
        (with_entry(shape=[True, 6]), "needs a shape"),
        (with_entry(shape="23"), "needs a shape"),
        (with_entry(shape=[1] * 9), "needs a shape"),
        (with_entry(shape=[2**63]), "needs a shape"),
        (with_entry(shape=[2**62, 2**62]), "takes"),
        (with_entry(shape=[2, 4]), "takes 32 bytes, its data_offsets give 24"),
        (with_entry(dtype="BF16"), "takes 12 bytes"),
        (with_entry(data_offsets=[0]), "data_offsets"),
        (with_entry(data_offsets=[0, 24, 24]), "data_offsets"),
        (with_entry(data_offsets=[24, 0]), "give -24"),
        (with_entry(data_offsets=[4, 28]), "leaves a hole"),
        (with_entry() + b"x", "extra bytes"),
        (with_entry()[:-1], "truncated"),
    ],
)
def test_refuses(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        header_of(tmp_path, content)
    assert NAME in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 400


def test_overlaps_are_refused(tmp_path: Path) -> None:
    header = {"a": GOOD, "b": {**GOOD, "data_offsets": [20, 44]}}
    with pytest.raises(CheckpointError, match="'b' overlaps"):
        header_of(tmp_path, with_header(json.dumps(header).encode(), bytes(44)))
    header["b"] = GOOD
    with pytest.raises(CheckpointError, match="overlaps"):
        header_of(tmp_path, with_header(json.dumps(header).encode(), bytes(24)))


@pytest.mark.parametrize("num_tensors", [100, 101])
def test_the_number_of_tensors_is_bounded(tmp_path: Path, num_tensors: int) -> None:
    content = safetensors_bytes({f"t{index}": ("U8", [0], b"") for index in range(num_tensors)})
    if num_tensors == 100:
        assert len(header_of(tmp_path, content, max_tensors=100)) == 100
    else:
        with pytest.raises(CheckpointError, match="101 tensors; the limit is 100"):
            header_of(tmp_path, content, max_tensors=100)


@pytest.mark.parametrize("num_tensors", [80_000, 1_000_000])
@pytest.mark.parametrize("entry", ['"%07d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}', '"%d":{}', '"%d":[[],[]]'])
def test_a_bomb_of_empty_tensors_costs_little(tmp_path: Path, num_tensors: int, entry: str) -> None:
    header = "{" + ",".join(entry % index for index in range(num_tensors)) + "}"
    (tmp_path / NAME).write_bytes(with_header(header.encode()))
    with Stopwatch(time.process_time) as spent, pytest.raises(CheckpointError):
        read_safetensors_header(tmp_path, NAME)
    assert spent.seconds < 2
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        read_safetensors_header(tmp_path, NAME)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20


def test_a_sparse_file_of_any_announced_size_allocates_nothing(tmp_path: Path) -> None:
    header = b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}'
    with pytest.raises(CheckpointError, match="truncated"):
        header_of(tmp_path, with_header(header))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_safetensors_header(tmp_path, NAME)
