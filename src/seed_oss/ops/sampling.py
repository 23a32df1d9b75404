"""Drawing tokens from rows of scores, and the filters before it: readable forms, and native ones.

What a row comes to depends neither on other rows nor on the number of threads nor on the instruction set. While
compiling, the ops `seed_oss::draw_rows`, `top_p_rows` and `fill_below_rows` are recorded; otherwise the kernels are
called without the dispatcher, which would take as long as a short row.
"""

import math

import torch
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.ops.logits import NO_TOKEN, can_be_native, is_op, place_of
from seed_oss.ops.native import library, num_threads
from seed_oss.ops.noise import WORD, gumbel_noise, gumbel_noise_at

_SPARSE_SHARE = 16  # fewer candidates than 1 in this many: noise is made for them alone
_NUCLEUS_GUESS = 1024  # a nucleus of real text nearly always fits; a sort of the whole vocabulary costs 15 times more


def draw_rows(scores: Tensor, key: tuple[int, int], first_row: int, token_index: int) -> Tensor:
    """The entry of each row that has the largest sum of score and Gumbel noise: a draw from the softmax of the scores.

    The kernels make the noise's random words to the bit, and take its logarithms in double precision: a token can
    differ from that of the readable form where the two largest sums lie within a few units in the last place.

    Args:
        scores: float32 `[rows, vocab]`; minus infinity for what cannot come.
        key: two 32-bit words of the seed.
        first_row: number of the first row among those that share the key.
        token_index: how many tokens the rows have got before this one.

    Returns:
        int64 `[rows]`; -1 where a row has NaN or infinity, or nothing above minus infinity.
    """
    if is_op(scores):
        return torch.ops.seed_oss.draw_rows(scores, *key, first_row, token_index)
    native = library() if can_be_native(scores) else None
    if native is None:
        return draw_rows_reference(scores, key, first_row, token_index)
    ids = torch.empty(scores.shape[0], dtype=torch.int64, device="cpu")
    native.so_draw(*place_of(scores), *key, token_index & WORD, first_row, ids.data_ptr(), num_threads())
    return ids


def draw_rows_reference(scores: Tensor, key: tuple[int, int], first_row: int, token_index: int) -> Tensor:
    """The readable form of `draw_rows`."""
    best, tokens = _add_noise(scores, key, first_row, token_index).max(dim=-1)
    return torch.where(best.isfinite(), tokens, NO_TOKEN)


def _add_noise(scores: Tensor, key: tuple[int, int], first_row: int, token_index: int) -> Tensor:
    rows = torch.arange(first_row, first_row + scores.shape[0], device=scores.device)
    if scores.device.type == "cpu":  # elsewhere, counting candidates would stop the device
        row, entry = (scores != -math.inf).nonzero(as_tuple=True)
        if row.numel() * _SPARSE_SHARE < scores.numel():
            noise = gumbel_noise_at(key, row + first_row, token_index, entry)
            return torch.full_like(scores, -math.inf).index_put_((row, entry), scores[row, entry] + noise)
    return scores + gumbel_noise(key, rows, token_index, scores.shape[1])


def top_p_rows(scores: Tensor, top_p: float, min_tokens_to_keep: int = 1, fill: float = -math.inf) -> Tensor:
    """Keep the smallest set of most probable entries whose probabilities add up to `top_p`.

    Among entries with equal scores those with the highest ids are kept, as a stable ascending sort has it. Without
    that sort, the set can differ from the readable form's where its mass is within float32's rounding of `top_p`.

    Args:
        scores: `[rows, vocab]`.
        top_p: probability mass to keep, 0 to 1.
        min_tokens_to_keep: entries kept at least.
        fill: score of what is not kept.

    Returns:
        `[rows, vocab]`. A row with NaN, with infinity or with nothing above minus infinity stays as it is.

    Source: A. Holtzman et al., "The curious case of neural text degeneration", 2019.
    """
    if is_op(scores):
        return torch.ops.seed_oss.top_p_rows(scores, top_p, min_tokens_to_keep, fill)
    native = library() if can_be_native(scores) else None
    if native is not None and min_tokens_to_keep == 1 and top_p < 1:
        out = torch.empty(scores.shape, dtype=torch.float32, device="cpu")
        native.so_top_p(*place_of(scores), 1 - top_p, fill, out.data_ptr(), num_threads())
        return out
    has_guess = scores.shape[-1] > 2 * _NUCLEUS_GUESS >= 2 * min_tokens_to_keep
    if scores.device.type == "cpu" and has_guess and not torch.compiler.is_compiling():
        removed = _outside_small_nucleus(scores, top_p, min_tokens_to_keep)
        if removed is not None:
            return scores.masked_fill(removed, fill)
    return top_p_rows_reference(scores, top_p, min_tokens_to_keep, fill)


def top_p_rows_reference(scores: Tensor, top_p: float, min_tokens_to_keep: int = 1, fill: float = -math.inf) -> Tensor:
    """The readable form of `top_p_rows`."""
    ordered, order = scores.sort(dim=-1, stable=True)
    removed = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    removed[:, -min_tokens_to_keep:] = False
    return scores.masked_fill(removed.scatter(1, order, removed), fill)


def _outside_small_nucleus(scores: Tensor, top_p: float, min_tokens_to_keep: int) -> Tensor | None:
    """The same from the highest scores alone, without a sort of all; None where the nucleus is larger than guessed."""
    best = scores.topk(_NUCLEUS_GUESS).values
    mass = (best - scores.logsumexp(dim=-1, keepdim=True)).double().exp().cumsum(dim=-1)
    if not bool((mass[:, -1] >= top_p).all()):
        return None
    mass_before = torch.nn.functional.pad(mass[:, :-1], (1, 0))
    num_kept = (mass_before < top_p).sum(dim=-1, keepdim=True).clamp(min=min_tokens_to_keep)
    threshold = best.gather(1, num_kept - 1)
    removed = scores < threshold
    num_extra = scores.shape[-1] - removed.sum(dim=-1, keepdim=True) - num_kept
    for row in num_extra.squeeze(1).nonzero().squeeze(1).tolist():
        ties = (scores[row] == threshold[row]).nonzero().squeeze(1)
        removed[row, ties[: int(num_extra[row])]] = True
    return removed


def fill_below_rows(scores: Tensor, limits: Tensor, fill: float = -math.inf) -> Tensor:
    """Replace what is below a limit.

    Args:
        scores: `[rows, vocab]`.
        limits: `[rows]` in the same dtype; below NaN there is nothing, and NaN is below nothing.
        fill: what comes in its place.

    Returns:
        `[rows, vocab]`.

    Raises:
        InputError: the number of limits is not that of the rows.
    """
    if is_op(scores):
        return torch.ops.seed_oss.fill_below_rows(scores, limits, fill)
    if limits.shape != scores.shape[:1]:
        raise InputError(f"limits are {list(limits.shape)}; give one for each row of {list(scores.shape)}")
    is_alike = limits.dtype == scores.dtype and limits.device == scores.device
    native = library() if is_alike and can_be_native(scores) else None
    if native is None:
        return fill_below_rows_reference(scores, limits, fill)
    out, limits = torch.empty(scores.shape, dtype=torch.float32, device="cpu"), limits.contiguous()
    native.so_fill_below(*place_of(scores), limits.data_ptr(), fill, out.data_ptr(), num_threads())
    return out


def fill_below_rows_reference(scores: Tensor, limits: Tensor, fill: float = -math.inf) -> Tensor:
    """The readable form of `fill_below_rows`."""
    return scores.masked_fill(scores < limits[:, None], fill)


@torch.library.custom_op("seed_oss::draw_rows", mutates_args=())
def _draw_rows_op(scores: Tensor, key_low: int, key_high: int, first_row: int, token_index: int) -> Tensor:
    return draw_rows(scores, (key_low, key_high), first_row, token_index)


@_draw_rows_op.register_fake
def _(scores: Tensor, key_low: int, key_high: int, first_row: int, token_index: int) -> Tensor:
    return scores.new_empty(scores.shape[0], dtype=torch.int64)


@torch.library.custom_op("seed_oss::top_p_rows", mutates_args=())
def _top_p_rows_op(scores: Tensor, top_p: float, min_tokens_to_keep: int, fill: float) -> Tensor:
    return top_p_rows(scores, top_p, min_tokens_to_keep, fill)


@_top_p_rows_op.register_fake
def _(scores: Tensor, top_p: float, min_tokens_to_keep: int, fill: float) -> Tensor:
    return scores.new_empty(scores.shape)


@torch.library.custom_op("seed_oss::fill_below_rows", mutates_args=())
def _fill_below_rows_op(scores: Tensor, limits: Tensor, fill: float) -> Tensor:
    return fill_below_rows(scores, limits, fill)


@_fill_below_rows_op.register_fake
def _(scores: Tensor, limits: Tensor, fill: float) -> Tensor:
    return scores.new_empty(scores.shape)
