"""The bytes of a quantized weight, in the order in which the kernels read them. Version 1; one for all processors.

Rows go in blocks of 32 (the last one filled up with rows whose scale is 0); a block is its groups one after another; a
group is one record:

    scales        32 of the format's param_dtype, little-endian
    minimums      32 of the same                      where the format has minimums
    zero points   32 of 8 bits, or 16 bytes of two    where the format has zero points: row i low, row i + 16 high
    integers      per 4 columns: 4 bits   64 bytes; byte 4 i + j has row i, column j low, and row i + 16 high
                                 8 bits  128 bytes; byte 4 i + j has row i, column j

So one load gets what one instruction multiplies: four columns of 16 rows.
"""

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError
from seed_oss.ops.grouped_weight import PARAM_DTYPES, GroupedWeight, QuantFormat

PACKING_VERSION = 1
BLOCK_ROWS = 32
_EXPONENTS = {"float16": (torch.int16, 0x7C00), "float32": (torch.int32, 0x7F800000)}  # all ones: NaN or infinity
_PIECE_RECORDS = 1 << 14


def record_bytes(format: QuantFormat) -> int:
    """Bytes of one group of one block of rows."""
    param = PARAM_DTYPES[format.param_dtype].itemsize * BLOCK_ROWS
    extra = {"symmetric": 0, "minimum": param, "point": BLOCK_ROWS * format.bits // 8}[format.zero]
    return param + extra + BLOCK_ROWS * format.group_size * format.bits // 8


def packed_bytes(format: QuantFormat, out_features: int, in_features: int) -> int:
    """Bytes of a packed weight.

    Raises:
        InputError: groups do not fill a row.
    """
    format.check_width(in_features)
    return -(-out_features // BLOCK_ROWS) * (in_features // format.group_size) * record_bytes(format)


def check_packed(packed: Tensor, format: QuantFormat, out_features: int, in_features: int) -> None:
    """Raise unless a tensor can be a packed weight of this shape.

    Raises:
        CheckpointError: another dtype or number of bytes.
        InputError: groups do not fill a row.
    """
    wanted = packed_bytes(format, out_features, in_features)
    if packed.dtype != torch.uint8 or packed.numel() != wanted:
        raise CheckpointError(
            f"a packed weight [{out_features}, {in_features}] takes {wanted} bytes, and {packed.numel()} "
            f"{packed.dtype} are there"
        )


def has_finite_params(packed: Tensor, format: QuantFormat) -> bool:
    """Whether all scales and minimums are numbers. They alone are read, a tenth of the bytes or less.

    Args:
        packed: uint8 of whole records, see `check_packed`; contiguous.
        format: what is packed.
    """
    dtype, exponent = _EXPONENTS[format.param_dtype]
    num_bytes = dtype.itemsize * BLOCK_ROWS * (2 if format.zero == "minimum" else 1)
    params = packed.view(-1, record_bytes(format))[:, :num_bytes]
    for piece in params.split(_PIECE_RECORDS):
        bits = piece.clone(memory_format=torch.contiguous_format).view(dtype)  # wherever the bytes begin in a file
        if bool((bits & exponent == exponent).any()):
            return False
    return True


def pack(weight: GroupedWeight) -> Tensor:
    """Lay a weight out for the kernels.

    Returns:
        uint8 `[packed_bytes]`.
    """
    format = weight.format
    parts = [_blocks_of_params(weight.scale)]
    if weight.minimum is not None:
        parts.append(_blocks_of_params(weight.minimum))
    if weight.zero_point is not None:
        points = _in_blocks(weight.zero_point).transpose(1, 2)  # [blocks, groups, 32]
        parts.append(_two_in_a_byte(points, -1) if format.bits == 4 else points)
    q = _in_blocks(weight.q).unflatten(-1, (-1, format.group_size // 4, 4))  # [blocks, 32, groups, quads, 4]
    if format.bits == 4:
        q = _two_in_a_byte(q, 1)
    parts.append(q.permute(0, 2, 3, 1, 4).flatten(2))
    return torch.cat(parts, dim=-1).flatten().contiguous()


def unpack(packed: Tensor, format: QuantFormat, out_features: int, in_features: int) -> GroupedWeight:
    """The opposite of `pack`.

    Raises:
        CheckpointError: `packed` has another number of bytes.
    """
    check_packed(packed, format, out_features, in_features)
    records = packed.view(-1, in_features // format.group_size, record_bytes(format))
    dtype, position = PARAM_DTYPES[format.param_dtype], 0

    def take(num_bytes: int) -> Tensor:
        nonlocal position
        position += num_bytes
        return records[..., position - num_bytes : position]

    param_bytes = dtype.itemsize * BLOCK_ROWS
    scale = _rows(take(param_bytes).contiguous().view(dtype), out_features)
    minimum = zero_point = None
    if format.zero == "minimum":
        minimum = _rows(take(param_bytes).contiguous().view(dtype), out_features)
    if format.zero == "point":
        points = take(BLOCK_ROWS * format.bits // 8)
        zero_point = _rows(_two_of_a_byte(points, -1) if format.bits == 4 else points, out_features)
    q = take(BLOCK_ROWS * format.group_size * format.bits // 8)
    if format.bits == 4:
        q = _two_of_a_byte(q.unflatten(-1, (-1, 16, 4)), 3)  # [blocks, groups, quads, 32, 4]
    else:
        q = q.unflatten(-1, (-1, 32, 4))
    q = q.permute(0, 3, 1, 2, 4).flatten(2).flatten(0, 1)[:out_features].contiguous()
    return GroupedWeight(format, q, scale, minimum, zero_point)


def _in_blocks(rows: Tensor) -> Tensor:
    """`[rows, n]` to `[blocks, 32, n]`, filled up with zeros."""
    missing = -rows.shape[0] % BLOCK_ROWS
    if missing:
        rows = torch.cat((rows, rows.new_zeros(missing, rows.shape[1])))
    return rows.view(-1, BLOCK_ROWS, rows.shape[1])


def _blocks_of_params(params: Tensor) -> Tensor:
    """`[rows, groups]` to the bytes `[blocks, groups, 32 * itemsize]`."""
    return _in_blocks(params).transpose(1, 2).contiguous().view(torch.uint8)


def _rows(blocks: Tensor, out_features: int) -> Tensor:
    """`[blocks, groups, 32]` to `[rows, groups]`."""
    return blocks.transpose(1, 2).flatten(0, 1)[:out_features].contiguous()


def _two_in_a_byte(values: Tensor, dim: int) -> Tensor:
    low, high = values.chunk(2, dim=dim)
    return low | (high << 4)


def _two_of_a_byte(values: Tensor, dim: int) -> Tensor:
    return torch.cat((values & 15, values >> 4), dim=dim)
