"""The levels of a group of weights: found for the numbers they must stand for, and the rounding to them.

Everything here works on groups laid side by side, `[group_size, num_groups]` (axis 0) or, where groups are long,
`[num_groups, group_size]` (axis 1): sums over a group then run over contiguous memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from seed_oss.ops.grouped_weight import PARAM_DTYPES, QuantFormat

Method = Literal["plain", "search"]
NUM_REFITS = 2  # of scale and minimum to the integers found; a third changes nothing that counts
# Steps that the widest number of a group is cut into, as shares of the steps there are. Below 1 nothing is cut off.
NEGATIVE_SHARES = (1.0, 0.86, 0.9, 0.94, 0.97, 1.03, 1.06, 1.1, 1.15)  # the widest number gets the lowest integer
POSITIVE_SHARES = (0.8, 0.85, 0.9, 0.95)  # the widest number gets the highest integer, one step less
RANGE_SHARES = (1.0, 14 / 15, 13 / 15, 0.9, 0.97, 1.03, 1.07, 1.12, 1.18)


@dataclass(frozen=True)
class Grid:
    """The numbers `offset + scale * q` of each group, q from 0 to `top`.

    Attributes:
        scale: fp32 `[num_groups]`, already rounded to what is stored.
        offset: fp32 `[num_groups]`, the number that 0 stands for.
        zero_point: fp32 `[num_groups]` of integers, where the format has zero points.
        top: the highest integer.
        axis: along which a group lies in the numbers given.
    """

    scale: Tensor
    offset: Tensor
    zero_point: Tensor | None
    top: int
    axis: int

    def integers(self, numbers: Tensor) -> Tensor:
        """The nearest integers, fp32, in the shape of `numbers`."""
        unit = _divisor(self.scale).unsqueeze(self.axis)
        return ((numbers - self.offset.unsqueeze(self.axis)) / unit).round_().clamp_(0, self.top)

    def numbers(self, integers: Tensor) -> Tensor:
        """What integers stand for."""
        return integers * self.scale.unsqueeze(self.axis) + self.offset.unsqueeze(self.axis)

    def error(self, numbers: Tensor, importance: Tensor | None) -> Tensor:
        """Squared error of each group when `numbers` are rounded, `[num_groups]`."""
        unit = _divisor(self.scale)
        exact = (numbers - self.offset.unsqueeze(self.axis)).mul_((1 / unit).unsqueeze(self.axis))
        wrong = exact.round().clamp_(0, self.top).sub_(exact)
        wrong = wrong.mul_(wrong) if importance is None else wrong.mul_(wrong).mul_(importance)
        return wrong.sum(self.axis).mul_(unit * unit)

    def where(self, is_better: Tensor, other: "Grid") -> "Grid":
        """`other` for the groups where it is better."""
        zero_point = self.zero_point
        if zero_point is not None and other.zero_point is not None:
            zero_point = torch.where(is_better, other.zero_point, zero_point)
        scale = torch.where(is_better, other.scale, self.scale)
        return replace(
            self, scale=scale, offset=torch.where(is_better, other.offset, self.offset), zero_point=zero_point
        )


@torch.no_grad()
def find_grid(
    numbers: Tensor, format: QuantFormat, method: Method = "search", *, axis: int = 0, importance: Tensor | None = None
) -> Grid:
    """The grid of each group.

    Args:
        numbers: fp32, finite, `[group_size, num_groups]` for axis 0, `[num_groups, group_size]` for axis 1.
        format: bits, kind of zero and dtype of what is stored.
        method: "plain" puts the ends of a group on the ends of the grid; "search" tries narrower and wider ones, fits
            scale and minimum to the integers found, and keeps what has the least squared error. The plain grid is
            among the candidates.
        axis: along which a group lies.
        importance: weights of the squared errors, broadcastable to `numbers`.

    Returns:
        Scales, minimums and zero points as stored, in fp32.
    """
    candidates = _candidates(numbers, format, axis)
    best = next(candidates)
    if method == "plain":
        return best
    error = best.error(numbers, importance)
    for candidate in candidates:
        if format.zero == "minimum":  # two parameters: ranges alone leave a twentieth of the error
            candidate = _refit(candidate, numbers, format, importance)
        best, error = _better(best, error, candidate, numbers, importance)
    for _ in range(NUM_REFITS):
        best, error = _better(best, error, _refit(best, numbers, format, importance), numbers, importance)
    return best


def _better(best: Grid, error: Tensor, other: Grid, numbers: Tensor, importance: Tensor | None) -> tuple[Grid, Tensor]:
    other_error = other.error(numbers, importance)
    is_better = other_error < error
    return best.where(is_better, other), torch.where(is_better, other_error, error)


def _candidates(numbers: Tensor, format: QuantFormat, axis: int) -> Iterator[Grid]:
    """Grids by the range of each group; the plain one first."""
    low, high = numbers.amin(axis), numbers.amax(axis)
    if format.zero == "symmetric":
        return _symmetric(low, high, format, axis)
    if format.zero == "minimum":
        return _minimum(low, high, format, axis)
    return _point(low.clamp(max=0), high.clamp(min=0), format, axis)


def _symmetric(low: Tensor, high: Tensor, format: QuantFormat, axis: int) -> Iterator[Grid]:
    widest = torch.where(-low >= high, low, high)
    steps = 2 ** (format.bits - 1)
    for share in (*NEGATIVE_SHARES, 1 - 1 / steps):  # the last one makes Q8_0's grid, which leaves -128 unused
        yield _symmetric_grid(widest / (-steps * share), format, axis)
    for share in POSITIVE_SHARES:
        yield _symmetric_grid(widest / (steps * share), format, axis)


def _symmetric_grid(scale: Tensor, format: QuantFormat, axis: int) -> Grid:
    scale = _stored(scale, format)
    return Grid(scale, scale * -(2 ** (format.bits - 1)), None, 2**format.bits - 1, axis)


def _minimum(low: Tensor, high: Tensor, format: QuantFormat, axis: int) -> Iterator[Grid]:
    top = 2**format.bits - 1
    for share in RANGE_SHARES:
        scale = (high - low) / (top * share)
        cut_off = (high - low - scale * top) / 2 if share > 1 else 0  # the same at both ends
        yield _minimum_grid(scale, low + cut_off, format, axis)


def _minimum_grid(scale: Tensor, minimum: Tensor, format: QuantFormat, axis: int) -> Grid:
    return Grid(_stored(scale, format), _stored(minimum, format), None, 2**format.bits - 1, axis)


def _point(low: Tensor, high: Tensor, format: QuantFormat, axis: int) -> Iterator[Grid]:
    top = 2**format.bits - 1
    for share in RANGE_SHARES:
        scale = _stored((high - low) / (top * share), format)
        point = (high + low) / _divisor(scale) / -2 + top / 2  # where the middle of the range is the middle of the grid
        yield _point_grid(scale, point.round(), format, axis)
        if share == 1.0:
            continue
        yield _point_grid(scale, torch.where(point > point.round(), point.ceil(), point.floor()), format, axis)


def _point_grid(scale: Tensor, zero_point: Tensor, format: QuantFormat, axis: int) -> Grid:
    zero_point = zero_point.clamp(0, 2**format.bits - 1)
    return Grid(scale, -zero_point * scale, zero_point, 2**format.bits - 1, axis)


def _refit(grid: Grid, numbers: Tensor, format: QuantFormat, importance: Tensor | None) -> Grid:
    """The scale (and minimum) of least squared error for the integers that `grid` gives."""
    axis, integers = grid.axis, grid.integers(numbers)
    if format.zero == "minimum":
        return _refit_minimum(integers, numbers, format, importance, axis)
    if grid.zero_point is not None:
        steps = integers.sub_(grid.zero_point.unsqueeze(axis))
    else:
        steps = integers.sub_(2 ** (format.bits - 1))
    weighted = steps if importance is None else steps * importance
    scale = (weighted * numbers).sum(axis) / _divisor((weighted * steps).sum(axis))
    if grid.zero_point is None:
        return _symmetric_grid(scale, format, axis)
    return _point_grid(_stored(scale, format), grid.zero_point, format, axis)


def _refit_minimum(
    integers: Tensor, numbers: Tensor, format: QuantFormat, importance: Tensor | None, axis: int
) -> Grid:
    middle = (2**format.bits - 1) / 2  # integers around 0 keep the sums below from cancelling
    steps = integers.sub_(middle)
    weighted = steps if importance is None else steps * importance
    if importance is None:
        weight, sum_numbers = torch.tensor(float(numbers.shape[axis])), numbers.sum(axis)
    else:
        weight, sum_numbers = _divisor(importance.sum(axis)), (numbers * importance).sum(axis)
    sum_steps, products = weighted.sum(axis), (weighted * numbers).sum(axis)
    spread = (weighted * steps).sum(axis) - sum_steps * sum_steps / weight
    scale = _stored((products - sum_steps * sum_numbers / weight) / torch.where(spread > 0, spread, torch.inf), format)
    return _minimum_grid(scale, (sum_numbers - scale * sum_steps) / weight - scale * middle, format, axis)


def _stored(params: Tensor, format: QuantFormat) -> Tensor:
    """Rounded to the dtype they are stored in."""
    return params.to(PARAM_DTYPES[format.param_dtype]).float()


def _divisor(scale: Tensor) -> Tensor:
    """With 1 for 0: the integers of a group of zeros are of no account."""
    return torch.where(scale == 0, 1.0, scale)
