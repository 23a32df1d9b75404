"""Rounding a weight for the inputs it gets: the error of one column is made good by the columns still to come.

The error of a linear layer's output over the calibration inputs X is tr((W - Q) H (W - Q)^T), H = X^T X. Three steps
make it small: grids found by the search of `grids`, with errors weighted by H's diagonal; columns rounded one after
another, the most important first, each one's error spread over those not yet rounded (GPTQ, Frantar et al. 2022,
arXiv:2210.17323); then descent over scales and integers, each in turn to its best value with all others held.

All of it works on transposed weights, `[in_features, out_features]`: a column is then contiguous.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from seed_oss.errors import InputError, NumericalError
from seed_oss.files.names import short
from seed_oss.ops.grouped_weight import PARAM_DTYPES, GroupedWeight, QuantFormat
from seed_oss.quant.grids import find_grid
from seed_oss.quant.rounding import fitting_format, grouped_weight, largest_magnitude

MAX_DAMPING = 1.0


@dataclass(frozen=True)
class FeedbackSettings:
    """How hard to try.

    Attributes:
        damping: share of the mean diagonal that is added to the diagonal of H. The usual 0.01 fits a few thousand
            tokens too closely: on other text 0.1 left a tenth less error.
        block_columns: columns whose errors are gathered before they reach the columns after them.
        num_descents: passes over scales and integers after the feedback.
    """

    damping: float = 0.1
    block_columns: int = 64
    num_descents: int = 3


@dataclass
class _State:
    """A weight on its way: transposed, fp32; params are `[groups, out_features]`."""

    format: QuantFormat
    q: Tensor
    scale: Tensor
    offset: Tensor
    zero_point: Tensor | None

    def numbers(self, column: int) -> Tensor:
        group = column // self.format.group_size
        return self.q[column] * self.scale[group] + self.offset[group]

    def round(self, column: int, wanted: Tensor) -> Tensor:
        """Round a column, keep its integers, return the numbers they stand for."""
        group = column // self.format.group_size
        scale, offset = self.scale[group], self.offset[group]
        unit = torch.where(scale == 0, 1.0, scale)
        self.q[column] = ((wanted - offset) / unit).round_().clamp_(0, 2**self.format.bits - 1)
        return self.q[column] * scale + offset


@torch.no_grad()
def quantize_with_feedback(
    weight: Tensor,
    hessian: Tensor,
    format: QuantFormat,
    *,
    settings: FeedbackSettings | None = None,
    name: str = "the weight",
) -> GroupedWeight:
    """Round a weight so that its output over the calibration inputs changes little.

    Args:
        weight: `[out_features, in_features]`.
        hessian: X^T X of the inputs, `[in_features, in_features]`, up to a factor. If it is in fp32, its diagonal is
            changed meanwhile, and is afterwards what it was.
        format: what to make; fp32 scales come about as in `quantize_weight`.
        settings: how hard to try.
        name: of the tensor, for messages.

    Returns:
        The weight in integers.

    Raises:
        InputError: shapes do not fit each other.
        NumericalError: NaN or infinity, or a Hessian that stays singular with all of its mean on the diagonal.
    """
    settings = settings or FeedbackSettings()
    format.check_width(weight.shape[1])
    if hessian.shape != (weight.shape[1], weight.shape[1]):
        raise InputError(f"hessian is {list(hessian.shape)}; {short(name)} has {weight.shape[1]} columns")
    format = fitting_format(format, largest_magnitude(weight, name))
    largest_magnitude(hessian, f"the Hessian of {name}")
    original = weight.float().t().contiguous()
    with _damped(hessian.float(), settings.damping) as hessian:
        state = _first_grids(original, hessian, format)
        _feed_errors_forward(original, hessian, state, settings.block_columns, name)
        for _ in range(settings.num_descents):
            _descend(original, hessian, state)
    points = None if state.zero_point is None else state.zero_point.t()
    return grouped_weight(
        format, state.q.t().contiguous(), state.scale.t().contiguous(), state.offset.t().contiguous(), points
    )


@contextmanager
def _damped(hessian: Tensor, damping: float) -> Iterator[Tensor]:
    """The Hessian itself, its diagonal larger for as long as the context lasts: a copy would take as much again."""
    before = hessian.diagonal().clone()
    _damp_(hessian, damping)
    try:
        yield hessian
    finally:
        hessian.diagonal().copy_(before)


def _damp_(hessian: Tensor, damping: float) -> None:
    """Add a share of the mean diagonal to the diagonal; 1 where it is zero."""
    mean = float(hessian.diagonal().mean())
    hessian.diagonal().add_(damping * mean if mean > 0 else 1.0)


def output_error(weight: Tensor, rounded: Tensor, hessian: Tensor) -> float:
    """tr((W - Q) H (W - Q)^T): the squared error of the output, summed over the inputs behind H.

    Args:
        weight: `[out_features, in_features]`.
        rounded: the same.
        hessian: `[in_features, in_features]`.
    """
    wrong = weight.float() - rounded.float()
    return float(((wrong @ hessian) * wrong).sum())


def _first_grids(original: Tensor, hessian: Tensor, format: QuantFormat) -> _State:
    """Grids found before any column is rounded: columns may then be taken in any order."""
    size, (in_features, out_features) = format.group_size, original.shape
    importance = hessian.diagonal()
    grids = [
        find_grid(original[start : start + size], format, importance=importance[start : start + size, None])
        for start in range(0, in_features, size)
    ]
    points = [grid.zero_point for grid in grids if grid.zero_point is not None]
    return _State(
        format,
        torch.zeros(in_features, out_features),
        torch.stack([grid.scale for grid in grids]),
        torch.stack([grid.offset for grid in grids]),
        torch.stack(points) if points else None,
    )


def _inverse_factor(hessian: Tensor, order: Tensor, name: str) -> Tensor:
    """The upper Cholesky factor of the inverse, with as much more damping as it takes, columns in this order.

    Two matrices of this size are in memory at a time, beside the Hessian.
    """
    damping = 0.0
    while damping <= MAX_DAMPING:
        factor = hessian[order[:, None], order]
        if damping:
            _damp_(factor, damping)
        factor, failed = torch.linalg.cholesky_ex(factor)
        if not int(failed):
            factor = torch.cholesky_inverse(factor)
            factor, failed = torch.linalg.cholesky_ex(factor, upper=True)
            if not int(failed) and bool(factor.diagonal().isfinite().all()):
                return factor
        damping = max(10 * damping, 0.01)
    raise NumericalError(f"the Hessian of {short(name)} is no Gram matrix: its inverse has no Cholesky factor")


def _feed_errors_forward(original: Tensor, hessian: Tensor, state: _State, block_columns: int, name: str) -> None:
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    factor = _inverse_factor(hessian, order, name)
    columns, wanted = order.tolist(), original[order]
    for start in range(0, len(columns), block_columns):
        stop = min(start + block_columns, len(columns))
        block, errors = wanted[start:stop], torch.empty_like(wanted[start:stop])
        for i in range(stop - start):
            row = factor[start + i]
            errors[i] = (block[i] - state.round(columns[start + i], block[i])) / row[start + i]
            block[i + 1 :].addr_(row[start + i + 1 : stop], errors[i], alpha=-1)
        wanted[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)


def _descend(original: Tensor, hessian: Tensor, state: _State) -> None:
    """One pass: for each group its scale, its minimum, then its integers, each to the best value given all others."""
    size = state.format.group_size
    wrong = original - _all_numbers(state)
    for group in range(state.scale.shape[0]):
        rows = slice(group * size, (group + 1) * size)
        within = hessian[rows, rows]
        gradient = hessian[rows] @ wrong  # [group_size, out_features], kept up to date below
        _fit_params(state, group, wrong[rows], within, gradient)
        for i in range(size):
            column = rows.start + i
            before = state.numbers(column)
            change = before - state.round(column, before + gradient[i] / within[i, i])
            wrong[column] += change
            gradient.addr_(within[:, i], change)


def _fit_params(state: _State, group: int, wrong: Tensor, within: Tensor, gradient: Tensor) -> None:
    """The best scale, then the best minimum, of each row's group; kept where it helps after being rounded."""
    size = state.format.group_size
    q = state.q[group * size : (group + 1) * size]
    zero = 2 ** (state.format.bits - 1) if state.format.zero == "symmetric" else 0
    steps = q - (state.zero_point[group] if state.zero_point is not None else zero)
    change = _best_change(state.scale[group], steps, within, gradient, state.format)
    state.scale[group] += change
    wrong.addcmul_(steps, change, value=-1)
    gradient.addmm_(within, steps * change, alpha=-1)
    if state.format.zero != "minimum":
        state.offset[group] = -(zero if state.zero_point is None else state.zero_point[group]) * state.scale[group]
        return
    change = _best_change(state.offset[group], torch.ones_like(steps), within, gradient, state.format)
    state.offset[group] += change
    wrong -= change
    gradient -= within.sum(1)[:, None] * change


def _best_change(param: Tensor, steps: Tensor, within: Tensor, gradient: Tensor, format: QuantFormat) -> Tensor:
    """What to add to a parameter (`steps` times it is in each number) so that it is the best one that can be stored."""
    slope = (steps * gradient).sum(0)
    curvature = (steps * (within @ steps)).sum(0)
    wanted = param + slope / torch.where(curvature > 0, curvature, torch.inf)
    change = wanted.to(PARAM_DTYPES[format.param_dtype]).float() - param
    return torch.where(change * (change * curvature - 2 * slope) < 0, change, 0.0)


def _all_numbers(state: _State) -> Tensor:
    grouped = state.q.unflatten(0, (-1, state.format.group_size))
    return (grouped * state.scale[:, None] + state.offset[:, None]).flatten(0, 1)
