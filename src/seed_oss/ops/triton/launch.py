"""One launch of a kernel as a value: made by the ops, run on a device, or compiled for one that is not there."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Launch:
    """A kernel and everything that it is given.

    Attributes:
        kernel: a function under `triton.jit`.
        grid: number of programs along each axis.
        arguments: tensors, numbers and None by the kernel's names.
        constants: what the kernel is compiled for.
        num_warps: warps of a program.
        num_stages: loads that are under way at once in a loop.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3

    def run(self) -> None:
        """Start it on the current stream of its tensors' device."""
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        device = next(value.device for value in self.arguments.values() if isinstance(value, Tensor))
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self.kernel[self.grid](**self.arguments, **self.constants, **options)


def power_of_two(size: int) -> int:
    """The smallest power of two that is not below `size`, as blocks of numbers have to be."""
    return 1 << max(size - 1, 0).bit_length()


def blocks_of(size: int, block: int) -> int:
    """How many blocks cover `size`."""
    return -(-size // block)
