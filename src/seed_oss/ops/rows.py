"""Products whose rows have the same bits in any batch: torch's are given 16 rows at a time, always as many, by one
thread. Both change the order of its sums (measured: in fp32 from 1,024 columns on with two threads, in bfloat16 between
16 and 48 rows)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.ops.native.threads import alone

ROWS_AT_ONCE = 16


def pad_rows(x: Tensor, dim: int = 0) -> Tensor:
    """`x` with zeros behind, so that there are ROWS_AT_ONCE in dimension `dim` (of two or more)."""
    behind = x.dim() - 1 - dim
    return F.pad(x, (0, 0) * behind + (0, ROWS_AT_ONCE - x.shape[dim]))


def in_slabs(product: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`product(x)` of `[rows, in_features]`, 16 rows at a time.

    Args:
        product: takes `[ROWS_AT_ONCE, in_features]`, and treats each row by itself.
        x: `[rows, in_features]`, at least one row.

    Returns:
        `[rows, out_features]`.
    """
    if x.device.type != "cpu":  # nothing is promised there
        return product(x)
    with alone():
        parts = [product(pad_rows(part)) for part in x.split(ROWS_AT_ONCE)]
    return torch.cat(parts)[: x.shape[0]]
