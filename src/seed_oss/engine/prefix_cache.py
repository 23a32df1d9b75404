"""Which full blocks hold what: blocks found again by a chained hash of everything up to their end."""

import hashlib
import struct
from typing import NamedTuple

from seed_oss.errors import InputError


class BlockContent(NamedTuple):
    """What keys and values of a full block depend on; equal contents have equal keys and values.

    Args:
        parent: digest of the block before it, or `PrefixCache.root`.
        namespace: only rows of one namespace share blocks.
        cache_salt: what else the values depend on.
        token_ids: the block's tokens.
    """

    parent: bytes
    namespace: bytes
    cache_salt: bytes
    token_ids: tuple[int, ...]


class PrefixCache:
    """The table of full blocks. It knows nothing of owners and room; that is the pool's.

    Args:
        secret: at least 16 bytes that nobody can guess, so that nobody can make two contents collide.

    Raises:
        InputError: the secret is too short.
    """

    root = bytes(32)
    min_secret_len = 16

    def __init__(self, secret: bytes) -> None:
        if len(secret) < self.min_secret_len:
            raise InputError(
                f"the secret of the prefix cache has {len(secret)} bytes; give at least {self.min_secret_len}"
            )
        self._secret = _with_length(secret)
        self._blocks: dict[bytes, int] = {}
        self._contents: dict[int, tuple[bytes, BlockContent]] = {}

    def __len__(self) -> int:
        """How many blocks are in the table."""
        return len(self._contents)

    def digest(self, content: BlockContent) -> bytes:
        """SHA-256 of a content, and through its parent of all before it.

        Args:
            content: of a full block.

        Returns:
            32 bytes.
        """
        ids = content.token_ids
        keys = content.parent + _with_length(content.namespace) + _with_length(content.cache_salt)
        return hashlib.sha256(self._secret + keys + struct.pack(f"<q{len(ids)}q", len(ids), *ids)).digest()

    def find(self, digest: bytes, content: BlockContent) -> int | None:
        """The block with this content, or None; the content itself is compared, too.

        Args:
            digest: of the content.
            content: what is looked for.
        """
        block_id = self._blocks.get(digest)
        return block_id if block_id is not None and self._contents[block_id][1] == content else None

    def has(self, digest: bytes) -> bool:
        """Whether a block has this digest, of whatever content."""
        return digest in self._blocks

    def is_known(self, block_id: int) -> bool:
        """Whether the block is in the table."""
        return block_id in self._contents

    def entry(self, block_id: int) -> tuple[bytes, BlockContent]:
        """Digest and content of a block in the table."""
        return self._contents[block_id]

    def register(self, block_id: int, digest: bytes, content: BlockContent) -> None:
        """Enter a block whose keys and values are computed.

        Args:
            block_id: not in the table.
            digest: not in the table.
            content: what the block holds.
        """
        self._blocks[digest] = block_id
        self._contents[block_id] = digest, content

    def forget(self, block_id: int) -> None:
        """Take a block out of the table, if it is there."""
        entry = self._contents.pop(block_id, None)
        if entry is not None:
            del self._blocks[entry[0]]


def _with_length(data: bytes) -> bytes:
    return struct.pack("<q", len(data)) + data
