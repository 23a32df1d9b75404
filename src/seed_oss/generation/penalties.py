"""What is done to the scores of the next token for the text before it, as pure functions. None writes its input.

All work in tensors and wait for no device. Ids below 0 or outside the vocabulary stand for tokens that do not count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def penalize_counts(scores: Tensor, generated_ids: Tensor, frequency: float, presence: float) -> Tensor:
    """Take `frequency` off for each time a token was generated, and `presence` once where it was at all.

    Args:
        scores: `[batch, vocab]`.
        generated_ids: int64 `[batch, length]`.
        frequency: per occurrence; negative makes repetition more likely.
        presence: once.

    Returns:
        `[batch, vocab]`.

    Source: OpenAI's API reference, `frequency_penalty` and `presence_penalty`.
    """
    counts = scores.new_zeros(scores.shape[0], scores.shape[1] + 1)
    slots = spare_slot(generated_ids, scores.shape[1])
    counts = counts.scatter_add_(1, slots, torch.ones_like(slots, dtype=scores.dtype))[:, :-1]
    return scores - frequency * counts - presence * (counts > 0)


def spare_slot(ids: Tensor, vocab_size: int) -> Tensor:
    """The ids, those outside the vocabulary as `vocab_size`: the index of a column that is cut off afterwards."""
    return torch.where((ids < 0) | (ids > vocab_size), vocab_size, ids)


def forbid_repeated_ngrams(scores: Tensor, input_ids: Tensor, ngram_size: int) -> Tensor:
    """Give no chance to tokens that would complete an n-gram for the second time.

    Args:
        scores: `[batch, vocab]`.
        input_ids: int64 `[batch, length]`.
        ngram_size: tokens of an n-gram, >= 1.

    Returns:
        `[batch, vocab]`.

    Source: R. Paulus et al., "A deep reinforced model for abstractive summarization", 2017, section 2.5.
    """
    num_grams = input_ids.shape[1] - ngram_size + 1
    if num_grams <= 0:
        return scores
    repeats = torch.ones(input_ids.shape[0], num_grams, dtype=torch.bool, device=input_ids.device)
    for offset in range(ngram_size - 1):
        newest = input_ids[:, num_grams + offset, None]
        repeats &= (input_ids[:, offset : offset + num_grams] == newest) & (newest >= 0)
    vocab_size = scores.shape[-1]
    last = spare_slot(input_ids[:, ngram_size - 1 :], vocab_size)
    forbidden = torch.zeros(scores.shape[0], vocab_size + 1, dtype=torch.bool, device=scores.device)
    forbidden.scatter_(1, torch.where(repeats, last, vocab_size), True)
    return scores.masked_fill(forbidden[:, :vocab_size], -math.inf)


def force_ids(scores: Tensor, ids: Tensor) -> Tensor:
    """Leave only the entries `ids` (int64 `[n]`), with score 0."""
    return torch.full_like(scores, -math.inf).index_fill_(1, ids, 0.0)


@dataclass(frozen=True)
class SequenceBiases:
    """Scores to add to the last token of sequences whose other tokens are there already.

    Attributes:
        single_ids: int64 `[n]`, sequences of one token.
        single_values: float32 `[n]`.
        groups: longer ones by length: tokens but the last int64 `[n, length - 1]`, the last int64 `[n]`, float32 `[n]`.
    """

    single_ids: Tensor
    single_values: Tensor
    groups: tuple[tuple[Tensor, Tensor, Tensor], ...]

    @staticmethod
    def of(biases: Sequence[tuple[Sequence[int], float]]) -> "SequenceBiases":
        """Group (token ids, bias) pairs."""
        by_length: dict[int, list[tuple[Sequence[int], float]]] = {}
        for ids, value in biases:
            by_length.setdefault(len(ids), []).append((ids, value))
        single = by_length.pop(1, [])
        groups = tuple(
            (
                torch.tensor([list(ids[:-1]) for ids, _ in pairs]),
                torch.tensor([ids[-1] for ids, _ in pairs]),
                torch.tensor([value for _, value in pairs], dtype=torch.float32),
            )
            for pairs in by_length.values()
        )
        return SequenceBiases(
            torch.tensor([ids[0] for ids, _ in single], dtype=torch.int64),
            torch.tensor([value for _, value in single], dtype=torch.float32),
            groups,
        )

    def to(self, device: torch.device) -> "SequenceBiases":
        """The same on a device."""
        groups = tuple((a.to(device), b.to(device), c.to(device)) for a, b, c in self.groups)
        return SequenceBiases(self.single_ids.to(device), self.single_values.to(device), groups)


def add_sequence_biases(scores: Tensor, input_ids: Tensor, biases: SequenceBiases) -> Tensor:
    """Add biases to tokens that would complete a sequence.

    Args:
        scores: `[batch, vocab]`.
        input_ids: int64 `[batch, length]`.
        biases: on the same device; the last tokens of all sequences are in the vocabulary.

    Returns:
        `[batch, vocab]`.
    """
    bias = torch.zeros_like(scores)
    bias.index_add_(1, biases.single_ids, biases.single_values.to(scores.dtype).expand(scores.shape[0], -1))
    for prefixes, last, values in biases.groups:
        length = prefixes.shape[1]
        if length <= input_ids.shape[1]:
            completes = (input_ids[:, None, -length:] == prefixes).all(dim=-1)
            bias.index_add_(1, last, torch.where(completes, values, 0.0).to(scores.dtype))
    return scores + bias
