"""Where a layer's queries meet keys and values. A layer knows this interface and nothing of masks or caches."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from seed_oss.cache.cache import Cache
from seed_oss.cache.masks import AttentionMask
from seed_oss.ops.attention import attend_fixed_size, eager_attention, sdpa_attention
from seed_oss.ops.rope import rotate
from seed_oss.ops.triton import can_run


class AttentionContext(ABC):
    """Rotates, stores and attends."""

    @abstractmethod
    def attend(
        self, layer_idx: int, query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, dropout: float
    ) -> Tensor:
        """Attention of one layer.

        Args:
            layer_idx: which layer.
            query: not yet rotated, `[batch, heads, length, head_dim]`.
            key: not yet rotated, `[batch, kv_heads, length, head_dim]`.
            value: `[batch, kv_heads, length, head_dim]`.
            cos: `[batch, length, head_dim]`.
            sin: `[batch, length, head_dim]`.
            dropout: probability of dropping an attention weight.

        Returns:
            `[batch, length, heads * head_dim]`.
        """


class DenseContext(AttentionContext):
    """Attention over a batch of equally long rows: the reference API, and training.

    Args:
        mask: of this forward.
        cache: where keys and values are kept, or None.
        eager: the readable form, which has attention weights to show; SDPA otherwise.
        record_weights: keep the attention weights of each layer in `weights` (eager only).
    """

    def __init__(self, mask: AttentionMask, cache: Cache | None, eager: bool, record_weights: bool = False) -> None:
        self.mask, self.cache, self.eager = mask, cache, eager
        self.weights: dict[int, Tensor] | None = {} if record_weights and eager else None

    def attend(
        self, layer_idx: int, query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, dropout: float
    ) -> Tensor:
        """See AttentionContext.attend."""
        scaling = query.shape[-1] ** -0.5
        query, key = rotate(query, key, cos, sin)
        length: int | Tensor = 0
        if self.cache is not None:
            layer = self.cache.layer(layer_idx)
            length = layer.length
            key, value = layer.write(key, value)
            key, value = key.to(query.dtype), value.to(query.dtype)  # a cache may hold them in fewer bits
        if can_run(query, key, value) and self._reads_what_counts(query, length, dropout):
            return self._attend_one(query, key, value, length, scaling).transpose(1, 2).flatten(2)
        if self.eager:
            output, weights = eager_attention(query, key, value, self.mask.tensor, scaling, dropout)
            if self.weights is not None:
                self.weights[layer_idx] = weights
        else:
            output = sdpa_attention(query, key, value, self.mask.tensor, scaling, dropout, self.mask.is_causal)
        return output.transpose(1, 2).flatten(2)

    def _reads_what_counts(self, query: Tensor, length: int | Tensor, dropout: float) -> bool:
        """Whether this is one token per row, before a buffer that is longer than what counts."""
        mask = self.mask.tensor
        is_plain = mask is None or (mask.dtype == torch.bool and mask.shape[1] == mask.shape[2] == 1)
        is_step = query.shape[2] == 1 and isinstance(length, Tensor)
        return is_step and is_plain and not self.eager and dropout == 0.0

    def _attend_one(self, query: Tensor, key: Tensor, value: Tensor, length: int | Tensor, scaling: float) -> Tensor:
        assert isinstance(length, Tensor)
        mask = None if self.mask.tensor is None else self.mask.tensor[:, 0, 0]
        return attend_fixed_size(query, key, value, length, mask, scaling)


def query_offset(cache: Cache | None) -> int | Tensor:
    """Position of the next token's slot: an integer, or a 0-dim tensor for a fixed-size cache."""
    if cache is None or len(cache.layers) == 0:
        return 0
    length = cache.layers[0].length
    return length.clone() if isinstance(length, torch.Tensor) else length
