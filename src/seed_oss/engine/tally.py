"""What the scheduler counts."""

from collections import Counter
from dataclasses import dataclass, field

from seed_oss.engine.blocks import BlockPool
from seed_oss.engine.events import Counters
from seed_oss.engine.rows import RowTable
from seed_oss.engine.tables import BlockTables


@dataclass(slots=True)
class Tally:
    """Sums since the start; see `Counters` for what each means."""

    steps: int = 0
    failed_steps: int = 0
    preemptions: int = 0
    computed_tokens: int = 0
    new_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    ended: Counter[str] = field(default_factory=Counter[str])


def counters_of(tally: Tally, rows: RowTable, tables: BlockTables, pool: BlockPool) -> Counters:
    """All figures at this moment, none of which changes any more."""
    return Counters(
        num_waiting=len(rows.waiting),
        num_running=len(rows.running),
        num_queued_tokens=sum(len(sequence.token_ids) for sequence in rows.waiting),
        num_blocks=pool.num_blocks,
        num_free_blocks=pool.num_free,
        num_cached_blocks=pool.num_cached,
        total_steps=tally.steps,
        total_failed_steps=tally.failed_steps,
        total_preemptions=tally.preemptions,
        total_computed_tokens=tally.computed_tokens,
        total_new_tokens=tally.new_tokens,
        total_cache_query_tokens=tables.total_query_tokens,
        total_cache_hit_tokens=tables.total_hit_tokens,
        total_draft_tokens=tally.draft_tokens,
        total_accepted_tokens=tally.accepted_tokens,
        total_ended=dict(tally.ended),
    )
