"""Choosing the next token of each row from its scores.

A chooser returns -1 for a row whose scores hold no usable number. So NaN travels with the token, and noticing it
costs no look at the logits from the host.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from seed_oss.generation.noise import gumbel_noise, gumbel_noise_at, split_seed
from seed_oss.ops.logits import NO_TOKEN, argmax_rows

_SPARSE_SHARE = 16  # fewer candidates than 1 in this many: noise is made for them alone

Chooser = Callable[[Tensor, int], Tensor]
"""From float32 scores `[batch, vocab]` and the number of tokens generated before to int64 token ids `[batch]`."""


def choose_greedily(scores: Tensor, token_index: int) -> Tensor:
    """The token with the highest score; the lowest id among equals."""
    return argmax_rows(scores)


def sampler(seed: int | None, generator: torch.Generator | None, first_row: int = 0) -> Chooser:
    """Draws tokens with the probabilities that the scores stand for.

    Args:
        seed: noise as a function of (seed, row, token index, token); None draws from `generator`.
        generator: the source of noise, advanced as `torch.multinomial` would; None is torch's global one.
        first_row: number that the first row of the scores has among those that share the seed.
    """
    if seed is not None:
        key = split_seed(seed)
        return lambda scores, token_index: _draw_seeded(scores, token_index, key, first_row)
    return lambda scores, token_index: _draw(scores, generator)


def _draw(scores: Tensor, generator: torch.Generator | None) -> Tensor:
    """Same draws as `torch.multinomial(probs, 1)`, which is an exponential race too, but asks the device twice."""
    probs = scores.softmax(dim=-1)
    times = torch.empty_like(probs).exponential_(1, generator=generator)
    return torch.where(probs[:, 0].isnan(), NO_TOKEN, (probs / times).argmax(dim=-1))


def _draw_seeded(scores: Tensor, token_index: int, key: tuple[int, int], first_row: int) -> Tensor:
    best, tokens = _add_noise(scores, token_index, key, first_row).max(dim=-1)
    return torch.where(best.isfinite(), tokens, NO_TOKEN)


def _add_noise(scores: Tensor, token_index: int, key: tuple[int, int], first_row: int) -> Tensor:
    rows = torch.arange(first_row, first_row + scores.shape[0], device=scores.device)
    if scores.device.type == "cpu":  # elsewhere, counting candidates would stop the device
        row, entry = (scores != -math.inf).nonzero(as_tuple=True)
        if row.numel() * _SPARSE_SHARE < scores.numel():
            noise = gumbel_noise_at(key, row + first_row, token_index, entry)
            return torch.full_like(scores, -math.inf).index_put_((row, entry), scores[row, entry] + noise)
    return scores + gumbel_noise(key, rows, token_index, scores.shape[1])
