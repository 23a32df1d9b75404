"""Whether what a step gave for a row can be."""

from seed_oss.engine.batch import RowResult, ScheduledRow
from seed_oss.engine.sequence import Sequence


def problem_with(sequence: Sequence, row: ScheduledRow, num_ahead: int, result: RowResult | None) -> str | None:
    """Why a row cannot go on, or None.

    Args:
        sequence: the row.
        row: what was asked of the step.
        num_ahead: of the batch.
        result: what the step made of it; None where it left the row out.
    """
    if result is None:
        return "the step gave no result for this row"
    if result.error is not None:
        return result.error
    num_most = 1 + row.num_drafts + num_ahead if row.is_sampled and sequence.num_remaining else 0
    num_new = len(result.token_ids)
    is_idle = row.is_sampled and sequence.num_remaining > 0 and not num_new and result.finish is None
    if num_new > num_most or is_idle:
        return f"the step gave {num_new} tokens for this row and at most {num_most}, at least one, can come"
    return None
