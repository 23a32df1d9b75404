"""Fill a model that was built on the meta device, tensor by tensor, straight into final dtype and place."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seed_oss.errors import CheckpointError
from seed_oss.nn.quantized_linear import stored_tensors
from seed_oss.ops.memory import give_back_freed
from seed_oss.weights.dtypes import dtype_name
from seed_oss.weights.plan import LoadPlan
from seed_oss.weights.progress import byte_progress
from seed_oss.weights.source import TensorSpec, WeightSource

MAX_THREADS = 4


def expected_tensors(model: nn.Module) -> dict[str, TensorSpec]:
    """Dtype and shape of everything that a model stores, shared tensors under each of their names."""
    return {name: TensorSpec(tensor.dtype, tuple(tensor.shape)) for name, tensor in stored_tensors(model).items()}


def shared_names(model: nn.Module) -> list[list[str]]:
    """Groups of two or more names of one and the same tensor."""
    names: dict[int, list[str]] = {}
    for name, tensor in stored_tensors(model).items():
        names.setdefault(id(tensor), []).append(name)
    return [group for group in names.values() if len(group) > 1]


@dataclass(frozen=True, slots=True)
class Target:
    """Where weights go.

    Args:
        dtype: Of all floating-point parameters; buffers keep theirs.
        device: Of all tensors.
    """

    dtype: torch.dtype
    device: torch.device

    def empty_like(self, tensor: Tensor) -> Tensor:
        """Uninitialised memory for a parameter.

        Raises:
            CheckpointError: There is not as much.
        """
        is_converted = tensor.dtype.is_floating_point and isinstance(tensor, nn.Parameter)
        dtype = self.dtype if is_converted else tensor.dtype
        try:
            return torch.empty(tensor.shape, dtype=dtype, device=self.device)
        except RuntimeError:  # of the allocator; on a CPU it has no type of its own
            num_bytes = tensor.numel() * dtype.itemsize
            raise CheckpointError(
                f"a tensor of shape {list(tensor.shape)} takes {num_bytes} bytes as {dtype_name(dtype)}, more than "
                f"the memory left on {self.device}; load with a smaller dtype=, on another device, or a smaller model"
            ) from None


def load_weights(
    model: nn.Module,
    source: WeightSource,
    plan: LoadPlan,
    target: Target,
    *,
    init_module: Callable[[nn.Module], None],
    num_threads: int | None = None,
    show_progress: bool = True,
) -> list[str]:
    """Replace all parameters of `model` by loaded or initialised ones.

    Memory on the way is the model and, per thread, one buffer; tensors are read by up to four threads.

    Args:
        model: Built on the meta device; shared parameters are one object.
        source: Where the tensors are read from.
        plan: What fills what.
        target: Dtype and device of the result.
        init_module: Initialises all parameters of one module.
        num_threads: Threads that read; None takes what the machine has, at most 4.
        show_progress: Allow a progress bar.

    Returns:
        Names of parameters that the model shares with another one but the checkpoint holds with other values: they are
        no longer shared.

    Raises:
        CheckpointError: A file changed or ended while being read, or there is too little memory.
    """
    shared = shared_names(model)
    _init_new(model, [*plan.new, *(name for name, *_ in plan.mismatched)], target, init_module)
    parameters_of = {stored: parameter for parameter, stored in plan.sources.items()}
    total = sum(source.specs[stored].num_bytes for stored in parameters_of)
    num_threads = num_threads or min(MAX_THREADS, _num_cpus())
    with (
        byte_progress("Loading weights", total, enabled=show_progress) as advance,
        ThreadPoolExecutor(num_threads, thread_name_prefix="seed-oss-load") as pool,
    ):
        for group in source.groups():
            wanted = [stored for stored in group if stored in parameters_of]
            if not wanted:
                continue
            with source.opened(group):
                _load_group(pool, source, model, {name: parameters_of[name] for name in wanted}, target, advance)
    give_back_freed()  # what tensors were on their way, on each thread
    return _share_again(model, shared, plan)


def _load_group(
    pool: ThreadPoolExecutor,
    source: WeightSource,
    model: nn.Module,
    parameters_of: dict[str, str],
    target: Target,
    advance: Callable[[int], None],
) -> None:
    def read(stored: str) -> Tensor:
        made = source.finished(stored, target.device)
        if made is not None:
            return made
        out = target.empty_like(_get(model, parameters_of[stored]))
        source.read_into(stored, out)
        return out

    futures = {pool.submit(read, stored): stored for stored in parameters_of}
    try:
        for future in as_completed(futures):
            assign(model, parameters_of[futures[future]], future.result())
            advance(source.specs[futures[future]].num_bytes)
    except BaseException:
        for future in futures:
            future.cancel()
        wait(futures)  # nobody may read any more when the file is closed
        raise


def assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer, keeping whether it is trained."""
    owner, leaf = _owner(model, name)
    old = owner._parameters.get(leaf)
    if old is None:
        owner._buffers[leaf] = tensor
    else:
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=old.requires_grad)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _get(model: nn.Module, name: str) -> Tensor:
    owner, leaf = _owner(model, name)
    tensor = owner._parameters.get(leaf)
    return tensor if tensor is not None else owner._buffers[leaf]  # type: ignore[return-value]


def _init_new(model: nn.Module, names: Iterable[str], target: Target, init_module: Callable[[nn.Module], None]) -> None:
    """Initialise the modules that hold these parameters; whatever else they hold is overwritten by loading."""
    owners = [_owner(model, name) for name in names]
    for owner, leaf in owners:
        buffer = owner._buffers.get(leaf)
        if buffer is not None:  # the bias of a quantized layer
            assign(owner, leaf, target.empty_like(buffer).zero_())
    modules = {id(owner): owner for owner, _ in owners}
    for module in modules.values():
        for leaf, parameter in list(module._parameters.items()):
            if parameter is not None:
                assign(module, leaf, target.empty_like(parameter))
        init_module(module)


def _share_again(model: nn.Module, shared: Sequence[Sequence[str]], plan: LoadPlan) -> list[str]:
    """Make the names of each group one parameter again, unless the checkpoint holds different values for them."""
    separate: list[str] = []
    fresh = {*plan.new, *(name for name, *_ in plan.mismatched)}
    for names in shared:
        loaded = [name for name in names if name in plan.sources] or [name for name in names if name in fresh]
        first = _get(model, loaded[0])
        for name in names:
            owner, leaf = _owner(model, name)
            if name in loaded[1:] and not torch.equal(_get(model, name), first):
                separate.append(name)
            elif leaf in owner._parameters:
                owner._parameters[leaf] = first  # type: ignore[assignment]
            else:
                owner._buffers[leaf] = first
    return separate


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
