"""Fields of transformers' GenerationConfig that this release does not implement, and when they ask for something.

A checkpoint's file may name them with their neutral value; only another value is refused, and only by `generate`.
"""

from dataclasses import dataclass
from typing import Any

_SAMPLING = "available are temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff and penalties"
_PROCESSOR = "give generate() a logits_processor that does it, or remove the field"
_STRATEGY = "available are greedy decoding, sampling with do_sample=True, and beam search with num_beams"
_ASSISTED = "available are prompt_lookup_num_tokens and generate(assistant_model=); remove the field"
_CACHE = "available is cache_implementation 'dynamic', 'static' or 'quantized', or pass a cache as past_key_values"


@dataclass(frozen=True, slots=True)
class Unimplemented:
    """Values that ask for nothing (None always is one), and what to do instead of others."""

    remedy: str
    neutral: tuple[Any, ...] = ()


UNIMPLEMENTED: dict[str, Unimplemented] = {
    "num_beam_groups": Unimplemented(_STRATEGY, (1,)),
    "diversity_penalty": Unimplemented(_STRATEGY, (0.0,)),
    "constraints": Unimplemented(_STRATEGY),
    "force_words_ids": Unimplemented(_STRATEGY),
    "penalty_alpha": Unimplemented("contrastive search is not offered; " + _STRATEGY, (0.0,)),
    "dola_layers": Unimplemented(_STRATEGY),
    "low_memory": Unimplemented(_STRATEGY, (False,)),
    "use_mtp": Unimplemented(_ASSISTED, (False,)),
    "assistant_early_exit": Unimplemented(_ASSISTED),
    "assistant_ensemble_weight": Unimplemented(_ASSISTED),
    "speculation_type": Unimplemented(_ASSISTED),
    "is_assistant": Unimplemented(_ASSISTED, (False,)),
    "top_h": Unimplemented(_SAMPLING),
    "encoder_repetition_penalty": Unimplemented(_SAMPLING, (1.0,)),
    "encoder_no_repeat_ngram_size": Unimplemented(_PROCESSOR, (0,)),
    "remove_invalid_values": Unimplemented("NaN logits raise an error here; remove the field", (False,)),
    "exponential_decay_length_penalty": Unimplemented(_PROCESSOR),
    "token_healing": Unimplemented("end the prompt at a word instead", (False,)),
    "guidance_scale": Unimplemented(_PROCESSOR, (1.0,)),
    "watermarking_config": Unimplemented(_PROCESSOR),
    "cache_config": Unimplemented(_CACHE),
    "max_cache_len": Unimplemented("pass a StaticCache of that length as past_key_values"),
    "compile_config": Unimplemented("nothing compiles by itself; compile the model with torch.compile"),
    "continuous_batching_config": Unimplemented("give the prompts as one padded batch"),
}
"""Other settings of assistants (num_assistant_tokens_schedule and the like) change no result and are kept silently."""


def is_used(name: str, value: Any) -> bool:
    """Whether the value asks for something that is not implemented."""
    return value is not None and value not in UNIMPLEMENTED[name].neutral
