"""DRY: a penalty on tokens that continue a repetition, growing with the length of what is repeated already.

How many tokens at the end of the text also stand before some earlier token decides what that token costs. The lengths
are counted backwards in tensors, one step per repeated token, up to where the penalty would leave the range of
float32. On the CPU, where steps can be counted as they go, a long repetition is taken over by the Z-function, so that
what a token costs is linear in the text however it repeats itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seed_oss.chat import SeedOssTokenizer
from seed_oss.errors import InputError
from seed_oss.generation.penalties import spare_slot
from seed_oss.generation.processor_base import id_list

DEFAULT_BREAKERS = ("\n", ":", '"', "*")
"""llama.cpp's sequence breakers."""
_MAX_LOG = 88.0  # of a float32
_TENSOR_STEPS = 8  # most text does not repeat itself for longer


@dataclass(frozen=True)
class DrySettings:
    """See DRYLogitsProcessor.

    Attributes:
        multiplier: >= 0.
        base: >= 1.
        allowed_length: >= 1.
    """

    multiplier: float
    base: float
    allowed_length: int

    @property
    def max_exponent(self) -> int:
        """The largest exponent of `base` whose penalty is still a float32."""
        if self.base <= 1.000001 or self.multiplier == 0:
            return 0
        return max(int((_MAX_LOG - max(math.log(self.multiplier), 0.0)) / math.log(self.base)), 0)


@dataclass(frozen=True)
class DryBreakers:
    """What no repetition goes across.

    Attributes:
        sequences: (heads, tail): a breaker is any of some tokens followed by the ids `tail`. `heads` is bool `[n + 1]`,
            True at these tokens, the largest of which is at most n - 1; the last entry stands for all larger ids.
        single_ids: int64 `[n]`, the tokens that are breakers by themselves.
    """

    sequences: tuple[tuple[Tensor, tuple[int, ...]], ...]
    single_ids: Tensor

    @staticmethod
    def of_ids(ids: Any) -> "DryBreakers":
        """Each of these tokens is a breaker."""
        return DryBreakers.of({(): set(id_list("dry_sequence_breakers", ids))})

    @staticmethod
    def of(heads_of_tail: dict[tuple[int, ...], set[int]]) -> "DryBreakers":
        """From the heads that go with each tail."""
        sequences: list[tuple[Tensor, tuple[int, ...]]] = []
        for tail, heads in heads_of_tail.items():
            if heads:
                table = torch.zeros(max(heads) + 2, dtype=torch.bool)
                table[sorted(heads)] = True
                sequences.append((table, tail))
        return DryBreakers(tuple(sequences), torch.tensor(sorted(heads_of_tail.get((), ())), dtype=torch.int64))

    def to(self, device: torch.device) -> "DryBreakers":
        """The same on a device."""
        if self.single_ids.device == device:
            return self
        return DryBreakers(
            tuple((heads.to(device), tail) for heads, tail in self.sequences), self.single_ids.to(device)
        )


def find_breakers(breakers: Sequence[str | int], tokenizer: Any) -> DryBreakers:
    """Breakers given as text or ids.

    A text is a breaker wherever it appears: every token that holds it is one, and so is every token that ends with its
    beginning, followed by the ids of the rest. Looking through a large vocabulary takes some tenths of a second.

    Args:
        breakers: texts and token ids.
        tokenizer: knows the text of each token; may be None for ids alone.

    Returns:
        The breakers; the same for every row, so that whoever serves many requests may keep them.

    Raises:
        InputError: text without a tokenizer.
    """
    texts = [one for one in breakers if isinstance(one, str)]
    found: dict[tuple[int, ...], set[int]] = {(): {one for one in breakers if isinstance(one, int)}}
    tokens = _token_texts(tokenizer) if texts else []
    ending = _ids_by_ending(tokens, {text[:length] for text in texts for length in range(1, len(text))})
    for text in texts:
        holders = {index for index, token in enumerate(tokens) if text in token}
        found[()] |= holders
        for length in range(1, len(text)):
            if heads := ending.get(text[:length], set()) - holders:
                tail = tuple(tokenizer.encode(text[length:], add_special_tokens=False))
                found.setdefault(tail, set()).update(heads)
    return DryBreakers.of(found)


def _ids_by_ending(tokens: Sequence[str], wanted: set[str]) -> dict[str, set[int]]:
    """Which tokens end with each text; one look at each end of each token, however many texts there are."""
    found: dict[str, set[int]] = {}
    longest = max(map(len, wanted), default=0)
    for index, token in enumerate(tokens):
        for length in range(1, min(len(token), longest) + 1):
            if (end := token[-length:]) in wanted:
                found.setdefault(end, set()).add(index)
    return found


def _token_texts(tokenizer: Any) -> list[str]:
    if tokenizer is None:
        raise InputError(
            "dry_sequence_breakers has text (the default has), which is looked for in the text of tokens; pass "
            "tokenizer= to generate(), or token ids, or [] for no breakers"
        )
    rows = [[token_id] for token_id in range(max(tokenizer.get_vocab().values(), default=-1) + 1)]
    if isinstance(tokenizer, SeedOssTokenizer):
        return tokenizer.backend_tokenizer.decode_batch(rows, skip_special_tokens=False)
    return tokenizer.batch_decode(rows)


def penalize_continuations(scores: Tensor, input_ids: Tensor, settings: DrySettings, breakers: DryBreakers) -> Tensor:
    """Make tokens less likely that would continue a repetition.

    Args:
        scores: `[batch, vocab]`.
        input_ids: int64 `[batch, length]`; ids below 0 do not count.
        settings: how much.
        breakers: what no repetition goes across, on the same device. A token that is one by itself costs nothing.

    Returns:
        `[batch, vocab]`: `multiplier * base ** (n - allowed_length)` is taken off a token that continues n repeated
        ones, for the largest such n, if that is at least `allowed_length`.
    """
    if input_ids.shape[1] <= settings.allowed_length or settings.multiplier == 0:
        return scores
    limits = num_since_breaker(input_ids, breakers)
    lengths = repeat_lengths(input_ids, limits, settings.allowed_length + settings.max_exponent)
    vocab_size = scores.shape[-1]
    slots = spare_slot(input_ids[:, 1:], vocab_size)
    longest = torch.zeros(scores.shape[0], vocab_size + 1, dtype=torch.int64, device=scores.device)
    longest = longest.scatter_reduce_(1, slots, lengths, "amax")
    longest = longest.index_fill_(1, spare_slot(breakers.single_ids, vocab_size), 0)[:, :vocab_size]
    exponents = (longest - settings.allowed_length).to(scores.dtype)
    penalties = settings.multiplier * settings.base**exponents
    return torch.where(exponents >= 0, scores - penalties, scores)


def repeat_lengths(input_ids: Tensor, limits: Tensor, max_len: int) -> Tensor:
    """For each token but the newest, how many tokens up to it are the same as those up to the newest.

    Args:
        input_ids: int64 `[batch, length]`; ids below 0 equal nothing.
        limits: int64 `[batch]`, the most tokens that may count.
        max_len: where counting ends.

    Returns:
        int64 `[batch, length - 1]`.
    """
    if input_ids.device.type != "cpu" or max_len <= _TENSOR_STEPS:
        return _counted_lengths(input_ids, limits, max_len)
    counts = _counted_lengths(input_ids, limits, _TENSOR_STEPS)
    for row in (counts.amax(dim=1) >= _TENSOR_STEPS).nonzero()[:, 0].tolist():
        counts[row] = torch.tensor(_z_lengths(input_ids[row].tolist(), min(max_len, int(limits[row]))))
    return counts


def _z_lengths(ids: list[int], max_len: int) -> list[int]:
    """The same for one row by the Z-function of the text read backwards (D. Gusfield, 1997, section 1.3)."""
    text = [token if token >= 0 else -1 - index for index, token in enumerate(reversed(ids))]  # below 0: each its own
    lengths, start, end = [0] * len(text), 0, 0
    for index in range(1, len(text)):
        known = min(lengths[index - start], end - index) if index < end else 0
        if index + known >= end:
            most = min(max_len, len(text) - index)
            while known < most and text[known] == text[index + known]:
                known += 1
            start, end = index, index + known
        lengths[index] = known
    return lengths[:0:-1]


def _counted_lengths(input_ids: Tensor, limits: Tensor, max_len: int) -> Tensor:
    length = input_ids.shape[1]
    earlier = input_ids[:, :-1]
    counts = torch.zeros_like(earlier)
    same = torch.ones_like(earlier, dtype=torch.bool)
    for step in range(min(max_len, length - 1)):
        newest = input_ids[:, length - 1 - step, None]
        # Column j of `same` belongs to the token at j + step: what has no token that far back falls off in front.
        same = same[:, 1:] if step else same
        same = same & (earlier[:, : length - 1 - step] == newest) & (newest >= 0) & (step < limits)[:, None]
        counts[:, step:] += same
        if same.device.type == "cpu" and not bool(same.any()):
            break
    return counts


def num_since_breaker(input_ids: Tensor, breakers: DryBreakers) -> Tensor:
    """How many tokens follow the last breaker of each row; the whole length where there is none: int64 `[batch]`."""
    length = input_ids.shape[1]
    ends = torch.zeros_like(input_ids, dtype=torch.bool)
    for heads, tail in breakers.sequences:
        span = length - len(tail)
        if span <= 0:
            continue
        found = heads[spare_slot(input_ids[:, :span], heads.shape[0] - 1)]
        for offset, token_id in enumerate(tail, start=1):
            found &= input_ids[:, offset : offset + span] == token_id
        ends[:, len(tail) :] |= found
    last = torch.where(ends, torch.arange(1, length + 1, device=input_ids.device), 0).amax(dim=1)
    return length - last
