"""Guessing tokens ahead, to be verified by the model several at a time."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from seed_oss.generation.columns import Columns


class Drafter(ABC):
    """Guesses what comes next. A guess costs time if it is wrong, and never changes the result."""

    @abstractmethod
    def propose(self, ids: Columns, limit: int, done: Sequence[bool]) -> list[list[int]]:
        """Guess.

        Args:
            ids: everything so far, int64 `[batch, length]`.
            limit: most tokens per row, >= 1.
            done: rows that have ended, whose guesses nobody looks at.

        Returns:
            Tokens per row, `limit` at most, or none.
        """

    def judge(self, num_right: int, num_proposed: int) -> None:  # noqa: B027 - most learn nothing
        """How many of the proposed tokens turned out right in every row."""

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """How many tokens to ask for."""
