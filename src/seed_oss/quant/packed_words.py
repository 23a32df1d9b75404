"""Integers of 4 or 8 bits in 32-bit words, lowest bits first, as bytes: no tensor of wider integers is made.

Words are little-endian in safetensors files and in the memory of every machine that torch runs on here.
"""

import torch
from torch import Tensor

WORD_BITS = 32


def per_word(bits: int) -> int:
    """Integers in a word."""
    return WORD_BITS // bits


def unpacked_along_columns(words: Tensor, bits: int) -> Tensor:
    """A word holds neighbours of a row.

    Args:
        words: int32 `[rows, words]`.
        bits: 4 or 8.

    Returns:
        uint8 `[rows, words * 32 / bits]`.
    """
    data = _bytes(words).view(words.shape[0], -1)
    if bits == 8:
        return data
    result = torch.empty((*data.shape, 2), dtype=torch.uint8, device=words.device)
    torch.bitwise_and(data, 15, out=result[..., 0])
    torch.bitwise_right_shift(data, 4, out=result[..., 1])
    return result.flatten(-2)


def unpacked_along_rows_transposed(words: Tensor, bits: int) -> Tensor:
    """A word holds neighbours of a column.

    Args:
        words: int32 `[words, columns]`.
        bits: 4 or 8.

    Returns:
        uint8 `[columns, words * 32 / bits]`: what is in a word's column is in a row here.
    """
    num_words, columns = words.shape
    data = _bytes(words).view(num_words, columns, 4).permute(1, 0, 2)
    if bits == 8:
        return data.reshape(columns, num_words * 4)
    result = torch.empty((columns, num_words, 4, 2), dtype=torch.uint8, device=words.device)
    torch.bitwise_and(data, 15, out=result[..., 0])
    torch.bitwise_right_shift(data, 4, out=result[..., 1])
    return result.flatten(1)


def _bytes(words: Tensor) -> Tensor:
    """Flat first: a column counts as contiguous whatever its last stride is."""
    return words.contiguous().flatten().view(torch.uint8)
