"""Packed batches for tests: sequences in blocks of a paged cache, cut at random, beside each sequence alone."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seed_oss.cache import PackedRows, PackedSequence, PagedCache, PagedContext
from tests.factory import random_ids


def sequences_of(lengths: Sequence[int]) -> list[Tensor]:
    """Random ids of each length."""
    return [random_ids(length, seed=1000 + index) for index, length in enumerate(lengths)]


def block_tables(cache: PagedCache, lengths: Sequence[int], seed: int) -> list[list[int]]:
    """Blocks for sequences of these lengths, in random order, each block once."""
    free = list(range(cache.num_blocks))
    random.Random(seed).shuffle(free)
    return [[free.pop() for _ in range(-(-length // cache.block_len))] for length in lengths]


def cache_for(model: Any, lengths: Sequence[int], block_len: int = 32, **kind: Any) -> PagedCache:
    """A cache with a few blocks more than sequences of these lengths take."""
    num_blocks = sum(-(-length // block_len) for length in lengths)
    return PagedCache(model.config, num_blocks + 3, block_len, **kind)


def run_rows(model: Any, cache: PagedCache, ids: Sequence[Tensor], rows: PackedRows) -> list[Tensor]:
    """One packed forward of `rows`, whose new tokens are cut out of `ids`; the hidden states of each sequence."""
    new = [one[row.start : row.start + row.length] for one, row in zip(ids, rows.sequences, strict=True)]
    positions = torch.cat([torch.arange(row.start, row.start + row.length) for row in rows.sequences])
    hidden_states = model.run_packed(torch.cat(new), positions, PagedContext(cache, rows))
    return list(hidden_states.split([row.length for row in rows.sequences]))


def run_alone(model: Any, ids: Tensor, **kind: Any) -> Tensor:
    """Hidden states of one sequence, in one forward of its own."""
    cache = cache_for(model, [len(ids)], **kind)
    blocks = block_tables(cache, [len(ids)], seed=0)[0]
    return run_rows(model, cache, [ids], PackedRows((PackedSequence(0, len(ids), blocks),)))[0]


def run_at_random(model: Any, ids: Sequence[Tensor], seed: int, **kind: Any) -> list[Tensor]:
    """Hidden states of each sequence, all computed together in forwards whose members and lengths are drawn."""
    rng = random.Random(seed)
    cache = cache_for(model, [len(one) for one in ids], **kind)
    tables = block_tables(cache, [len(one) for one in ids], seed)
    done, parts = [0] * len(ids), [list[Tensor]() for _ in ids]
    while left := [index for index, one in enumerate(ids) if done[index] < len(one)]:
        chosen = rng.sample(left, rng.randint(1, len(left)))
        counts = [min(len(ids[index]) - done[index], rng.choice((1, 1, 2, 7, 40, 300))) for index in chosen]
        sequences = (
            PackedSequence(done[index], count, tables[index]) for index, count in zip(chosen, counts, strict=True)
        )
        states = run_rows(model, cache, [ids[index] for index in chosen], PackedRows(tuple(sequences)))
        for index, count, state in zip(chosen, counts, states, strict=True):
            done[index] += count
            parts[index].append(state)
    return [torch.cat(one) for one in parts]


def num_different(one: Sequence[Tensor], other: Sequence[Tensor]) -> int:
    """How many numbers of two lists of tensors differ."""
    return sum(int((a != b).sum()) for a, b in zip(one, other, strict=True))
