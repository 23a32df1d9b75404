"""Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

import torch.nn.functional as F
from torch import Tensor

from seed_oss.ops.triton import can_run, take_over


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`weight * x / rms(x)`, normalised in fp32 and rounded to the input dtype before the weight is applied.

    Args:
        x: `[..., hidden_size]`.
        weight: `[hidden_size]`.
        eps: added to the mean square.

    Returns:
        Same shape as `x`; dtype as torch promotes `x` and `weight`.
    """
    if can_run(x, weight):
        return _on_cuda(x, weight, eps)
    return rms_norm_of_torch(x, weight, eps)


def rms_norm_of_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The readable form of `rms_norm`."""
    return weight * F.rms_norm(x, weight.shape, eps=eps)  # torch's computes 16-bit input in fp32 and rounds it once


def _on_cuda(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    def kernel() -> Tensor:
        from seed_oss.ops.triton import norm

        return norm.rms_norm(x, weight, eps)

    key = ("rms_norm", x.shape[-1], x.dtype, weight.dtype)
    return take_over(x.device, key, kernel, lambda: rms_norm_of_torch(x, weight, eps))
