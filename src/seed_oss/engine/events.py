"""What the scheduler tells those who wait for rows, and its figures at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass

from seed_oss.engine.batch import RowKey


@dataclass(frozen=True, slots=True)
class Tokens:
    """New tokens of a row.

    Args:
        key: the row.
        token_ids: one or more.
        first: index of the first among the row's new tokens; each index comes once, in order.
    """

    key: RowKey
    token_ids: tuple[int, ...]
    first: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of a row; every row gets exactly one.

    Args:
        key: the row.
        reason: "length", what the runner said ("stop", ...), what `abort` said, "error", or "timeout".
        message: more for a person to read, or None.
        num_prompt_tokens: tokens of the prompt.
        num_new_tokens: tokens generated.
        num_cached_tokens: tokens that the prefix cache saved when the row first ran.
        num_preemptions: how often the row lost its blocks.
    """

    key: RowKey
    reason: str
    message: str | None
    num_prompt_tokens: int
    num_new_tokens: int
    num_cached_tokens: int
    num_preemptions: int


Event = Tokens | Ended


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why rows are not taken.

    Args:
        reason: "impossible" (they can never run here), "overloaded" (later they may), or "draining".
        message: value, limit and remedy.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Counters:
    """Figures for a metrics page. Those named `total_` only grow.

    Args:
        num_waiting: rows that wait, preempted ones included.
        num_running: rows that hold blocks.
        num_queued_tokens: known tokens of the waiting rows.
        num_blocks: all blocks.
        num_free_blocks: blocks without content.
        num_cached_blocks: blocks without owner whose content may be used again.
        total_steps: batches with rows.
        total_failed_steps: batches that raised.
        total_preemptions: times that a row lost its blocks.
        total_computed_tokens: tokens computed, drafts and tokens ahead included.
        total_new_tokens: tokens generated.
        total_cache_query_tokens: tokens looked up in the prefix cache.
        total_cache_hit_tokens: those of them found there, or in the store.
        total_draft_tokens: drafts verified.
        total_accepted_tokens: drafts accepted.
        total_ended: rows ended, by reason.
    """

    num_waiting: int
    num_running: int
    num_queued_tokens: int
    num_blocks: int
    num_free_blocks: int
    num_cached_blocks: int
    total_steps: int
    total_failed_steps: int
    total_preemptions: int
    total_computed_tokens: int
    total_new_tokens: int
    total_cache_query_tokens: int
    total_cache_hit_tokens: int
    total_draft_tokens: int
    total_accepted_tokens: int
    total_ended: Mapping[str, int]
