"""Block tables: what links rows to the pool's blocks and to the prefix cache."""

from typing import NamedTuple

from seed_oss.engine.batch import BlockStore, BlockTransfer
from seed_oss.engine.blocks import BlockPool
from seed_oss.engine.prefix_cache import BlockContent
from seed_oss.engine.sequence import Sequence


class Match(NamedTuple):
    """How much of a row is in the prefix cache.

    Args:
        block_ids: leading blocks; None is one that the store has.
        num_owned: how many of them some row owns already.
        awaited: digest of the last of those that follow which a running row is about to compute, or None.
    """

    block_ids: tuple[int | None, ...] = ()
    num_owned: int = 0
    awaited: bytes | None = None


class BlockTables:
    """Gives blocks to rows, and enters them into the prefix cache once they are computed.

    Args:
        pool: the blocks.
        store: what is on disk, or None.
    """

    def __init__(self, pool: BlockPool, store: BlockStore | None) -> None:
        self._pool = pool
        self._cache = pool.prefix_cache
        self._store = store
        self._promised: dict[bytes, Sequence] = {}  # blocks that a running row is about to compute
        self._saves: list[int] = []
        self.total_query_tokens = 0
        self.total_hit_tokens = 0

    @property
    def has_saves(self) -> bool:
        """Whether blocks may be written to the store."""
        return bool(self._saves)

    def num_blocks_missing(self, sequence: Sequence, num_tokens: int) -> int:
        """Blocks that a row needs beyond its own to hold so many tokens."""
        return self._pool.num_blocks_for(num_tokens) - len(sequence.block_ids)

    def find(self, sequence: Sequence) -> Match:
        """Look a row up in the prefix cache, without its last token, whose logits are wanted."""
        block_ids: list[int | None] = []
        for index in range(self._num_blocks_looked_up(sequence)):
            digest, content = self._digest(sequence, index), self._content(sequence, index)
            block_id = self._cache.find(digest, content)
            if block_id is None and digest in self._promised:
                return self._match(block_ids, self._last_promised(sequence, index))
            if block_id is None and (self._store is None or digest not in self._store):
                break
            block_ids.append(block_id)
        return self._match(block_ids, None)

    def _num_blocks_looked_up(self, sequence: Sequence) -> int:
        row = sequence.row
        is_wanted_whole = row.wants_prompt_logits and sequence.max_computed < sequence.num_prompt
        if not row.uses_prefix_cache or is_wanted_whole:
            return 0
        return (len(sequence.token_ids) - 1) // self._pool.block_len

    def _last_promised(self, sequence: Sequence, index: int) -> bytes:
        """Waiting for the last one at once saves looking again after each."""
        last = index
        for later in range(index + 1, self._num_blocks_looked_up(sequence)):
            if self._digest(sequence, later) not in self._promised:
                break
            last = later
        return self._digest(sequence, last)

    def is_awaited(self, digest: bytes | None) -> bool:
        """Whether the block is not there yet, and a running row is about to compute it."""
        return digest is not None and digest in self._promised and not self._cache.has(digest)

    def _match(self, block_ids: list[int | None], awaited: bytes | None) -> Match:
        owned = sum(block_id is not None and self._pool.num_owners(block_id) > 0 for block_id in block_ids)
        return Match(tuple(block_ids), owned, awaited)

    def adopt(self, sequence: Sequence, match: Match) -> bool:
        """Give a row the blocks that were found for it.

        Args:
            sequence: a row without blocks.
            match: what `find` just said.

        Returns:
            Whether there was room for those that come from the store; if not, nothing has changed.
        """
        hits = [block_id for block_id in match.block_ids if block_id is not None]
        for block_id in hits:
            self._pool.share(block_id)
        taken = self._pool.take(len(match.block_ids) - len(hits))
        if taken is None:
            self._pool.release(reversed(hits))
            return False
        self._enter(sequence, match.block_ids, taken)
        return True

    def _enter(self, sequence: Sequence, found: tuple[int | None, ...], taken: tuple[int, ...]) -> None:
        places = iter(taken)
        sequence.block_ids = tuple(next(places) if block_id is None else block_id for block_id in found)
        sequence.loads = tuple(
            self._transfer(sequence, index) for index, block_id in enumerate(found) if block_id is None
        )
        sequence.num_computed = len(found) * self._pool.block_len
        sequence.num_registered = found.index(None) if None in found else len(found)
        self.total_query_tokens += self._num_blocks_looked_up(sequence) * self._pool.block_len
        self.total_hit_tokens += sequence.num_computed
        self._promise(sequence)

    def _transfer(self, sequence: Sequence, index: int) -> BlockTransfer:
        content = self._content(sequence, index)
        return BlockTransfer(self._digest(sequence, index), sequence.block_ids[index], content.token_ids)

    def _promise(self, sequence: Sequence) -> None:
        """Note which blocks this row is about to compute, so that others wait for them."""
        if not self._may_register(sequence):
            return
        for index in range(sequence.num_registered, len(sequence.token_ids) // self._pool.block_len):
            self._promised.setdefault(self._digest(sequence, index), sequence)

    def _may_register(self, sequence: Sequence) -> bool:
        return sequence.is_hashed and sequence.row.uses_prefix_cache

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give a row blocks for so many tokens; whether there was room."""
        count = self.num_blocks_missing(sequence, num_tokens)
        if count <= 0:
            return True
        taken = self._pool.take(count)
        if taken is None:
            return False
        sequence.block_ids += taken
        return True

    def trim(self, sequence: Sequence) -> None:
        """Take back blocks that were for drafts or tokens ahead alone, so that nobody lacks them."""
        count = self._pool.num_blocks_for(len(sequence.token_ids))
        if len(sequence.block_ids) > count:
            self._pool.release(reversed(sequence.block_ids[count:]))
            sequence.block_ids = sequence.block_ids[:count]

    def register(self, sequence: Sequence) -> None:
        """Enter the full blocks of a row that are computed now."""
        num_full = sequence.num_computed // self._pool.block_len
        while sequence.num_registered < num_full and self._may_register(sequence):
            self._register_block(sequence, sequence.num_registered)
            sequence.num_registered += 1

    def _register_block(self, sequence: Sequence, index: int) -> None:
        block_id, digest = sequence.block_ids[index], self._digest(sequence, index)
        self._promised.pop(digest, None)
        if self._cache.is_known(block_id):
            return
        content = self._content(sequence, index)
        twin = self._cache.find(digest, content)
        if twin is not None:
            self._move(sequence, index, twin)
        elif self._cache.has(digest):
            sequence.is_hashed = False  # two contents with one digest: what follows could be found under either
        else:
            self._cache.register(block_id, digest, content)
            if self._store is not None and digest not in self._store:
                self._saves.append(block_id)

    def _move(self, sequence: Sequence, index: int, twin: int) -> None:
        """Use the block that is in the cache already, so that a chain's blocks are kept and evicted together."""
        self._pool.share(twin)
        self._pool.release(sequence.block_ids[index : index + 1])
        sequence.block_ids = sequence.block_ids[:index] + (twin,) + sequence.block_ids[index + 1 :]

    def take_saves(self) -> tuple[BlockTransfer, ...]:
        """The blocks to write to the store, without those whose place was used again meanwhile."""
        known = [block_id for block_id in self._saves if self._cache.is_known(block_id)]
        entries = [(block_id, *self._cache.entry(block_id)) for block_id in known]
        self._saves.clear()
        return tuple(BlockTransfer(digest, block_id, content.token_ids) for block_id, digest, content in entries)

    def release(self, sequence: Sequence) -> None:
        """Take all blocks from a row. What is in the prefix cache stays there."""
        for digest in sequence.digests:
            if self._promised.get(digest) is sequence:
                del self._promised[digest]
        self._pool.release(reversed(sequence.block_ids))
        sequence.reset()

    def distrust(self, sequence: Sequence) -> None:
        """Take the blocks of a row out of the prefix cache: they may hold what made it fail."""
        for block_id in sequence.block_ids:
            self._pool.forget(block_id)

    def _digest(self, sequence: Sequence, index: int) -> bytes:
        digests, elder = sequence.digests, sequence.elder
        if not digests and elder is not None:
            digests += elder.digests[: sequence.num_prompt // self._pool.block_len]
        while len(digests) <= index:
            digests.append(self._cache.digest(self._content(sequence, len(digests))))
        return digests[index]

    def _content(self, sequence: Sequence, index: int) -> BlockContent:
        parent = self._digest(sequence, index - 1) if index else self._cache.root
        block_len = self._pool.block_len
        token_ids = tuple(sequence.token_ids[index * block_len : (index + 1) * block_len])
        return BlockContent(parent, sequence.row.namespace, sequence.row.cache_salt, token_ids)
