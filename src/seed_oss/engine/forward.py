"""What the stepper asks of a model: to run a batch of packed rows, and to say what its head makes of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seed_oss.engine.batch import ScheduledBatch
from seed_oss.generation.sampling import choose_greedily


class RowTraits(NamedTuple):
    """What a forward is told of a row beside its tokens.

    Attributes:
        total_len: most tokens that it will have in the end.
        adapter: name of the adapter that it runs through, or None.
        end_ids: tokens behind which nothing is wanted.
    """

    total_len: int
    adapter: str | None = None
    end_ids: frozenset[int] = frozenset()


class Forward:
    """What a batch came to.

    Args:
        hidden: hidden states behind the last norm, `[num_tokens, hidden_size]`, row after row of the batch.
        head: from some of them to logits `[n, vocab_size]`, each row's bits its own; None without.

    Attributes:
        before: where tokens were chosen ahead, each row's for each time the model went on from them. `best` is of the
            last time then, and nothing else may be asked for.
    """

    def __init__(self, hidden: Tensor, head: Callable[[Tensor], Tensor] | None) -> None:
        self.hidden, self._head = hidden, head
        self.before: Sequence[Sequence[int]] = ()
        self._known: tuple[Sequence[int], Tensor] | None = None  # the last rows that were asked for

    def logits(self, rows: Sequence[int]) -> Tensor:
        """float32 `[rows, vocab_size]` of some rows of `hidden`; a row's bits do not depend on the others."""
        assert self._head is not None
        if self._known is None or self._known[0] != list(rows):
            self._known = list(rows), self._head(self.hidden[list(rows)]).float()
        return self._known[1]

    def best(self, rows: Sequence[int]) -> list[int]:
        """The token with the highest logit of each row, or NO_TOKEN."""
        return choose_greedily(self.logits(rows), 0).tolist()

    def lost(self) -> list[bool] | None:
        """For each row of `hidden` whether something in it is no number; None where that is so of none."""
        is_lost = self.hidden.sum(dim=1, dtype=torch.float32).isnan()
        return is_lost.tolist() if bool(is_lost.any()) else None


class PackedModel(ABC):
    """Runs packed rows."""

    @property
    @abstractmethod
    def is_native(self) -> bool:
        """Whether the kernels run it, beside which torch's threads had better sleep."""

    def goes_ahead(self, adapter: str | None) -> bool:
        """Whether it may choose several tokens in one step of each row that runs through an adapter, or without one."""
        return False

    @abstractmethod
    def transfer(self, batch: ScheduledBatch) -> bool:
        """Write and read the blocks that go to the disk and come from it; whether all were read."""

    @abstractmethod
    def close(self) -> None:
        """Finish what goes on beside."""

    @abstractmethod
    def run(self, batch: ScheduledBatch, traits: Sequence[RowTraits]) -> Forward:
        """Compute the batch's tokens, keys and values into their blocks.

        Args:
            batch: what to compute; of the tokens ahead as many as it can, which may be none.
            traits: of each row.
        """
