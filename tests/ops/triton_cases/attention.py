"""Decoding attention over pages and fixed buffers against SDPA over the same keys in one piece."""

import pytest
import torch
from torch import Tensor

from seed_oss.cache.quantized_layer import rounded
from seed_oss.errors import InputError
from seed_oss.ops.attention import attend_fixed_size, sdpa_attention, sdpa_fixed_size
from seed_oss.ops.triton.attention import CachedKeys, decode_attention
from seed_oss.ops.triton.chunks import MAX_CHUNKS, chunk_len, chunking

RELATIVE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
SCALING = 0.21


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def pages(batch: int, kv_heads: int, page_len: int, head_dim: int, max_pages: int, dtype: torch.dtype) -> CachedKeys:
    """Random pages in random order, some of them nobody's."""
    shape = (batch * max_pages + 3, kv_heads, page_len, head_dim)
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(1))[: batch * max_pages]
    lengths = torch.full((batch,), max_pages * page_len, dtype=torch.int32)
    table = order.view(batch, max_pages).int()
    return CachedKeys(normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=4), lengths, block_table=table)


def row_of(cached: CachedKeys, tensor: Tensor, row: int) -> Tensor:
    """`[1, kv_heads, length, ...]` of one row, in one piece."""
    chosen = [row] if cached.block_table is None else cached.block_table[row].long()
    length = int(cached.lengths.expand(row + 1)[row] if cached.lengths.dim() == 0 else cached.lengths[row])
    return tensor[chosen].transpose(0, 1).flatten(1, 2)[None, :, : length + cached.num_more]


def expected(query: Tensor, cached: CachedKeys) -> Tensor:
    """`[batch, heads, head_dim]` in fp32."""
    rows = []
    for row in range(query.shape[0]):
        keys, values = (row_of(cached, one, row).float() for one in (cached.keys, cached.values))
        if cached.key_scales is not None and cached.value_scales is not None:
            keys = keys * row_of(cached, cached.key_scales, row)[..., None]
            values = values * row_of(cached, cached.value_scales, row)[..., None]
        mask = None
        if cached.mask is not None:
            mask = cached.mask.expand(query.shape[0], -1)[row][None, None, None, : keys.shape[2]]
        rows.append(sdpa_attention(query[row][None, :, None].float(), keys, values, mask, SCALING)[0, :, 0])
    return torch.stack(rows)


def is_close(out: Tensor, wanted: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    return bool((out.float() - wanted).abs().max() <= RELATIVE[dtype] * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("dtype", list(RELATIVE))
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page_len", "max_pages", "lengths"),
    [
        (4, 4, 16, 16, 3, [1, 48]),
        (10, 1, 24, 16, 40, [255, 256, 257, 640]),
        (20, 2, 128, 7, 11, [6, 7, 8]),
        (40, 2, 80, 1, 70, [63, 64, 65]),
    ],
)
def test_pages(
    dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, page_len: int, max_pages: int, lengths: list[int]
) -> None:
    cached = pages(len(lengths), kv_heads, page_len, head_dim, max_pages, dtype)
    cached.lengths.copy_(torch.tensor(lengths))
    query = normal(len(lengths), heads, head_dim, dtype=dtype)
    out = decode_attention(query, cached, SCALING)
    assert out.dtype == dtype
    assert is_close(out, expected(query, cached), dtype)


@pytest.mark.parametrize("dtype", list(RELATIVE))
def test_integers_with_scales(dtype: torch.dtype) -> None:
    plain = pages(2, 2, 16, 32, 5, torch.float32)
    (keys, key_scales), (values, value_scales) = rounded(plain.keys), rounded(plain.values)
    lengths = torch.tensor([33, 80])
    cached = CachedKeys(keys, values, lengths, 0, plain.block_table, None, key_scales, value_scales)
    query = normal(2, 6, 32, dtype=dtype)
    assert is_close(decode_attention(query, cached, SCALING), expected(query, cached), dtype)


@pytest.mark.parametrize("capacity", [1, 300, 700])
def test_fixed_buffers_with_a_mask_and_one_length(capacity: int) -> None:
    keys, values = normal(2, 2, capacity, 16), normal(2, 2, capacity, 16, seed=4)
    mask = torch.rand(2, capacity, generator=torch.Generator().manual_seed(2)) < 0.7
    mask[:, 0] = True
    query = normal(2, 4, 16)
    length = torch.tensor(capacity - 1 if capacity < 300 else capacity // 2)
    for one in (None, mask, mask[:1]):
        cached = CachedKeys(keys, values, length, 1, mask=one)
        for form in (attend_fixed_size, sdpa_fixed_size):
            out = form(query[:, :, None], keys, values, length, one, SCALING)[:, :, 0]
            assert is_close(out, expected(query, cached))


def test_nothing_to_attend_to_gives_zero() -> None:
    keys = normal(2, 2, 300, 16)
    mask = torch.ones(2, 300, dtype=torch.bool)
    mask[0] = False
    cached = CachedKeys(keys, keys, torch.tensor(300), mask=mask)
    out = decode_attention(normal(2, 4, 16), cached, SCALING)
    assert torch.equal(out[0], torch.zeros(4, 16))
    assert out[1].isfinite().all()


def test_a_tile_without_a_key_before_one_with() -> None:
    """Left padding longer than a tile and a chunk."""
    keys, query = normal(1, 1, 600, 16), normal(1, 2, 16)
    mask = torch.arange(600)[None] >= 400
    cached = CachedKeys(keys, keys, torch.tensor(600), mask=mask)
    assert is_close(decode_attention(query, cached, SCALING), expected(query, cached))


def test_nan_comes_out_where_it_counts_and_not_from_what_does_not() -> None:
    keys, values = normal(2, 1, 64, 16), normal(2, 1, 64, 16, seed=4)
    keys[0, 0, 10], values[0, 0, 40], keys[1, 0, 40] = float("nan"), float("nan"), float("nan")
    cached = CachedKeys(keys, values, torch.tensor([20, 20]))
    out = decode_attention(normal(2, 2, 16), cached, SCALING)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


def test_a_row_has_the_same_bits_in_any_batch() -> None:
    cached, query = pages(3, 2, 16, 32, 20, torch.float32), normal(3, 4, 32)
    cached.lengths.copy_(torch.tensor([5, 320, 270]))
    whole = decode_attention(query, cached, SCALING)
    assert cached.block_table is not None
    for row in range(3):
        one = CachedKeys(
            cached.keys, cached.values, cached.lengths[row : row + 1], 0, cached.block_table[row : row + 1]
        )
        assert torch.equal(decode_attention(query[row : row + 1], one, SCALING)[0], whole[row])


def test_chunks_stay_few() -> None:
    assert chunk_len(1) == chunk_len(64 * 256) == 256
    for capacity in (16385, 100_000, 524_288):
        assert -(-capacity // chunk_len(capacity)) <= MAX_CHUNKS
    assert chunking(1) == (256, 1)
    assert chunking(700) == chunking(1024) == (256, 4)


def test_what_does_not_fit() -> None:
    keys, query, length = normal(2, 2, 8, 16), normal(2, 4, 16), torch.tensor(3)
    wrong = {
        "heads or head_dim": (normal(2, 3, 16), CachedKeys(keys, keys, length)),
        "strides of keys": (query, CachedKeys(keys, keys.transpose(1, 2).contiguous().transpose(1, 2), length)),
        "key_scales": (query, CachedKeys(keys.to(torch.int8), keys.to(torch.int8), length)),
        "as many pages": (normal(3, 4, 16), CachedKeys(keys, keys, length)),
        "lengths are": (query, CachedKeys(keys, keys, torch.tensor([1, 2, 3]))),
        "the mask is": (query, CachedKeys(keys, keys, length, mask=torch.ones(2, 7, dtype=torch.bool))),
    }
    for message, (queries, cached) in wrong.items():
        with pytest.raises(InputError, match=message):
            decode_attention(queries, cached, SCALING)
