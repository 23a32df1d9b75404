"""Cross entropy over a large vocabulary, without a `[tokens, vocabulary]` tensor in fp32."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 25  # logits held at a time: 128 MiB in fp32


def cross_entropy(
    logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None, ignore_index: int = -100
) -> Tensor:
    """Mean cross entropy in fp32, or the sum divided by `num_items`.

    Args:
        logits: `[tokens, classes]`.
        labels: integer `[tokens]`; `ignore_index` does not count.
        num_items: what to divide the sum by; None divides by the number of labels that count.
        ignore_index: label to leave out.

    Returns:
        0-dim fp32 loss; NaN if no label counts.
    """
    logits, labels = logits.float(), labels.to(logits.device)
    if num_items is None:
        return F.cross_entropy(logits, labels, ignore_index=ignore_index)
    total = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)


def chunked_cross_entropy(
    hidden_states: Tensor,
    head: Callable[[Tensor], Tensor],
    labels: Tensor,
    vocab_size: int,
    num_items: Tensor | int | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """`cross_entropy(head(hidden_states), labels)` with a bounded number of logits alive, forward and backward.

    Each chunk's logits are thrown away after its loss and computed again in the backward.

    Args:
        hidden_states: `[tokens, hidden_size]`.
        head: `[n, hidden_size]` to `[n, vocab_size]`.
        labels: integer `[tokens]`.
        vocab_size: sizes the chunks.
        num_items: as in `cross_entropy`.
        ignore_index: as in `cross_entropy`.

    Returns:
        0-dim fp32 loss.
    """

    def chunk_loss(hidden_chunk: Tensor, label_chunk: Tensor) -> Tensor:
        return F.cross_entropy(head(hidden_chunk).float(), label_chunk, ignore_index=ignore_index, reduction="sum")

    labels = labels.to(hidden_states.device)
    chunk_len = max(1, CHUNK_ELEMENTS // vocab_size)
    total = torch.zeros((), dtype=torch.float32, device=hidden_states.device)
    for hidden_chunk, label_chunk in zip(hidden_states.split(chunk_len), labels.split(chunk_len), strict=True):
        if torch.is_grad_enabled():
            part = checkpoint(chunk_loss, hidden_chunk, label_chunk, use_reentrant=False)
        else:
            part = chunk_loss(hidden_chunk, label_chunk)
        total = total + part
    if num_items is None:
        num_items = (labels != ignore_index).sum()
    return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)
