"""What is done to the scores of the next token, as pure functions of `[batch, vocab]` scores. None writes its input."""

import math

import torch
from torch import Tensor

from seed_oss.ops.logits import top_k_rows
from seed_oss.ops.sampling import fill_below_rows, top_p_rows

_FEW = 1024  # candidates that a heap finds faster than a selection does


def penalize_repetition(scores: Tensor, input_ids: Tensor, penalty: float) -> Tensor:
    """Make tokens that already occurred less likely (penalty > 1) or more likely (penalty < 1).

    Args:
        scores: `[batch, vocab]`.
        input_ids: int64 `[batch, length]`; ids outside the vocabulary are left out.
        penalty: divides positive scores and multiplies negative ones.

    Returns:
        `[batch, vocab]`.

    Source: N. Keskar et al., "CTRL", 2019, section 4.1.
    """
    vocab_size = scores.shape[-1]
    slots = input_ids.clamp(max=vocab_size)
    wide = torch.nn.functional.pad(scores, (0, 1))
    seen = wide.gather(1, slots)
    seen = torch.where(seen < 0, seen * penalty, seen / penalty)
    return wide.scatter_(1, slots, seen)[:, :vocab_size]


def forbid_ids(scores: Tensor, ids: Tensor) -> Tensor:
    """Give the entries `ids` (int64 `[n]`) no chance in any row; ids outside the vocabulary are left out."""
    vocab_size = scores.shape[-1]
    if scores.device.type == "cpu":  # elsewhere, picking those inside would stop the device
        return scores.index_fill(1, ids[(ids >= 0) & (ids < vocab_size)], -math.inf)
    slots = torch.where((ids < 0) | (ids > vocab_size), vocab_size, ids)
    return torch.nn.functional.pad(scores, (0, 1)).index_fill_(1, slots, -math.inf)[:, :vocab_size]


def keep_top_k(scores: Tensor, top_k: int, fill: float = -math.inf) -> Tensor:
    """Keep the `top_k` highest scores of each row, and whatever ties with the lowest of them."""
    k = min(top_k, scores.shape[-1])
    best = top_k_rows(scores, k)[0] if k <= _FEW else scores.topk(k).values
    return fill_below_rows(scores, best[:, -1], fill)


def keep_min_p(scores: Tensor, min_p: float, min_tokens_to_keep: int = 1, fill: float = -math.inf) -> Tensor:
    """Keep entries at least `min_p` times as probable as the most probable one.

    Source: M. Nguyen et al., "Turning up the heat: min-p sampling", 2024.
    """
    if min_tokens_to_keep == 1:
        best = scores.amax(dim=-1)
        lowest = best + (math.log(min_p) if min_p > 0 else -math.inf)
        return fill_below_rows(scores, lowest.masked_fill(best.isinf(), -math.inf), fill)
    probs = scores.softmax(dim=-1)
    unlikely = probs < min_p * probs.amax(dim=-1, keepdim=True)
    best = probs.topk(min(min_tokens_to_keep, probs.shape[-1])).indices
    return scores.masked_fill(unlikely.scatter(1, best, False), fill)


def keep_top_p(scores: Tensor, top_p: float, min_tokens_to_keep: int = 1, fill: float = -math.inf) -> Tensor:
    """Keep the smallest set of most probable entries whose probabilities add up to `top_p`; see `top_p_rows`."""
    return top_p_rows(scores, top_p, min_tokens_to_keep, fill)


def keep_typical(scores: Tensor, mass: float, min_tokens_to_keep: int = 1, fill: float = -math.inf) -> Tensor:
    """Keep the entries whose information content is nearest to the distribution's entropy, up to a mass.

    Args:
        scores: `[batch, vocab]`.
        mass: probability mass to keep, 0 to 1; what ties with the last entry is kept.
        min_tokens_to_keep: entries kept at least.
        fill: score of what is not kept.

    Returns:
        `[batch, vocab]`.

    Source: C. Meister et al., "Locally typical sampling", 2022.
    """
    log_probs = scores.log_softmax(dim=-1)
    probs = log_probs.exp()
    entropy = -(log_probs * probs).nansum(dim=-1, keepdim=True)
    distance = (-log_probs - entropy).abs()
    ordered, order = distance.sort(dim=-1)
    num_below = (scores.gather(1, order).softmax(dim=-1).cumsum(dim=-1) < mass).sum(dim=-1, keepdim=True)
    removed = distance > ordered.gather(1, num_below.clamp(max=scores.shape[-1] - 1))
    if min_tokens_to_keep > 1:
        removed = removed.scatter(1, order[:, :min_tokens_to_keep], False)
    return scores.masked_fill(removed, fill)


def keep_epsilon(scores: Tensor, epsilon: float, min_tokens_to_keep: int = 1, fill: float = -math.inf) -> Tensor:
    """Keep entries with a probability of at least `epsilon`, and the `min_tokens_to_keep` best ones.

    Source: J. Hewitt et al., "Truncation sampling as language model desmoothing", 2022.
    """
    return _drop(scores, scores.softmax(dim=-1) < epsilon, min_tokens_to_keep, fill)


def keep_eta(scores: Tensor, epsilon: float, min_tokens_to_keep: int = 1, fill: float = -math.inf) -> Tensor:
    """Keep entries with a probability of at least min(epsilon, sqrt(epsilon) * exp(-entropy)), and the best ones.

    Source: J. Hewitt et al., "Truncation sampling as language model desmoothing", 2022.
    """
    log_probs = scores.log_softmax(dim=-1)
    probs = log_probs.exp()
    entropy = -(log_probs.clamp(min=torch.finfo(scores.dtype).min) * probs).sum(dim=-1, keepdim=True)
    cutoff = (math.sqrt(epsilon) * (-entropy).exp()).clamp(max=epsilon)
    return _drop(scores, scores.softmax(dim=-1) < cutoff, min_tokens_to_keep, fill)


def keep_top_n_sigma(
    scores: Tensor, top_n_sigma: float, min_tokens_to_keep: int = 1, fill: float = -math.inf
) -> Tensor:
    """Keep entries whose score is at most `top_n_sigma` standard deviations below the best.

    The deviation is that of the row's finite scores around their mean. Temperature changes nothing about the choice.

    Source: C. Tang et al., "Top-n-sigma: not all logits are you need", 2024; llama.cpp for what forbidden entries do.
    """
    finite = scores > -math.inf
    num_finite = finite.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = scores.masked_fill(~finite, 0.0).sum(dim=-1, keepdim=True) / num_finite
    squares = (scores - mean).masked_fill(~finite, 0.0).square().sum(dim=-1, keepdim=True)
    lowest = scores.amax(dim=-1, keepdim=True) - top_n_sigma * (squares / num_finite).sqrt()
    return _drop(scores, scores < lowest, min_tokens_to_keep, fill)


def _drop(scores: Tensor, removed: Tensor, min_tokens_to_keep: int, fill: float) -> Tensor:
    """Without the entries removed, but with the best ones and what ties with the last of them."""
    lowest = scores.topk(min(min_tokens_to_keep, scores.shape[-1])).values[:, -1:]
    return scores.masked_fill(removed & (scores < lowest), fill)


def exclude_top_choices(
    scores: Tensor,
    threshold: float,
    applies: Tensor,
    protected_ids: Tensor | None = None,
    min_tokens_to_keep: int = 1,
    fill: float = -math.inf,
) -> Tensor:
    """Leave out all entries with a probability of at least `threshold` but the least probable of them.

    Args:
        scores: `[batch, vocab]`.
        threshold: probability, 0 to 1.
        applies: bool `[batch]`, rows to do it in.
        protected_ids: int64 `[n]`; a row that would lose one of these stays as it is.
        min_tokens_to_keep: a row that would keep fewer stays as it is.
        fill: score of what is left out.

    Returns:
        `[batch, vocab]`.

    Source: XTC, text-generation-webui, pull request 6335.
    """
    is_top = scores.softmax(dim=-1) >= threshold
    least = scores.masked_fill(~is_top, math.inf).argmin(dim=-1, keepdim=True)
    removed = is_top.scatter(1, least, False)
    num_kept = (scores > -math.inf).sum(dim=-1) - removed.sum(dim=-1)
    applies = applies & (num_kept >= min_tokens_to_keep)
    if protected_ids is not None and protected_ids.numel():
        applies = applies & ~removed[:, protected_ids].any(dim=-1)
    return scores.masked_fill(removed & applies[:, None], fill)
