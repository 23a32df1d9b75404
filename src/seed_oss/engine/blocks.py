"""Blocks of memory for keys and values: who owns them, which are free, which may be used again."""

from collections import OrderedDict
from collections.abc import Iterable

from seed_oss.engine.prefix_cache import PrefixCache
from seed_oss.errors import ConfigError, StateError


class BlockPool:
    """A fixed number of blocks. Each is free (no content), owned (by one row or several) or cached (content, no owner).

    Args:
        num_blocks: how many there are; their ids are 0 to `num_blocks - 1`.
        block_len: tokens in a block.
        prefix_cache: the table of full blocks.

    Raises:
        ConfigError: a number below 1.
    """

    def __init__(self, num_blocks: int, block_len: int, prefix_cache: PrefixCache) -> None:
        if num_blocks < 1 or block_len < 1:
            raise ConfigError(f"the pool has {num_blocks} blocks of {block_len} tokens; give at least 1 of each")
        self.num_blocks = num_blocks
        self.block_len = block_len
        self.prefix_cache = prefix_cache
        self._num_owners = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # the next to evict first

    @property
    def num_free(self) -> int:
        """Blocks without content."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks with content that nobody owns."""
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Blocks that can be taken."""
        return len(self._free) + len(self._cached)

    @property
    def free_ids(self) -> tuple[int, ...]:
        """The free blocks."""
        return tuple(self._free)

    @property
    def cached_ids(self) -> tuple[int, ...]:
        """The cached blocks, the next to evict first."""
        return tuple(self._cached)

    def num_owners(self, block_id: int) -> int:
        """How many rows own a block."""
        return self._num_owners[block_id]

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-num_tokens // self.block_len)

    def take(self, count: int) -> tuple[int, ...] | None:
        """Own `count` blocks, free ones first, then cached ones that nobody has used for longest.

        Args:
            count: how many.

        Returns:
            Their ids, or None where there are not so many.
        """
        if count > self.num_available:
            return None
        return tuple(self._take_one() for _ in range(count))

    def _take_one(self) -> int:
        if self._free:
            block_id = self._free.pop()
        else:
            block_id, _ = self._cached.popitem(last=False)
            self.prefix_cache.forget(block_id)
        self._num_owners[block_id] = 1
        return block_id

    def share(self, block_id: int) -> None:
        """Own a block that holds something already.

        Args:
            block_id: a block in the prefix cache.

        Raises:
            StateError: it is free.
        """
        if not self._num_owners[block_id]:
            if block_id not in self._cached:
                raise StateError(f"block {block_id} is free and cannot be shared; look it up in the prefix cache again")
            del self._cached[block_id]
        self._num_owners[block_id] += 1

    def release(self, block_ids: Iterable[int]) -> None:
        """Give up blocks, the last of a chain first: it is evicted first, so that what is left can be reached.

        Args:
            block_ids: owned blocks.

        Raises:
            StateError: one has no owner.
        """
        for block_id in block_ids:
            if not self._num_owners[block_id]:
                raise StateError(f"block {block_id} has no owner and was released; release each block once")
            self._num_owners[block_id] -= 1
            if not self._num_owners[block_id]:
                self._settle(block_id)

    def forget(self, block_id: int) -> None:
        """Nobody shall find the content of a block again; its owners keep it."""
        self.prefix_cache.forget(block_id)
        if block_id in self._cached:
            del self._cached[block_id]
            self._free.append(block_id)

    def _settle(self, block_id: int) -> None:
        if self.prefix_cache.is_known(block_id):
            self._cached[block_id] = None
        else:
            self._free.append(block_id)
