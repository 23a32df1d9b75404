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
        text_starts: whether blanks at the start of this token's text are to be taken as with `text_may_end` False.
        yielding: those of `banned` that may come all the same where another control of the row says that they complete
            the answer, or where nothing else may come.
        completing: tokens that complete what this control holds the row to.
        unread: tokens in whose text no stop string counts, whatever `text_may_end` says.
    """

    forced: int | None = None
    banned: frozenset[int] = frozenset()
    allowed: Tensor | None = None
    stop: str | None = None
    text_may_end: bool = True
    yielding: frozenset[int] = frozenset()
    completing: frozenset[int] = frozenset()
    unread: frozenset[int] = frozenset()
    text_starts: bool = False


FREE = Directive()
GRAMMAR_ERROR = "grammar_error"  # why a row ends in which no token may come


class RowControl(ABC):
    """Steers one row."""

    def with_ends(self, ends: frozenset[int]) -> "RowControl":
        """The control to use where a generation ends rows at these tokens; the same one where it does not matter."""
        return self

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
    """All of several directives at once; the first that forces or stops wins over those behind it.

    Where nothing is left that all of them allow, the row stops with the reason "grammar_error".
    """
    if len(directives) == 1:
        return directives[0]
    text_may_end = all(one.text_may_end for one in directives)
    for one in directives:
        if one.stop is not None or one.forced is not None:
            return Directive(forced=one.forced, stop=one.stop, text_may_end=text_may_end)
    firm = frozenset[int]().union(*(one.banned - one.yielding for one in directives))
    yielding = frozenset[int]().union(*(one.yielding for one in directives)) - firm
    yielding -= frozenset[int]().union(*(one.completing for one in directives))
    allowed = _allowed_by_all([one.allowed for one in directives if one.allowed is not None])
    if allowed is not None and not _leaves_any(allowed, firm | yielding):
        if not _leaves_any(allowed, firm):
            return Directive(stop=GRAMMAR_ERROR, text_may_end=text_may_end)
        yielding = frozenset[int]()
    unread = frozenset[int]().union(*(one.unread for one in directives))
    return Directive(
        banned=firm | yielding,
        allowed=allowed,
        text_may_end=text_may_end,
        unread=unread,
        text_starts=any(one.text_starts for one in directives),
    )


def _allowed_by_all(masks: Sequence[Tensor]) -> Tensor | None:
    """What every mask allows; what lies beyond a mask it does not allow."""
    if len(masks) <= 1:
        return masks[0] if masks else None
    length = min(mask.shape[0] for mask in masks)
    allowed = masks[0][:length]
    for mask in masks[1:]:
        allowed = allowed & mask[:length]
    return allowed


def _leaves_any(allowed: Tensor, banned: frozenset[int]) -> bool:
    inside = [token for token in banned if 0 <= token < allowed.shape[0]]
    return int(allowed.count_nonzero()) > int(allowed[inside].count_nonzero())
