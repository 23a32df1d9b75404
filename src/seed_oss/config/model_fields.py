"""The fields of SeedOssConfig: names, defaults and checks, and the other names it takes as arguments."""

from typing import Any, cast

from seed_oss.config.fields import (
    MAX_LAYERS,
    Field,
    boolean,
    choice,
    dtype_name,
    either,
    id_to_label,
    integer,
    label_to_id,
    list_of,
    number,
    optional,
    refuse,
    text,
)
from seed_oss.config.known_keys import OPTIONAL_FIELDS

_TOKEN_ID = optional(integer(0))
SIZE = integer(1)
_RATE = number(0.0, 1.0)

_LAYER = integer(-MAX_LAYERS - 1, MAX_LAYERS)


def _read_hidden_states(field: str, value: Any) -> bool | int | list[int]:
    if not isinstance(value, bool | int | list | tuple):
        refuse(field, cast("object", value), "true, false, the index of a hidden state, or a list of indices")
    return value if isinstance(value, bool) else either(_LAYER, list_of(_LAYER))(field, value)


SHAPE_FIELDS = {
    "vocab_size": Field(155_136, SIZE),
    "hidden_size": Field(4096, SIZE),
    "intermediate_size": Field(27_648, SIZE),
    "num_hidden_layers": Field(64, integer(1, MAX_LAYERS)),
    "num_attention_heads": Field(80, SIZE),
    "num_key_value_heads": Field(8, SIZE),
    "hidden_act": Field("silu", text),
    "max_position_embeddings": Field(524_288, SIZE),
    "initializer_range": Field(0.02, number(0.0)),
    "rms_norm_eps": Field(1e-6, number(0.0)),
    "use_cache": Field(True, boolean),
    "pad_token_id": Field(1, _TOKEN_ID),
    "bos_token_id": Field(0, _TOKEN_ID),
    "eos_token_id": Field(2, optional(either(integer(0), list_of(integer(0))))),
    "pretraining_tp": Field(1, SIZE),
    "tie_word_embeddings": Field(False, boolean),
    "attention_bias": Field(True, boolean),
    "attention_out_bias": Field(False, boolean),
    "attention_dropout": Field(0.1, _RATE),
    "residual_dropout": Field(0.1, _RATE),
    "mlp_bias": Field(False, boolean),
    "head_dim": Field(128, SIZE),
}

_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
COMMON_FIELDS = {
    "architectures": Field(None, optional(list_of(text))),
    "output_hidden_states": Field(False, optional(_read_hidden_states)),
    "return_dict": Field(True, optional(boolean)),
    "dtype": Field(None, optional(dtype_name)),
    "chunk_size_feed_forward": Field(0, integer(0)),
    "is_encoder_decoder": Field(False, boolean),
    "id2label": Field({0: "LABEL_0", 1: "LABEL_1"}, id_to_label),
    "label2id": Field({"LABEL_0": 0, "LABEL_1": 1}, optional(label_to_id)),
    "problem_type": Field(None, optional(choice(*_PROBLEM_TYPES))),
    "transformers_version": Field(None, optional(text)),
}

LABEL_KEYS = {"id2label", "label2id"}
ROPE_KEYS = ("rope_scaling", "rope_parameters", "rope_theta", "partial_rotary_factor")
SWITCH_KEYS = {
    "attn_implementation": "attn_implementation",
    "_attn_implementation": "attn_implementation",
    "output_attentions": "output_attentions",
    "name_or_path": "name_or_path",
}
"""Arguments that are set last, through their properties; output_attentions after the implementation."""
CALLER_KEYS = ("attn_implementation", "_attn_implementation", "name_or_path")
"""Said by the caller, never by a file."""
ARGUMENT_KEYS = {*ROPE_KEYS, *SWITCH_KEYS, *OPTIONAL_FIELDS, "num_labels", "torch_dtype"}
