"""The matrix product of a linear layer, and a twin for processors without 16-bit products.

On x86 below AVX-512, torch multiplies several rows of bf16 or fp16 about eight times slower than fp32. There the twin
widens the weight a block of rows at a time, small enough to stay in cache, and multiplies in fp32; sums are then fp32
throughout, as they are in the 16-bit products of other processors. It has no backward: with gradients torch's own runs.
"""

import os
import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

HALF_DTYPES = (torch.bfloat16, torch.float16)
MIN_ROWS = 4  # below, torch's 16-bit matrix-vector product reads half the bytes and wins
BLOCK_ELEMENTS = 1 << 18  # 1 MiB of fp32 weight at a time


@cache
def widening_helps() -> bool:
    """Whether this processor has no fast 16-bit products (and `SEED_OSS_OPS=reference` is not set)."""
    if os.environ.get("SEED_OSS_OPS") == "reference" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    return not torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "AMX"))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`.

    Args:
        x: `[..., in_features]`.
        weight: `[out_features, in_features]`.
        bias: `[out_features]` or None.

    Returns:
        `[..., out_features]`.
    """
    if x.dtype in HALF_DTYPES and not torch.compiler.is_compiling() and _can_widen(x, weight) and widening_helps():
        return linear_widened(x, weight, bias)
    return F.linear(x, weight, bias)


def _can_widen(x: Tensor, weight: Tensor) -> bool:
    needs_graph = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    enough_rows = x.numel() >= MIN_ROWS * x.shape[-1]
    return enough_rows and x.device.type == "cpu" and x.dtype == weight.dtype and not needs_graph


def linear_widened(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Same as `linear`, in fp32 over blocks of `weight`'s rows; the result is rounded once to `x`'s dtype."""
    rows = x.reshape(-1, x.shape[-1]).float()
    out = torch.empty(rows.shape[0], weight.shape[0], dtype=x.dtype)
    block_len = max(64, BLOCK_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], block_len):
        block = slice(start, start + block_len)
        block_bias = None if bias is None else bias[block].float()
        out[:, block] = F.linear(rows, weight[block].float(), block_bias)
    return out.reshape(*x.shape[:-1], -1)
