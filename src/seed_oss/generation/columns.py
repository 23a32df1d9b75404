"""A tensor that gains a column per step without being copied each time."""

import torch
from torch import Tensor


class Columns:
    """Rows of equal, growing length.

    Args:
        start: `[rows, length]`, the first columns; copied.
        max_more: how many columns will be added at most.
    """

    step = 256

    def __init__(self, start: Tensor, max_more: int) -> None:
        self._buffer = self._allocate(start, min(max_more, self.step))
        self._max_more = max_more
        self._length = start.shape[1]
        self._limit = start.shape[1] + max_more

    def __len__(self) -> int:
        return self._length

    def view(self) -> Tensor:
        """`[rows, length]`; later columns do not show in it, and earlier ones never change unless cropped."""
        return self._buffer[:, : self._length]

    def append(self, column: Tensor) -> None:
        """Add `[rows]` values at the end."""
        self.extend(column[:, None])

    def extend(self, columns: Tensor) -> None:
        """Add `[rows, n]` values at the end."""
        end = self._length + columns.shape[1]
        if end > self._buffer.shape[1]:
            more = max(min(self._limit - self._length, self._length), self.step, columns.shape[1])
            self._buffer = self._allocate(self.view(), more)
        self._buffer[:, self._length : end] = columns
        self._length = end

    def crop(self, length: int) -> None:
        """Keep the first `length` columns."""
        self._length = min(self._length, length)

    @staticmethod
    def _allocate(start: Tensor, more: int) -> Tensor:
        rows, length = start.shape
        with torch.inference_mode(False):  # columns may come within and outside of it
            buffer = torch.empty(rows, length + more, dtype=start.dtype, device=start.device)
        buffer[:, :length] = start
        return buffer
