"""Kernels over packed weights (see ops.packing): products with few rows, all numbers of a weight, rows of an embedding.

A record's integers are read as 32-bit words: word `16 k + i` has, in its four bytes, columns 4 k to 4 k + 3 of row i in
the low and of row i + 16 in the high halves of bytes (8 bits: word `32 k + i`, row i). A tile is 128 columns: several
groups, or a piece of one.

    words [pieces, span, lanes]  ->  bytes [pieces, span, 4, lanes]  ->  weights [columns, lanes], columns in order
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from seed_oss.ops.grouped_weight import PARAM_DTYPES, QuantFormat
from seed_oss.ops.packing import BLOCK_ROWS, record_bytes
from seed_oss.ops.triton.gate import is_interpreted
from seed_oss.ops.triton.launch import Launch, blocks_of, power_of_two

MAX_ROWS = 16  # of one product; the tensor cores' own number
TILE_QUADS = 32  # columns of a tile, by four
LANES = 32
WANTED_PROGRAMS = 512  # enough for every multiprocessor to have a few
MAX_SPLITS = 16
EMBEDDING_COLUMNS = 1024
ZERO_KINDS = {"symmetric": 0, "minimum": 1, "point": 2}
_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True)
class Tiling:
    """How a weight is shared out among programs. A function of shape and format alone, so that sums have one order.

    Attributes:
        span: quads of a piece, a power of two; a piece lies in one group.
        pieces: of a tile.
        pieces_per_group: the last may be partly empty.
        tiles: of a row.
        tiles_per_split: tiles that one program adds up.
        splits: programs that share the columns.
        row_programs: programs that share the rows.
    """

    span: int
    pieces: int
    pieces_per_group: int
    tiles: int
    tiles_per_split: int
    splits: int
    row_programs: int

    @classmethod
    def of(cls, format: QuantFormat, shape: tuple[int, int]) -> "Tiling":
        """The tiling of a weight (out_features, in_features)."""
        quads = format.group_size // 4
        span = min(power_of_two(quads), TILE_QUADS)
        pieces_per_group = blocks_of(quads, span)
        num_pieces = shape[1] // format.group_size * pieces_per_group
        pieces = TILE_QUADS // span
        tiles = blocks_of(num_pieces, pieces)
        rows = LANES * (2 if format.bits == 4 else 1)
        row_programs = blocks_of(shape[0], rows)
        splits = max(min(WANTED_PROGRAMS // row_programs, MAX_SPLITS, tiles), 1)
        tiles_per_split = blocks_of(tiles, splits)
        return cls(
            span, pieces, pieces_per_group, tiles, tiles_per_split, blocks_of(tiles, tiles_per_split), row_programs
        )


@triton.jit
def _load_words(
    words_ptr,
    block,
    lane,
    group,
    first,
    NUM_BLOCKS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    QUADS: tl.constexpr,
    SPAN: tl.constexpr,
    IN_BLOCK: tl.constexpr,
    RECORD_WORDS: tl.constexpr,
    HEAD_WORDS: tl.constexpr,
):
    """The integers of a tile, [pieces, SPAN, lanes]."""
    record = block[None, :] * NUM_GROUPS + group[:, None]
    quad = first[:, None] + tl.arange(0, SPAN)[None, :]
    inside = (group < NUM_GROUPS)[:, None] & (quad < QUADS)
    offset = (record * RECORD_WORDS + HEAD_WORDS + lane[None, :])[:, None, :] + (quad * IN_BLOCK)[:, :, None]
    return tl.load(words_ptr + offset, mask=inside[:, :, None] & (block < NUM_BLOCKS)[None, None, :], other=0)


@triton.jit
def _numbers(
    words,
    params_ptr,
    bytes_ptr,
    block,
    row,
    group,
    SHIFT: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    PARAM_BYTES: tl.constexpr,
    RECORD_BYTES: tl.constexpr,
):
    """What the integers of a tile stand for, fp32 [4 * pieces * span, lanes]; `row` in the block, per lane."""
    record = block[None, :] * NUM_GROUPS + group[:, None]
    inside = (group < NUM_GROUPS)[:, None] & (block < NUM_BLOCKS)[None, :]
    param = record * (RECORD_BYTES // PARAM_BYTES) + row[None, :]
    scale = tl.load(params_ptr + param, mask=inside, other=0.0).to(tl.float32)[:, None, None, :]
    shifts = (tl.arange(0, 4) * 8 + SHIFT)[None, None, :, None]
    q = ((words[:, :, None, :] >> shifts) & (2**BITS - 1)).to(tl.float32)
    if ZERO == 0:
        numbers = (q - 2 ** (BITS - 1)) * scale
    elif ZERO == 1:
        minimum = tl.load(params_ptr + param + 32, mask=inside, other=0.0).to(tl.float32)
        numbers = q * scale + minimum[:, None, None, :]
    else:
        place = record * RECORD_BYTES + 32 * PARAM_BYTES
        if BITS == 4:
            both = tl.load(bytes_ptr + place + row[None, :] % 16, mask=inside, other=0)
            point = (both >> SHIFT) & 15
        else:
            point = tl.load(bytes_ptr + place + row[None, :], mask=inside, other=0)
        numbers = (q - point.to(tl.float32)[:, None, None, :]) * scale
    return tl.reshape(numbers, (words.shape[0] * words.shape[1] * 4, words.shape[2]))


@triton.jit
def _columns(
    first_piece,
    PER_GROUP: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    PIECES: tl.constexpr,
):
    """The column of each row of a tile of numbers, and whether there is one."""
    index = tl.arange(0, 4 * SPAN * PIECES)
    if PER_GROUP * SPAN * 4 == GROUP:
        column = first_piece * (4 * SPAN) + index
        return column, column < NUM_GROUPS * GROUP
    piece = first_piece + index // (4 * SPAN)
    in_group = (piece % PER_GROUP) * (4 * SPAN) + index % (4 * SPAN)
    return (piece // PER_GROUP) * GROUP + in_group, (in_group < GROUP) & (piece < NUM_GROUPS * PER_GROUP)


@triton.jit(do_not_specialize=["num_rows"])
def linear_kernel(
    x_ptr,
    words_ptr,
    params_ptr,
    bytes_ptr,
    bias_ptr,
    out_ptr,
    num_rows,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    ZERO: tl.constexpr,
    PARAM_BYTES: tl.constexpr,
    RECORD_BYTES: tl.constexpr,
    SPAN: tl.constexpr,
    PIECES: tl.constexpr,
    PER_GROUP: tl.constexpr,
    TILES: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Programs (rows of the weight, split of the columns); out is [splits, num_rows, OUT]."""
    NUM_GROUPS: tl.constexpr = IN // GROUP
    NUM_BLOCKS: tl.constexpr = (OUT + 31) // 32
    IN_BLOCK: tl.constexpr = 4 * BITS  # words of a quad
    HEAD_WORDS: tl.constexpr = (RECORD_BYTES - 4 * BITS * GROUP) // 4
    lanes = tl.program_id(0) * LANES + tl.arange(0, LANES)
    block, lane = (lanes // IN_BLOCK).to(tl.int64), lanes % IN_BLOCK
    split = tl.program_id(1)
    rows = tl.arange(0, ROWS)
    low = tl.zeros((ROWS, LANES), tl.float32)
    high = tl.zeros((ROWS, LANES), tl.float32)
    for step in range(TILES):
        tile = split * TILES + step
        piece = tile * PIECES + tl.arange(0, PIECES)
        group, first = piece // PER_GROUP, (piece % PER_GROUP) * SPAN
        words = _load_words(
            words_ptr, block, lane, group, first,
            NUM_BLOCKS, NUM_GROUPS, GROUP // 4, SPAN, IN_BLOCK, RECORD_BYTES // 4, HEAD_WORDS,
        )  # fmt: skip
        column, has_column = _columns(tile * PIECES, PER_GROUP, NUM_GROUPS, GROUP, SPAN, PIECES)
        wanted = (rows < num_rows)[:, None] & has_column[None, :]
        x = tl.load(x_ptr + rows[:, None] * IN + column[None, :], mask=wanted, other=0.0)
        weight = _numbers(
            words, params_ptr, bytes_ptr, block, lane, group,
            0, NUM_BLOCKS, NUM_GROUPS, BITS, ZERO, PARAM_BYTES, RECORD_BYTES,
        )  # fmt: skip
        low = tl.dot(x.to(COMPUTE), weight.to(x.dtype).to(COMPUTE), low, input_precision="ieee")
        if BITS == 4:
            weight = _numbers(
                words, params_ptr, bytes_ptr, block, lane + 16, group,
                4, NUM_BLOCKS, NUM_GROUPS, BITS, ZERO, PARAM_BYTES, RECORD_BYTES,
            )  # fmt: skip
            high = tl.dot(x.to(COMPUTE), weight.to(x.dtype).to(COMPUTE), high, input_precision="ieee")
    place = out_ptr + (split * num_rows + rows)[:, None] * OUT
    _store_sums(place, bias_ptr, low, (rows < num_rows)[:, None], block * 32 + lane, OUT)
    if BITS == 4:
        _store_sums(place, bias_ptr, high, (rows < num_rows)[:, None], block * 32 + lane + 16, OUT)


@triton.jit
def _store_sums(place, bias_ptr, sums, has_row, feature, OUT: tl.constexpr):
    if bias_ptr is not None:
        sums += tl.load(bias_ptr + feature, mask=feature < OUT, other=0.0)[None, :]
    tl.store(place + feature[None, :], sums, mask=has_row & (feature < OUT)[None, :])


@triton.jit(do_not_specialize=["num_sums"])
def combine_kernel(
    parts_ptr, bias_ptr, out_ptr, num_sums, OUT: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr
):
    """Add up the splits, one after another."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < num_sums
    total = tl.zeros((BLOCK,), tl.float32)
    for split in range(SPLITS):
        total += tl.load(parts_ptr + split * num_sums + index, mask=inside, other=0.0)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + index % OUT, mask=inside, other=0.0)
    tl.store(out_ptr + index, total, mask=inside)


@triton.jit
def dequantize_kernel(
    words_ptr,
    params_ptr,
    bytes_ptr,
    out_ptr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    ZERO: tl.constexpr,
    PARAM_BYTES: tl.constexpr,
    RECORD_BYTES: tl.constexpr,
    SPAN: tl.constexpr,
    PIECES: tl.constexpr,
    PER_GROUP: tl.constexpr,
    LANES: tl.constexpr,
):
    """Programs (tile of columns, rows of the weight); out is [OUT, IN]."""
    NUM_GROUPS: tl.constexpr = IN // GROUP
    NUM_BLOCKS: tl.constexpr = (OUT + 31) // 32
    IN_BLOCK: tl.constexpr = 4 * BITS
    HEAD_WORDS: tl.constexpr = (RECORD_BYTES - 4 * BITS * GROUP) // 4
    lanes = tl.program_id(1) * LANES + tl.arange(0, LANES)
    block, lane = (lanes // IN_BLOCK).to(tl.int64), lanes % IN_BLOCK
    first_piece = tl.program_id(0) * PIECES
    piece = first_piece + tl.arange(0, PIECES)
    group, first = piece // PER_GROUP, (piece % PER_GROUP) * SPAN
    words = _load_words(
        words_ptr, block, lane, group, first,
        NUM_BLOCKS, NUM_GROUPS, GROUP // 4, SPAN, IN_BLOCK, RECORD_BYTES // 4, HEAD_WORDS,
    )  # fmt: skip
    column, has_column = _columns(first_piece, PER_GROUP, NUM_GROUPS, GROUP, SPAN, PIECES)
    for half in tl.static_range(2 if BITS == 4 else 1):
        row = lane + 16 * half
        weight = _numbers(
            words, params_ptr, bytes_ptr, block, row, group,
            4 * half, NUM_BLOCKS, NUM_GROUPS, BITS, ZERO, PARAM_BYTES, RECORD_BYTES,
        )  # fmt: skip
        feature = block * 32 + row
        wanted = has_column[:, None] & (feature < OUT)[None, :]
        tl.store(out_ptr + feature[None, :] * IN + column[:, None], weight, mask=wanted)


@triton.jit
def embedding_kernel(
    ids_ptr,
    params_ptr,
    bytes_ptr,
    out_ptr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    ZERO: tl.constexpr,
    PARAM_BYTES: tl.constexpr,
    RECORD_BYTES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Programs (id, columns); a row that does not exist comes out as NaN."""
    index = tl.program_id(0).to(tl.int64)
    id = tl.load(ids_ptr + index)
    is_row = (id >= 0) & (id < OUT)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    wanted = (column < IN) & is_row
    row, group = id % 32, column // GROUP
    record = (id // 32) * (IN // GROUP) + group
    in_group = column % GROUP
    byte = (in_group // 4) * (16 * BITS) + in_group % 4 + 4 * (row % (4 * BITS))
    q = tl.load(bytes_ptr + (record + 1) * RECORD_BYTES - 4 * BITS * GROUP + byte, mask=wanted, other=0)
    if BITS == 4:
        q = (q >> ((row // 16) * 4).to(tl.uint8)) & 15
    param = record * (RECORD_BYTES // PARAM_BYTES) + row
    scale = tl.load(params_ptr + param, mask=wanted, other=0.0).to(tl.float32)
    if ZERO == 0:
        numbers = (q.to(tl.float32) - 2 ** (BITS - 1)) * scale
    elif ZERO == 1:
        numbers = q.to(tl.float32) * scale + tl.load(params_ptr + param + 32, mask=wanted, other=0.0).to(tl.float32)
    else:
        place = bytes_ptr + record * RECORD_BYTES + 32 * PARAM_BYTES
        if BITS == 4:
            point = (tl.load(place + row % 16, mask=wanted, other=0) >> ((row // 16) * 4).to(tl.uint8)) & 15
        else:
            point = tl.load(place + row, mask=wanted, other=0)
        numbers = (q.to(tl.float32) - point.to(tl.float32)) * scale
    tl.store(out_ptr + index * IN + column, tl.where(is_row, numbers, float("nan")), mask=column < IN)


def _weight_constants(format: QuantFormat, shape: tuple[int, int]) -> dict[str, int]:
    return {
        "OUT": shape[0],
        "IN": shape[1],
        "BITS": format.bits,
        "GROUP": format.group_size,
        "ZERO": ZERO_KINDS[format.zero],
        "PARAM_BYTES": PARAM_DTYPES[format.param_dtype].itemsize,
        "RECORD_BYTES": record_bytes(format),
    }


def _weight_views(packed: Tensor, format: QuantFormat) -> dict[str, Tensor]:
    """The same bytes as the three kinds of number that are in them."""
    return {
        "words_ptr": packed.view(torch.int32),
        "params_ptr": packed.view(PARAM_DTYPES[format.param_dtype]),
        "bytes_ptr": packed,
    }


def linear_launches(
    x: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int], bias: Tensor | None, out: Tensor
) -> list[Launch]:
    """What `quantized_linear` runs; `x` `[rows, in_features]` and `out` `[rows, out_features]` contiguous."""
    tiling = Tiling.of(format, shape)
    num_rows = x.shape[0]
    is_whole = tiling.splits == 1
    sums = out if is_whole else torch.empty(tiling.splits, *out.shape, dtype=torch.float32, device=x.device)
    product = Launch(
        linear_kernel,
        (tiling.row_programs, tiling.splits),
        {"x_ptr": x, **_weight_views(packed, format), "bias_ptr": bias if is_whole else None}
        | {"out_ptr": sums, "num_rows": num_rows},
        {
            **_weight_constants(format, shape),
            "SPAN": tiling.span,
            "PIECES": tiling.pieces,
            "PER_GROUP": tiling.pieces_per_group,
            "TILES": tiling.tiles_per_split,
            "LANES": LANES,
            "ROWS": MAX_ROWS,
            "COMPUTE": tl.float32 if is_interpreted() else _TYPES[x.dtype],
        },
    )
    if is_whole:
        return [product]
    arguments = {"parts_ptr": sums, "bias_ptr": bias, "out_ptr": out, "num_sums": out.numel()}
    constants = {"OUT": shape[0], "SPLITS": tiling.splits, "BLOCK": 256}
    return [product, Launch(combine_kernel, (blocks_of(out.numel(), 256),), arguments, constants)]


def quantized_linear(
    x: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int], bias: Tensor | None = None
) -> Tensor:
    """`x @ weight.T + bias`: weights rounded to the dtype of `x`, sums in fp32 in one order for any number of rows.

    Args:
        x: `[..., in_features]`, at most MAX_ROWS rows.
        packed: uint8, see ops.packing.
        format: what is packed.
        shape: (out_features, in_features).
        bias: fp32 `[out_features]` or None.

    Returns:
        `[..., out_features]` in the dtype of `x`.
    """
    rows = x.reshape(-1, shape[1]).contiguous()
    assert rows.shape[0] <= MAX_ROWS
    out = torch.empty(rows.shape[0], shape[0], dtype=x.dtype, device=x.device)
    if rows.shape[0]:
        for launch in linear_launches(rows, packed, format, shape, bias, out):
            launch.run()
    return out.view(*x.shape[:-1], shape[0])


def dequantize_launch(packed: Tensor, format: QuantFormat, shape: tuple[int, int], out: Tensor) -> Launch:
    """What `dequantized` runs."""
    tiling = Tiling.of(format, shape)
    pieces = {"SPAN": tiling.span, "PIECES": tiling.pieces, "PER_GROUP": tiling.pieces_per_group, "LANES": LANES}
    return Launch(
        dequantize_kernel,
        (tiling.tiles, tiling.row_programs),
        {**_weight_views(packed, format), "out_ptr": out},
        {**_weight_constants(format, shape), **pieces},
    )


def dequantized(packed: Tensor, format: QuantFormat, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The numbers of a packed weight, computed in fp32 and rounded once: `[out_features, in_features]` of `dtype`."""
    out = torch.empty(shape, dtype=dtype, device=packed.device)
    dequantize_launch(packed, format, shape, out).run()
    return out


def embedding_launch(ids: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int], out: Tensor) -> Launch:
    """What `embedding` runs; `ids` int64 `[n]`."""
    views = _weight_views(packed, format)
    del views["words_ptr"]
    return Launch(
        embedding_kernel,
        (ids.shape[0], blocks_of(shape[1], EMBEDDING_COLUMNS)),
        {"ids_ptr": ids, **views, "out_ptr": out},
        {**_weight_constants(format, shape), "COLUMNS": EMBEDDING_COLUMNS},
    )


def embedding(ids: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int]) -> Tensor:
    """Rows of a packed weight, fp32 `[*ids.shape, columns]`; NaN for an id that is out of range."""
    wanted = ids.reshape(-1).to(torch.int64).contiguous()
    out = torch.empty(wanted.shape[0], shape[1], dtype=torch.float32, device=packed.device)
    if wanted.shape[0]:
        embedding_launch(wanted, packed, format, shape, out).run()
    return out.view(*ids.shape, shape[1])


assert BLOCK_ROWS == 32  # written out in the kernels
