"""Blocks as groups: every value bit-equal to the gguf package's, on random blocks and through a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as T

from seed_oss.errors import CheckpointError, SeedOssError, UnsupportedModelError
from seed_oss.ops.grouped_weight import GroupedWeight
from seed_oss.ops.packing import pack
from seed_oss.quant import gguf_blocks
from seed_oss.quant.gguf_blocks import (
    GROUPED_FORMATS,
    grouped_from_blocks,
    half_split_weight,
    read_grouped_pieces,
)
from seed_oss.quant.gguf_header import GGUFTensor
from seed_oss.weights.gguf_import import half_split_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

# Where a block has fp16 numbers; every other byte may be anything.
HALVES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
HARD_HALVES = np.array([0, -0.0, 6e-8, -6e-8, 6.1e-5, 1, -1, 65504, -65504, 0.0123], np.float16)


def random_blocks(name: str, count: int, seed: int = 0, halves: Sequence[float] | np.ndarray = HARD_HALVES) -> bytes:
    """Blocks of random bytes whose fp16 numbers are finite, the awkward ones among them."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (count, gguf.GGML_QUANT_SIZES[T[name]][1]), dtype=np.uint8)
    for start in HALVES[name]:
        numbers = rng.standard_normal(count).astype(np.float16)
        numbers[: len(halves)] = rng.permutation(np.asarray(halves, np.float16))[:count]
        data[:, start : start + 2] = numbers[:, None].view(np.uint8)
    return data.tobytes()


def oracle(data: bytes, name: str, columns: int) -> np.ndarray:
    return gguf.quants.dequantize(np.frombuffer(data, np.uint8).reshape(1, -1), T[name]).reshape(-1, columns)


def grouped(data: bytes, name: str, columns: int) -> GroupedWeight:
    return grouped_from_blocks(torch.frombuffer(bytearray(data), dtype=torch.uint8), name, columns)


@pytest.mark.parametrize("name", GROUPED_FORMATS)
def test_bit_equal_to_the_package(name: str) -> None:
    block_len, _ = gguf.GGML_QUANT_SIZES[T[name]]
    for seed in range(4):
        data = random_blocks(name, 120, seed)
        weight = grouped(data, name, 3 * block_len)
        assert weight.format == GROUPED_FORMATS[name]
        assert int(weight.q.max()) < 2**weight.format.bits
        expected = oracle(data, name, 3 * block_len)
        assert len(np.unique(expected)) > 100
        # bits, so that 0.0 and -0.0 differ
        assert np.array_equal(weight.dequantize().numpy().view(np.uint32), expected.view(np.uint32))


def test_every_type_has_its_block() -> None:
    for name in GROUPED_FORMATS:
        assert gguf_blocks._BLOCKS[name][:2] == gguf.GGML_QUANT_SIZES[T[name]]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        # scale 2, minimum 1: value i of 16 is the low half of byte i, value 16 + i the high one
        ("Q4_1", b"\x00\x40\x00\x3c" + bytes([0x21]) + bytes(15), [3.0] + [1.0] * 15 + [5.0] + [1.0] * 15),
        ("Q8_0", b"\x00\x38" + bytes([0xFF, 0x80, 0x7F]) + bytes(29), [-0.5, -64.0, 63.5] + [0.0] * 29),
        ("Q4_0", b"\x00\x3c" + bytes([0x0F]) + bytes([0x88] * 15), [7.0] + [0.0] * 15 + [-8.0] + [0.0] * 15),
    ],
)
def test_blocks_by_hand(name: str, data: bytes, expected: list[float]) -> None:
    assert grouped(data, name, 32).dequantize().tolist() == [expected]


@pytest.mark.parametrize("name", GROUPED_FORMATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scales_must_be_finite(name: str, bad: float) -> None:
    block_len, _ = gguf.GGML_QUANT_SIZES[T[name]]
    with pytest.raises(CheckpointError, match="NaN or infinite; the file is damaged"):
        grouped(random_blocks(name, 4, halves=[bad]), name, block_len)


def test_wrong_sizes_and_types() -> None:
    data = random_blocks("Q4_K", 4)
    for columns, cut in ((255, 0), (0, 0), (-256, 0), (128, 0), (256, 1), (512, 144)):
        with pytest.raises(CheckpointError, match="are no whole rows"):
            grouped(data[: len(data) - cut], "Q4_K", columns)
    for name in ("IQ4_NL", "F32", "MXFP4", "nonsense"):
        with pytest.raises(UnsupportedModelError, match="others are dequantized"):
            grouped(data, name, 256)


def tensor_of(name: str, rows: int, columns: int, offset: int = 0) -> GGUFTensor:
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[T[name]]
    return GGUFTensor(
        "a", name, (rows, columns), offset, rows * columns // block_len * block_bytes, *(block_len, block_bytes)
    )


@pytest.mark.parametrize("head_dim", [0, 6])
def test_pieces_are_the_whole(head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = 450, 64
    data = random_blocks("Q4_1", rows * 2)
    monkeypatch.setattr(gguf_blocks, "PIECE_VALUES", columns * 100)
    pieces = list(
        read_grouped_pieces(io.BytesIO(b"head" + data), tensor_of("Q4_1", rows, columns, 4), head_dim=head_dim)
    )
    assert [piece.shape[0] for piece in pieces] == [96] * 4 + [66]
    expected = half_split_rows(oracle(data, "Q4_1", columns), head_dim)
    assert np.array_equal(torch.cat([piece.dequantize() for piece in pieces]).numpy(), expected)
    whole = half_split_weight(grouped(data, "Q4_1", columns), head_dim)
    assert torch.equal(torch.cat([pack(piece) for piece in pieces]), pack(whole))


def test_half_split_rows_of_every_part() -> None:
    weight = grouped(random_blocks("Q4_1", 24), "Q4_1", 32)
    split = half_split_weight(weight, 8)
    assert np.array_equal(split.dequantize().numpy(), half_split_rows(weight.dequantize().numpy(), 8))
    assert not torch.equal(split.q, weight.q)
    assert half_split_weight(weight, 0) is weight
    for head_dim in (5, 3, 7, 48):
        with pytest.raises(CheckpointError, match="no heads of"):
            half_split_weight(weight, head_dim)


def test_a_file_that_ends_early_or_is_damaged() -> None:
    data = random_blocks("Q6_K", 8)
    with pytest.raises(CheckpointError, match="'a' ends early"):
        list(read_grouped_pieces(io.BytesIO(data[:-1]), tensor_of("Q6_K", 8, 256)))
    with pytest.raises(CheckpointError, match="no heads of 3"):
        list(read_grouped_pieces(io.BytesIO(data), tensor_of("Q6_K", 8, 256), head_dim=3))
    with pytest.raises(UnsupportedModelError, match="others are dequantized"):
        list(read_grouped_pieces(io.BytesIO(data), GGUFTensor("a", "F32", (8, 2), 0, 64, 1, 4)))
    bad = random_blocks("Q6_K", 8, halves=[float("nan")])
    with pytest.raises(CheckpointError, match="tensor 'a', near row 0: a scale of a Q6_K block is NaN"):
        list(read_grouped_pieces(io.BytesIO(bad), tensor_of("Q6_K", 8, 256)))


def test_random_bytes_are_right_or_refused() -> None:
    rng = np.random.default_rng(5)
    outcomes = set()
    for case in range(300):
        name = list(GROUPED_FORMATS)[case % len(GROUPED_FORMATS)]
        block_len, block_bytes = gguf.GGML_QUANT_SIZES[T[name]]
        data = rng.bytes(block_bytes * int(rng.integers(0, 4)) + int(rng.integers(0, 2)) * int(rng.integers(0, 9)))
        columns = block_len * int(rng.integers(0, 3))
        try:
            weight = grouped(data, name, columns) if data else grouped(b"\0", name, columns)
        except SeedOssError:
            outcomes.add("refused")
            continue
        outcomes.add("read")
        assert np.array_equal(weight.dequantize().numpy(), oracle(data, name, columns))
    assert outcomes == {"refused", "read"}
