"""Numbers to packed bytes, some blocks of rows at a time on several threads, in little memory beside the result."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat
from seed_oss.ops.packing import BLOCK_ROWS, pack, packed_bytes
from seed_oss.quant.grids import Method
from seed_oss.quant.rounding import check_quantizable, fitting_format, largest_magnitude, round_weight

PIECE_ELEMENTS = 1 << 16
SERIAL_ELEMENTS = 1 << 15  # torch runs operations of this size on the calling thread alone


@torch.no_grad()
def quantize_packed(
    weight: Tensor,
    format: QuantFormat,
    method: Method = "search",
    *,
    name: str = "the weight",
    num_threads: int | None = None,
) -> tuple[Tensor, QuantFormat]:
    """`pack(quantize_weight(weight, ...))`, in less memory and on several threads.

    Args:
        weight: `[out_features, in_features]` on the CPU, any float dtype.
        format: what to make.
        method: "plain" or "search".
        name: of the tensor, for messages.
        num_threads: None for as many as torch uses.

    Returns:
        The bytes, and their format (scales in fp32 where fp16 has no place for them).

    Raises:
        InputError: no matrix of floats, or rows not filled by groups.
        NumericalError: NaN or infinity in it.
    """
    check_quantizable(weight, format, name)
    format = fitting_format(format, largest_magnitude(weight, name))

    def piece(rows: slice) -> Tensor:
        return pack(round_weight(weight[rows], format, method, block_elements=SERIAL_ELEMENTS))

    return _packed_in_pieces((weight.shape[0], weight.shape[1]), format, piece, num_threads), format


@torch.no_grad()
def pack_in_pieces(weight: GroupedWeight, num_threads: int | None = None) -> Tensor:
    """`pack(weight)`, in less memory and on several threads."""

    def piece(rows: slice) -> Tensor:
        minimum = None if weight.minimum is None else weight.minimum[rows]
        zero_point = None if weight.zero_point is None else weight.zero_point[rows]
        return pack(GroupedWeight(weight.format, weight.q[rows], weight.scale[rows], minimum, zero_point))

    return _packed_in_pieces(weight.shape, weight.format, piece, num_threads)


def _packed_in_pieces(
    shape: tuple[int, int], format: QuantFormat, piece: Callable[[slice], Tensor], num_threads: int | None
) -> Tensor:
    """Pieces of whole blocks of rows follow one another in the bytes."""
    out_features, in_features = shape
    out = torch.empty(packed_bytes(format, *shape), dtype=torch.uint8, device="cpu")
    block_bytes = packed_bytes(format, BLOCK_ROWS, in_features)
    num_rows = BLOCK_ROWS * max(1, PIECE_ELEMENTS // (BLOCK_ROWS * in_features))

    def fill(start: int) -> None:
        made = piece(slice(start, min(start + num_rows, out_features)))
        begin = start // BLOCK_ROWS * block_bytes
        out[begin : begin + made.numel()] = made

    starts = range(0, out_features, num_rows)
    num_threads = min(num_threads or torch.get_num_threads(), max(len(starts), 1))
    with ThreadPoolExecutor(num_threads, thread_name_prefix="seed-oss-quantize") as pool:
        for _ in pool.map(fill, starts):
            pass
    return out
