"""Rotation of queries and keys in one kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seed_oss.ops.triton.launch import Launch, power_of_two


@triton.jit
def _rotate(place, out, cos_ptr, sin_ptr, HALF: tl.constexpr, PADDED: tl.constexpr):
    """One head of one token: (x1, x2) becomes (x1 cos - x2 sin, x2 cos + x1 sin)."""
    first = tl.arange(0, PADDED)
    inside = first < HALF
    second = first + HALF
    x1 = tl.load(place + first, mask=inside, other=0.0)
    x2 = tl.load(place + second, mask=inside, other=0.0).to(tl.float32)
    cos1 = tl.load(cos_ptr + first, mask=inside, other=0.0).to(tl.float32)
    cos2 = tl.load(cos_ptr + second, mask=inside, other=0.0).to(tl.float32)
    sin1 = tl.load(sin_ptr + first, mask=inside, other=0.0).to(tl.float32)
    sin2 = tl.load(sin_ptr + second, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + first, x1.to(tl.float32) * cos1 - x2 * sin1, mask=inside)
    tl.store(out + second, x2 * cos2 + x1.to(tl.float32) * sin2, mask=inside)


@triton.jit(do_not_specialize=["length", "cos_batch_stride"])
def rotate_kernel(
    query_ptr,
    key_ptr,
    query_out_ptr,
    key_out_ptr,
    cos_ptr,
    sin_ptr,
    length,
    cos_batch_stride,
    query_batch_stride,
    query_head_stride,
    query_stride,
    key_batch_stride,
    key_head_stride,
    key_stride,
    query_out_batch_stride,
    query_out_head_stride,
    query_out_stride,
    key_out_batch_stride,
    key_out_head_stride,
    key_out_stride,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Programs (token, head), query heads first."""
    batch, position = (tl.program_id(0) // length).to(tl.int64), tl.program_id(0) % length
    head = tl.program_id(1)
    angle = batch * cos_batch_stride + position * (2 * HALF)
    if head < HEADS:
        place = batch * query_batch_stride + head * query_head_stride + position * query_stride
        out = batch * query_out_batch_stride + head * query_out_head_stride + position * query_out_stride
        _rotate(query_ptr + place, query_out_ptr + out, cos_ptr + angle, sin_ptr + angle, HALF, PADDED)
    else:
        head -= HEADS
        place = batch * key_batch_stride + head * key_head_stride + position * key_stride
        out = batch * key_out_batch_stride + head * key_out_head_stride + position * key_out_stride
        _rotate(key_ptr + place, key_out_ptr + out, cos_ptr + angle, sin_ptr + angle, HALF, PADDED)


def rotate_launch(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, query_out: Tensor, key_out: Tensor) -> Launch:
    """What `rotate` runs; head_dim last and contiguous in each tensor."""
    batch, heads, length, head_dim = query.shape
    tensors = {"query": query, "key": key, "query_out": query_out, "key_out": key_out}
    strides: dict[str, int] = {}
    for name, tensor in tensors.items():
        strides[f"{name}_batch_stride"] = tensor.stride(0)
        strides[f"{name}_head_stride"] = tensor.stride(1)
        strides[f"{name}_stride"] = tensor.stride(2)
    arguments = {f"{name}_ptr": tensor for name, tensor in tensors.items()}
    more = {"length": length, "cos_batch_stride": 0 if cos.shape[0] == 1 else cos.stride(0)}
    constants = {"HEADS": heads, "HALF": head_dim // 2, "PADDED": power_of_two(head_dim // 2)}
    return Launch(
        rotate_kernel,
        (batch * length, heads + key.shape[1]),
        {**arguments, "cos_ptr": cos, "sin_ptr": sin, **strides, **more},
        constants,
        num_warps=1,
    )


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *, in_place: bool = False) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys, in fp32 and rounded once.

    Args:
        query: `[batch, heads, length, head_dim]`, floating.
        key: `[batch, kv_heads, length, head_dim]`.
        cos: `[batch or 1, length, head_dim]`.
        sin: same shape.
        in_place: write into `query` and `key`, whose head_dim must be contiguous.

    Returns:
        Rotated queries and keys, same shapes.
    """
    if query.stride(3) != 1 or key.stride(3) != 1:
        assert not in_place
        query, key = query.contiguous(), key.contiguous()
    query_out, key_out = (query, key) if in_place else (torch.empty_like(query), torch.empty_like(key))
    if query.numel():
        rotate_launch(query, key, cos.contiguous(), sin.contiguous(), query_out, key_out).run()
    return query_out, key_out
