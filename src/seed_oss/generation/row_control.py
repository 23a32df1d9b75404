"""What steers a single row while it is generated: a thinking budget, a grammar.

A control follows the tokens of one row and says, before each, what may come. Its state is a value: `advance` returns
another one and changes nothing, so that tokens can be tried and taken back (speculation) and that a batched engine
keeps one state per request. Nothing here knows batches or models.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Directive:
    """What may come next in a row.

    Attributes:
        forced: the only token that may come, or None. It is recorded as forced, with the log-probability that the
            model gave it.
        banned: tokens that may not come.
        allowed: bool `[vocab_size]` on the CPU, True where a token may come; None allows all.
        stop: why the row ends here, without another token; None goes on.
        text_may_end: whether a stop string may end the row with this token. False keeps the row going; its strings
            that begin before it becomes True again do not count.
    """

    forced: int | None = None
    banned: frozenset[int] = frozenset()
    allowed: Tensor | None = None
    stop: str | None = None
    text_may_end: bool = True


FREE = Directive()


class RowControl(ABC):
    """Steers one row."""

    @abstractmethod
    def start(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Any:
        """The state before the first new token.

        Args:
            prompt_ids: the row's prompt without padding.
            max_new_tokens: how many tokens may come at most.
        """

    @abstractmethod
    def directive(self, state: Any) -> Directive:
        """What may come next."""

    @abstractmethod
    def advance(self, state: Any, token_id: int) -> Any:
        """The state after one more token, chosen or forced."""


def combine(directives: Sequence[Directive]) -> Directive:
    """All of several directives at once; the first that forces or stops wins over those behind it."""
    if len(directives) == 1:
        return directives[0]
    stop = next((one.stop for one in directives if one.stop is not None), None)
    forced = next((one.forced for one in directives if one.forced is not None), None)
    masks = [one.allowed for one in directives if one.allowed is not None]
    allowed: Tensor | None = None
    for mask in masks:
        allowed = mask if allowed is None else allowed & mask
    banned = frozenset[int]().union(*(one.banned for one in directives))
    return Directive(forced, banned, allowed, stop, all(one.text_may_end for one in directives))
