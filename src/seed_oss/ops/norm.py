"""Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.ops.native import library
from seed_oss.ops.recording import is_recorded
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


def rms_norm_rows(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Same as `rms_norm`, natively for fp32 on the CPU and without a gradient; a row's bits do not depend on others.

    It is the op `seed_oss::rms_norm` while something records, and a direct call otherwise, see ops.recording.
    """
    return torch.ops.seed_oss.rms_norm(x, weight, eps) if is_recorded() else _rms_norm_rows(x, weight, eps)


def _rms_norm_rows(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    native = library()
    if native is None or not _is_plain(x, weight):
        return rms_norm_of_torch(x, weight, eps)
    x, weight = x.contiguous(), weight.contiguous()
    out, cols = torch.empty_like(x), x.shape[-1]
    native.so_rms_norm(x.data_ptr(), weight.data_ptr(), eps, x.numel() // cols, cols, out.data_ptr())
    return out


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    is_float = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return is_float and weight.shape == x.shape[-1:] and x.numel() > 0


@torch.library.custom_op("seed_oss::rms_norm", mutates_args=())
def _rms_norm_op(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _rms_norm_rows(x, weight, eps).contiguous()


@_rms_norm_op.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.result_type(x, weight))


@torch.library.custom_op("seed_oss::add_rms_norm", mutates_args=())
def add_rms_norm(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The residual sum and its norm, natively for fp32 on the CPU.

    Args:
        x: `[..., hidden_size]`.
        added: same shape and dtype.
        weight: `[hidden_size]`.
        eps: added to the mean square.

    Returns:
        `x + added`, and `rms_norm` of it.

    Raises:
        InputError: shapes or dtypes differ.
    """
    if x.shape != added.shape or x.dtype != added.dtype or x.device != added.device or weight.shape != x.shape[-1:]:
        raise InputError(f"x is {x.dtype} {list(x.shape)} and added {added.dtype} {list(added.shape)}; make them equal")
    native = library()
    if native is None or not _is_plain(x, weight):
        return add_rms_norm_reference(x, added, weight, eps)
    total, added, weight = x.clone(memory_format=torch.contiguous_format), added.contiguous(), weight.contiguous()
    out, cols = torch.empty_like(total), x.shape[-1]
    pointers = total.data_ptr(), added.data_ptr(), weight.data_ptr()
    native.so_add_rms_norm(*pointers, eps, x.numel() // cols, cols, out.data_ptr())
    return total, out


@add_rms_norm.register_fake
def _(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=torch.result_type(x, weight))


def add_rms_norm_reference(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The readable form of `add_rms_norm`."""
    total = (x + added).contiguous()
    return total, rms_norm_of_torch(total, weight, eps)
