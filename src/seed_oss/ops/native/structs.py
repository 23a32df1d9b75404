"""The structures of csrc/types.h."""

import ctypes
from ctypes import c_double, c_int32, c_int64, c_void_p

NIBBLES, BYTES, BFLOAT16, FLOAT32 = range(4)
CACHE_BFLOAT16, CACHE_FLOAT32, CACHE_INT8 = range(3)
ZERO_KINDS = {"symmetric": 0, "minimum": 1, "point": 2}


class WeightStruct(ctypes.Structure):
    """A weight: packed, or a plain matrix."""

    _fields_ = (
        ("data", c_void_p),
        ("bias", c_void_p),
        ("rows", c_int64),
        ("cols", c_int64),
        ("kind", c_int32),
        ("group", c_int32),
        ("zero", c_int32),
        ("wide_params", c_int32),
    )


class LowRankStruct(ctypes.Structure):
    """What an adapter adds to a weight."""

    _fields_ = (("a", c_void_p), ("b", c_void_p))


class LayerStruct(ctypes.Structure):
    """A decoder layer, and where its keys and values are."""

    _fields_ = (
        *((name, WeightStruct) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        ("input_norm", c_void_p),
        ("post_norm", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("key_scales", c_void_p),
        ("value_scales", c_void_p),
        ("low_ranks", LowRankStruct * 7),
    )


class DecoderStruct(ctypes.Structure):
    """One call of all layers."""

    _fields_ = (
        *((name, c_int64) for name in ("num_layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate")),
        ("layers", c_void_p),
        ("num_tokens", c_int64),
        ("num_sequences", c_int64),
        ("sequences", c_void_p),
        ("blocks", c_void_p),
        *((name, c_int64) for name in ("cache_kind", "block_len", "block_stride", "head_stride")),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("mask", c_void_p),
        *((name, c_int64) for name in ("mask_batch_stride", "mask_query_stride", "is_causal")),
        ("x", c_void_p),
        ("eps", c_double),
        ("threads", c_int64),
        ("rank", c_int64),
    )


class StepStruct(ctypes.Structure):
    """One token per row, from ids to logits."""

    _fields_ = (
        ("decoder", c_void_p),
        ("embedding", WeightStruct),
        ("head", WeightStruct),
        ("ids", c_void_p),
        ("norm", c_void_p),
        ("norm_eps", c_double),
        ("logits", c_void_p),
        ("best", c_void_p),
        ("is_lost", c_void_p),
    )
