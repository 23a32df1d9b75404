"""How many tokens each row of a step gets at once, where nothing but the model is asked between them."""

import math

from seed_oss.engine.budget import Share
from seed_oss.engine.sequence import Sequence

_MOST_TOKENS = 8


class Stride:
    """Says how far a step goes, by how long the last ones took.

    Args:
        max_s: seconds that a step may take with more than one token of a row; 0 gives them one at a time.
        num_resting: steps that give them one at a time after one that could not go on.
    """

    def __init__(self, max_s: float, num_resting: int = 64) -> None:
        self._max_s, self._num_resting = max_s, num_resting
        self._token_s, self._num_rows = math.inf, 1  # of the last step with one known token of each row
        self._rest = 0

    def num_ahead(self, shares: list[Share]) -> int:
        """Tokens of each row behind the one that it is due for.

        Args:
            shares: all that is to be computed in the step.
        """
        if self._rest or not self._max_s or not shares or not all(_goes_on_alone(*share) for share in shares):
            return 0
        if len({share.sequence.row.cache_salt for share in shares}) > 1:  # they do not run together
            return 0
        expected_s = self._token_s * max(len(shares) / self._num_rows, 1.0)
        if self._max_s < 2 * expected_s:
            return 0
        fitting = _MOST_TOKENS if _MOST_TOKENS * expected_s <= self._max_s else int(self._max_s / expected_s)
        return min(fitting, *(share.sequence.num_remaining for share in shares)) - 1

    def saw(self, seconds: float, num_rows: int, num_ahead: int, *, could_not: bool = False) -> None:
        """Take notice of a step that had one known token of each row.

        Args:
            seconds: that it took.
            num_rows: in it.
            num_ahead: tokens of each row that were computed ahead.
            could_not: some might have been, and no row's end is the reason.
        """
        self._token_s, self._num_rows = seconds / (1 + num_ahead), num_rows
        self._rest = self._num_resting if could_not else max(self._rest - 1, 0)

    def failed(self) -> None:
        """Take notice of a step that raised: the next ones show whether the known tokens are to blame."""
        self._rest = self._num_resting


def _goes_on_alone(sequence: Sequence, num_tokens: int, num_drafts: int) -> bool:
    """Whether the model alone says what follows a row's next token. Drafts are for finding more at once."""
    is_due = num_tokens == sequence.num_missing == 1 and not num_drafts
    return is_due and sequence.is_plain and not sequence.row.num_draft_tokens
