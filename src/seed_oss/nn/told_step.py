"""Calls of a step that are told once what stays the same while the same rows go on."""

from array import array
from collections.abc import Sequence, Set
from ctypes import addressof, byref
from typing import NamedTuple

from torch import Tensor

from seed_oss.cache import Cache, PagedContext
from seed_oss.nn.fused import Batch, fill_in, packed_batch
from seed_oss.nn.fused_table import LayerTable
from seed_oss.nn.rope import AngleTable
from seed_oss.ops.native import library, num_threads
from seed_oss.ops.native.structs import StepStruct


class Stepped(NamedTuple):
    """What a step came to, for each row; of several tokens in one, the last.

    Attributes:
        hidden: states behind the last norm, fp32 `[num_rows, hidden_size]`; after several tokens nobody may read them.
        logits: fp32 `[num_rows, vocab_size]`; after several tokens nobody may read them.
        best: the token with the highest logit, or NO_TOKEN.
        lost: whether the sum of the hidden states is no number; None where that is so of no row.
        before: the best tokens of each time before the last one, which the step went on from. A time that came to no
            number is left out: it is met again as the first one of a step.
    """

    hidden: Tensor
    logits: Tensor
    best: list[int]
    lost: list[bool] | None
    before: list[list[int]]


class Ahead(NamedTuple):
    """How far a step goes on from the best tokens.

    Attributes:
        num: how often at most.
        end_ids: of each row, tokens behind which nothing is wanted; one of them ends the step for all.
    """

    num: int = 0
    end_ids: Sequence[Set[int]] = ()

    def is_end(self, tokens: Sequence[int]) -> bool:
        """Whether one of the rows' tokens is an end."""
        return any(token in ends for token, ends in zip(tokens, self.end_ids, strict=False))


class ToldRow(NamedTuple):
    """What the call of a single row's steps points to.

    Attributes:
        source: the layers' table.
        table: its copy for this row.
        batch: the row.
        x: `[1, 1, hidden_size]`, scratch.
        like: see Cache.room.
        angles: the positions that are looked up.
        end: the first position for which there are no angles, or no room in some layer.
    """

    source: LayerTable
    table: LayerTable
    batch: Batch
    x: Tensor
    like: Tensor
    angles: AngleTable
    end: int

    def holds(self, table: LayerTable, cache: Cache, start: int) -> bool:
        """Whether it is right for a position. Who changes a cache changes all of its layers: one is looked at."""
        is_inside = self.angles.start <= start < self.end
        return table is self.source and is_inside and cache.layers[0].room(1, self.like) is self.batch.memory[0]


class ToldRows:
    """The call of the steps of several sequences in blocks, and what it points to.

    Args:
        call: what stays the same whatever the rows are.
        table: the layers'.
        context: one token of each sequence.
        angles: those of the tokens, and maybe others.
        places: of the tokens in `angles`; where they are the tokens' positions, later ones are found alike.
        x: fp32 `[num_rows, hidden_size]`.
    """

    def __init__(
        self,
        call: StepStruct,
        table: LayerTable,
        context: PagedContext,
        angles: AngleTable,
        places: Sequence[int],
        x: Tensor,
    ) -> None:
        cache, rows = context.cache, context.rows
        self._source, self._table, self._angles = table, table.copy(), angles
        self._cache = cache
        # None for those that somebody could change in place
        self._blocks = [ids if isinstance(ids, tuple) else None for _, _, ids in rows.sequences]
        is_found_alike = [start for start, _, _ in rows.sequences] == list(places)
        self._end = angles.cos.shape[1] if is_found_alike else 0
        self._batch = packed_batch(cache.rooms, rows, cache.block_len, places, is_growing=True)
        fill_in(self._table, self._batch, x, angles.cos, angles.sin)
        self._ids, self._best = (array("q", bytes(8 * len(self._blocks))) for _ in range(2))
        self._lost = array("b", bytes(len(self._blocks)))
        self._call = StepStruct.from_buffer_copy(call)
        self._call.decoder, self._call.ids = addressof(self._table.call), address(self._ids)
        self._call.best, self._call.is_lost = address(self._best), address(self._lost)

    def holds(self, table: LayerTable, context: PagedContext, inv_freq: Tensor, num_ahead: int) -> bool:
        """Whether it is right for the positions of these sequences, and they are the same ones as before.

        Args:
            table: the layers' now.
            context: one token of each sequence.
            inv_freq: what angles are made of now.
            num_ahead: how many positions behind these are wanted.
        """
        sequences = context.rows.sequences
        return (
            table is self._source
            and context.cache is self._cache
            and inv_freq is self._angles.inv_freq
            and len(sequences) == len(self._blocks)
            and all(start + num_ahead < self._end for start, _, _ in sequences)
            and all(one[2] is block_ids for one, block_ids in zip(sequences, self._blocks, strict=True))
        )

    def run(self, tokens: Sequence[int], context: PagedContext, x: Tensor, logits: Tensor, ahead: Ahead) -> Stepped:
        """Run a step; nobody runs another one meanwhile, or renews the table's copies.

        Args:
            tokens: one of each sequence.
            context: for which it holds, or was made.
            x: `[num_rows, hidden_size]`, gets the hidden states.
            logits: `[num_rows, vocab_size]`, to be filled.
            ahead: how far to go on from the best tokens, as long as there are blocks and angles for it.

        Raises:
            IndexError: a token that the vocabulary does not have.
        """
        native, call, step = library(), self._call, self._table.call
        assert native is not None
        step.x, call.logits, step.threads = x.data_ptr(), logits.data_ptr(), num_threads()
        starts = [sequence.start for sequence in context.rows.sequences]
        before: list[list[int]] = []
        last = min(ahead.num, self._room_ahead(context)) if ahead.num else 0
        while True:
            self._place(tokens, starts, len(before))
            check_known(native.so_step(byref(call)), len(tokens))
            tokens, are_lost = self._best.tolist(), any(self._lost)
            is_number = not are_lost and min(tokens) >= 0
            if before and not is_number:
                return Stepped(x, logits, before.pop(), None, before)
            if len(before) >= last or not is_number or ahead.is_end(tokens):
                return Stepped(x, logits, tokens, [bool(one) for one in self._lost] if are_lost else None, before)
            before.append(tokens)

    def _place(self, tokens: Sequence[int], starts: Sequence[int], num_before: int) -> None:
        """Tell the call its tokens and their positions, which are `num_before` behind `starts`."""
        numbers = self._batch.sequences
        for row, (token, start) in enumerate(zip(tokens, starts, strict=True)):
            self._ids[row], numbers[5 * row + 2] = token, start + num_before
            if self._end:
                numbers[5 * row + 4] = start + num_before

    def _room_ahead(self, context: PagedContext) -> int:
        """How many more tokens of each sequence there are blocks and angles for."""
        block_len = context.cache.block_len
        ends = (min(len(ids) * block_len, self._end) - start for start, _, ids in context.rows.sequences)
        return max(min(ends) - 1, 0)


def check_known(num_known: int, num_tokens: int) -> None:
    """Check what a step says of its tokens.

    Raises:
        IndexError: as torch's own embedding, one of them is not in the vocabulary.
    """
    if num_known < num_tokens:
        raise IndexError("index out of range in self")


def address(numbers: "array[int]") -> int:
    """Where the numbers are, which must not grow as long as that is used."""
    return numbers.buffer_info()[0]
