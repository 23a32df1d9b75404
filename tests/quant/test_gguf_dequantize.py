"""Values of GGUF tensors: piece by piece the same as the gguf package on the whole tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.quant import gguf_dequantize
from seed_oss.quant.gguf_dequantize import READABLE_TYPES, check_readable, read_pieces
from seed_oss.quant.gguf_header import GGUFHeader, read_gguf_header
from tests.quant.gguf_factory import Recipe, dequantized, write_gguf

if TYPE_CHECKING:
    from pathlib import Path


def header_of(path: Path) -> GGUFHeader:
    with path.open("rb") as file:
        return read_gguf_header(file, source=path.name)


@pytest.mark.parametrize("name", sorted(READABLE_TYPES & T.__members__.keys()))
def test_every_type_equals_the_package(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((48, 512), dtype=np.float32)
    path = write_gguf(tmp_path / "a.gguf", Recipe(extra={"a": values}, types={"a": T[name]}))
    expected = dequantized(values, T[name])
    assert np.isfinite(expected).all()
    assert len(np.unique(expected)) > 2
    monkeypatch.setattr(gguf_dequantize, "PIECE_VALUES", 512 * 7)
    tensor = header_of(path).tensors["a"]
    with path.open("rb") as file:
        pieces = list(read_pieces(file, tensor))
        grouped = list(read_pieces(file, tensor, row_group=6))
    assert [len(piece) for piece in pieces] == [7] * 6 + [6]
    assert [len(piece) for piece in grouped] == [6] * 8
    for parts in (pieces, grouped):
        result = np.concatenate(parts)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, expected)


def test_no_readable_type_is_missing() -> None:
    for kind in gguf.GGML_QUANT_SIZES:
        if kind.name not in READABLE_TYPES and kind.name != "NVFP4":  # has a second scale elsewhere
            with pytest.raises(NotImplementedError):
                gguf.quants.dequantize(np.zeros((1, 4096), np.uint8), kind)


def test_a_vector_is_one_row(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", Recipe(extra={"a": np.arange(5, dtype=np.float32)}))
    with path.open("rb") as file:
        (piece,) = read_pieces(file, header_of(path).tensors["a"], row_group=4)
    np.testing.assert_array_equal(piece, [[0, 1, 2, 3, 4]])
    piece += 1  # torch warns of arrays it must not write to


def test_integers_are_refused_by_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", Recipe(extra={"numbers": np.arange(5, dtype=np.int32)}))
    with pytest.raises(UnsupportedModelError, match=r"'?numbers'? is stored as I32.*Q4_1"):
        check_readable(header_of(path))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [T.F32, T.F16, T.Q8_0])
def test_values_that_are_not_finite(kind: T, value: float, tmp_path: Path) -> None:
    values = np.zeros((2, 32), dtype=np.float32)
    path = write_gguf(tmp_path / "a.gguf", Recipe(extra={"a": values}, types={"a": kind}))
    tensor = header_of(path).tensors["a"]
    data = bytearray(path.read_bytes())
    number = np.array(value, dtype=np.float32 if kind == T.F32 else np.float16).tobytes()
    data[tensor.offset : tensor.offset + len(number)] = number  # a value, or the scale of the first block
    data[tensor.offset + len(number)] |= 1  # zero times infinity is NaN, one times infinity is not
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(CheckpointError, match="NaN or infinity"):
        list(read_pieces(file, tensor))


def test_a_file_that_shrinks_meanwhile(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", Recipe(extra={"a": np.ones((64, 64), np.float32)}))
    tensor = header_of(path).tensors["a"]
    path.write_bytes(path.read_bytes()[:-100])
    with path.open("rb") as file, pytest.raises(CheckpointError, match="ends early"):
        list(read_pieces(file, tensor))
