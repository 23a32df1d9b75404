"""Logits processors and stopping criteria that the settings ask for, merged with the user's own."""

import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from seed_oss.config import GenerationConfig
from seed_oss.errors import InputError
from seed_oss.generation.lengths import Lengths
from seed_oss.generation.processors import (
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from seed_oss.generation.prompt import Prompt, eos_ids
from seed_oss.generation.stopping import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)


def make_processors(config: GenerationConfig, prompt: Prompt, lengths: Lengths, given: Any) -> LogitsProcessorList:
    """Processors in the reference's order: those that follow the text, the user's, then those that shape sampling.

    Args:
        config: the settings.
        prompt: already repeated for `num_return_sequences`.
        lengths: limits of the result.
        given: the user's processors, or None.

    Returns:
        The list, without those that would change nothing.
    """
    wanted: list[Any] = []
    if config.repetition_penalty != 1.0:
        wanted.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty, _padding_lengths(prompt)))
    device, ids_len, eos = prompt.input_ids.device, prompt.input_ids.shape[1], eos_ids(config)
    if eos and config.min_new_tokens:
        wanted.append(MinNewTokensLengthLogitsProcessor(ids_len, config.min_new_tokens, eos, device))
    elif eos and lengths.min_length > ids_len:
        wanted.append(MinLengthLogitsProcessor(lengths.min_length, eos, device))
    merged = _merge(wanted, _as_list("logits_processor", given))
    return LogitsProcessorList([*merged, *_warpers(config)] if config.do_sample else merged)


def _warpers(config: GenerationConfig) -> list[Any]:
    warpers: list[Any] = []
    if config.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k > 0:
        warpers.append(TopKLogitsWarper(config.top_k))
    if config.top_p < 1.0:
        warpers.append(TopPLogitsWarper(config.top_p))
    if config.min_p is not None and config.min_p > 0.0:
        warpers.append(MinPLogitsWarper(config.min_p))
    return warpers


def make_criteria(config: GenerationConfig, lengths: Lengths, given: Any, tokenizer: Any) -> StoppingCriteriaList:
    """Stopping criteria of the settings and of the user.

    Raises:
        InputError: `stop_strings` without a tokenizer.
    """
    wanted: list[Any] = [MaxLengthCriteria(lengths.max_length)]
    if config.max_time is not None:
        wanted.append(MaxTimeCriteria(config.max_time))
    if config.stop_strings:
        if tokenizer is None:
            raise InputError("stop_strings is set, and they are looked for in text; pass tokenizer= to generate()")
        wanted.append(StopStringCriteria(tokenizer, config.stop_strings))
    if eos_ids(config):
        wanted.append(EosTokenCriteria(eos_ids(config)))
    return StoppingCriteriaList(_merge(wanted, _as_list("stopping_criteria", given)))


def _as_list(name: str, given: Any) -> list[Any]:
    if given is None:
        return []
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"{name} is a {type(given).__name__}; it must be a list")
    items = list(given)
    for item in items:
        if not callable(item):
            raise InputError(f"{name} has a {type(item).__name__}, which cannot be called with (input_ids, scores)")
    return items


def _merge(wanted: list[Any], given: list[Any]) -> list[Any]:
    """The user's object takes the place of one of the same class that the settings ask for."""
    merged: list[Any] = []
    for one in wanted:
        own = next((item for item in given if type(item) is type(one)), None)
        if own is not None:
            warnings.warn(
                f"a {type(one).__name__} is given, and the settings ask for one as well; the given one counts",
                stacklevel=5,
            )
        merged.append(one if own is None else own)
    return merged + [item for item in given if not any(item is one for one in merged)]


def _padding_lengths(prompt: Prompt) -> Tensor | None:
    """Per row, how many of the returned ids are padding at the start: int64 `[batch]`."""
    if prompt.attention_mask is None:
        return None
    not_in_ids = prompt.attention_mask.shape[1] - prompt.input_ids.shape[1]
    return (prompt.attention_mask.int().argmax(dim=1) - not_in_ids).clamp(min=0)
