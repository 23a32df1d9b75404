"""Logits processors that favour, forbid or force tokens named in the settings, under the reference's names.

The work is done by the pure functions of `logits.py` and `penalties.py`; an object only keeps the settings.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seed_oss.config.token_settings import read_logit_bias, read_sequence_bias
from seed_oss.errors import InputError
from seed_oss.generation.logits import forbid_ids
from seed_oss.generation.penalties import SequenceBiases, add_sequence_biases, force_ids
from seed_oss.generation.processor_base import (
    LogitsProcessor,
    OwnTokens,
    check_in_vocabulary,
    check_int,
    id_list,
    id_tensor,
)


class SequenceBiasLogitsProcessor(LogitsProcessor):
    """Adds a bias to the last token of a sequence where the tokens before it are there already.

    Args:
        sequence_bias: list of `[token ids, bias]`, or a mapping from tuples of token ids to biases.
        prompt_ignore_length: how many tokens at the start do not count: one number, or int64 `[batch]` such as the
            lengths of left padding. Ours.
    """

    _name = "sequence_bias"

    def __init__(self, sequence_bias: Any, prompt_ignore_length: int | Tensor | None = None) -> None:
        pairs = read_sequence_bias("sequence_bias", sequence_bias)
        self._keep([(ids, bias) for ids, bias in pairs], prompt_ignore_length)

    def _keep(self, pairs: Sequence[tuple[Sequence[int], float]], ignore_length: int | Tensor | None) -> None:
        self.sequence_bias = {tuple(ids): value for ids, value in pairs}
        self._biases = SequenceBiases.of(list(self.sequence_bias.items()))
        self._ids = [token_id for ids in self.sequence_bias for token_id in ids]
        self._own = OwnTokens(ignore_length)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        check_in_vocabulary(self._name, self._ids, scores.shape[-1])
        self._biases = self._biases.to(scores.device)
        return add_sequence_biases(scores, self._own.mark(input_ids), self._biases)


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Forbids sequences of tokens, by forbidding the last one where the others are there already.

    Args:
        bad_words_ids: list of lists of token ids.
        eos_token_id: one id, a list, or a tensor of them; a sequence that is just one of these is left out.
        prompt_ignore_length: see SequenceBiasLogitsProcessor.
    """

    _name = "bad_words_ids"

    def __init__(
        self, bad_words_ids: Any, eos_token_id: Any = None, prompt_ignore_length: int | Tensor | None = None
    ) -> None:
        if not isinstance(bad_words_ids, Sequence) or isinstance(bad_words_ids, str) or not bad_words_ids:
            raise InputError(f"bad_words_ids is {bad_words_ids!r}; it must be a list of lists of token ids")
        words = [id_list(f"bad_words_ids[{index}]", word) for index, word in enumerate(bad_words_ids)]
        if not all(words):
            raise InputError(f"bad_words_ids is {bad_words_ids!r}; it must hold no empty list")
        eos = [] if eos_token_id is None else id_list("eos_token_id", eos_token_id)
        kept = [word for word in words if len(word) > 1 or word[0] not in eos]
        self._keep([(word, -math.inf) for word in kept], prompt_ignore_length)


class LogitBiasLogitsProcessor(LogitsProcessor):
    """Adds a bias to the scores of single tokens.

    Args:
        logit_bias: mapping from token ids to biases, -100 to 100, of at most 300 entries.

    Source: OpenAI's API reference, `logit_bias`.
    """

    def __init__(self, logit_bias: Mapping[Any, float]) -> None:
        self.logit_bias = read_logit_bias("logit_bias", logit_bias)
        self._biases = SequenceBiases.of([((token_id,), value) for token_id, value in self.logit_bias.items()])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        check_in_vocabulary("logit_bias", list(self.logit_bias), scores.shape[-1])
        self._biases = self._biases.to(scores.device)
        return add_sequence_biases(scores, input_ids, self._biases)


class ForcedBOSTokenLogitsProcessor(LogitsProcessor):
    """Forces the second token of a text: the first that is generated where the prompt is one token.

    Args:
        bos_token_id: the token.
    """

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = check_int("bos_token_id", bos_token_id, 0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        if input_ids.shape[-1] != 1:
            return scores
        check_in_vocabulary("forced_bos_token_id", [self.bos_token_id], scores.shape[-1])
        return force_ids(scores, torch.tensor([self.bos_token_id], device=scores.device))


class ForcedEOSTokenLogitsProcessor(LogitsProcessor):
    """Forces the last token before the longest length to be one of these.

    Args:
        max_length: the longest length in tokens, prompt included.
        eos_token_id: one id, a list, or a tensor of them.
        device: has no effect; the reference has it.
    """

    def __init__(self, max_length: int, eos_token_id: Any, device: torch.device | str = "cpu") -> None:
        self.max_length = check_int("max_length", max_length, 1)
        self._ids = id_list("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        if input_ids.shape[-1] != self.max_length - 1:
            return scores
        check_in_vocabulary("forced_eos_token_id", self._ids, scores.shape[-1])
        return force_ids(scores, torch.tensor(self._ids, device=scores.device))


class SuppressTokensLogitsProcessor(LogitsProcessor):
    """Forbids tokens.

    Args:
        suppress_tokens: their ids; those outside the vocabulary are left out.
        device: where the ids are kept.
    """

    def __init__(self, suppress_tokens: Any, device: torch.device | str = "cpu") -> None:
        self.suppress_tokens = id_tensor("suppress_tokens", suppress_tokens, device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return forbid_ids(scores, self.suppress_tokens.to(scores.device))


class SuppressTokensAtBeginLogitsProcessor(LogitsProcessor):
    """Forbids tokens at one place, the beginning of what is generated.

    Args:
        begin_suppress_tokens: their ids; those outside the vocabulary are left out.
        begin_index: how many tokens there are then.
        device: where the ids are kept.
    """

    def __init__(self, begin_suppress_tokens: Any, begin_index: int, device: torch.device | str = "cpu") -> None:
        self.begin_suppress_tokens = id_tensor("begin_suppress_tokens", begin_suppress_tokens, device)
        self.begin_index = check_int("begin_index", begin_index, 0)

    def set_begin_index(self, begin_index: int) -> None:
        """Move the place."""
        self.begin_index = check_int("begin_index", begin_index, 0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        if input_ids.shape[-1] != self.begin_index:
            return scores
        return forbid_ids(scores, self.begin_suppress_tokens.to(scores.device))
