"""Weights in foreign formats, packed bit by bit in numpy from the descriptions of the formats, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass
class Numbers:
    """A weight as GPTQ and AWQ see it: inputs are rows.

    Attributes:
        q: `[in, out]` integers.
        zero: `[groups, out]` integers.
        scale: `[groups, out]` fp16.
        group: `[in]`, the group of every input.
    """

    q: np.ndarray
    zero: np.ndarray
    scale: np.ndarray
    group: np.ndarray

    def weight(self) -> np.ndarray:
        """`[out, in]`, exact in fp64 and then fp32."""
        exact = (self.q - self.zero[self.group]) * self.scale.astype(np.float64)[self.group]
        result = exact.T.astype(np.float32)
        assert np.array_equal(result, exact.T)
        return result


def random_numbers(
    out: int,
    columns: int,
    group_size: int,
    *,
    bits: int = 4,
    seed: int = 0,
    shuffled: bool = False,
    symmetric: bool = False,
) -> Numbers:
    rng = np.random.default_rng(seed)
    groups = -(-columns // group_size)
    group = np.arange(columns) // group_size
    if shuffled:
        group = rng.permutation(group)
    zero = rng.integers(0, 2**bits, (groups, out))
    if symmetric:
        zero[:] = 2 ** (bits - 1)
    scale = (rng.standard_normal((groups, out)) * 0.02).astype(np.float16)
    return Numbers(rng.integers(0, 2**bits, (columns, out)), zero, scale, group)


def words_of(numbers: np.ndarray, bits: int, order: list[int] | None = None) -> np.ndarray:
    """The last axis in 32-bit words: number `order[k]` of a word at bit k * bits."""
    count = 32 // bits
    split = numbers.reshape(*numbers.shape[:-1], -1, count)
    words = np.zeros(split.shape[:-1], np.uint64)
    for position, index in enumerate(order or range(count)):
        words += split[..., index].astype(np.uint64) << np.uint64(position * bits)
    return words.astype(np.uint32)


def tensor_of(words: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(words).view(np.int32).copy())


def gptq_tensors(numbers: Numbers, *, bits: int = 4, version: int = 1, g_idx: bool = True) -> dict[str, Tensor]:
    zeros = words_of(numbers.zero, bits)
    if version == 1:  # as the quantizers do: a 1 off every number of a word, borrowing from the next
        zeros = zeros - np.uint32(sum(1 << (bits * k) for k in range(32 // bits)))
    tensors = {
        "qweight": tensor_of(words_of(numbers.q.T, bits).T),
        "qzeros": tensor_of(zeros),
        "scales": torch.from_numpy(numbers.scale),
    }
    if g_idx:
        tensors["g_idx"] = torch.from_numpy(numbers.group.astype(np.int32))
    return tensors


def awq_tensors(numbers: Numbers) -> dict[str, Tensor]:
    return {
        "qweight": tensor_of(words_of(numbers.q, 4, AWQ_ORDER)),
        "qzeros": tensor_of(words_of(numbers.zero, 4, AWQ_ORDER)),
        "scales": torch.from_numpy(numbers.scale),
    }
