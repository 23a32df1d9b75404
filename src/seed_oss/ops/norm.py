"""Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`weight * x / rms(x)`, normalised in fp32 and rounded to the input dtype before the weight is applied.

    Args:
        x: `[..., hidden_size]`.
        weight: `[hidden_size]`.
        eps: added to the mean square.

    Returns:
        Same shape as `x`; dtype as torch promotes `x` and `weight`.
    """
    return weight * F.rms_norm(x, weight.shape, eps=eps)  # torch's computes 16-bit input in fp32 and rounds it once
