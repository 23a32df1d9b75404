"""Highest entries and sums of rows of logits: the native form against the readable one."""

import math

import pytest
import torch
from torch import Tensor

from seed_oss.ops.logits import (
    argmax_rows,
    argmax_rows_reference,
    log_sum_exp_rows,
    log_sum_exp_rows_reference,
    top_k_rows,
    top_k_rows_reference,
)
from seed_oss.ops.native import library, why_not

SIZES = (1, 5, 16, 255, 256, 257, 1000, 5003)
pytestmark = pytest.mark.skipif(library() is None, reason=f"no native kernels: {why_not()}")


@pytest.fixture(autouse=True)
def _each_set(instructions: str) -> None:
    pass


def rows_of(cols: int) -> Tensor:
    """Random rows; rows with ties everywhere; with masked entries; with what is no number."""
    random = torch.Generator().manual_seed(cols)
    plain = torch.randn(3, cols, generator=random) * 10
    ties = torch.randint(-2, 2, (2, cols), generator=random).float()
    masked = plain[:2].masked_fill(torch.rand(2, cols, generator=random) < 0.9, -math.inf)
    nothing, no_number, infinite = torch.full((1, cols), -math.inf), plain[:2].clone(), plain[:1].clone()
    no_number[0, cols // 2] = no_number[1, -1] = math.nan
    infinite[0, cols // 3] = math.inf
    return torch.cat((plain, ties, ties * -0.0, masked, nothing, no_number, infinite))


def same(one: Tensor, other: Tensor) -> bool:
    """Equal numbers, NaN among them."""
    return torch.equal(one.nan_to_num(nan=12345.0), other.nan_to_num(nan=12345.0))


@pytest.mark.parametrize("cols", SIZES)
def test_argmax(cols: int) -> None:
    logits = rows_of(cols)
    assert torch.equal(argmax_rows(logits), argmax_rows_reference(logits))


@pytest.mark.parametrize("cols", SIZES)
def test_top_k(cols: int) -> None:
    logits = rows_of(cols)
    for k in {0, 1, min(20, cols), min(300, cols), cols}:
        values, ids = top_k_rows(logits, k)
        expected, expected_ids = top_k_rows_reference(logits, k)
        assert same(values, expected)
        assert torch.equal(ids, expected_ids)


@pytest.mark.parametrize("cols", SIZES)
def test_log_sum_exp(cols: int) -> None:
    logits = rows_of(cols)
    expected = log_sum_exp_rows_reference(logits.double()).float()
    assert torch.allclose(log_sum_exp_rows(logits), expected, rtol=3e-7, atol=1e-6, equal_nan=True)


def test_rows_are_read_where_they_are() -> None:
    """Rows far apart, and columns that are not: those go to torch."""
    wide = rows_of(700)
    for logits in (wide[:, 100:377], wide[::3], wide.T[:100]):
        assert torch.equal(argmax_rows(logits), argmax_rows_reference(logits))
        assert torch.equal(top_k_rows(logits, 7)[1], top_k_rows_reference(logits, 7)[1])
        whole = log_sum_exp_rows_reference(logits)
        assert torch.allclose(log_sum_exp_rows(logits), whole, rtol=1e-6, equal_nan=True)


def test_no_row_changes_another() -> None:
    logits, before = rows_of(5003), torch.get_num_threads()
    torch.set_num_threads(3)
    together = log_sum_exp_rows(logits)
    torch.set_num_threads(before)
    alone = torch.cat([log_sum_exp_rows(row[None]) for row in logits])
    assert same(together, alone)


def test_a_graph_is_kept() -> None:
    logits = torch.randn(2, 9, requires_grad=True)
    for result in (log_sum_exp_rows(logits), top_k_rows(logits, 2)[0]):
        assert result.requires_grad


def test_no_rows() -> None:
    assert argmax_rows(torch.empty(0, 9)).shape == (0,)
    assert top_k_rows(torch.empty(0, 9), 3)[1].shape == (0, 3)
