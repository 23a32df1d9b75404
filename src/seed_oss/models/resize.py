"""A token embedding or head with another number of rows."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seed_oss.nn.linear import Linear

# Variance of new rows around the mean, relative to the spread of the old ones (Hewitt 2021, "Initializing new word
# embeddings for pretrained language models").
NEW_ROW_VARIANCE = 1e-9


@torch.no_grad()
def resized_embedding(
    old: nn.Embedding, size: int, around_mean: bool, init: Callable[[nn.Module], None]
) -> nn.Embedding:
    """A copy of `old` with `size` rows; new rows as `fill_new_rows` makes them."""
    padding_idx = old.padding_idx if old.padding_idx is not None and old.padding_idx < size else None
    new = nn.Embedding(size, old.embedding_dim, padding_idx, device=old.weight.device, dtype=old.weight.dtype)
    init(new)
    _fill(new.weight, old.weight, around_mean)
    new.weight.requires_grad_(old.weight.requires_grad)
    return new.train(old.training)


@torch.no_grad()
def resized_head(old: nn.Linear, size: int, around_mean: bool, init: Callable[[nn.Module], None]) -> nn.Linear:
    """A copy of the head `old` with `size` outputs."""
    new = Linear(old.in_features, size, bias=old.bias is not None, device=old.weight.device, dtype=old.weight.dtype)
    init(new)
    _fill(new.weight, old.weight, around_mean)
    if old.bias is not None:
        rows = min(size, old.out_features)
        new.bias[:rows] = old.bias[:rows]
    new.weight.requires_grad_(old.weight.requires_grad)
    return new.train(old.training)


def _fill(new: Tensor, old: Tensor, around_mean: bool) -> None:
    rows = min(new.shape[0], old.shape[0])
    new[:rows] = old[:rows]
    if around_mean and new.shape[0] > rows:
        new[rows:] = _rows_around_mean(old, new.shape[0] - rows).to(new.dtype)


def _rows_around_mean(old: Tensor, count: int) -> Tensor:
    """Draws from a normal distribution with the rows' mean and `NEW_ROW_VARIANCE` times their covariance."""
    old = old.float()
    mean = old.mean(dim=0, keepdim=True)
    weights = torch.randn(count, old.shape[0], device=old.device) / math.sqrt(old.shape[0])
    return mean + math.sqrt(NEW_ROW_VARIANCE) * (weights @ (old - mean))
