"""How the tokens of a step are shared out."""

from typing import NamedTuple

from seed_oss.engine.sequence import Sequence


class Share(NamedTuple):
    """What a step is to compute of one row.

    Args:
        sequence: the row.
        num_tokens: known tokens.
        num_drafts: guessed tokens after them.
    """

    sequence: Sequence
    num_tokens: int
    num_drafts: int


def share_budget(running: list[Sequence], budget: int) -> list[Share]:
    """Share the tokens of a step: one for each row that decodes, then the prompts' chunks and the drafts.

    Args:
        running: rows, the first to serve first; each has a token that is not computed.
        budget: tokens in the step, at least one for each row.

    Returns:
        A share of at least one token for each row, in the same order.
    """
    wanted = [sequence.num_missing for sequence in running if sequence.num_missing > 1]
    spare = budget - len(running)
    left = spare // 2 if wanted else spare  # drafts leave half to the prompts
    drafts: list[int] = []
    for sequence in running:
        drafts.append(min(len(sequence.drafts), left))
        left -= drafts[-1]
    chunks = iter(split_budget(wanted, spare - sum(drafts) + len(wanted)))
    counts = (next(chunks) if sequence.num_missing > 1 else 1 for sequence in running)
    return [Share(*share) for share in zip(running, counts, drafts, strict=True)]


def split_budget(wanted: list[int], budget: int) -> list[int]:
    """Share tokens among prompts: one for each, then half of the rest for each in turn, so that a long one leaves some.

    Args:
        wanted: tokens that each prompt still needs, at least 1, the first to serve first.
        budget: tokens to share, at least one for each.

    Returns:
        Tokens for each prompt, at least 1; nothing is left over that anyone wants.
    """
    left = budget - len(wanted)
    shares: list[int] = []
    for want in wanted:
        more = min(want - 1, left - left // 2)
        shares.append(1 + more)
        left -= more
    return _share_rest(wanted, shares, left)


def _share_rest(wanted: list[int], shares: list[int], left: int) -> list[int]:
    for index, want in enumerate(wanted):
        more = min(want - shares[index], left)
        shares[index] += more
        left -= more
    return shares
