"""What every logits processor is, lists of them, and checks on their settings."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seed_oss.errors import InputError


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


def check_int(name: str, value: Any, lowest: int) -> int:
    """The value, if it is an integer from `lowest` on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise InputError(f"{name} is {value!r}; it must be an integer >= {lowest}")
    return value


def check_float(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """The value, if it is a finite number from `low` (`above`: greater than `low`) to `high`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (low < value if above else low <= value) or not value <= high or math.isinf(value):
        limit = f"{'>' if above else '>='} {low}" + (f" and <= {high}" if high < math.inf else "")
        raise InputError(f"{name} is {value!r}; it must be a number {limit}")
    return float(value)


def id_list(name: str, ids: Any) -> list[int]:
    """One id, several, or a tensor of them as a list.

    Raises:
        InputError: something that is no integer, or is negative.
    """
    many = ids.reshape(-1).tolist() if isinstance(ids, Tensor) else ids
    many = [many] if isinstance(many, int) else many
    if not isinstance(many, Sequence) or isinstance(many, str) or not all(_is_id(one) for one in many):
        raise InputError(f"{name} is {ids!r}; it must be a token id or a list of token ids")
    return list(many)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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


def check_in_vocabulary(name: str, ids: Sequence[int], vocab_size: int) -> None:
    """Refuse ids that the scores have no entry for.

    Raises:
        InputError: an id outside the vocabulary.
    """
    largest = max(ids, default=0)
    if largest >= vocab_size:
        raise InputError(
            f"{name} names token {largest}; allowed are 0 to {vocab_size - 1}, the vocabulary of the model"
        )


class OwnTokens:
    """Which tokens at the start of each row are padding, or for other reasons do not count.

    Args:
        ignore_length: one number, int64 `[batch]` such as the lengths of left padding, or None where all count.
    """

    NONE = -1
    """Stands for a token that does not count; no real id equals it."""

    def __init__(self, ignore_length: int | Tensor | None) -> None:
        if isinstance(ignore_length, Tensor):
            if ignore_length.dim() != 1:
                raise InputError(f"prompt_ignore_length is {list(ignore_length.shape)}; it must be [batch]")
        elif ignore_length is not None:
            check_int("prompt_ignore_length", ignore_length, 0)
        self.ignore_length = ignore_length

    def mark(self, input_ids: Tensor, none: int = NONE) -> Tensor:
        """The ids `[batch, length]`, with `none` in the place of tokens that do not count.

        Raises:
            InputError: lengths for another batch.
        """
        ignored = self.ignore_length
        if ignored is None or (isinstance(ignored, int) and ignored == 0):
            return input_ids
        if isinstance(ignored, Tensor) and ignored.shape[0] != input_ids.shape[0]:
            raise InputError(
                f"prompt_ignore_length has {ignored.shape[0]} entries for {input_ids.shape[0]} rows of input_ids"
            )
        lengths = ignored.to(input_ids.device)[:, None] if isinstance(ignored, Tensor) else ignored
        return input_ids.masked_fill(torch.arange(input_ids.shape[1], device=input_ids.device) < lengths, none)
