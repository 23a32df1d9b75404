"""Where keys and values live, and how queries meet them."""

from seed_oss.cache.cache import Cache, DynamicCache, QuantizedCache, StaticCache, as_cache
from seed_oss.cache.context import AttentionContext, DenseContext, query_offset
from seed_oss.cache.layer import Room
from seed_oss.cache.masks import AttentionMask, MaskShape, attention_mask, packed_sequence_ids

__all__ = [
    "AttentionContext",
    "AttentionMask",
    "Cache",
    "DenseContext",
    "DynamicCache",
    "MaskShape",
    "QuantizedCache",
    "Room",
    "StaticCache",
    "as_cache",
    "attention_mask",
    "packed_sequence_ids",
    "query_offset",
]
