"""The table of full blocks: what its keys depend on, and that a key alone is no hit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_oss.engine.prefix_cache import BlockContent, PrefixCache
from seed_oss.errors import InputError
from tests.engine.checker import sha

SECRET = b"sixteen bytes ok"
CONTENT = BlockContent(PrefixCache.root, b"space", b"salt", (1, 2, 3))


@pytest.mark.parametrize(
    "other",
    [
        CONTENT._replace(parent=bytes([1]) + bytes(31)),
        CONTENT._replace(namespace=b"spac", cache_salt=b"esalt"),
        CONTENT._replace(cache_salt=b""),
        CONTENT._replace(token_ids=(1, 2, 4)),
        CONTENT._replace(token_ids=(1, 2)),
    ],
)
def test_each_part_changes_the_digest(other: BlockContent) -> None:
    cache = PrefixCache(SECRET)
    assert cache.digest(other) != cache.digest(CONTENT)


def test_the_digest_needs_the_secret() -> None:
    assert PrefixCache(SECRET).digest(CONTENT) != PrefixCache(SECRET + b"!").digest(CONTENT)
    with pytest.raises(InputError, match="15 bytes; give at least 16"):
        PrefixCache(SECRET[1:])


@given(st.binary(max_size=8), st.binary(max_size=8), st.lists(st.integers(0, 2**40), max_size=5))
def test_the_digest_is_sha_256_of_sized_parts(namespace: bytes, salt: bytes, token_ids: list[int]) -> None:
    content = BlockContent(bytes(range(32)), namespace, salt, tuple(token_ids))
    assert PrefixCache(SECRET).digest(content) == sha(SECRET, content)


def test_a_digest_of_another_content_is_no_hit() -> None:
    cache = PrefixCache(SECRET)
    digest = cache.digest(CONTENT)
    cache.register(7, digest, CONTENT)
    assert cache.find(digest, CONTENT) == 7
    assert cache.find(digest, CONTENT._replace(token_ids=(9, 9, 9))) is None
    assert cache.find(digest, CONTENT._replace(namespace=b"other")) is None


def test_what_is_forgotten_is_not_found() -> None:
    cache = PrefixCache(SECRET)
    digest = cache.digest(CONTENT)
    cache.register(7, digest, CONTENT)
    cache.forget(7)
    cache.forget(7)
    assert cache.find(digest, CONTENT) is None
    assert not cache.has(digest)
    assert len(cache) == 0
