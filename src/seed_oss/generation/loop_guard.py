"""Noticing that a model repeats itself: the same tokens over and over, or nearly the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from seed_oss.errors import InputError


@dataclass(frozen=True, slots=True)
class LoopGuard:
    """When tokens count as a loop.

    Args:
        window: how many tokens at the end are looked at.
        repeats: exact repetition: that many copies of one piece at the end, at most a quarter of the window each.
        min_tokens: the copies must cover at least so many tokens together.
        distinct_share: near repetition: of all runs of four tokens in a full window, at most this share is different.
        every: look after each so many tokens.

    Raises:
        InputError: a value out of range.
    """

    window: int = 512
    repeats: int = 4
    min_tokens: int = 96
    distinct_share: float = 0.2
    every: int = 32

    def __post_init__(self) -> None:
        for name, lowest in (("window", 16), ("repeats", 2), ("min_tokens", 1), ("every", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise InputError(f"LoopGuard.{name} is {value!r}; it must be an integer >= {lowest}")
        share = self.distinct_share
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share < 1:
            raise InputError(f"LoopGuard.distinct_share is {share!r:.80}; it must be a number from 0 to below 1")

    def is_loop(self, tail: Sequence[int]) -> bool:
        """Whether the tokens at the end, at most `window` of them, are a loop. Linear time."""
        return self._repeats_exactly(tail) or self._repeats_nearly(tail)

    def _repeats_exactly(self, tail: Sequence[int]) -> bool:
        # Read from the end, a piece of length p copied n times is a start that agrees with itself p later for (n-1)p.
        agreement = z_function(tail[::-1])
        return any(
            agreed >= (self.repeats - 1) * period and agreed + period >= self.min_tokens
            for period, agreed in enumerate(agreement)
            if 0 < period <= self.window // 4
        )

    def _repeats_nearly(self, tail: Sequence[int]) -> bool:
        if len(tail) < self.window:
            return False
        runs = [tuple(tail[start : start + 4]) for start in range(len(tail) - 3)]
        return len(set(runs)) <= self.distinct_share * len(runs)


def z_function(items: Sequence[int]) -> list[int]:
    """For each position, how many items from there on equal those at the start (D. Gusfield, 1997); 0 at position 0."""
    agreement = [0] * len(items)
    left = right = 0
    for position in range(1, len(items)):
        length = min(max(right - position, 0), agreement[position - left])
        while position + length < len(items) and items[length] == items[position + length]:
            length += 1
        agreement[position] = length
        if position + length > right:
            left, right = position, position + length
    return agreement
