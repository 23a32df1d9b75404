"""Where keys and values live, and how queries meet them."""

from seed_oss.cache.cache import Cache, DynamicCache, QuantizedCache, StaticCache, as_cache
from seed_oss.cache.context import AttentionContext, DenseContext, query_offset
from seed_oss.cache.layer import Room
from seed_oss.cache.masks import AttentionMask, MaskShape, attention_mask, packed_sequence_ids
from seed_oss.cache.paged import BlockTensors, PagedCache, block_bytes
from seed_oss.cache.paged_context import PagedContext
from seed_oss.cache.paged_rows import PackedRows, PackedSequence

__all__ = [
    "AttentionContext",
    "AttentionMask",
    "BlockTensors",
    "Cache",
    "DenseContext",
    "DynamicCache",
    "MaskShape",
    "PackedRows",
    "PackedSequence",
    "PagedCache",
    "PagedContext",
    "QuantizedCache",
    "Room",
    "StaticCache",
    "as_cache",
    "attention_mask",
    "block_bytes",
    "packed_sequence_ids",
    "query_offset",
]
