"""How far a quantized model is from the model it was made of: perplexity, divergence, agreement on the best token."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.errors import InputError, NumericalError

ROWS_AT_ONCE = 128  # of logits: 25 MB in fp32 at a vocabulary of 49,152


@dataclass(frozen=True)
class Quality:
    """A model beside its reference, over the same tokens.

    Attributes:
        perplexity: of the model.
        increase: of the perplexity over the reference's, as a share: 0.01 is 1 %.
        kl: mean Kullback-Leibler divergence of the model from the reference, in nats per token.
        top1: share of positions where both have the same best token.
    """

    perplexity: float
    increase: float
    kl: float
    top1: float


@dataclass(frozen=True)
class Reference:
    """What the reference says.

    Attributes:
        input_ids: `[windows, length]`.
        logits: fp32 `[length, vocab_size]` of each window.
        loss: mean negative log-likelihood of the next token, nats.
    """

    input_ids: Tensor
    logits: list[Tensor]
    loss: float

    @property
    def perplexity(self) -> float:
        """Of the reference itself."""
        return math.exp(self.loss)


@torch.no_grad()
def reference_of(model: Any, input_ids: Tensor) -> Reference:
    """Run the reference once; every model compared later is held against what it said.

    Args:
        model: called with `[1, length]` ids; its output has `logits`.
        input_ids: `[windows, length]`, length 2 or more. Each window is read for itself. Logits are kept: 4 bytes per
            token and word of the vocabulary.

    Raises:
        InputError: the ids are no such windows.
    """
    if input_ids.dim() != 2 or input_ids.shape[1] < 2 or not input_ids.shape[0]:
        raise InputError(f"input_ids is {list(input_ids.shape)}; it must be [windows, length], length 2 or more")
    logits = [_logits(model, row) for row in input_ids]
    losses = [_loss(each, row) for each, row in zip(logits, input_ids, strict=True)]
    return Reference(input_ids, logits, sum(losses) / len(losses))


@torch.no_grad()
def compare(model: Any, reference: Reference, tick: Callable[[], None] = lambda: None) -> Quality:
    """Hold a model against its reference.

    Args:
        model: likewise called with `[1, length]` ids.
        reference: of `reference_of`.
        tick: called after each window.

    Raises:
        NumericalError: the model's logits hold NaN.
    """
    loss = divergence = agreements = 0.0
    for row, expected in zip(reference.input_ids, reference.logits, strict=True):
        logits = _logits(model, row)
        loss += _loss(logits, row)
        divergence += _divergence(expected, logits)
        agreements += float((expected.argmax(-1) == logits.argmax(-1)).float().mean())
        tick()
    count = len(reference.logits)
    if math.isnan(loss) or math.isnan(divergence):
        raise NumericalError("the model's logits hold NaN; nothing can be compared")
    perplexity = math.exp(loss / count)
    return Quality(perplexity, perplexity / reference.perplexity - 1, divergence / count, agreements / count)


def _logits(model: Any, row: Tensor) -> Tensor:
    return model(row[None], use_cache=False).logits[0].float()


def _loss(logits: Tensor, row: Tensor) -> float:
    return float(F.cross_entropy(logits[:-1], row[1:]))


def _divergence(expected: Tensor, logits: Tensor) -> float:
    total = 0.0
    for start in range(0, len(expected), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        first, second = expected[part].log_softmax(-1), logits[part].log_softmax(-1)
        total += float(F.kl_div(second, first, log_target=True, reduction="none").sum(-1).double().sum())
    return total / len(expected)
