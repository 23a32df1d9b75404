"""Integers of 4 or 8 bits in 32-bit words, lowest bits first, as bytes: no tensor of wider integers is made.

Words are little-endian in safetensors files and in the memory of every machine that torch runs on here.
"""

import torch
from torch import Tensor

WORD_BITS = 32


def per_word(bits: int) -> int:
    """Integers in a word."""
    return WORD_BITS // bits


def unpacked(words: Tensor, bits: int) -> Tensor:
    """A word holds neighbours of a row. (Where it holds neighbours of a column: transpose before, which is quick.)

    Args:
        words: int32 `[rows, words]`.
        bits: 4 or 8.

    Returns:
        uint8 `[rows, words * 32 / bits]`.
    """
    data = bytes_of(words).flatten(1)
    if bits == 8:
        return data
    result = torch.empty((*data.shape, 2), dtype=torch.uint8, device=words.device)
    torch.bitwise_and(data, 15, out=result[..., 0])
    torch.bitwise_right_shift(data, 4, out=result[..., 1])
    return result.flatten(1)


def bytes_of(words: Tensor) -> Tensor:
    """int32 `[rows, words]` to uint8 `[rows, words, 4]`. Flat between: a column is contiguous whatever its stride."""
    return words.contiguous().flatten().view(torch.uint8).view(*words.shape, 4)
