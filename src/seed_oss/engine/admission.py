"""Which rows are taken into the queue."""

from collections.abc import Sequence as Rows

from seed_oss.engine.batch import NewRow
from seed_oss.engine.blocks import BlockPool
from seed_oss.engine.events import Refusal
from seed_oss.engine.limits import EngineLimits
from seed_oss.engine.rows import RowTable
from seed_oss.engine.sequence import max_tokens_held


def refusal_of(new: Rows[NewRow], rows: RowTable, limits: EngineLimits, pool: BlockPool) -> Refusal | None:
    """Why the rows of a request are not taken, or None.

    Args:
        new: the rows, taken all or none.
        rows: those alive.
        limits: what is allowed.
        pool: where they have to fit.
    """
    for row in new:
        problem = _problem_of(row, limits, pool)
        if problem is not None:
            return Refusal("impossible", f"request {row.key.request_id}: {problem}")
    return _no_place(new, rows, limits)


def _problem_of(row: NewRow, limits: EngineLimits, pool: BlockPool) -> str | None:
    num_prompt, num_new = len(row.prompt_ids), row.max_new_tokens
    if not num_prompt:
        return "the prompt has no tokens; give at least one"
    if num_new < 0 or row.num_draft_tokens < 0:
        return f"max_new_tokens is {num_new} and num_draft_tokens {row.num_draft_tokens}; neither may be negative"
    if abs(row.priority) > limits.max_priority:
        return f"priority is {row.priority}; give one from {-limits.max_priority} to {limits.max_priority}"
    if num_prompt + num_new > limits.max_model_len:
        return (
            f"a prompt of {num_prompt} tokens and {num_new} new ones are more than the context of "
            f"{limits.max_model_len}; shorten the prompt or ask for fewer tokens"
        )
    room = pool.num_blocks * pool.block_len
    if max_tokens_held(row) > room:
        return (
            f"a prompt of {num_prompt} tokens and {num_new} new ones do not fit into the cache of {room} tokens; "
            "ask for fewer tokens, or give the cache more memory"
        )
    return None


def _no_place(new: Rows[NewRow], rows: RowTable, limits: EngineLimits) -> Refusal | None:
    num_tokens = sum(len(row.prompt_ids) for row in new)
    if len(new) > limits.max_num_rows:
        return Refusal("impossible", f"{len(new)} rows at once; there is room for {limits.max_num_rows}: ask for fewer")
    if num_tokens > limits.max_queued_tokens:
        limit = limits.max_queued_tokens
        return Refusal("impossible", f"prompts of {num_tokens} tokens at once; the queue holds {limit}: ask for fewer")
    if len(rows) + len(new) > limits.max_num_rows:
        most = limits.max_num_rows
        return Refusal("overloaded", f"{len(rows)} rows run or wait; there is room for {most}: try again later")
    num_queued = sum(len(sequence.token_ids) for sequence in rows.waiting if sequence.num_cached_tokens is None)
    if num_queued + num_tokens > limits.max_queued_tokens:
        limit = limits.max_queued_tokens
        return Refusal("overloaded", f"{num_queued} tokens wait; the queue holds {limit}: try again later")
    return None
