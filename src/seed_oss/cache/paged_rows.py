"""What one packed forward is made of: new tokens of several sequences in a row, and where each keeps its blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
        written = {block for sequence in self.sequences for block in _written(sequence, block_len)}
        uses = [block for sequence in self.sequences for block in sequence.block_ids if block in written]
        if len(uses) > len(written):
            twice = next(block for block in uses if uses.count(block) > 1)
            raise InputError(
                f"block {twice} is written and belongs to two places; a block with new tokens needs one owner: copy it"
            )


def _written(sequence: PackedSequence, block_len: int) -> Sequence[int]:
    """Blocks that get new tokens."""
    end = sequence.start + sequence.length
    return sequence.block_ids[sequence.start // block_len : -(-end // block_len)]


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
