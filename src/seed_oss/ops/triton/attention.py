"""Attention of one new token per row over cached keys and values, in pages or in one piece per row.

The keys of a row are cut into chunks of fixed length, each attended to by a program of its own; a second kernel adds
the chunks up in order. How they are cut depends on the capacity of the cache alone, so a row's sums have one order
whatever the batch around it. Source of the rescaled sums: Milakov and Gimelshein 2018, arXiv:1805.02867.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.ops.triton.chunks import chunking
from seed_oss.ops.triton.gate import is_interpreted
from seed_oss.ops.triton.launch import Launch, blocks_of, power_of_two

TILE_BYTES = (
    128  # of a dtype's numbers: 64 keys in 16 bits, 32 in fp32, so that tiles fit the memory of a multiprocessor
)
_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True)
class CachedKeys:
    """Keys and values of one layer, and where each row's are.

    Attributes:
        keys: `[pages, kv_heads, page_len, head_dim]`, rotated; floating, or int8 with scales.
        values: same shape and strides.
        lengths: int32 or int64 `[batch]` or `[]`, tokens that count in each row.
        num_more: added to every length: tokens that are written and do not count yet.
        block_table: int32 `[batch, max_pages]`, the pages of each row in order; None: row b has page b alone.
        mask: boolean `[batch or 1, capacity]`, True attends; None attends to all that count.
        key_scales, value_scales: fp32 `[pages, kv_heads, page_len]` where keys and values are int8, else None.
        max_keys: most keys that a row of this cache can ever have, by which keys are cut into chunks; where it is less
            than what the block table has room for, that counts.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    num_more: int = 0
    block_table: Tensor | None = None
    mask: Tensor | None = None
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None
    max_keys: int = 0

    @property
    def capacity(self) -> int:
        """Most keys that a row can have."""
        max_pages = 1 if self.block_table is None else self.block_table.shape[1]
        return max_pages * self.keys.shape[2]

    def check(self, query: Tensor) -> None:
        """Raise unless shapes fit.

        Raises:
            InputError: they do not.
        """
        batch, heads, head_dim = query.shape
        keys, table = self.keys, self.block_table
        if keys.dim() != 4 or keys.shape[3] != head_dim or heads % keys.shape[1]:
            raise InputError(f"queries are {list(query.shape)} and keys {list(keys.shape)}; heads or head_dim misfit")
        if self.values.shape != keys.shape or self.values.stride() != keys.stride() or keys.stride(3) != 1:
            raise InputError("values must have the shape and the strides of keys, and head_dim must be the last")
        if (keys.dtype == torch.int8) != (self.key_scales is not None and self.value_scales is not None):
            raise InputError(f"keys are {keys.dtype}; int8 ones, and no others, need key_scales and value_scales")
        if keys.shape[0] < batch if table is None else (table.shape[0] != batch or table.stride(1) != 1):
            raise InputError(f"a batch of {batch} rows needs as many pages, or a block_table [batch, max_pages]")
        if self.lengths.dim() > 1 or self.lengths.numel() not in (1, batch):
            raise InputError(f"lengths are {list(self.lengths.shape)}; they must be [{batch}] or []")
        if self.mask is not None and (self.mask.shape[1] != self.capacity or self.mask.shape[0] not in (1, batch)):
            raise InputError(f"the mask is {list(self.mask.shape)}; it must be [{batch} or 1, {self.capacity}]")


_SIZES = ["num_more", "page_len", "table_stride", "mask_stride"]


@triton.jit(do_not_specialize=_SIZES)
def attend_kernel(
    query_ptr,
    keys_ptr,
    values_ptr,
    lengths_ptr,
    table_ptr,
    mask_ptr,
    key_scales_ptr,
    value_scales_ptr,
    sums_ptr,
    best_ptr,
    totals_ptr,
    scaling,
    num_more,
    page_len,
    length_stride,
    table_stride,
    mask_stride,
    query_batch_stride,
    query_head_stride,
    page_stride,
    head_stride,
    slot_stride,
    scale_page_stride,
    scale_head_stride,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Programs (batch, kv head, chunk); the query heads of a group are the rows of one product."""
    batch, kv_head, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_chunks = tl.num_programs(2)
    length = tl.load(lengths_ptr + batch * length_stride).to(tl.int32) + num_more
    if chunk * CHUNK < length:
        rows, dims, slots = tl.arange(0, ROWS), tl.arange(0, DIMS), tl.arange(0, TILE)
        head = kv_head * GROUP + rows
        place = query_ptr + batch * query_batch_stride + head[:, None] * query_head_stride + dims[None, :]
        query = tl.load(place, mask=(rows < GROUP)[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
        best = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        sums = tl.zeros((ROWS, DIMS), tl.float32)
        for step in range(CHUNK // TILE):
            position = chunk * CHUNK + step * TILE + slots
            counts = position < length
            if table_ptr is None:
                page, slot = batch.to(tl.int64), position
            else:
                entry = table_ptr + batch * table_stride + position // page_len
                page, slot = tl.load(entry, mask=counts, other=0).to(tl.int64), position % page_len
            inside = counts[:, None] & (dims < HEAD_DIM)[None, :]
            offset = (page * page_stride + kv_head * head_stride + slot * slot_stride)[:, None] + dims[None, :]
            scale = page * scale_page_stride + kv_head * scale_head_stride + slot
            key = tl.load(keys_ptr + offset, mask=inside, other=0).to(tl.float32).to(query.dtype)
            scores = tl.dot(query.to(COMPUTE), tl.trans(key.to(COMPUTE)), input_precision="ieee") * scaling
            if key_scales_ptr is not None:
                scores *= tl.load(key_scales_ptr + scale, mask=counts, other=0.0)[None, :]
            if mask_ptr is not None:
                counts = counts & (tl.load(mask_ptr + batch * mask_stride + position, mask=counts, other=0) != 0)
            scores = tl.where(counts[None, :], scores, float("-inf"))
            new_best = tl.maximum(best, tl.max(scores, 1))
            base = tl.where(new_best == float("-inf"), 0.0, new_best)  # nothing to attend to yet
            weights = tl.exp(scores - base[:, None])
            rescale = tl.exp(best - base)
            total = total * rescale + tl.sum(weights, 1)
            best = new_best
            if value_scales_ptr is not None:
                weights *= tl.load(value_scales_ptr + scale, mask=counts, other=0.0)[None, :]
            value = tl.load(values_ptr + offset, mask=inside & counts[:, None], other=0)
            value = value.to(tl.float32).to(query.dtype)  # integers by way of fp32: the interpreter knows no other
            weights = weights.to(query.dtype).to(COMPUTE)
            sums = tl.dot(weights, value.to(COMPUTE), sums * rescale[:, None], input_precision="ieee")
        part = (batch * tl.num_programs(1) * GROUP + head) * num_chunks + chunk
        tl.store(best_ptr + part, best, mask=rows < GROUP)
        tl.store(totals_ptr + part, total, mask=rows < GROUP)
        inside = (rows < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
        tl.store(sums_ptr + part[:, None].to(tl.int64) * HEAD_DIM + dims[None, :], sums, mask=inside)


@triton.jit(do_not_specialize=["num_more", "num_chunks"])
def combine_kernel(
    sums_ptr,
    best_ptr,
    totals_ptr,
    lengths_ptr,
    out_ptr,
    num_more,
    length_stride,
    num_chunks,
    CHUNK: tl.constexpr,
    PADDED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
):
    """Programs (batch, head): what the chunks came to."""
    batch, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths_ptr + batch * length_stride).to(tl.int32) + num_more
    row = (batch * tl.num_programs(1) + head).to(tl.int64)
    chunks, dims = tl.arange(0, PADDED), tl.arange(0, DIMS)
    is_there = (chunks < num_chunks) & (chunks * CHUNK < length)
    best = tl.load(best_ptr + row * num_chunks + chunks, mask=is_there, other=float("-inf"))
    totals = tl.load(totals_ptr + row * num_chunks + chunks, mask=is_there, other=0.0)
    inside = is_there[:, None] & (dims < HEAD_DIM)[None, :]
    sums = tl.load(sums_ptr + (row * num_chunks + chunks[:, None]) * HEAD_DIM + dims[None, :], mask=inside, other=0.0)
    highest = tl.max(best, 0)
    weights = tl.exp(best - tl.where(highest == float("-inf"), 0.0, highest))
    total = tl.sum(weights * totals, 0)
    attended = tl.sum(weights[:, None] * sums, 0)
    attended = tl.where(total == 0.0, 0.0, attended / tl.where(total == 0.0, 1.0, total))
    tl.store(out_ptr + row * HEAD_DIM + dims, attended, mask=dims < HEAD_DIM)


def attention_launches(query: Tensor, cached: CachedKeys, scaling: float, out: Tensor) -> list[Launch]:
    """What `decode_attention` runs; `query` and `out` `[batch, heads, head_dim]`."""
    batch, heads, head_dim = query.shape
    keys, scales, table, mask = cached.keys, cached.key_scales, cached.block_table, cached.mask
    group, (chunk, padded) = heads // keys.shape[1], chunking(max(cached.capacity, cached.max_keys))
    num_chunks = blocks_of(cached.capacity, chunk)
    sums = torch.empty(batch, heads, num_chunks, head_dim, dtype=torch.float32, device=query.device)
    best, totals = torch.empty_like(sums[..., 0]), torch.empty_like(sums[..., 0])
    rows = {"lengths_ptr": cached.lengths, "num_more": cached.num_more}
    rows["length_stride"] = 0 if cached.lengths.numel() == 1 else cached.lengths.stride(0)
    parts = {"sums_ptr": sums, "best_ptr": best, "totals_ptr": totals}
    dims = {"HEAD_DIM": head_dim, "DIMS": max(power_of_two(head_dim), 16), "CHUNK": chunk}
    arguments = {
        **{"query_ptr": query, "keys_ptr": keys, "values_ptr": cached.values, "table_ptr": table, "mask_ptr": mask},
        **{"key_scales_ptr": scales, "value_scales_ptr": cached.value_scales, **parts, **rows},
        "scaling": scaling,
        "page_len": keys.shape[2],
        "table_stride": 0 if table is None else table.stride(0),
        "mask_stride": 0 if mask is None or mask.shape[0] == 1 else mask.stride(0),
        "query_batch_stride": query.stride(0),
        "query_head_stride": query.stride(1),
        "page_stride": keys.stride(0),
        "head_stride": keys.stride(1),
        "slot_stride": keys.stride(2),
        "scale_page_stride": 0 if scales is None else scales.stride(0),
        "scale_head_stride": 0 if scales is None else scales.stride(1),
    }
    constants = {
        **dims,
        "GROUP": group,
        "ROWS": max(power_of_two(group), 16),
        "TILE": TILE_BYTES // query.dtype.itemsize,
    }
    compute = {"COMPUTE": tl.float32 if is_interpreted() else _TYPES[query.dtype]}
    counted = {**parts, **rows, "num_chunks": num_chunks, "out_ptr": out}
    return [
        Launch(attend_kernel, (batch, keys.shape[1], num_chunks), arguments, constants | compute, num_stages=2),
        Launch(combine_kernel, (batch, heads), counted, {**dims, "PADDED": padded}),
    ]


def decode_attention(query: Tensor, cached: CachedKeys, scaling: float) -> Tensor:
    """Attention of one token per row.

    Args:
        query: `[batch, heads, head_dim]`, rotated, floating; heads a multiple of kv_heads.
        cached: keys and values.
        scaling: factor on the scores.

    Returns:
        `[batch, heads, head_dim]`; 0 for a row that has nothing to attend to.

    Raises:
        InputError: shapes do not fit each other.
    """
    if query.stride(2) != 1:
        query = query.contiguous()
    cached.check(query)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    for launch in attention_launches(query, cached, scaling, out):
        launch.run()
    return out
