"""The highest entries of rows of logits, and the logarithm of their sums: readable forms, and native ones.

Rows are read where they are, once or twice, and nothing of their size is made: a row of the vocabulary is 600 kB.
What a row comes to depends neither on other rows nor on the number of threads. The native forms are called directly,
and as torch library ops while something records: an op's dispatch takes longer than a short row.
"""

import math

import torch
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.ops.native import library, num_threads
from seed_oss.ops.recording import is_recorded, wants_graph

NO_TOKEN = -1


def argmax_rows(logits: Tensor) -> Tensor:
    """The highest entry of each row; the lowest id among equals.

    Args:
        logits: `[rows, vocab]`.

    Returns:
        int64 `[rows]`; -1 where a row has NaN, or nothing above minus infinity.
    """
    return torch.ops.seed_oss.argmax_rows(logits) if is_op(logits) else _argmax_rows(logits)


def _argmax_rows(logits: Tensor) -> Tensor:
    if not can_be_native(logits) or (native := library()) is None:
        return argmax_rows_reference(logits)
    ids = torch.empty(logits.shape[0], dtype=torch.int64, device="cpu")
    native.so_argmax(*place_of(logits), ids.data_ptr(), num_threads())
    return ids


def argmax_rows_reference(logits: Tensor) -> Tensor:
    """The readable form of `argmax_rows`."""
    best, ids = logits.max(dim=-1)
    return torch.where(best > -math.inf, ids, NO_TOKEN)


def top_k_rows(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest entries of each row, highest first; NaN above all, and on the CPU the lower id first among equals.

    Args:
        logits: `[rows, vocab]`.
        k: from 0 to vocab.

    Returns:
        Values and int64 ids, both `[rows, k]`.

    Raises:
        InputError: k is out of range.
    """
    return torch.ops.seed_oss.top_k_rows(logits, k) if is_op(logits) else _top_k_rows(logits, k)


def _top_k_rows(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if not 0 <= k <= logits.shape[-1]:
        raise InputError(f"k is {k}; a row has {logits.shape[-1]} entries")
    if logits.device.type != "cpu":
        best = logits.topk(k)  # sorting a vocabulary would take longer than a step
        return best.values, best.indices
    if not can_be_native(logits) or k == 0 or (native := library()) is None:
        return top_k_rows_reference(logits, k)
    values = torch.empty(logits.shape[0], k, dtype=torch.float32, device="cpu")
    ids = torch.empty(logits.shape[0], k, dtype=torch.int64, device="cpu")
    native.so_top_k(*place_of(logits), k, values.data_ptr(), ids.data_ptr(), num_threads())
    return values, ids


def top_k_rows_reference(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The readable form of `top_k_rows`."""
    values, ids = logits.sort(dim=-1, descending=True, stable=True)
    return values[:, :k], ids[:, :k]


def log_sum_exp_rows(logits: Tensor) -> Tensor:
    """The logarithm of the sum of e to each entry.

    Args:
        logits: `[rows, vocab]`.

    Returns:
        `[rows]`.
    """
    return torch.ops.seed_oss.log_sum_exp_rows(logits) if is_op(logits) else _log_sum_exp_rows(logits)


def _log_sum_exp_rows(logits: Tensor) -> Tensor:
    if not can_be_native(logits) or (native := library()) is None:
        return log_sum_exp_rows_reference(logits)
    sums = torch.empty(logits.shape[0], dtype=torch.float32, device="cpu")
    native.so_log_sum_exp(*place_of(logits), sums.data_ptr(), num_threads())
    return sums


def log_sum_exp_rows_reference(logits: Tensor) -> Tensor:
    """The readable form of `log_sum_exp_rows`."""
    return logits.logsumexp(dim=-1)


def can_be_native(logits: Tensor) -> bool:
    """Whether the kernels read such rows."""
    is_float = logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.layout == torch.strided
    has_rows = is_float and logits.dim() == 2 and logits.stride(1) == 1 and logits.numel() > 0
    return has_rows and not wants_graph(logits)


def is_op(logits: Tensor) -> bool:
    """Whether the library op is to be called, for somebody records it."""
    return is_recorded() and logits.device.type == "cpu" and not wants_graph(logits)


def place_of(logits: Tensor) -> tuple[int, int, int, int]:
    """Address, number of rows, entries from one row to the next, entries of a row."""
    return logits.data_ptr(), logits.shape[0], logits.stride(0), logits.shape[1]


@torch.library.custom_op("seed_oss::argmax_rows", mutates_args=())
def _argmax_op(logits: Tensor) -> Tensor:
    return _argmax_rows(logits)


@_argmax_op.register_fake
def _(logits: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


@torch.library.custom_op("seed_oss::top_k_rows", mutates_args=())
def _top_k_op(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, ids = _top_k_rows(logits, k)
    return values.contiguous(), ids.contiguous()


@_top_k_op.register_fake
def _(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape[0], k), logits.new_empty(logits.shape[0], k, dtype=torch.int64)


@torch.library.custom_op("seed_oss::log_sum_exp_rows", mutates_args=())
def _log_sum_exp_op(logits: Tensor) -> Tensor:
    return _log_sum_exp_rows(logits)


@_log_sum_exp_op.register_fake
def _(logits: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[0])
