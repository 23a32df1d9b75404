"""Blocks of a GGUF file as a GroupedWeight: the same integers, scales and minimums, so the same numbers.

    stored   values  bytes   becomes
    Q4_0     32      18      4 bits  g32  symmetric  fp16
    Q4_1     32      20      4 bits  g32  minimum    fp16
    Q5_0     32      22      8 bits  g32  symmetric  fp16
    Q5_1     32      24      8 bits  g32  minimum    fp16
    Q8_0     32      34      8 bits  g32  symmetric  fp16
    Q2_K     256     84      4 bits  g16  minimum    fp32
    Q3_K     256     110     4 bits  g16  symmetric  fp32
    Q4_K     256     144     4 bits  g32  minimum    fp32
    Q5_K     256     176     8 bits  g32  minimum    fp32
    Q6_K     256     210     8 bits  g16  symmetric  fp32

A K-quant's scale is a block's fp16 number times a small integer; that product is rounded to fp32 once, here as in ggml,
and so every value is bit-equal to ggml's. The layouts are those of ggml-common.h and ggml-quants.c.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.files.names import short
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat
from seed_oss.ops.packing import BLOCK_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from seed_oss.quant.gguf_header import GGUFTensor

    # A block's bytes [blocks, bytes] to its integers [blocks, values], scales and minimums [blocks, groups].
    Unpacked = tuple[Tensor, Tensor, Tensor | None]

PIECE_VALUES = 1 << 18  # unpacking takes several bytes for each
GROUPED_FORMATS: dict[str, QuantFormat] = {
    "Q4_0": QuantFormat(4, 32),
    "Q4_1": QuantFormat(4, 32, "minimum"),
    "Q5_0": QuantFormat(8, 32),
    "Q5_1": QuantFormat(8, 32, "minimum"),
    "Q8_0": QuantFormat(8, 32),
    "Q2_K": QuantFormat(4, 16, "minimum", "float32"),
    "Q3_K": QuantFormat(4, 16, "symmetric", "float32"),
    "Q4_K": QuantFormat(4, 32, "minimum", "float32"),
    "Q5_K": QuantFormat(8, 32, "minimum", "float32"),
    "Q6_K": QuantFormat(8, 16, "symmetric", "float32"),
}
"""What each type of block becomes; every other type has to be dequantized (gguf_dequantize)."""


def grouped_from_blocks(data: Tensor, type_name: str, columns: int) -> GroupedWeight:
    """Whole rows of blocks as a GroupedWeight.

    Args:
        data: uint8, the bytes of the rows one after another.
        type_name: ggml's name of the block type, one of `GROUPED_FORMATS`.
        columns: values per row.

    Returns:
        Bit-equal to ggml's dequantization.

    Raises:
        UnsupportedModelError: another type.
        CheckpointError: bytes that are no whole rows, or a scale or minimum that is not finite.
    """
    if type_name not in GROUPED_FORMATS:
        raise UnsupportedModelError(
            f"blocks of type {short(type_name)} have no counterpart in groups of 4 or 8 bits; "
            f"{', '.join(GROUPED_FORMATS)} have, others are dequantized"
        )
    format = GROUPED_FORMATS[type_name]
    block_len, block_bytes, unpack = _BLOCKS[type_name]
    row_bytes = columns // block_len * block_bytes
    if columns <= 0 or columns % block_len or data.numel() % row_bytes:
        raise CheckpointError(
            f"{data.numel()} bytes are no whole rows of {columns} {type_name} values ({block_bytes} bytes per "
            f"{block_len}); the file is damaged"
        )
    q, scale, minimum = unpack(data.reshape(-1, block_bytes))
    for name, part in (("scale", scale), ("minimum", minimum)):
        if part is not None and not bool(torch.isfinite(part).all()):
            raise CheckpointError(f"a {name} of a {type_name} block is NaN or infinite; the file is damaged")
    groups = columns // format.group_size
    return GroupedWeight(
        format, q.view(-1, columns), scale.view(-1, groups), None if minimum is None else minimum.view(-1, groups)
    )


def read_grouped_pieces(file: BinaryIO, tensor: GGUFTensor, *, head_dim: int = 0) -> Iterator[GroupedWeight]:
    """Read a matrix in order, in pieces of whole rows.

    Args:
        file: The open GGUF file.
        tensor: Which tensor, from its header.
        head_dim: Rows per head where rows are stored for interleaved rotary positions; they come out half-split.

    Yields:
        About 250,000 values at a time. Every piece but the last has a multiple of 32 rows, so that the packed pieces
        one after another are the packed matrix.

    Raises:
        UnsupportedModelError: The type has no grouped form, or the tensor is no matrix.
        CheckpointError: The file ended early, heads do not fill the rows, or a scale is not finite.
    """
    if tensor.type_name not in GROUPED_FORMATS or len(tensor.shape) != 2:
        raise UnsupportedModelError(
            f"tensor {short(tensor.name)} is {tensor.type_name} {list(tensor.shape)}; matrices of "
            f"{', '.join(GROUPED_FORMATS)} are read as groups, others are dequantized"
        )
    num_rows, columns = tensor.shape
    if head_dim and (head_dim % 2 or num_rows % head_dim):
        raise CheckpointError(f"tensor {short(tensor.name)} has {num_rows} rows, which are no heads of {head_dim}")
    row_bytes = columns // tensor.block_len * tensor.block_bytes
    whole = math.lcm(BLOCK_ROWS, head_dim or 1)
    step = max(PIECE_VALUES // columns // whole, 1) * whole
    for row in range(0, num_rows, step):
        count = min(step, num_rows - row)
        file.seek(tensor.offset + row * row_bytes)
        data = bytearray(file.read(count * row_bytes))
        if len(data) != count * row_bytes:
            raise CheckpointError(f"tensor {short(tensor.name)} ends early: the file changed while it was being read")
        try:
            piece = grouped_from_blocks(torch.frombuffer(data, dtype=torch.uint8), tensor.type_name, columns)
        except CheckpointError as error:
            raise CheckpointError(f"tensor {short(tensor.name)}, near row {row}: {error}") from None
        yield half_split_weight(piece, head_dim)


def half_split_weight(weight: GroupedWeight, head_dim: int) -> GroupedWeight:
    """Reorder rows from interleaved rotary positions (pairs beside each other) to half-split ones.

    Args:
        weight: rows of whole heads.
        head_dim: rows per head; 0 leaves everything as it is.

    Returns:
        A weight in which row j * head_dim/2 + i of a head is row 2i + j before.

    Raises:
        CheckpointError: heads do not fill the rows.
    """
    if not head_dim:
        return weight
    if head_dim % 2 or weight.shape[0] % head_dim:
        raise CheckpointError(f"{weight.shape[0]} rows are no heads of {head_dim}")

    def split(part: Tensor) -> Tensor:
        return part.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)

    minimum = None if weight.minimum is None else split(weight.minimum)
    zero_point = None if weight.zero_point is None else split(weight.zero_point)
    return GroupedWeight(weight.format, split(weight.q), split(weight.scale), minimum, zero_point)


def _half(blocks: Tensor, start: int) -> Tensor:
    """The fp16 number `[blocks, 1]` at a byte of every block."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16)


def _nibbles(part: Tensor, run: int) -> Tensor:
    """Runs of bytes: first the low halves of a run, then the high ones."""
    runs = part.unflatten(1, (-1, run))
    return torch.stack((runs & 15, runs >> 4), dim=2).flatten(1)


def _bits(part: Tensor, run: int, width: int) -> Tensor:
    """Runs of bytes: first the lowest `width` bits of a run, then the next ones, and so on."""
    runs = part.unflatten(1, (-1, run))
    mask = 2**width - 1
    return torch.stack([(runs >> shift) & mask for shift in range(0, 8, width)], dim=2).flatten(1)


def _single_bits(part: Tensor) -> Tensor:
    """Bit j of byte i is value 8i + j."""
    return torch.stack([(part >> shift) & 1 for shift in range(8)], dim=2).flatten(1)


def _q4_0(blocks: Tensor) -> Unpacked:
    return _nibbles(blocks[:, 2:], 16), _half(blocks, 0), None


def _q4_1(blocks: Tensor) -> Unpacked:
    return _nibbles(blocks[:, 4:], 16), _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Unpacked:
    q = _nibbles(blocks[:, 6:], 16) | (_single_bits(blocks[:, 2:6]) << 4)
    return q + (128 - 16), _half(blocks, 0), None


def _q5_1(blocks: Tensor) -> Unpacked:
    q = _nibbles(blocks[:, 8:], 16) | (_single_bits(blocks[:, 4:8]) << 4)
    return q, _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Unpacked:
    return blocks[:, 2:] ^ 128, _half(blocks, 0), None  # v + 128 of a two's complement byte


def _q2_k(blocks: Tensor) -> Unpacked:
    scales = blocks[:, :16]
    scale = _half(blocks, 80).float() * (scales & 15).float()
    minimum = -(_half(blocks, 82).float() * (scales >> 4).float())
    return _bits(blocks[:, 16:80], 32, 2), scale, minimum


def _q3_k(blocks: Tensor) -> Unpacked:
    """The third bit set means that nothing is taken off: 0..7 stands for -4..3."""
    q = _bits(blocks[:, 32:96], 32, 2) | (_bits(blocks[:, :32], 32, 1) << 2)
    scales = _nibbles(blocks[:, 96:104], 8) | (_bits(blocks[:, 104:108], 4, 2) << 4)
    scale = _half(blocks, 108).float() * (scales.float() - 32)
    return q + (8 - 4), scale, None


def _k_scales(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minimums of Q4_K and Q5_K: 6 bits each, the upper ones of groups 4 to 7 with those of 0 to 3."""
    first, second, third = blocks[:, 4:16].unflatten(1, (3, 4)).unbind(1)
    scales = torch.cat((first & 63, (third & 15) | ((first >> 2) & 48)), dim=1)
    minimums = torch.cat((second & 63, (third >> 4) | ((second >> 2) & 48)), dim=1)
    return _half(blocks, 0).float() * scales.float(), -(_half(blocks, 2).float() * minimums.float())


def _q4_k(blocks: Tensor) -> Unpacked:
    return _nibbles(blocks[:, 16:], 32), *_k_scales(blocks)


def _q5_k(blocks: Tensor) -> Unpacked:
    q = _nibbles(blocks[:, 48:], 32) | (_bits(blocks[:, 16:48], 32, 1) << 4)
    return q, *_k_scales(blocks)


def _q6_k(blocks: Tensor) -> Unpacked:
    q = _nibbles(blocks[:, :128], 64) | (_bits(blocks[:, 128:192], 32, 2) << 4)
    scales = blocks[:, 192:208].contiguous().view(torch.int8)
    return q + (128 - 32), _half(blocks, 208).float() * scales.float(), None


_BLOCKS: dict[str, tuple[int, int, Callable[[Tensor], Unpacked]]] = {
    "Q4_0": (32, 18, _q4_0),
    "Q4_1": (32, 20, _q4_1),
    "Q5_0": (32, 22, _q5_0),
    "Q5_1": (32, 24, _q5_1),
    "Q8_0": (32, 34, _q8_0),
    "Q2_K": (256, 84, _q2_k),
    "Q3_K": (256, 110, _q3_k),
    "Q4_K": (256, 144, _q4_k),
    "Q5_K": (256, 176, _q5_k),
    "Q6_K": (256, 210, _q6_k),
}
