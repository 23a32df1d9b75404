"""Where a layer's queries meet keys and values. A layer knows this interface and nothing of masks or caches."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from seed_oss.cache.cache import Cache
from seed_oss.cache.masks import AttentionMask
from seed_oss.ops.attention import eager_attention, sdpa_attention
from seed_oss.ops.rope import apply_rope


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
        query, key = apply_rope(query, cos, sin), apply_rope(key, cos, sin)
        if self.cache is not None:
            key, value = self.cache.layer(layer_idx).write(key, value)
            key, value = key.to(query.dtype), value.to(query.dtype)  # a cache may hold them in fewer bits
        if self.eager:
            output, weights = eager_attention(query, key, value, self.mask.tensor, scaling, dropout)
            if self.weights is not None:
                self.weights[layer_idx] = weights
        else:
            output = sdpa_attention(query, key, value, self.mask.tensor, scaling, dropout, self.mask.is_causal)
        return output.transpose(1, 2).flatten(2)


def query_offset(cache: Cache | None) -> int | Tensor:
    """Position of the next token's slot: an integer, or a 0-dim tensor for a fixed-size cache."""
    if cache is None or len(cache.layers) == 0:
        return 0
    length = cache.layers[0].length
    return length.clone() if isinstance(length, torch.Tensor) else length
