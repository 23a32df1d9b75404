"""Columns that see large inputs are scaled up before they are rounded, and their inputs down.

Written from the paper on activation-aware quantization (AWQ, Lin et al. 2023, arXiv:2306.00978). The factor of a column
is a power alpha of the root mean square of its inputs; alpha is tried out. The inverse goes where it changes nothing
else: into the norm before, or into the rows of the linear layer before. The function of the model stays what it was.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seed_oss.nn import SeedOssRMSNorm
from seed_oss.nn.linear import Linear
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.quant.error_feedback import output_error
from seed_oss.quant.rounding import quantize_weight

ALPHAS = tuple(step / 10 for step in range(10))
MAX_FACTOR = 64.0  # a column that the calibration inputs hardly touch must not shrink to nothing


def input_factors(hessian: Tensor, alpha: float) -> Tensor:
    """A factor per column, their geometric mean 1.

    Args:
        hessian: X^T X, `[in_features, in_features]`.
        alpha: 0 gives ones, 1 gives factors in proportion to the inputs.

    Returns:
        fp32 `[in_features]`.
    """
    size = hessian.diagonal().float().sqrt()
    floor = float(size.max()) / MAX_FACTOR**2
    if floor == 0:
        return torch.ones_like(size)
    factors = size.clamp(min=floor).log().mul_(alpha)
    return (factors - factors.mean()).exp().clamp(1 / MAX_FACTOR, MAX_FACTOR)


@torch.no_grad()
def best_alpha(
    weights: Sequence[tuple[Tensor, QuantFormat]],
    hessian: Tensor,
    alphas: Sequence[float] = ALPHAS,
    *,
    share: Sequence[int] | None = None,
) -> float:
    """The alpha with which the layers that read one input change their outputs least.

    Args:
        weights: each `[out_features, in_features]`, and how it will be rounded.
        hessian: of their common input.
        alphas: to try; among equals the first wins.
        share: see `shared_factors`.
    """
    errors = dict.fromkeys(alphas, 0.0)
    for alpha in alphas:
        factors = input_factors(hessian, alpha) if share is None else shared_factors(hessian, alpha, share)
        for weight, format in weights:
            rounded = quantize_weight(weight * factors, format, "plain").dequantize() / factors
            errors[alpha] += output_error(weight, rounded, hessian)
    return min(errors, key=errors.__getitem__)


def shared_factors(hessian: Tensor, alpha: float, share: Sequence[int]) -> Tensor:
    """Factors for the input of the output projection: the query heads of one key/value head have the same.

    Args:
        hessian: of the attended values, `[heads * head_dim, heads * head_dim]`.
        alpha: see `input_factors`.
        share: (kv_heads, query heads per kv head, head_dim).

    Returns:
        fp32 `[heads * head_dim]`.
    """
    kv_heads, repeats, head_dim = share
    mean_square = hessian.diagonal().float().view(kv_heads, repeats, head_dim).mean(1, keepdim=True)
    spread = mean_square.expand(-1, repeats, -1).reshape(-1)
    return input_factors(torch.diag(spread), alpha)


@torch.no_grad()
def fold_into_norm_(
    norm: SeedOssRMSNorm, linears: Sequence[nn.Linear], factors: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Divide a norm's output by the factors, and multiply the columns that read it.

    Args:
        norm: changed in place.
        linears: all that read it; changed in place.
        factors: `[hidden_size]`.
        dtype: in which the norm's weight will be stored: the columns get what its rounding leaves over.

    Returns:
        The factors that the columns were multiplied by.
    """
    divided = (norm.weight / factors).to(dtype).to(norm.weight.dtype)
    exact = torch.where(divided == 0, 1.0, norm.weight / torch.where(divided == 0, 1.0, divided))
    norm.weight.copy_(torch.where(divided == 0, norm.weight, divided))
    for linear in linears:
        linear.weight.mul_(exact)
    return exact


@torch.no_grad()
def fold_into_rows_(before: Linear, after: Linear, factors: Tensor) -> None:
    """Divide the outputs of one linear layer by the factors, and multiply the columns of the next.

    Args:
        before: changed in place, its bias too; nothing but a product may lie between the two.
        after: changed in place.
        factors: `[in_features of after]`.
    """
    before.weight.div_(factors[:, None])
    if before.bias is not None:
        before.bias.div_(factors)
    after.weight.mul_(factors)


@torch.no_grad()
def fold_into_values_(v_proj: Linear, o_proj: Linear, factors: Tensor, share: Sequence[int]) -> None:
    """Divide the values by the factors, and multiply the columns of the output projection.

    Attention averages values over positions, channel by channel, so that a factor passes through it; each key/value
    head is read by several query heads, whose columns must have the same factors.

    Args:
        v_proj: changed in place, its bias too.
        o_proj: changed in place.
        factors: of `shared_factors`.
        share: see there.
    """
    kv_heads, repeats, head_dim = share
    per_value = factors.view(kv_heads, repeats, head_dim)[:, 0].reshape(-1)
    v_proj.weight.div_(per_value[:, None])
    if v_proj.bias is not None:
        v_proj.bias.div_(per_value)
    o_proj.weight.mul_(factors)
