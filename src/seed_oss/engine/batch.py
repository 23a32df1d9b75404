"""The border between scheduler and runner: plain data that says what to compute, and what came of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple


class RowKey(NamedTuple):
    """Names one generated row: `n` choices of a request are `n` rows.

    Args:
        request_id: the request, unique among those alive.
        choice: index of the row in its request.
    """

    request_id: str
    choice: int


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row to generate.

    Args:
        key: its name.
        prompt_ids: at least one token.
        max_new_tokens: most tokens to generate; 0 ends the row once its prompt is computed.
        priority: larger is served earlier; waiting makes up for it (`EngineLimits.ageing_s`).
        namespace: only rows of one namespace share cached blocks.
        cache_salt: what else the keys and values depend on: adapter, rope variant.
        uses_prefix_cache: whether blocks are looked up in the prefix cache and kept there.
        num_draft_tokens: most drafts to verify in a step.
        wants_prompt_logits: every token of the prompt is computed, so a cache hit skips none of them. A row that is
            preempted within its prompt computes it again from the start.
        arrival: seconds on the clock of `now`, when the request came in; None means when it is added.
    """

    key: RowKey
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    priority: int = 0
    namespace: bytes = b""
    cache_salt: bytes = b""
    uses_prefix_cache: bool = True
    num_draft_tokens: int = 0
    wants_prompt_logits: bool = False
    arrival: float | None = None


@dataclass(frozen=True, slots=True)
class ScheduledRow:
    """What a step computes of one row.

    Args:
        key: the row.
        start: position of the first of `token_ids`; keys and values of all before it are in the blocks.
        token_ids: known tokens from `start` on, drafts at their end.
        num_drafts: how many of them are drafts.
        block_ids: position `p` is in slot `p % block_len` of block `block_ids[p // block_len]`; covers all of
            `token_ids` at least. The same tuple object comes again while nothing has changed. It mostly grows, but it
            shrinks where drafts were refused or tokens ahead did not come, and an earlier entry may change: where an
            equal block is in the prefix cache already, the row moves to it.
        is_sampled: these tokens catch up with all that is known, so logits of the last `1 + num_drafts` are wanted.
    """

    key: RowKey
    start: int
    token_ids: tuple[int, ...]
    num_drafts: int
    block_ids: tuple[int, ...]
    is_sampled: bool


class BlockTransfer(NamedTuple):
    """A block that goes to the disk store or comes from it.

    Args:
        digest: its key in the store.
        block_id: its place in memory.
        token_ids: its tokens: written with the block, and compared when it is read.
    """

    digest: bytes
    block_id: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """What the runner does in one step: write `saves`, read `loads`, compute `rows`; without rows nothing is reported.

    Args:
        rows: at most `max_num_seqs` rows with `max_num_batched_tokens` tokens together.
        loads: blocks to read from the store before the step.
        saves: blocks that became full with the last update and may be written to the store, before anything else.
        num_ahead: tokens of each row that may be chosen, and computed, behind the one that it is due for; all rows have
            a single token then, and blocks for so many more.
    """

    rows: tuple[ScheduledRow, ...]
    loads: tuple[BlockTransfer, ...] = ()
    saves: tuple[BlockTransfer, ...] = ()
    num_ahead: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows, drafts included."""
        return sum(len(row.token_ids) for row in self.rows)


@dataclass(frozen=True, slots=True)
class RowResult:
    """What a step made of one row.

    Args:
        key: the row.
        token_ids: new tokens: the accepted drafts and the one sampled after them, or the one that it was due for and
            those ahead of it; empty where nothing was sampled.
        finish: why the row ends with these tokens ("stop", "stop_string", ...), or None.
        error: why this row alone cannot go on, or None.
        drafts: guesses of the tokens that follow.
        is_plain: whether a step may choose several of the tokens that follow, since it asks nothing but the model.
    """

    key: RowKey
    token_ids: tuple[int, ...] = ()
    finish: str | None = None
    error: str | None = None
    drafts: tuple[int, ...] = ()
    is_plain: bool = False


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made of its batch, one result per row.

    Args:
        rows: in any order.
        num_ahead: tokens of each row that were computed ahead, at most as many as the batch allows.
    """

    rows: tuple[RowResult, ...]
    num_ahead: int = 0


class BlockStore(ABC):
    """Which blocks are on disk. The runner reads and writes them; the scheduler only asks."""

    @abstractmethod
    def __contains__(self, digest: object) -> bool:
        """Whether the block can be read. False from then on where reading it has failed once."""
