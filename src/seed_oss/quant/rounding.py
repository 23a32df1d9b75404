"""A weight to integers, each group for itself: rounded plainly, or with the error made small by a search."""

import torch
from torch import Tensor

from seed_oss.errors import InputError, NumericalError
from seed_oss.files.names import short
from seed_oss.ops.grouped_weight import PARAM_DTYPES, GroupedWeight, QuantFormat
from seed_oss.quant.grids import Grid, Method, find_grid

BLOCK_ELEMENTS = 1 << 16  # 256 KiB of fp32: the four or so buffers of a search stay in a core's cache
LONG_GROUP = 512  # from here on, sums run along a group's own memory
FP16_MAX = 65504.0
MIN_SCALE = 2.0**-18  # a sixteenth of fp16's smallest normal number; 6 bits of it are left


@torch.no_grad()
def quantize_weight(
    weight: Tensor,
    format: QuantFormat,
    method: Method = "search",
    *,
    importance: Tensor | None = None,
    name: str = "the weight",
) -> GroupedWeight:
    """Round a weight to integers, a block of rows at a time.

    Scales are rounded to the dtype they are stored in before the integers are chosen, so that these fit what will be
    read. Where the largest weight is above 65504, or so small that fp16 scales would have less than 6 bits (3.1e-5 for
    4 bits, 4.9e-4 for 8), scales and minimums are kept in fp32, and the result's format says so.

    Args:
        weight: `[out_features, in_features]`, any float dtype.
        format: what to make.
        method: "plain" or "search", see `find_grid`.
        importance: `[in_features]`, not negative: how much an error in a column counts ("search" only).
        name: of the tensor, for messages.

    Returns:
        Integers, scales, and minimums or zero points.

    Raises:
        InputError: no matrix of floats, rows not filled by groups, or an importance that does not fit.
        NumericalError: the weight, or the importance, holds NaN or infinity.
    """
    check_quantizable(weight, format, name, importance)
    return round_weight(weight, fitting_format(format, largest_magnitude(weight, name)), method, importance=importance)


@torch.no_grad()
def round_weight(
    weight: Tensor,
    format: QuantFormat,
    method: Method = "search",
    *,
    importance: Tensor | None = None,
    block_elements: int = BLOCK_ELEMENTS,
) -> GroupedWeight:
    """`quantize_weight` without its checks, to exactly this format: for rows of a weight that was checked as a whole.

    Args:
        weight: `[out_features, in_features]`, any float dtype, finite.
        format: of the result.
        method: "plain" or "search".
        importance: `[in_features]`.
        block_elements: rounded at a time.
    """
    out_features, in_features = weight.shape
    num_groups = in_features // format.group_size
    q = torch.empty(out_features, in_features, dtype=torch.uint8)
    params = [torch.empty(out_features, num_groups) for _ in range(3)]
    step = max(1, block_elements // in_features)
    for start in range(0, out_features, step):
        rows = slice(start, min(start + step, out_features))
        for columns in _column_blocks(in_features, format.group_size, block_elements):
            block = weight[rows, columns].float()
            part = None if importance is None else importance[columns].float()
            block_q, grid = _round_block(block, format, method, part)
            q[rows, columns] = block_q
            groups = slice(columns.start // format.group_size, columns.stop // format.group_size)
            for target, found in zip(params, (grid.scale, grid.offset, grid.zero_point), strict=True):
                if found is not None:
                    target[rows, groups] = found.view(block.shape[0], -1)
    return grouped_weight(format, q, *params)


def grouped_weight(
    format: QuantFormat, q: Tensor, scale: Tensor, offset: Tensor, zero_point: Tensor | None
) -> GroupedWeight:
    """A GroupedWeight from fp32 parts, as grids have them.

    Args:
        format: of the result.
        q: `[out_features, in_features]`.
        scale: `[out_features, groups]`.
        offset: the number that 0 stands for, likewise.
        zero_point: integers, likewise; only looked at where the format has them.
    """
    dtype = PARAM_DTYPES[format.param_dtype]
    minimum = offset.to(dtype) if format.zero == "minimum" else None
    points = zero_point.to(torch.uint8) if format.zero == "point" and zero_point is not None else None
    return GroupedWeight(format, q.to(torch.uint8), scale.to(dtype), minimum, points)


def fitting_format(format: QuantFormat, largest: float) -> QuantFormat:
    """The format, with fp32 scales where fp16 has no place for numbers this large or this small.

    Args:
        format: wanted.
        largest: magnitude of the largest weight of the tensor.
    """
    smallest = MIN_SCALE * 2 ** (format.bits - 1)
    if largest == 0 or smallest <= largest <= FP16_MAX or format.param_dtype == "float32":
        return format
    return QuantFormat(format.bits, format.group_size, format.zero, "float32")


def largest_magnitude(weight: Tensor, name: str) -> float:
    """The largest magnitude in a tensor.

    Raises:
        NumericalError: it is NaN or infinite.
    """
    if weight.numel() == 0:
        return 0.0
    low, high = torch.aminmax(weight.detach())
    largest = max(-float(low), float(high))
    if not largest < float("inf"):
        bad_row = int((~weight.isfinite()).any(-1).nonzero()[0])
        raise NumericalError(f"{short(name)} holds NaN or infinity, first in row {bad_row}; it cannot be quantized")
    return largest


def check_quantizable(weight: Tensor, format: QuantFormat, name: str, importance: Tensor | None = None) -> None:
    """Refuse what is no matrix of floats, or does not fit the format.

    Raises:
        InputError: says what is needed.
        NumericalError: the importance holds NaN or infinity.
    """
    if weight.dim() != 2 or not weight.is_floating_point():
        raise InputError(
            f"{short(name)} is {weight.dtype} {list(weight.shape)}; a matrix of a float dtype is quantized"
        )
    format.check_width(weight.shape[1])
    if importance is None:
        return
    if importance.shape != weight.shape[1:] or bool((importance < 0).any()):
        raise InputError(
            f"importance is {list(importance.shape)}; for {short(name)} it must be [{weight.shape[1]}], none negative"
        )
    largest_magnitude(importance[None], f"the importance for {name}")


def _column_blocks(in_features: int, group_size: int, block_elements: int) -> list[slice]:
    """A wide row in pieces of whole groups."""
    step = max(1, block_elements // group_size) * group_size
    return [slice(start, min(start + step, in_features)) for start in range(0, in_features, step)]


def _round_block(block: Tensor, format: QuantFormat, method: Method, importance: Tensor | None) -> tuple[Tensor, Grid]:
    """Integers of `[rows, columns]`, and the grid of its groups, row by row."""
    size = format.group_size
    num_rows, num_groups = block.shape[0], block.shape[1] // size
    if size >= LONG_GROUP:
        axis, numbers = 1, block.view(-1, size)
        weights = None if importance is None else importance.view(1, num_groups, size).expand(num_rows, -1, -1)
        weights = None if weights is None else weights.reshape(-1, size)
    else:
        axis, numbers = 0, block.view(-1, size).t().contiguous()
        weights = None if importance is None else importance.view(num_groups, size).t().repeat(1, num_rows)
    grid = find_grid(numbers, format, method, axis=axis, importance=weights)
    integers = grid.integers(numbers)
    return (integers if axis else integers.t()).reshape(block.shape), grid
