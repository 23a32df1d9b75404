"""Logits processors that follow the text so far, under the reference's names.

The work is done by the pure functions of `logits.py`, `penalties.py` and `dry.py`; an object only keeps the settings.
"""

from typing import Any

import torch
from torch import Tensor

from seed_oss.generation.dry import DryBreakers, DrySettings, penalize_continuations
from seed_oss.generation.logits import forbid_ids, penalize_repetition
from seed_oss.generation.penalties import forbid_repeated_ngrams, penalize_counts
from seed_oss.generation.processor_base import LogitsProcessor as LogitsProcessor
from seed_oss.generation.processor_base import LogitsProcessorList as LogitsProcessorList
from seed_oss.generation.processor_base import OwnTokens, check_float, check_int, id_tensor


class RepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Makes tokens that occurred before less likely.

    Args:
        penalty: > 0; above 1 discourages repetition.
        prompt_ignore_length: how many tokens at the start do not count: one number, or int64 `[batch]` such as the
            lengths of left padding.
    """

    def __init__(self, penalty: float, prompt_ignore_length: int | Tensor | None = None) -> None:
        self.penalty = check_float("penalty", penalty, 0.0, above=True)
        self.prompt_ignore_length = prompt_ignore_length
        self._own = OwnTokens(prompt_ignore_length)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return penalize_repetition(scores, self._own.mark(input_ids, scores.shape[-1]), self.penalty)


class MinLengthLogitsProcessor(LogitsProcessor):
    """Forbids the end-of-sequence tokens until a total length, prompt included, is reached.

    Args:
        min_length: tokens, >= 0.
        eos_token_id: one id, a list, or a tensor of them.
        device: where the ids are kept.
    """

    def __init__(self, min_length: int, eos_token_id: Any, device: torch.device | str = "cpu") -> None:
        self.min_length = check_int("min_length", min_length, 0)
        self.eos_token_id = id_tensor("eos_token_id", eos_token_id, device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        if input_ids.shape[-1] >= self.min_length:
            return scores
        return forbid_ids(scores, self.eos_token_id.to(scores.device))


class MinNewTokensLengthLogitsProcessor(LogitsProcessor):
    """Forbids the end-of-sequence tokens until a number of new tokens is reached.

    Args:
        prompt_length_to_skip: length of the prompt, which does not count.
        min_new_tokens: tokens, >= 0.
        eos_token_id: one id, a list, or a tensor of them.
        device: where the ids are kept.
    """

    def __init__(
        self,
        prompt_length_to_skip: int,
        min_new_tokens: int,
        eos_token_id: Any,
        device: torch.device | str = "cpu",
    ) -> None:
        self.prompt_length_to_skip = check_int("prompt_length_to_skip", prompt_length_to_skip, 0)
        self.min_new_tokens = check_int("min_new_tokens", min_new_tokens, 0)
        self.eos_token_id = id_tensor("eos_token_id", eos_token_id, device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        if input_ids.shape[-1] - self.prompt_length_to_skip >= self.min_new_tokens:
            return scores
        return forbid_ids(scores, self.eos_token_id.to(scores.device))


class FrequencyPresencePenaltyLogitsProcessor(LogitsProcessor):
    """Lowers the scores of tokens by how often, and whether, they were generated; the prompt does not count.

    Args:
        frequency_penalty: taken off for each time a token was generated, -2 to 2.
        presence_penalty: taken off once where a token was generated at all, -2 to 2.
        prompt_length_to_skip: length of the prompt, which does not count.

    Source: OpenAI's API reference, `frequency_penalty` and `presence_penalty`.
    """

    def __init__(self, frequency_penalty: float, presence_penalty: float, prompt_length_to_skip: int) -> None:
        self.frequency_penalty = check_float("frequency_penalty", frequency_penalty, -2.0, 2.0)
        self.presence_penalty = check_float("presence_penalty", presence_penalty, -2.0, 2.0)
        self.prompt_length_to_skip = check_int("prompt_length_to_skip", prompt_length_to_skip, 0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        generated = input_ids[:, self.prompt_length_to_skip :]
        if generated.shape[1] == 0:
            return scores
        return penalize_counts(scores, generated, self.frequency_penalty, self.presence_penalty)


class NoRepeatNGramLogitsProcessor(LogitsProcessor):
    """Forbids tokens that would complete a sequence of `ngram_size` tokens that is there already, prompt included.

    Args:
        ngram_size: tokens, >= 1.
        prompt_ignore_length: how many tokens at the start do not count: one number, or int64 `[batch]` such as the
            lengths of left padding. Ours; the reference takes padding for text.
    """

    def __init__(self, ngram_size: int, prompt_ignore_length: int | Tensor | None = None) -> None:
        self.ngram_size = check_int("ngram_size", ngram_size, 1)
        self._own = OwnTokens(prompt_ignore_length)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return forbid_repeated_ngrams(scores, self._own.mark(input_ids), self.ngram_size)


class DRYLogitsProcessor(LogitsProcessor):
    """Makes tokens less likely that would continue a repetition, the more so the longer it already is.

    Args:
        multiplier: taken off a token that continues `allowed_length` repeated tokens, >= 0.
        base: what this is multiplied by for each further repeated token, >= 1.
        allowed_length: repeated tokens from which a continuation costs something, >= 1.
        sequence_breakers: token ids that no repetition goes across, or DryBreakers.
        dry_range: how many tokens at the end to look at; 0 is all.
        prompt_ignore_length: how many tokens at the start do not count: one number, or int64 `[batch]` such as the
            lengths of left padding.

    Source: text-generation-webui, pull request 5677, for the idea and the names; llama.cpp for what a breaker is.
    """

    def __init__(
        self,
        multiplier: float,
        base: float = 1.75,
        allowed_length: int = 2,
        sequence_breakers: Any = (),
        dry_range: int = 0,
        prompt_ignore_length: int | Tensor | None = None,
    ) -> None:
        self.settings = DrySettings(
            check_float("multiplier", multiplier, 0.0),
            check_float("base", base, 1.0),
            check_int("allowed_length", allowed_length, 1),
        )
        is_ready = isinstance(sequence_breakers, DryBreakers)
        self.breakers = sequence_breakers if is_ready else DryBreakers.of_ids(sequence_breakers)
        self.dry_range = check_int("dry_range", dry_range, 0)
        self._own = OwnTokens(prompt_ignore_length)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        ids = self._own.mark(input_ids)[:, -self.dry_range :]
        self.breakers = self.breakers.to(scores.device)
        return penalize_continuations(scores, ids, self.settings, self.breakers)
