"""What one packed forward is made of: new tokens of several sequences in a row, and where each keeps its blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from seed_oss.errors import InputError


class PackedSequence(NamedTuple):
    """New tokens of one sequence.

    Attributes:
        start: tokens that are in the cache already, >= 0.
        length: new tokens, >= 1.
        block_ids: blocks of the cache in the order of the sequence's tokens, the new ones included; more may follow.
    """

    start: int
    length: int
    block_ids: Sequence[int]


@dataclass(frozen=True)
class PackedRows:
    """The rows of one forward, in order: those of the first sequence, of the second, and so on.

    Args:
        sequences: at least one.
    """

    sequences: tuple[PackedSequence, ...]

    @property
    def num_tokens(self) -> int:
        """Rows of all sequences."""
        return sum(sequence.length for sequence in self.sequences)

    def slabs(self, num_rows: int) -> Iterator["PackedRows"]:
        """The same rows, `num_rows` at a time (the last may have fewer)."""
        parts, room = list[PackedSequence](), num_rows
        for start, length, block_ids in self.sequences:
            end = start + length
            while start < end:
                count = min(room, end - start)
                parts.append(PackedSequence(start, count, block_ids))
                start, room = start + count, room - count
                if not room:
                    yield PackedRows(tuple(parts))
                    parts, room = [], num_rows
        if parts:
            yield PackedRows(tuple(parts))

    def check(self, num_blocks: int, block_len: int) -> None:
        """Check against a cache.

        Args:
            num_blocks: blocks of the cache.
            block_len: tokens of a block.

        Raises:
            InputError: no sequence; a start, length or block that cannot be; too few blocks; a block that is written
                and belongs to another place as well.
        """
        if not self.sequences:
            raise InputError("packed rows have 0 sequences; give at least one")
        for index, sequence in enumerate(self.sequences):
            _check_sequence(index, sequence, num_blocks, block_len)
        _check_owners(self.sequences, block_len)


def _check_owners(sequences: Sequence[PackedSequence], block_len: int) -> None:
    """A block with new tokens has one place in one sequence; blocks that are only read may be shared."""
    owned = [_written(sequence, block_len) for sequence in sequences]
    written = {block for blocks in owned for block in blocks}
    twice = len(written) < sum(map(len, owned))
    if twice or not all(written.isdisjoint(_read(sequence, block_len)) for sequence in sequences):
        blocks = sorted(written)
        raise InputError(
            f"blocks {blocks!r:.80} are written, and one of them belongs to two places; a block with new tokens needs "
            "one owner: copy it"
        )


def _written(sequence: PackedSequence, block_len: int) -> Sequence[int]:
    """Blocks that get new tokens."""
    end = sequence.start + sequence.length
    return sequence.block_ids[sequence.start // block_len : -(-end // block_len)]


def _read(sequence: PackedSequence, block_len: int) -> Iterator[int]:
    """Its other blocks."""
    first, end = sequence.start // block_len, -(-(sequence.start + sequence.length) // block_len)
    return chain(sequence.block_ids[:first], sequence.block_ids[end:])


def _check_sequence(index: int, sequence: PackedSequence, num_blocks: int, block_len: int) -> None:
    start, length, block_ids = sequence
    if start < 0 or length < 1:
        raise InputError(f"sequence {index} has start {start} and length {length}; give start >= 0 and length >= 1")
    needed = -(-(start + length) // block_len)
    if len(block_ids) < needed:
        raise InputError(
            f"sequence {index} has {len(block_ids)} blocks of {block_len} tokens; {start + length} tokens need {needed}"
        )
    if min(block_ids) < 0 or max(block_ids) >= num_blocks:
        wrong = next(block for block in block_ids if not 0 <= block < num_blocks)
        raise InputError(f"sequence {index} has block {wrong}; the cache has blocks 0 to {num_blocks - 1}")
