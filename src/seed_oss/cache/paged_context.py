"""Attention of packed sequences over a paged cache, in torch's operations: the readable form.

A token's result has the same bits whatever else is in the batch and however its prompt was cut. For that, queries come
in tiles of 16 and keys in chunks of 256, so that every product has one shape, and chunks are combined in order. The
products around attention need the same care, see `SeedOssLayers.run_packed`. That holds on the CPU. On CUDA sequences
with one new token go through a kernel once it is built, and longer ones through torch, whatever else is in the batch.
"""

from collections.abc import Iterator
from copy import copy
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from seed_oss.cache.context import AttentionContext
from seed_oss.cache.paged import PagedCache
from seed_oss.cache.paged_rows import PackedRows, PackedSequence
from seed_oss.ops.attention import CHUNK_KEYS, QUERY_TILE, attend_chunks, attend_pages
from seed_oss.ops.rope import rotate
from seed_oss.ops.triton import can_run


class _Singles(NamedTuple):
    """Sequences with one new token: int64 rows of the forward `[num]`, and what the kernel takes."""

    rows: Tensor
    block_table: Tensor
    lengths: Tensor


class PagedContext(AttentionContext):
    """Rotates, writes each new token to its slot, and attends over the blocks of its sequence, causally.

    Rows behind those of the sequences are padding: they are not stored, and their attention is zero.

    Args:
        cache: where keys and values are.
        rows: of this forward.

    Raises:
        InputError: the rows do not fit the cache.
    """

    def __init__(self, cache: PagedCache, rows: PackedRows) -> None:
        rows.check(cache.num_blocks, cache.block_len)
        self.cache, self.rows = cache, rows
        self._slots: tuple[Tensor, Tensor] | None = None
        self._singles: _Singles | None = None

    def slabs(self, num_rows: int) -> Iterator["PagedContext"]:
        """Contexts of `num_rows` rows each, in order; they are to be run in order, too."""
        for rows in self.rows.slabs(num_rows):
            part = copy(self)  # checked as a whole
            part.rows, part._slots, part._singles = rows, None, None
            yield part

    def attend(
        self, layer_idx: int, query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, dropout: float
    ) -> Tensor:
        """See AttentionContext.attend; the batch is one, its length all rows, and `dropout` 0."""
        query, key = rotate(query, key, cos, sin)
        num_tokens = self.rows.num_tokens
        block_ids, offsets = self._slots_on(query.device)
        self.cache.write(layer_idx, block_ids, offsets, key[0, :, :num_tokens], value[0, :, :num_tokens])
        room, output, first = self.cache.rooms[layer_idx], torch.zeros_like(query), 0
        has_kernel = can_run(query, room.keys, room.values)
        for sequence in self.rows.sequences:
            rows = slice(first, first + sequence.length)
            if sequence.length > 1 or not has_kernel:
                output[0, :, rows] = self._attend_sequence(layer_idx, sequence, query[0, :, rows])
            first += sequence.length
        if has_kernel and any(sequence.length == 1 for sequence in self.rows.sequences):
            self._attend_singles(layer_idx, query[0], output[0])
        return output.transpose(1, 2).flatten(2)

    def _attend_singles(self, layer_idx: int, query: Tensor, output: Tensor) -> None:
        """Fill in the rows of sequences with one new token; both `[heads, num_rows, head_dim]`."""
        if self._singles is None:
            self._singles = self._find_singles(query.device)
        singles, max_keys = self._singles, self.cache.num_blocks * self.cache.block_len
        rows = query[:, singles.rows].transpose(0, 1)
        torch_form = partial(self._singles_of_torch, layer_idx, rows)
        room, where = self.cache.rooms[layer_idx], (singles.block_table, singles.lengths)
        cache = room.keys, room.values, room.key_scales, room.value_scales
        output[:, singles.rows] = attend_pages(rows, cache, *where, max_keys, torch_form).transpose(0, 1)

    def _singles_of_torch(self, layer_idx: int, query: Tensor) -> Tensor:
        sequences = (sequence for sequence in self.rows.sequences if sequence.length == 1)
        pairs = zip(sequences, query, strict=True)
        return torch.stack([self._attend_sequence(layer_idx, one, row[:, None])[:, 0] for one, row in pairs])

    def _find_singles(self, device: torch.device) -> _Singles:
        rows, tables, lengths, first = list[int](), list[list[int]](), list[int](), 0
        for start, length, block_ids in self.rows.sequences:
            if length == 1:
                rows.append(first)
                tables.append(list(block_ids[: start // self.cache.block_len + 1]))
                lengths.append(start + 1)
            first += length
        widest = max(map(len, tables))
        padded = [table + [0] * (widest - len(table)) for table in tables]
        numbers = (torch.tensor(padded, dtype=torch.int32), torch.tensor(lengths, dtype=torch.int32))
        return _Singles(torch.tensor(rows, device=device), *(one.to(device) for one in numbers))

    def _slots_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Block and offset of each new token, int64 `[num_tokens]` each."""
        if self._slots is None:
            block_len = self.cache.block_len
            slots = [
                (block_ids[position // block_len], position % block_len)
                for start, length, block_ids in self.rows.sequences
                for position in range(start, start + length)
            ]
            block_ids, offsets = torch.tensor(slots, device=device).unbind(1)
            self._slots = block_ids, offsets
        return self._slots

    def _attend_sequence(self, layer_idx: int, sequence: PackedSequence, query: Tensor) -> Tensor:
        """Rotated queries `[heads, length, head_dim]` of one sequence to what they attend to, same shape."""
        tiles = [
            self._attend_tile(layer_idx, sequence, sequence.start + first, query[:, first : first + QUERY_TILE])
            for first in range(0, sequence.length, QUERY_TILE)
        ]
        return torch.cat(tiles, dim=1)

    def _attend_tile(self, layer_idx: int, sequence: PackedSequence, position: int, query: Tensor) -> Tensor:
        count = query.shape[1]
        padded = torch.nn.functional.pad(query, (0, 0, 0, QUERY_TILE - count))
        chunks = self._chunks(layer_idx, sequence, position + count)
        attended = attend_chunks(padded, position, chunks, query.shape[-1] ** -0.5)
        return attended[:, :count].to(query.dtype)

    def _chunks(self, layer_idx: int, sequence: PackedSequence, num_keys: int) -> Iterator[tuple[Tensor, Tensor]]:
        num_blocks = CHUNK_KEYS // self.cache.block_len
        for index, first in enumerate(range(0, num_keys, CHUNK_KEYS)):
            block_ids = sequence.block_ids[index * num_blocks : (index + 1) * num_blocks]
            held = len(block_ids) * self.cache.block_len
            yield self.cache.read_chunk(layer_idx, block_ids, min(num_keys - first, held))
