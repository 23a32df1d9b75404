"""Choosing the next token of each row from its scores.

A chooser returns -1 for a row whose scores hold no usable number. So NaN travels with the token, and noticing it
costs no look at the logits from the host.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from seed_oss.generation.noise import split_seed
from seed_oss.ops.logits import NO_TOKEN, argmax_rows
from seed_oss.ops.sampling import draw_rows

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
        return lambda scores, token_index: draw_rows(scores, key, first_row, token_index)
    return lambda scores, token_index: _draw(scores, generator)


def _draw(scores: Tensor, generator: torch.Generator | None) -> Tensor:
    """Same draws as `torch.multinomial(probs, 1)`, which is an exponential race too, but asks the device twice."""
    probs = scores.softmax(dim=-1)
    times = torch.empty_like(probs).exponential_(1, generator=generator)
    return torch.where(probs[:, 0].isnan(), NO_TOKEN, (probs / times).argmax(dim=-1))
