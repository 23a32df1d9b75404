"""Rotation, cache and attention of a decoder layer's new tokens as torch library ops, natively on the CPU.

A cache is `[num_blocks, kv_heads, block_len, head_dim]` of bfloat16, float32, or int8 with a scale per token and head:
pages, or a contiguous cache, which has one block for each row of its batch. The bits are those of the fused layers.
"""

import ctypes
from array import array

import torch
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.ops.attention import eager_attention
from seed_oss.ops.native import library, num_threads
from seed_oss.ops.native.structs import CACHE_BFLOAT16, CACHE_FLOAT32, CACHE_INT8, DecoderStruct, LayerStruct
from seed_oss.ops.quantized import round_rows_reference
from seed_oss.ops.rope import apply_rope

UNIT_KEYS = 16  # keys that the kernels take from one place
MAX_HEAD_DIM = 256
_KINDS = {torch.bfloat16: CACHE_BFLOAT16, torch.float32: CACHE_FLOAT32, torch.int8: CACHE_INT8}


@torch.library.custom_op("seed_oss::rotate_and_write", mutates_args=("keys", "values", "key_scales", "value_scales"))
def rotate_and_write(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    slot_mapping: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> Tensor:
    """Rotate queries and keys of new tokens, and write keys and values to their slots.

    Args:
        query: `[num_tokens, heads, head_dim]`, floating.
        key: `[num_tokens, kv_heads, head_dim]`.
        value: same shape.
        cos: `[num_tokens, head_dim]`.
        sin: same shape.
        slot_mapping: int64 `[num_tokens]`, block * block_len + place in the block, each slot once.
        keys, values: the cache, written to.
        key_scales, value_scales: fp32 `[num_blocks, kv_heads, block_len]` where the cache is int8, else None.

    Returns:
        Rotated queries.

    Raises:
        InputError: shapes or dtypes do not fit, or a slot does not exist.
    """
    _check_cache(query, keys, values, key_scales, value_scales)
    _check_new(query, key, value, cos, sin, slot_mapping, keys)
    tensors = query, key, value, cos, sin, slot_mapping, keys, values, key_scales, value_scales
    if library() is None or not _is_native(query, keys, values, key_scales, value_scales):
        return rotate_and_write_reference(*tensors)
    rows = [one.float().contiguous() for one in (query, key, value, cos, sin)]
    rotated_query, rotated_key = (_rotated(one, rows[3], rows[4]) for one in rows[:2])
    _store(rotated_key, slot_mapping, keys, key_scales)
    _store(rows[2], slot_mapping, values, value_scales)
    return rotated_query.to(query.dtype)


@rotate_and_write.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    slot_mapping: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> Tensor:
    return query.new_empty(query.shape)


def rotate_and_write_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    slot_mapping: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> Tensor:
    """The readable form of `rotate_and_write`."""
    cos, sin = cos.float()[:, None], sin.float()[:, None]
    rotated_query, rotated_key = (apply_rope(one[:, :, None].float(), cos, sin)[:, :, 0] for one in (query, key))
    blocks, places = slot_mapping // keys.shape[2], slot_mapping % keys.shape[2]
    for new, numbers, scales in ((rotated_key, keys, key_scales), (value.float(), values, value_scales)):
        if scales is None:
            numbers[blocks, :, places] = new.to(numbers.dtype)
        else:
            integers, scale = round_rows_reference(new, new.shape[-1])
            numbers[blocks, :, places], scales[blocks, :, places] = integers, scale[..., 0]
    return rotated_query.to(query.dtype)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    native, out = library(), torch.empty_like(x)
    assert native is not None
    native.so_rotate(x.data_ptr(), cos.data_ptr(), sin.data_ptr(), *x.shape, out.data_ptr())
    return out


def _store(x: Tensor, slots: Tensor, cache: Tensor, scales: Tensor | None) -> None:
    native, slots = library(), slots.contiguous()
    assert native is not None
    place = _KINDS[cache.dtype], cache.shape[2], *cache.stride()[:2], cache.data_ptr()
    native.so_store(x.data_ptr(), slots.data_ptr(), *x.shape, *place, None if scales is None else scales.data_ptr())


@torch.library.custom_op("seed_oss::attend_cached", mutates_args=())
def attend_cached(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
    block_table: Tensor,
    starts: Tensor,
    lengths: Tensor,
) -> Tensor:
    """Causal grouped-query attention of each sequence's new tokens, one or more, over all that its blocks hold.

    Args:
        query: rotated, `[num_tokens, heads, head_dim]`, the tokens of the first sequence, of the second, and so on.
        keys, values: the cache, with those of the new tokens.
        key_scales, value_scales: fp32 `[num_blocks, kv_heads, block_len]` where the cache is int8, else None.
        block_table: int64 `[num_sequences, max_blocks]`, blocks in the order of their tokens; what follows is not read.
        starts: int64 `[num_sequences]`, tokens before the new ones.
        lengths: int64 `[num_sequences]`, new tokens, >= 1.

    Returns:
        `[num_tokens, heads, head_dim]` in the dtype of `query`.

    Raises:
        InputError: shapes or dtypes do not fit, or a block does not exist.
    """
    return attend_directly(query, keys, values, key_scales, value_scales, block_table, starts, lengths)


@attend_cached.register_fake
def _(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
    block_table: Tensor,
    starts: Tensor,
    lengths: Tensor,
) -> Tensor:
    return query.new_empty(query.shape)


def attend_directly(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
    block_table: Tensor,
    starts: Tensor,
    lengths: Tensor,
) -> Tensor:
    """`attend_cached` without torch's dispatcher, whose first call of an op takes a second."""
    _check_cache(query, keys, values, key_scales, value_scales)
    _check_sequences(query, keys, block_table, starts, lengths)
    is_in_units = keys.shape[2] % UNIT_KEYS == 0 or block_table.shape[1] == 1
    if library() is None or not is_in_units or not _is_native(query, keys, values, key_scales, value_scales):
        cache = keys, values, key_scales, value_scales
        return attend_cached_reference(query, *cache, block_table, starts, lengths)
    rows, out = query.float().contiguous(), torch.empty(query.shape, dtype=torch.float32, device="cpu")
    layer = LayerStruct(keys=keys.data_ptr(), values=values.data_ptr())
    if key_scales is not None and value_scales is not None:
        layer.key_scales, layer.value_scales = key_scales.data_ptr(), value_scales.data_ptr()
    _attend(rows, keys, layer, block_table.contiguous(), list(zip(starts.tolist(), lengths.tolist(), strict=True)), out)
    return out.to(query.dtype)


def _attend(
    rows: Tensor, keys: Tensor, layer: LayerStruct, table: Tensor, sequences: list[tuple[int, int]], out: Tensor
) -> None:
    native, numbers, first = library(), array("q"), 0
    assert native is not None
    for index, (start, length) in enumerate(sequences):
        numbers.extend((first, length, start, index * table.shape[1], first))
        first += length
    call = DecoderStruct(heads=rows.shape[1], kv_heads=keys.shape[1], head_dim=rows.shape[2], is_causal=1)
    call.layers, call.num_layers, call.num_tokens = ctypes.addressof(layer), 1, rows.shape[0]
    call.sequences, call.num_sequences, call.blocks = numbers.buffer_info()[0], len(sequences), table.data_ptr()
    call.cache_kind, call.block_len, call.threads = _KINDS[keys.dtype], keys.shape[2], num_threads()
    call.block_stride, call.head_stride = keys.stride()[:2]
    native.so_attend(ctypes.byref(call), rows.data_ptr(), out.data_ptr())


def attend_cached_reference(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
    block_table: Tensor,
    starts: Tensor,
    lengths: Tensor,
) -> Tensor:
    """The readable form of `attend_cached`."""
    parts = list[Tensor]()
    for rows, blocks, start in zip(query.split(lengths.tolist()), block_table, starts.tolist(), strict=True):
        num_keys = start + len(rows)
        key, value = (_gathered(*one, blocks, num_keys) for one in ((keys, key_scales), (values, value_scales)))
        seen = torch.ones(len(rows), num_keys, dtype=torch.bool, device=query.device).tril(start)
        mask = torch.zeros(seen.shape, device=query.device).masked_fill(~seen, -torch.inf)
        attended, _ = eager_attention(rows.transpose(0, 1)[None].float(), key, value, mask, query.shape[2] ** -0.5)
        parts.append(attended[0].transpose(0, 1))
    return torch.cat(parts).to(query.dtype)


def _gathered(cache: Tensor, scales: Tensor | None, blocks: Tensor, num_keys: int) -> Tensor:
    """fp32 `[1, kv_heads, num_keys, head_dim]` of one sequence."""
    chosen = blocks[: -(-num_keys // cache.shape[2])]
    numbers = cache[chosen].float()
    if scales is not None:
        numbers = numbers * scales[chosen][..., None]
    return numbers.transpose(0, 1).flatten(1, 2)[None, :, :num_keys]


def _is_native(query: Tensor, keys: Tensor, values: Tensor, *scales: Tensor | None) -> bool:
    """Whether the kernels know such memory: tokens of a head one behind the other, scales laid out in the same way."""
    head_dim, strides = query.shape[2], keys.stride()
    if query.device.type != "cpu" or keys.dtype not in _KINDS or head_dim % 16 or head_dim > MAX_HEAD_DIM:
        return False
    has_rows = query.numel() > 0 and strides[2:] == (head_dim, 1) and values.stride() == strides
    per_token = strides[0] // head_dim, strides[1] // head_dim, 1
    return has_rows and all(one is None or one.stride() == per_token for one in scales)


def _check_cache(
    query: Tensor, keys: Tensor, values: Tensor, key_scales: Tensor | None, value_scales: Tensor | None
) -> None:
    if query.dim() != 3 or keys.dim() != 4 or query.shape[2] != keys.shape[3] or query.shape[1] % keys.shape[1]:
        raise InputError(f"queries are {list(query.shape)} and keys {list(keys.shape)}; heads or head_dim misfit")
    if values.shape != keys.shape or values.dtype != keys.dtype:
        raise InputError(f"values are {values.dtype} {list(values.shape)}; they must be as keys: {list(keys.shape)}")
    for scales in (key_scales, value_scales):
        if (scales is None) == (keys.dtype == torch.int8):
            raise InputError(f"keys are {keys.dtype}; int8 ones, and no others, need key_scales and value_scales")
        if scales is not None and (scales.shape != keys.shape[:3] or scales.dtype != torch.float32):
            raise InputError(f"scales are {scales.dtype} {list(scales.shape)}; give fp32 {list(keys.shape[:3])}")


def _check_new(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, slot_mapping: Tensor, keys: Tensor
) -> None:
    num_tokens, num_slots = query.shape[0], keys.shape[0] * keys.shape[2]
    wanted = (num_tokens, keys.shape[1], keys.shape[3])
    if key.shape != wanted or value.shape != wanted:
        raise InputError(f"new keys and values are {list(key.shape)} and {list(value.shape)}; give {list(wanted)}")
    if cos.shape != sin.shape or cos.shape != (num_tokens, keys.shape[3]):
        raise InputError(f"cos and sin are {list(cos.shape)} and {list(sin.shape)}; give {[num_tokens, keys.shape[3]]}")
    if slot_mapping.shape != (num_tokens,) or slot_mapping.dtype != torch.int64:
        raise InputError(f"slot_mapping is {slot_mapping.dtype} {list(slot_mapping.shape)}; give int64 [{num_tokens}]")
    if num_tokens and not 0 <= int(slot_mapping.min()) <= int(slot_mapping.max()) < num_slots:
        raise InputError(f"a slot lies outside of the cache, which has slots 0 to {num_slots - 1}")


def _check_sequences(query: Tensor, keys: Tensor, block_table: Tensor, starts: Tensor, lengths: Tensor) -> None:
    count = starts.numel()
    if any(one.dtype != torch.int64 for one in (block_table, starts, lengths)) or block_table.dim() != 2:
        raise InputError("block_table, starts and lengths must be int64, block_table [num_sequences, max_blocks]")
    if starts.shape != (count,) or lengths.shape != (count,) or block_table.shape[0] != count:
        raise InputError(
            f"{count} starts need as many lengths and rows of block_table; it is {list(block_table.shape)}"
        )
    if (count and (int(starts.min()) < 0 or int(lengths.min()) < 1)) or int(lengths.sum()) != query.shape[0]:
        raise InputError(f"starts must be >= 0, lengths >= 1, and lengths add up to {query.shape[0]} queries")
    if count and int(starts.max()) > keys.shape[0] * keys.shape[2]:
        raise InputError(
            f"a sequence starts at {int(starts.max())}; the cache has {keys.shape[0] * keys.shape[2]} slots"
        )
    needed = -(-(starts + lengths) // keys.shape[2])
    if count and int(needed.max()) > block_table.shape[1]:
        raise InputError(
            f"block_table has room for {block_table.shape[1]} blocks; a sequence needs {int(needed.max())}"
        )
    used = block_table[torch.arange(block_table.shape[1], device=needed.device) < needed[:, None]]
    if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < keys.shape[0]:
        raise InputError(f"a block lies outside of the cache, which has blocks 0 to {keys.shape[0] - 1}")
