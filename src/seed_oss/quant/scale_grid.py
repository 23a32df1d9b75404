"""How many rows and columns of a weight share a scale.

tensor   all rows, all columns      [1]
channel  1 row, all columns         [out, 1]
group    1 row, some columns        [out, in / columns]
block    some rows, some columns    [out / rows, in / columns], rounded up
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ScaleGrid:
    """A grid over a weight; None is all rows, or all columns."""

    rows: int | None = None
    columns: int | None = None

    @property
    def title(self) -> str:
        """What it is, for messages."""
        if self.rows is None:
            return "one scale"
        if self.rows > 1:
            return f"blocks of {self.rows} x {self.columns}"
        return "one group a row" if self.columns is None else f"groups of {self.columns}"

    def counts(self, out_features: int, in_features: int) -> tuple[int, int]:
        """Rows and columns of scales."""
        return -(-out_features // (self.rows or out_features)), -(-in_features // (self.columns or in_features))

    def shapes(self, out_features: int, in_features: int) -> tuple[tuple[int, ...], ...]:
        """What tensors of scales are stored as."""
        counts = self.counts(out_features, in_features)
        if self.rows is None and self.columns is None:
            return (1,), (), (1, 1)
        return (counts, (out_features,)) if self.rows == 1 and self.columns is None else (counts,)

    def per_row(self, part: Tensor, out_features: int, in_features: int) -> Tensor:
        """Scales, or zero points, for every row.

        Args:
            part: of one of `shapes`.
            out_features: rows.
            in_features: columns.

        Returns:
            `[out_features, columns of scales]`.
        """
        grid = part.reshape(self.counts(out_features, in_features))
        return grid.repeat_interleave(self.rows or out_features, dim=0)[:out_features].contiguous()
