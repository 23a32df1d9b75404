"""How long the result may and must be."""

import warnings
from dataclasses import dataclass

from seed_oss.config import GenerationConfig
from seed_oss.errors import InputError
from seed_oss.generation.prompt import Prompt


@dataclass(frozen=True)
class Lengths:
    """Limits in tokens of the returned ids, prompt included (embeddings are not in the returned ids)."""

    max_length: int
    min_length: int


def settle_lengths(config: GenerationConfig, prompt: Prompt, max_position_embeddings: int) -> Lengths:
    """Work out the limits; `max_new_tokens` and `min_new_tokens` win over their totals.

    Args:
        config: the settings.
        prompt: the prompt.
        max_position_embeddings: caps the default length, not one that was asked for.

    Raises:
        InputError: the prompt leaves no room for a new token.
    """
    ids_len = prompt.input_ids.shape[1]
    hidden_len = _embeds_beyond_ids(prompt)
    if config.max_new_tokens is not None:
        max_length = ids_len + config.max_new_tokens
    elif config.is_set("max_length"):
        max_length = config.max_length - hidden_len
        if max_length <= ids_len:
            raise InputError(
                f"the prompt has {ids_len + hidden_len} tokens and max_length is {config.max_length}, which counts "
                "them too; give a larger max_length, or max_new_tokens"
            )
    else:
        max_length = _default_max_length(config, ids_len, hidden_len, max_position_embeddings)
    if config.min_new_tokens is not None:
        min_length = ids_len + config.min_new_tokens
    else:
        min_length = max(config.min_length - hidden_len, 0)
    if min_length > max_length:
        warnings.warn(
            f"at least {min_length} tokens are asked for and at most {max_length}; the upper limit counts",
            stacklevel=4,
        )
    return Lengths(max_length, min_length)


def _embeds_beyond_ids(prompt: Prompt) -> int:
    """Length of embeddings that the ids do not stand for."""
    if prompt.inputs_embeds is None or prompt.inputs_embeds.shape[1] == prompt.input_ids.shape[1]:
        return 0
    return prompt.inputs_embeds.shape[1]


def _default_max_length(config: GenerationConfig, ids_len: int, hidden_len: int, max_position_embeddings: int) -> int:
    room = max_position_embeddings - ids_len - hidden_len
    num_new = min(config.max_length, room) if room > 0 else config.max_length
    warnings.warn(
        f"neither max_new_tokens nor max_length is set: generating at most {num_new} tokens; set max_new_tokens",
        stacklevel=5,
    )
    return ids_len + num_new
