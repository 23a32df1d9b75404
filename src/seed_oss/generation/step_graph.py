"""A decoding step as a graph: recorded once, then repeated on the same memory without the host's work in between."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class StepGraph(ABC):
    """Records a step and repeats it."""

    @abstractmethod
    def capture(self, run: Callable[[], Tensor]) -> None:
        """Record what `run` does on the device; nothing of it is done.

        Raises:
            RuntimeError: it does something that cannot be recorded, such as waiting for the device.
        """

    @abstractmethod
    def replay(self) -> Tensor:
        """Do what was recorded; returns the tensor that `run` returned, with new content."""


class CudaStepGraph(StepGraph):
    """A CUDA graph.

    Args:
        device: where the step runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph: Any = None
        self._output: Tensor | None = None

    def capture(self, run: Callable[[], Tensor]) -> None:
        """See StepGraph.capture."""
        with torch.cuda.device(self._device):
            graph = torch.cuda.CUDAGraph()
            # Other threads may build kernels or serve other models meanwhile: only this thread's work is recorded.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                output = run()
        self._graph, self._output = graph, output

    def replay(self) -> Tensor:
        """See StepGraph.replay."""
        assert self._output is not None
        self._graph.replay()
        return self._output


def graph_maker(device: torch.device) -> Callable[[], StepGraph] | None:
    """What makes graphs for a device; None where it has none."""
    return (lambda: CudaStepGraph(device)) if device.type == "cuda" else None
