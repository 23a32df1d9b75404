"""Root mean square normalisation in one kernel, with or without an addition before it."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seed_oss.ops.triton.launch import Launch, power_of_two


@triton.jit
def rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, sum_ptr, out_ptr, eps, COLUMNS: tl.constexpr, PADDED: tl.constexpr
):
    """A program per row. Sum, normalised numbers and result are rounded where ops.norm rounds them."""
    start = tl.program_id(0).to(tl.int64) * COLUMNS
    column = tl.arange(0, PADDED)
    inside = column < COLUMNS
    x = tl.load(x_ptr + start + column, mask=inside, other=0.0)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + start + column, mask=inside, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
        tl.store(sum_ptr + start + column, x, mask=inside)
    numbers = x.to(tl.float32)
    normal = numbers * tl.rsqrt(tl.sum(numbers * numbers, 0) / COLUMNS + eps)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + start + column, weight * normal.to(x.dtype).to(tl.float32), mask=inside)


def norm_launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, added: Tensor | None, out: Tensor
) -> Launch:
    """What both functions run, on contiguous tensors."""
    columns = x.shape[-1]
    padded = power_of_two(columns)
    return Launch(
        rms_norm_kernel,
        (x.numel() // columns,),
        {"x_ptr": x, "residual_ptr": residual, "weight_ptr": weight, "sum_ptr": added, "out_ptr": out, "eps": eps},
        {"COLUMNS": columns, "PADDED": padded},
        num_warps=min(max(padded // 512, 1), 16),
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See ops.norm.rms_norm.

    Args:
        x: `[..., hidden_size]`, floating.
        weight: `[hidden_size]`.
        eps: added to the mean square.

    Returns:
        Same shape as `x`; dtype as torch promotes `x` and `weight`.
    """
    x = x.contiguous()
    out = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
    if x.numel():
        norm_launch(x, None, weight.contiguous(), eps, None, out).run()
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`x + residual`, and that sum normalised.

    Args:
        x: `[..., hidden_size]`, floating.
        residual: same shape and dtype.
        weight: `[hidden_size]`.
        eps: added to the mean square.

    Returns:
        (sum, normalised sum), the first in the dtype of `x`.
    """
    x, residual = x.contiguous(), residual.contiguous()
    added = torch.empty_like(x)
    out = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
    if x.numel():
        norm_launch(x, residual, weight.contiguous(), eps, added, out).run()
    return added, out
