"""Noise keyed by (seed, row, token index): seeds as keys, and chance beside that of the tokens. See ops/noise.py."""

import operator
from typing import Any

import torch
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.ops.noise import WORD, gumbel_noise, gumbel_noise_at, noise_counter, philox

__all__ = [
    "TOKEN_USE",
    "XTC_USE",
    "gumbel_noise",
    "gumbel_noise_at",
    "philox",
    "split_seed",
    "uniform_noise",
]

TOKEN_USE = 0
"""Fourth word of the counter for the noise that tokens are drawn with."""
XTC_USE = 1
"""Fourth word of the counter for the chance that a step leaves out its best choices."""


def split_seed(seed: Any) -> tuple[int, int]:
    """Low and high 32 bits of a seed; any integer is accepted and taken modulo 2**64.

    Raises:
        InputError: `seed` is not an integer.
    """
    if isinstance(seed, bool):
        raise InputError(f"seed is {seed!r}; it must be an integer")
    try:
        number = operator.index(seed)
    except TypeError:
        raise InputError(f"seed is a {type(seed).__name__}; it must be an integer") from None
    return number & WORD, (number >> 32) & WORD


def uniform_noise(seed: tuple[int, int], rows: Tensor, token_index: int, use: int) -> Tensor:
    """One number per row, from 0 to 1 without 1.

    Args:
        seed: from `split_seed`.
        rows: int64 `[batch]`, row numbers.
        token_index: how many tokens the row has generated before this one.
        use: what the number is for, such as XTC_USE: uses do not share noise.

    Returns:
        float32 `[batch]`.
    """
    words = philox(noise_counter(torch.zeros_like(rows), token_index, rows, use), seed)
    return (words[0] >> 8).to(torch.float32) * 2.0**-24
