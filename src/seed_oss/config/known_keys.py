"""Keys of `config.json` that transformers 4.57 or 5.x writes or reads itself, beside the fields of SeedOssConfig."""

from seed_oss.config.fields import Check, boolean, integer, number, optional

OPTIONAL_FIELDS: dict[str, Check] = {
    "classifier_dropout": optional(number(0.0, 1.0)),
    "hidden_dropout": optional(number(0.0, 1.0)),
    "is_causal": boolean,
    "original_max_position_embeddings": optional(integer(1)),
    "tie_last_hidden_states": optional(boolean),
    "token_classification_bias": boolean,
}
"""Checked where given; no attribute otherwise, as in the reference."""

# fmt: off
GENERATION_KEYS = frozenset(
    [
        "assistant_confidence_threshold", "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens",
        "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty",
        "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length", "min_length",
        "no_repeat_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule", "num_beam_groups",
        "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values", "repetition_penalty",
        "return_dict_in_generate", "suppress_tokens", "target_lookbehind", "temperature", "top_k", "top_p",
        "typical_p",
    ]
)
"""Generation defaults that 4.x kept in the model config; 5.x drops them on reading, and so do we."""

DROPPED_KEYS = GENERATION_KEYS | {"auto_map", "use_return_dict"}

KNOWN_KEYS = frozenset(OPTIONAL_FIELDS) | frozenset(
    [
        "add_cross_attention", "base_model_fsdp_plan", "base_model_pp_plan", "base_model_tp_plan",
        "cross_attention_hidden_size", "decoder_start_token_id", "finetuning_task", "is_decoder", "layer_types",
        "prefix", "pruned_heads", "quantization_config", "sep_token_id", "task_specific_params", "tf_legacy_loss",
        "tie_encoder_decoder", "tokenizer_class", "torchscript", "use_bfloat16",
    ]
)
"""Kept and written back without a word."""
# fmt: on
