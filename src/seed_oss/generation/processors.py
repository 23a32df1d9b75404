"""Logits processors: objects that change the scores of the next token, under the reference's names.

The work is done by the pure functions of `logits.py`; an object only keeps the settings.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.generation.logits import forbid_ids, keep_min_p, keep_top_k, keep_top_p, penalize_repetition


class LogitsProcessor(ABC):
    """Changes the scores of the next token. Subclass it and override `__call__`."""

    @abstractmethod
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores.

        Args:
            input_ids: int64 `[batch, length]`, prompt and tokens so far.
            scores: float32 `[batch, vocab]`.

        Returns:
            float32 `[batch, vocab]`.
        """


class LogitsProcessorList(list[Any]):
    """Processors applied one after the other."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Apply all processors; `kwargs` go to those that take more than ids and scores."""
        for processor in self:
            extra = kwargs if kwargs and len(inspect.signature(processor).parameters) > 2 else {}
            scores = processor(input_ids, scores, **extra)
        return scores


def _check_int(name: str, value: Any, lowest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise InputError(f"{name} is {value!r}; it must be an integer >= {lowest}")
    return value


def _check_float(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (low < value if above else low <= value) or not value <= high or math.isinf(value):
        limit = f"{'>' if above else '>='} {low}" + (f" and <= {high}" if high < math.inf else "")
        raise InputError(f"{name} is {value!r}; it must be a number {limit}")
    return float(value)


def id_tensor(name: str, ids: Any, device: torch.device | str = "cpu") -> Tensor:
    """One id, several, or a tensor of them as an int64 tensor `[n]`.

    Raises:
        InputError: something that is no integer.
    """
    if isinstance(ids, Tensor):
        return ids.reshape(-1).to(device=device, dtype=torch.int64)
    many = ids if isinstance(ids, Sequence) and not isinstance(ids, str) else [ids]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in many):
        raise InputError(f"{name} is {ids!r}; it must be an integer or a list of integers")
    return torch.tensor(list(many), dtype=torch.int64, device=device)


class TemperatureLogitsWarper(LogitsProcessor):
    """Divides the scores.

    Args:
        temperature: > 0; above 1 flattens the distribution, below 1 sharpens it.
    """

    def __init__(self, temperature: float) -> None:
        if temperature == 0:
            raise InputError("temperature is 0; for greedy decoding set do_sample=False")
        self.temperature = _check_float("temperature", temperature, 0.0, above=True)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return scores / self.temperature


class TopKLogitsWarper(LogitsProcessor):
    """Keeps the most probable tokens.

    Args:
        top_k: how many, >= 1; ties with the last one are kept.
        filter_value: score of the others.
        min_tokens_to_keep: lower bound on `top_k`.
    """

    def __init__(self, top_k: int, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.top_k = max(_check_int("top_k", top_k, 1), min_tokens_to_keep)
        self.filter_value = filter_value

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return keep_top_k(scores, self.top_k, self.filter_value)


class TopPLogitsWarper(LogitsProcessor):
    """Keeps the smallest set of most probable tokens with a given mass.

    Args:
        top_p: the mass, 0 to 1.
        filter_value: score of the others.
        min_tokens_to_keep: how many tokens to keep at least.
    """

    def __init__(self, top_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.top_p = _check_float("top_p", top_p, 0.0, 1.0)
        self.filter_value = filter_value
        self.min_tokens_to_keep = _check_int("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return keep_top_p(scores, self.top_p, self.min_tokens_to_keep, self.filter_value)


class MinPLogitsWarper(LogitsProcessor):
    """Keeps tokens whose probability is at least a share of the best one's.

    Args:
        min_p: the share, 0 to 1.
        filter_value: score of the others.
        min_tokens_to_keep: how many tokens to keep at least.
    """

    def __init__(self, min_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.min_p = _check_float("min_p", min_p, 0.0, 1.0)
        self.filter_value = filter_value
        self.min_tokens_to_keep = _check_int("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        return keep_min_p(scores, self.min_p, self.min_tokens_to_keep, self.filter_value)


class RepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Makes tokens that occurred before less likely.

    Args:
        penalty: > 0; above 1 discourages repetition.
        prompt_ignore_length: how many tokens at the start do not count: one number, or int64 `[batch]` such as the
            lengths of left padding.
    """

    def __init__(self, penalty: float, prompt_ignore_length: int | Tensor | None = None) -> None:
        self.penalty = _check_float("penalty", penalty, 0.0, above=True)
        if isinstance(prompt_ignore_length, Tensor):
            if prompt_ignore_length.dim() != 1:
                raise InputError(f"prompt_ignore_length is {list(prompt_ignore_length.shape)}; it must be [batch]")
        elif prompt_ignore_length is not None:
            _check_int("prompt_ignore_length", prompt_ignore_length, 0)
        self.prompt_ignore_length = prompt_ignore_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        ignored = self.prompt_ignore_length
        if isinstance(ignored, int):
            input_ids = input_ids[:, ignored:]
        elif ignored is not None:
            if ignored.shape[0] != input_ids.shape[0]:
                raise InputError(
                    f"prompt_ignore_length has {ignored.shape[0]} entries for {input_ids.shape[0]} rows of input_ids"
                )
            at_start = torch.arange(input_ids.shape[1], device=input_ids.device) < ignored.to(input_ids.device)[:, None]
            input_ids = input_ids.masked_fill(at_start, scores.shape[-1])
        return penalize_repetition(scores, input_ids, self.penalty)


class MinLengthLogitsProcessor(LogitsProcessor):
    """Forbids the end-of-sequence tokens until a total length, prompt included, is reached.

    Args:
        min_length: tokens, >= 0.
        eos_token_id: one id, a list, or a tensor of them.
        device: where the ids are kept.
    """

    def __init__(self, min_length: int, eos_token_id: Any, device: torch.device | str = "cpu") -> None:
        self.min_length = _check_int("min_length", min_length, 0)
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
        self.prompt_length_to_skip = _check_int("prompt_length_to_skip", prompt_length_to_skip, 0)
        self.min_new_tokens = _check_int("min_new_tokens", min_new_tokens, 0)
        self.eos_token_id = id_tensor("eos_token_id", eos_token_id, device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor."""
        if input_ids.shape[-1] - self.prompt_length_to_skip >= self.min_new_tokens:
            return scores
        return forbid_ids(scores, self.eos_token_id.to(scores.device))
