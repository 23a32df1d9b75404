"""Stopping criteria under the reference's names: `criterion(input_ids, scores)` says which rows are done."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.generation.processors import id_tensor
from seed_oss.generation.stop_strings import StopMatcher, StopStringTracker, num_tail_tokens
from seed_oss.generation.text import Decodes


class StoppingCriteria(ABC):
    """Says which rows are done. Subclass it and override `__call__`."""

    @abstractmethod
    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Look at the batch after a token was added to every row.

        Args:
            input_ids: int64 `[batch, length]`, prompt and tokens so far.
            scores: tuple of `[batch, vocab]`, one per new token; None unless `output_scores` was asked for.
            **kwargs: nothing at present.

        Returns:
            Boolean `[batch]`, or one bool for all rows.
        """


class StoppingCriteriaList(list[Any]):
    """Criteria of which any one suffices."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Boolean `[batch]`: rows that are done for at least one criterion."""
        done = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        for criterion in self:
            done = done | criterion(input_ids, scores, **kwargs)
        return done

    @property
    def max_length(self) -> int | None:
        """Limit of the first MaxLengthCriteria, or None."""
        return next((one.max_length for one in self if isinstance(one, MaxLengthCriteria)), None)


class MaxLengthCriteria(StoppingCriteria):
    """Stops at a total length, prompt included.

    Args:
        max_length: tokens.
        max_position_embeddings: kept; `generate` itself warns where positions outgrow the model.
    """

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        if not isinstance(max_length, int) or isinstance(max_length, bool) or max_length < 1:
            raise InputError(f"max_length is {max_length!r}; it must be an integer >= 1")
        self.max_length = max_length
        self.max_position_embeddings = max_position_embeddings

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """See StoppingCriteria."""
        return _all_rows(input_ids, input_ids.shape[1] >= self.max_length)


class MaxTimeCriteria(StoppingCriteria):
    """Stops some time after it was made.

    Args:
        max_time: seconds.
        initial_timestamp: a `time.time()` to count from, instead of now.
    """

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        if not isinstance(max_time, (int, float)) or isinstance(max_time, bool) or not max_time > 0:
            raise InputError(f"max_time is {max_time!r}; it must be a number of seconds > 0")
        self.max_time = max_time
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.time() - self.initial_timestamp > self.max_time

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """See StoppingCriteria."""
        return _all_rows(input_ids, self.is_over())


class EosTokenCriteria(StoppingCriteria):
    """Stops a row after an end-of-sequence token.

    Args:
        eos_token_id: one id, a list, or a tensor of them.
    """

    def __init__(self, eos_token_id: int | Sequence[int] | Tensor) -> None:
        self.eos_token_id = id_tensor("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """See StoppingCriteria."""
        return torch.isin(input_ids[:, -1], self.eos_token_id.to(input_ids.device))


class StopStringCriteria(StoppingCriteria):
    """Stops a row when a stop string ends in the text of its last token; it may begin in the prompt.

    Args:
        tokenizer: gives the text.
        stop_strings: one string or several.
    """

    def __init__(self, tokenizer: Decodes, stop_strings: str | Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.matcher = StopMatcher([stop_strings] if isinstance(stop_strings, str) else list(stop_strings))

    def tracker(self, prompt_ids: Sequence[int]) -> StopStringTracker:
        """Follows one row token by token, which is cheaper than looking back at every step."""
        return StopStringTracker(self.matcher, self.tokenizer, prompt_ids)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """See StoppingCriteria."""
        tail = input_ids[:, -num_tail_tokens(self.matcher) :].tolist()
        return torch.tensor([self.tracker(row[:-1]).feed(row[-1]) for row in tail], device=input_ids.device)


def _all_rows(input_ids: Tensor, done: bool) -> Tensor:
    return torch.full((input_ids.shape[0],), done, dtype=torch.bool, device=input_ids.device)
