"""The matrix product of a linear layer, with twins for processors that torch's own product does not use well.

A few rows of bfloat16: torch reads the weight at half the speed that memory has, the native kernels at nearly all of
it. They add up in fp32 and round once.

Half precision on x86 below AVX-512: torch multiplies several rows about eight times slower than in fp32. The twin
widens the weight a block of rows at a time, small enough to stay in cache, and multiplies in fp32; sums are then fp32
throughout, as they are in the 16-bit products of other processors. For one row torch's matrix-vector product is good
and only has to be asked for by name: on the way from `F.linear` to it there are a few microseconds to save.

One row of fp32: the matrix-vector product of MKL may run on a single thread (it does on AMD). The twin cuts the weight
into one part per thread and asks for a batch of products.

None has a backward: with gradients torch's own product runs.
"""

import os
import platform
from ctypes import byref
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.ops.native import library, num_threads
from seed_oss.ops.native.structs import BFLOAT16, FLOAT32, WeightStruct
from seed_oss.ops.recording import is_recorded, wants_graph
from seed_oss.ops.rows import in_slabs

HALF_DTYPES = (torch.bfloat16, torch.float16)
MIN_ROWS = 4  # below, torch's 16-bit matrix-vector product reads half the bytes and wins
BLOCK_ELEMENTS = 1 << 18  # 1 MiB of fp32 weight at a time
MIN_SPLIT_ELEMENTS = 1 << 17  # below, waking the other threads costs more than they save
MAX_NATIVE_ROWS = 8  # beyond, torch's products are faster
_NATIVE_KINDS = {torch.bfloat16: BFLOAT16, torch.float32: FLOAT32}


@cache
def half_needs_help() -> bool:
    """Whether this processor has no fast 16-bit products (and `SEED_OSS_OPS=reference` is not set)."""
    if os.environ.get("SEED_OSS_OPS") == "reference" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    return not torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "AMX"))


@cache
def one_row_needs_help() -> bool:
    """Whether torch multiplies with MKL, whose batches run in parallel (and `SEED_OSS_OPS=reference` is not set)."""
    return os.environ.get("SEED_OSS_OPS") != "reference" and torch.backends.mkl.is_available()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`.

    Args:
        x: `[..., in_features]`.
        weight: `[out_features, in_features]`.
        bias: `[out_features]` or None.

    Returns:
        `[..., out_features]`.
    """
    if x.device.type != "cpu" or x.dtype != weight.dtype or is_recorded() or wants_graph(x, weight):
        return F.linear(x, weight, bias)  # compilers know it, and how to pack its weight
    num_rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    is_one_row = num_rows == 1
    if x.dtype == torch.bfloat16 and 0 < num_rows <= MAX_NATIVE_ROWS and _can_be_native(weight):
        return linear_native(x, weight, bias)
    if x.dtype in HALF_DTYPES:
        if is_one_row and half_needs_help():
            return linear_vector(x, weight, bias)
        if num_rows >= MIN_ROWS and half_needs_help():
            return linear_widened(x, weight, bias)
    elif is_one_row and one_row_needs_help():
        return linear_split(x, weight, bias)
    return F.linear(x, weight, bias)


def _can_be_native(weight: Tensor) -> bool:
    return weight.numel() >= MIN_SPLIT_ELEMENTS and weight.is_contiguous() and library() is not None


def batch_invariant_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Same as `linear`; the bits of a row depend neither on how many rows there are nor on the number of threads.

    Natively for any number of rows of float32 or bfloat16 on the CPU; elsewhere 16 rows at a time, see ops.rows.

    Args:
        x: `[rows, in_features]`.
        weight: `[out_features, in_features]`.
        bias: `[out_features]` or None.

    Returns:
        `[rows, out_features]`.
    """
    is_known = weight.dtype in _NATIVE_KINDS and x.dtype == weight.dtype and x.device.type == "cpu"
    if not is_known or wants_graph(x, weight) or not weight.is_contiguous() or library() is None:
        return in_slabs(lambda rows: F.linear(rows, weight, bias), x)
    return linear_native(x, weight, bias)


def linear_native(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Same as `linear` for rows of bfloat16 or float32, in fp32; the result is rounded once."""
    rows = x.reshape(-1, x.shape[-1]).float().contiguous()
    out = torch.empty(rows.shape[0], weight.shape[0], dtype=torch.float32, device="cpu")
    wide_bias = None if bias is None else bias.detach().float().contiguous()
    pointer = None if wide_bias is None else wide_bias.data_ptr()
    struct = WeightStruct(weight.data_ptr(), pointer, *weight.shape, _NATIVE_KINDS[weight.dtype], 0, 0, 0)
    native = library()
    assert native is not None
    native.so_linear(byref(struct), rows.data_ptr(), rows.shape[0], out.data_ptr(), num_threads())
    return out.to(x.dtype).view(*x.shape[:-1], -1)


def linear_widened(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Same as `linear`, in fp32 over blocks of `weight`'s rows; the result is rounded once to `x`'s dtype."""
    rows = x.reshape(-1, x.shape[-1]).float()
    out = torch.empty(rows.shape[0], weight.shape[0], dtype=x.dtype, device="cpu")
    block_len = max(64, BLOCK_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], block_len):
        block = slice(start, start + block_len)
        block_bias = None if bias is None else bias[block].float()
        out[:, block] = F.linear(rows, weight[block].float(), block_bias)
    return out.reshape(*x.shape[:-1], -1)


def linear_vector(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Same as `linear` for a single row, as a matrix-vector product."""
    vector = x.reshape(-1)
    out = torch.mv(weight, vector) if bias is None else torch.addmv(bias, weight, vector)
    return out.view(*x.shape[:-1], -1)


def linear_split(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Same as `linear` for a single row, the outputs shared out among the threads where they divide evenly."""
    num_outputs, num_parts = weight.shape[0], torch.get_num_threads()
    is_small = weight.numel() < MIN_SPLIT_ELEMENTS
    if num_parts == 1 or is_small or num_outputs % num_parts or not weight.is_contiguous():
        return F.linear(x, weight, bias)
    parts = weight.view(num_parts, num_outputs // num_parts, -1).transpose(1, 2)
    out = torch.bmm(x.reshape(1, 1, -1).expand(num_parts, -1, -1), parts).view(*x.shape[:-1], num_outputs)
    return out if bias is None else out + bias


@torch.library.custom_op("seed_oss::linear_rows", mutates_args=())
def _linear_op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Natively for up to MAX_NATIVE_ROWS rows of bfloat16 or float32 on the CPU; torch's product beyond."""
    if weight.dim() != 2 or x.shape[-1:] != weight.shape[1:] or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = f"{list(x.shape)}, {list(weight.shape)}" + ("" if bias is None else f" and {list(bias.shape)}")
        raise InputError(f"x, weight and bias are {shapes}; give [..., columns], [rows, columns] and [rows]")
    is_known = (
        weight.dtype in _NATIVE_KINDS and x.dtype == weight.dtype and x.device == weight.device == torch.device("cpu")
    )
    is_few = 0 < x.numel() <= MAX_NATIVE_ROWS * x.shape[-1]
    if is_known and is_few and weight.is_contiguous() and library() is not None:
        return linear_native(x, weight, bias)
    return F.linear(x, weight, bias).contiguous()


@_linear_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
