"""A step graph on the CPU that behaves like a CUDA graph: same memory, no host in between, nothing done at capture."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seed_oss.generation.step_graph import StepGraph

HOST_WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")


class _Recorder(TorchDispatchMode):
    """Keeps every operation with the tensors that it was given and gave back."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in HOST_WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func._schema.name}")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.before.setdefault(id(value), (value, value.clone()))
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        return out


class RecordedGraph(StepGraph):
    """Replays operations on the very tensors of the capture."""

    def __init__(self) -> None:
        self.num_replays = 0

    def capture(self, run: Callable[[], Tensor]) -> None:
        recorder = _Recorder()
        try:
            with recorder:
                self._output = run()
        finally:
            for tensor, content in reversed(recorder.before.values()):
                tensor.copy_(content)  # a capture does nothing yet
        self._calls = recorder.calls

    def replay(self) -> Tensor:
        self.num_replays += 1
        for func, args, kwargs, out in self._calls:
            aliases = [one.alias_info for one in func._schema.returns if one.alias_info is not None]
            if aliases and not any(alias.is_write for alias in aliases):
                continue  # a view of memory that has new content by now
            result = func(*args, **kwargs)
            if not aliases:
                for old, new in zip(tree_leaves(out), tree_leaves(result), strict=True):
                    if isinstance(old, Tensor):
                        old.copy_(new)
        return self._output


class RefusedGraph(RecordedGraph):
    """Fails at the end of the capture, when the host has done its part."""

    def capture(self, run: Callable[[], Tensor]) -> None:
        super().capture(run)
        raise RuntimeError("operation not permitted when stream is capturing\nand a long story")
