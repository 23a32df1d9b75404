"""Grouped-query attention over given keys and values: a readable form, and torch's fused one.

Shapes throughout: query `[batch, heads, query_len, head_dim]`, key and value `[batch, kv_heads, kv_len, head_dim]`
with `heads` a multiple of `kv_heads`; query head h reads key/value head `h // (heads / kv_heads)`.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.ops.triton import take_over
from seed_oss.ops.triton.chunks import chunking

CHUNK_KEYS = 256  # keys whose softmax is one unit of the fixed order of attention; as in the native kernels
QUERY_TILE = 16  # queries of a product, always as many: the bits of a row depend on how many rows there are


def repeat_kv(x: Tensor, num_groups: int) -> Tensor:
    """`[batch, kv_heads, length, head_dim]` -> `[batch, kv_heads * num_groups, length, head_dim]`."""
    return x if num_groups == 1 else x.repeat_interleave(num_groups, dim=1)


def eager_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Attention as written in the paper, softmax in fp32.

    Args:
        query: `[batch, heads, query_len, head_dim]`.
        key: `[batch, kv_heads, kv_len, head_dim]`.
        value: same shape as `key`.
        mask: added to the scores, broadcastable to `[batch, heads, query_len, kv_len]`, or None.
        scaling: factor on the scores.
        dropout: probability of dropping an attention weight.

    Returns:
        `(output, weights)`: `[batch, heads, query_len, head_dim]` and `[batch, heads, query_len, kv_len]`.
    """
    num_groups = query.shape[1] // key.shape[1]
    scores = query @ repeat_kv(key, num_groups).transpose(2, 3) * scaling
    if mask is not None:
        scores = scores + mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=dropout > 0)
    return weights @ repeat_kv(value, num_groups), weights


def sdpa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """The same through `scaled_dot_product_attention`.

    Args:
        query: `[batch, heads, query_len, head_dim]`.
        key: `[batch, kv_heads, kv_len, head_dim]`.
        value: same shape as `key`.
        mask: boolean (True attends) or additive, broadcastable to `[batch, heads, query_len, kv_len]`, or None.
        scaling: factor on the scores.
        dropout: probability of dropping an attention weight.
        is_causal: causal without a mask; query i attends to keys 0..i.

    Returns:
        `[batch, heads, query_len, head_dim]`.
    """
    num_groups = query.shape[1] // key.shape[1]
    if num_groups > 1 and query.shape[2] == 1 and (mask is None or mask.shape[1] == 1):
        return _sdpa_one_query(query, key, value, mask, scaling, dropout)
    if is_causal and key.shape[2] > query.shape[2]:  # the empty tail of a fixed-size cache
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
    enable_gqa = num_groups > 1 and mask is None
    if num_groups > 1 and not enable_gqa:
        key, value = repeat_kv(key, num_groups), repeat_kv(value, num_groups)
    return F.scaled_dot_product_attention(
        query, key, value, mask, dropout, is_causal=is_causal, scale=scaling, enable_gqa=enable_gqa
    )


def _sdpa_one_query(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float
) -> Tensor:
    """One query token: the heads of a group become rows of one product, so keys and values are read once."""
    batch, heads, _, head_dim = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, head_dim)
    output = F.scaled_dot_product_attention(grouped, key, value, mask, dropout, scale=scaling)
    return output.reshape(batch, heads, 1, head_dim)


def attend_fixed_size(
    query: Tensor, key: Tensor, value: Tensor, length: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Attention of one token per row over the buffers of a fixed-size cache; on CUDA a kernel reads only what counts.

    Args:
        query: `[batch, heads, 1, head_dim]`, on CUDA, see `ops.triton.can_run`.
        key: `[batch, kv_heads, capacity, head_dim]`, the new token's written.
        value: same shape as `key`.
        length: int64 `[]`, tokens that count, without the new one.
        mask: boolean `[batch or 1, capacity]`, True attends; None attends to all tokens up to the new one.
        scaling: factor on the scores.

    Returns:
        `[batch, heads, 1, head_dim]`.
    """

    def kernel() -> Tensor:
        from seed_oss.ops.triton.attention import CachedKeys, decode_attention

        return decode_attention(query[:, :, 0], CachedKeys(key, value, length, 1, mask=mask), scaling)[:, :, None]

    heads, kv_heads, head_dim = query.shape[1], key.shape[1], key.shape[3]
    dtypes = query.dtype, key.dtype, None if mask is None else mask.dtype
    compiled_for = ("attention", heads, kv_heads, head_dim, *dtypes, *chunking(key.shape[2]))
    torch_form = partial(sdpa_fixed_size, query, key, value, length, mask, scaling)
    return take_over(query.device, compiled_for, kernel, torch_form)


def attend_pages(
    query: Tensor,
    cache: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    block_table: Tensor,
    lengths: Tensor,
    max_keys: int,
    torch_form: Callable[[], Tensor],
) -> Tensor:
    """Attention of one token per row over pages, by a kernel on CUDA.

    Args:
        query: rotated, `[rows, heads, head_dim]`, see `ops.triton.can_run`.
        cache: keys, values and their scales of one layer, see `ops.triton.attention.CachedKeys`.
        block_table: int32 `[rows, max_blocks]`.
        lengths: int32 `[rows]`, tokens of each row, the new one included.
        max_keys: most keys that a row of this cache can ever have: the order of sums depends on it alone.
        torch_form: computes the same.

    Returns:
        `[rows, heads, head_dim]`.
    """
    keys, values, key_scales, value_scales = cache

    def kernel() -> Tensor:
        from seed_oss.ops.triton.attention import CachedKeys, decode_attention

        cached = CachedKeys(keys, values, lengths, 0, block_table, None, key_scales, value_scales, max_keys)
        return decode_attention(query, cached, query.shape[2] ** -0.5)

    shape, dtypes = (query.shape[1], keys.shape[1], query.shape[2]), (query.dtype, keys.dtype)
    return take_over(query.device, ("pages", *shape, *dtypes, *chunking(max_keys)), kernel, torch_form)


def sdpa_fixed_size(
    query: Tensor, key: Tensor, value: Tensor, length: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """The readable form of `attend_fixed_size`."""
    seen = torch.arange(key.shape[2], device=key.device) <= length
    allowed = seen[None] if mask is None else mask & seen
    return sdpa_attention(query, key, value, allowed[:, None, None], scaling)


def attend_chunks(query: Tensor, position: int, chunks: Iterable[tuple[Tensor, Tensor]], scaling: float) -> Tensor:
    """Causal attention over chunks of keys, combined in their order: equal bits however queries are cut into tiles.

    The softmax of a row is kept as a sum of values, its maximum and its sum of weights (Milakov and Gimelshein 2018,
    arXiv:1805.02867). A chunk of which a row sees nothing leaves its sums as they are.

    Args:
        query: rotated, `[heads, QUERY_TILE, head_dim]`.
        position: of the first query; it sees the keys up to this one.
        chunks: pairs of keys and values, fp32 `[kv_heads, CHUNK_KEYS, head_dim]`, from the first key on.
        scaling: factor on the scores.

    Returns:
        fp32 `[heads, QUERY_TILE, head_dim]`.
    """
    heads, tile, head_dim = query.shape
    lowest = torch.finfo(torch.float32).min
    positions = position + torch.arange(tile, device=query.device).repeat(heads)
    total, top, weight = query.new_zeros(()).float(), query.new_full((), lowest).float(), query.new_zeros(()).float()
    for index, (key, value) in enumerate(chunks):
        rows = (query.float() * scaling).reshape(key.shape[0], -1, head_dim)
        key_positions = index * CHUNK_KEYS + torch.arange(CHUNK_KEYS, device=query.device)
        unseen = key_positions > positions.view(key.shape[0], -1, 1)
        scores = (rows @ key.transpose(1, 2)).masked_fill(unseen, -torch.inf)
        own_top = scores.amax(-1, keepdim=True).clamp(min=lowest)
        weights = (scores - own_top).exp()
        new_top = torch.maximum(top, own_top)
        old_share, new_share = (top - new_top).exp(), (own_top - new_top).exp()
        total = total * old_share + (weights @ value) * new_share
        weight = weight * old_share + weights.sum(-1, keepdim=True) * new_share
        top = new_top
    return (total / weight).reshape(heads, tile, head_dim)
