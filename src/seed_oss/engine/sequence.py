"""The state of one row: what is known of it, how much of that is computed, and where."""

from dataclasses import dataclass, field

from seed_oss.engine.batch import BlockTransfer, NewRow


@dataclass(slots=True, eq=False)
class Sequence:
    """A row between its arrival and its end. Computed tokens must catch up with known ones; there are no phases.

    Args:
        row: what was asked for.
        order: who is first: the smaller one is served earlier, and loses its blocks later.
        arrived: seconds on the scheduler's clock.
        token_ids: known tokens: the prompt and what was generated.
        elder: an earlier row with the same prompt, whose digests are its own, too; or None.
    """

    row: NewRow
    order: tuple[float, int]
    arrived: float
    token_ids: list[int]
    elder: "Sequence | None" = None
    num_computed: int = 0
    block_ids: tuple[int, ...] = ()
    digests: list[bytes] = field(default_factory=list[bytes])  # of full blocks, as far as anybody asked
    num_registered: int = 0  # blocks from the first on that are dealt with
    is_hashed: bool = True  # whether its blocks may enter the prefix cache
    loads: tuple[BlockTransfer, ...] = ()  # on their way from the store
    drafts: tuple[int, ...] = ()
    is_plain: bool = False  # whether a step may choose several of its tokens
    is_running: bool = False
    scheduled_in: int = -1  # number of the last step that it took part in
    progressed_at: float = 0.0
    max_computed: int = 0  # most tokens that were ever computed
    num_blocks_wanted: int = 0  # blocks that there was not room for
    awaited: bytes | None = None  # digest of a block that another row is about to compute
    num_cached_tokens: int | None = None  # None until it first runs
    num_preemptions: int = 0

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.row.prompt_ids)

    @property
    def num_new(self) -> int:
        """Tokens generated."""
        return len(self.token_ids) - len(self.row.prompt_ids)

    @property
    def num_remaining(self) -> int:
        """Tokens that may still be generated."""
        return self.row.max_new_tokens - self.num_new

    @property
    def num_missing(self) -> int:
        """Known tokens that are not computed."""
        return len(self.token_ids) - self.num_computed

    def may_be_elder_of(self, row: NewRow) -> bool:
        """Whether the blocks of the row's prompt have the digests of this one's."""
        own = self.row
        same_space = (own.namespace, own.cache_salt) == (row.namespace, row.cache_salt)
        return same_space and own.prompt_ids == row.prompt_ids

    def advance(self, token_ids: tuple[int, ...], num_computed: int, drafts: tuple[int, ...]) -> None:
        """Take the result of a step.

        Args:
            token_ids: new tokens.
            num_computed: tokens whose keys and values are in the blocks now.
            drafts: guesses of what follows.
        """
        self.token_ids.extend(token_ids)
        self.num_computed = num_computed
        self.max_computed = max(self.max_computed, num_computed)
        self.drafts = drafts[: max(min(self.row.num_draft_tokens, self.num_remaining - 1), 0)]
        self.loads = ()

    def reset(self) -> None:
        """Keep the tokens and forget that anything was computed."""
        self.num_computed = self.num_registered = self.num_blocks_wanted = 0
        self.block_ids = self.loads = self.drafts = ()
        self.awaited = None
        self.scheduled_in = -1


def max_tokens_held(row: NewRow) -> int:
    """Most tokens of a row whose keys and values are stored at once; those of the last new token never are."""
    return len(row.prompt_ids) + max(row.max_new_tokens - 1, 0)
