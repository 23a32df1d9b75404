"""The pool: three states of a block, owners, and what is evicted first."""

import pytest

from seed_oss.engine.blocks import BlockPool
from seed_oss.engine.prefix_cache import BlockContent, PrefixCache
from seed_oss.errors import ConfigError, StateError


def pool_of(num_blocks: int) -> BlockPool:
    return BlockPool(num_blocks, 2, PrefixCache(bytes(16)))


def register(pool: BlockPool, block_id: int) -> None:
    content = BlockContent(PrefixCache.root, b"", b"", (block_id, block_id))
    pool.prefix_cache.register(block_id, pool.prefix_cache.digest(content), content)


def test_all_or_nothing_is_taken() -> None:
    pool = pool_of(3)
    assert pool.take(4) is None
    assert pool.num_free == 3
    assert pool.take(3) == (0, 1, 2)
    assert pool.take(1) is None
    assert pool.take(0) == ()


def test_a_released_block_without_content_is_free() -> None:
    pool = pool_of(2)
    pool.release(pool.take(2) or ())
    assert (pool.num_free, pool.num_cached) == (2, 0)


def test_a_block_is_free_once_its_last_owner_is_gone() -> None:
    pool = pool_of(1)
    pool.take(1)
    pool.share(0)
    pool.release([0])
    assert (pool.num_owners(0), pool.num_free) == (1, 0)
    pool.release([0])
    assert (pool.num_owners(0), pool.num_free) == (0, 1)


def test_a_chain_is_evicted_from_its_end_and_the_longest_unused_first() -> None:
    pool = pool_of(5)
    old, new = pool.take(2) or (), pool.take(2) or ()
    for block_id in (*old, *new):
        register(pool, block_id)
    pool.release(reversed(old))
    pool.release(reversed(new))
    assert pool.cached_ids == (1, 0, 3, 2)
    assert pool.take(3) == (4, 1, 0), "free ones first"
    assert not pool.prefix_cache.is_known(0)
    assert pool.prefix_cache.is_known(3)


def test_a_shared_block_is_not_evicted() -> None:
    pool = pool_of(1)
    pool.take(1)
    register(pool, 0)
    pool.release([0])
    pool.share(0)
    assert pool.take(1) is None
    assert pool.num_cached == 0


def test_a_forgotten_block_is_free_or_stays_with_its_owner() -> None:
    pool = pool_of(2)
    pool.take(2)
    register(pool, 0)
    register(pool, 1)
    pool.release([0])
    pool.forget(0)
    pool.forget(1)
    assert (pool.num_free, pool.num_cached, pool.num_owners(1), len(pool.prefix_cache)) == (1, 0, 1, 0)


def test_mistakes_of_an_owner_are_told() -> None:
    pool = pool_of(1)
    with pytest.raises(StateError, match="block 0 is free"):
        pool.share(0)
    with pytest.raises(StateError, match="block 0 has no owner"):
        pool.release([0])


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
def test_an_empty_pool_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        BlockPool(*sizes, PrefixCache(bytes(16)))


def test_blocks_for_tokens() -> None:
    pool = pool_of(1)
    assert [pool.num_blocks_for(num_tokens) for num_tokens in range(4)] == [0, 1, 1, 2]
