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


# The same formats backwards: what any stored tensors mean, in fp64 where nothing is rounded.


def numbers_of(words: Tensor, bits: int, order: list[int] | None = None) -> np.ndarray:
    """32-bit words to integers along the last axis."""
    count = 32 // bits
    values = words.numpy().astype(np.int64) & 0xFFFFFFFF
    result = np.zeros((*values.shape, count), np.int64)
    for position, index in enumerate(order or range(count)):
        result[..., index] = (values >> (position * bits)) & (2**bits - 1)
    return result.reshape(*values.shape[:-1], -1)


def gptq_meaning(tensors: dict[str, Tensor], *, bits: int = 4, group_size: int) -> np.ndarray:
    q = numbers_of(tensors["qweight"].T.contiguous(), bits)  # [out, in]
    words = tensors["qzeros"].numpy().astype(np.int64) + sum(1 << (bits * k) for k in range(32 // bits))
    zero = numbers_of(torch.from_numpy(words), bits)
    group = tensors["g_idx"].numpy() if "g_idx" in tensors else np.arange(q.shape[1]) // group_size
    return ((q.T - zero[group]) * tensors["scales"].double().numpy()[group]).T


def awq_meaning(tensors: dict[str, Tensor], *, group_size: int) -> np.ndarray:
    q, zero = (numbers_of(tensors[name], 4, AWQ_ORDER) for name in ("qweight", "qzeros"))
    group = np.arange(len(q)) // group_size
    return ((q - zero[group]) * tensors["scales"].double().numpy()[group]).T


def packed_meaning(tensors: dict[str, Tensor], *, bits: int = 4, group_size: int) -> np.ndarray:
    out, columns = tensors["weight_shape"].tolist()
    q = numbers_of(tensors["weight_packed"], bits)[:, :columns]
    point = numbers_of(tensors["weight_zero_point"].T.contiguous(), bits).T[:out]
    group = np.arange(columns) // group_size
    if "weight_g_idx" in tensors and (tensors["weight_g_idx"] != -1).any():
        group = tensors["weight_g_idx"].numpy()
    return (q - point[:, group]) * tensors["weight_scale"].double().numpy()[:, group]


def integer_meaning(tensors: dict[str, Tensor]) -> np.ndarray:
    return tensors["weight"].double().numpy() * tensors["weight_scale"].double().numpy().reshape(-1, 1)


def block_meaning(tensors: dict[str, Tensor], *, block: int) -> np.ndarray:
    weight = tensors["weight"].double().numpy()
    scale = tensors["weight_scale_inv"].double().numpy().repeat(block, 0).repeat(block, 1)
    return weight * scale[: weight.shape[0], : weight.shape[1]]
