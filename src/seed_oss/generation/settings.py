"""Logits processors and stopping criteria that the settings ask for, merged with the user's own."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from seed_oss.config import GenerationConfig
from seed_oss.errors import InputError
from seed_oss.generation.dry import DEFAULT_BREAKERS, DryBreakers, find_breakers
from seed_oss.generation.lengths import Lengths
from seed_oss.generation.processor_base import LogitsProcessorList
from seed_oss.generation.processors import (
    DRYLogitsProcessor,
    FrequencyPresencePenaltyLogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)
from seed_oss.generation.prompt import Prompt, eos_ids
from seed_oss.generation.stopping import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)
from seed_oss.generation.token_rules import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitBiasLogitsProcessor,
    NoBadWordsLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from seed_oss.generation.warpers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitNormalization,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopNSigmaLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    XTCLogitsWarper,
)


def make_processors(
    config: GenerationConfig,
    prompt: Prompt,
    lengths: Lengths,
    given: Any,
    *,
    tokenizer: Any = None,
    generator: torch.Generator | None = None,
    first_row: int = 0,
    breakers: DryBreakers | None = None,
) -> LogitsProcessorList:
    """Processors in the reference's order: those that follow the text, the user's, then those that shape sampling.

    What the reference does not have stands where llama.cpp has it: biases first, then penalties, DRY behind them; of
    the filters top-n-sigma first and XTC last.

    Args:
        config: the settings.
        prompt: already repeated for `num_return_sequences` (and beams).
        lengths: limits of the result.
        given: the user's processors, or None.
        tokenizer: gives the text of tokens for DRY's sequence breakers.
        generator: source of XTC's chance where `config.seed` is not set; None is torch's global one.
        first_row: number that the first row has among those that share the seed.
        breakers: DRY's, where they are found already.

    Returns:
        The list, without those that would change nothing.

    Raises:
        InputError: DRY with breakers given as text, and no tokenizer.
    """
    own = _padding_lengths(prompt)
    wanted = [
        *_biases(config, own),
        *_penalties(config, own, prompt.input_ids.shape[1], tokenizer, breakers),
        *_rules(config, own, prompt, lengths),
    ]
    merged = _merge(wanted, _as_list("logits_processor", given))
    warpers = _warpers(config, prompt.input_ids.shape[1], generator, first_row) if config.do_sample else []
    last = [LogitNormalization()] if config.renormalize_logits else []
    return LogitsProcessorList([*merged, *warpers, *last])


def _biases(config: GenerationConfig, own: Tensor | None) -> list[Any]:
    wanted: list[Any] = []
    if config.sequence_bias is not None:
        wanted.append(SequenceBiasLogitsProcessor(config.sequence_bias, own))
    if config.logit_bias:
        wanted.append(LogitBiasLogitsProcessor(config.logit_bias))
    return wanted


def _penalties(
    config: GenerationConfig, own: Tensor | None, prompt_len: int, tokenizer: Any, found: DryBreakers | None
) -> list[Any]:
    wanted: list[Any] = []
    if config.repetition_penalty != 1.0:
        wanted.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty, own))
    frequency, presence = config.frequency_penalty, config.presence_penalty
    if frequency or presence:
        wanted.append(FrequencyPresencePenaltyLogitsProcessor(frequency, presence, prompt_len))
    if config.dry_multiplier > 0:
        given = config.dry_sequence_breakers
        found = found or find_breakers(DEFAULT_BREAKERS if given is None else given, tokenizer)
        length, dry_range = config.dry_allowed_length, config.dry_range
        wanted.append(DRYLogitsProcessor(config.dry_multiplier, config.dry_base, length, found, dry_range, own))
    return wanted


def _rules(config: GenerationConfig, own: Tensor | None, prompt: Prompt, lengths: Lengths) -> list[Any]:
    """Tokens and sequences that may not, or must, come."""
    wanted: list[Any] = []
    device, ids_len, eos = prompt.input_ids.device, prompt.input_ids.shape[1], eos_ids(config)
    if config.no_repeat_ngram_size:
        wanted.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size, own))
    if config.bad_words_ids:
        wanted.append(NoBadWordsLogitsProcessor(config.bad_words_ids, eos, own))
    if eos and config.min_new_tokens:
        wanted.append(MinNewTokensLengthLogitsProcessor(ids_len, config.min_new_tokens, eos, device))
    elif eos and lengths.min_length > ids_len:
        wanted.append(MinLengthLogitsProcessor(lengths.min_length, eos, device))
    forced_bos = config.forced_bos_token_id
    if forced_bos is not None:
        wanted.append(ForcedBOSTokenLogitsProcessor(forced_bos))
    if config.forced_eos_token_id is not None:
        wanted.append(ForcedEOSTokenLogitsProcessor(lengths.max_length, config.forced_eos_token_id))
    if config.suppress_tokens:
        wanted.append(SuppressTokensLogitsProcessor(config.suppress_tokens, device))
    if config.begin_suppress_tokens:
        begin = ids_len if ids_len > 1 or forced_bos is None else ids_len + 1
        wanted.append(SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, begin, device))
    return wanted


def _warpers(config: GenerationConfig, prompt_len: int, generator: torch.Generator | None, first_row: int) -> list[Any]:
    # Beams go on from several tokens: an end of sequence must leave at least one that is none.
    keep = 1 if config.num_beams == 1 else max(len(eos_ids(config)), 1) + 1
    warpers: list[Any] = []
    if config.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(config.temperature))
    if config.top_n_sigma > 0.0:
        warpers.append(TopNSigmaLogitsWarper(config.top_n_sigma, min_tokens_to_keep=keep))
    if config.top_k > 0:
        warpers.append(TopKLogitsWarper(config.top_k, min_tokens_to_keep=keep))
    if config.top_p < 1.0:
        warpers.append(TopPLogitsWarper(config.top_p, min_tokens_to_keep=keep))
    if config.min_p is not None and config.min_p > 0.0:
        warpers.append(MinPLogitsWarper(config.min_p, min_tokens_to_keep=keep))
    return warpers + _further_warpers(config, keep, prompt_len, generator, first_row)


def _further_warpers(
    config: GenerationConfig, keep: int, prompt_len: int, generator: torch.Generator | None, first_row: int
) -> list[Any]:
    warpers: list[Any] = []
    if config.typical_p < 1.0:
        warpers.append(TypicalLogitsWarper(config.typical_p, min_tokens_to_keep=keep))
    if 0.0 < config.epsilon_cutoff < 1.0:
        warpers.append(EpsilonLogitsWarper(config.epsilon_cutoff, min_tokens_to_keep=keep))
    if 0.0 < config.eta_cutoff < 1.0:
        warpers.append(EtaLogitsWarper(config.eta_cutoff, min_tokens_to_keep=keep))
    if config.xtc_probability > 0.0 and config.xtc_threshold <= 0.5:
        warpers.append(
            XTCLogitsWarper(
                config.xtc_threshold,
                config.xtc_probability,
                prompt_length_to_skip=prompt_len,
                seed=config.seed,
                first_row=first_row,
                generator=generator,
                protected_ids=eos_ids(config),
                min_tokens_to_keep=keep,
            )
        )
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
