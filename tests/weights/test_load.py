"""Filling plain modules that were built without memory."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seed_oss.errors import CheckpointError
from seed_oss.weights import (
    CheckpointSource,
    LoadPlan,
    LoadRules,
    StateDictSource,
    Target,
    WeightSource,
    expected_tensors,
    load_weights,
    on_meta_device,
    plan_load,
    shared_names,
)
from tests.weights.files import write_file, write_shards

CPU = torch.device("cpu")


class Net(nn.Module):
    """An embedding tied to a head, a norm, a buffer that is stored and one that is not."""

    counter: torch.Tensor

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))
        self.head = nn.Linear(4, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.register_buffer("counter", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("cache", torch.zeros(3), persistent=False)


def fill_with_ones(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data.fill_(1.0)


def load(
    source: WeightSource,
    *,
    model: nn.Module | None = None,
    dtype: torch.dtype = torch.float32,
    init: Callable[[nn.Module], None] = fill_with_ones,
    num_threads: int | None = None,
    **rules: Any,
) -> tuple[Any, list[str]]:
    if model is None:
        with on_meta_device():
            model = Net()
    shared = shared_names(model)
    plan = plan_load(expected_tensors(model), shared, source.specs, LoadRules(**rules), where="DIR", model_name="Net")
    separate = load_weights(
        model, source, plan, Target(dtype, CPU), init_module=init, num_threads=num_threads, show_progress=False
    )
    return model, separate


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = {name: tensor.clone() for name, tensor in Net().state_dict().items()}
    return {**state, "counter": torch.tensor([1, 2, 3])}


@pytest.mark.parametrize("num_threads", [1, 2, 7, None])
@pytest.mark.parametrize("sharded", [True, False])
def test_parameters_and_buffers(tmp_path: Path, sharded: bool, num_threads: int | None) -> None:
    state = tensors()
    items = list(state.items())
    if sharded:
        del items[[name for name, _ in items].index("head.weight")]  # one name of the shared parameter is enough
        write_shards(tmp_path, dict(items[:3]), dict(items[3:]))
    else:
        write_file(tmp_path, {name: tensor.clone() for name, tensor in items})
    model, separate = load(CheckpointSource(tmp_path), num_threads=num_threads)
    assert separate == []
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.head.weight is model.embed.weight
    assert isinstance(model.embed.weight, nn.Parameter)
    assert model.counter.dtype == torch.int64


def test_memory_on_the_way_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("seed_oss.weights.load.give_back_freed", lambda: calls.append(1))
    load(StateDictSource(tensors()))
    assert calls == [1]


def test_dtype_is_that_of_the_target_for_floats_alone() -> None:
    model, _ = load(StateDictSource(tensors()), dtype=torch.bfloat16)
    assert {name: tensor.dtype for name, tensor in model.state_dict().items() if name != "counter"} == dict.fromkeys(
        [name for name in tensors() if name != "counter"], torch.bfloat16
    )
    assert model.counter.dtype == torch.int64


def test_whether_a_parameter_is_trained_stays() -> None:
    with on_meta_device():
        model = Net()
    model.inner[0].weight.requires_grad_(False)
    load(StateDictSource(tensors()), model=model)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["inner.0.weight"]


@pytest.mark.parametrize("stored", ["head.weight", "embed.weight"])
def test_either_name_of_a_shared_parameter(stored: str) -> None:
    state = tensors()
    other = "embed.weight" if stored == "head.weight" else "head.weight"
    del state[other]
    model, separate = load(StateDictSource(state))
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.embed.weight, state[stored])
    assert separate == []


def test_a_shared_parameter_stored_with_two_values_is_two() -> None:
    state = tensors()
    state["head.weight"] = state["head.weight"] + 1
    model, separate = load(StateDictSource(state))
    assert separate == ["head.weight"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_new_modules_are_initialised_without_touching_what_is_loaded() -> None:
    with on_meta_device():
        model = Net(tied=False)
        model.head = nn.Linear(4, 2)
    state = {name: tensor for name, tensor in tensors().items() if name != "head.weight"}
    seen: list[nn.Module] = []

    def init(module: nn.Module) -> None:
        seen.append(module)
        fill_with_ones(module)

    load(
        StateDictSource({**state, "head.bias": torch.tensor([5.0, 6.0])}),
        model=model,
        init=init,
        heads=("head",),
        new_head=True,
    )
    assert seen == [model.head]
    assert torch.equal(model.head.weight, torch.ones(2, 4))
    assert model.head.bias.tolist() == [5.0, 6.0]
    assert torch.equal(model.embed.weight, state["embed.weight"])


def test_a_shared_parameter_of_another_shape_is_initialised_once() -> None:
    state = {**tensors(), "embed.weight": torch.zeros(5, 4), "head.weight": torch.zeros(5, 4)}
    model, separate = load(StateDictSource(state), ignore_mismatched_sizes=True)
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.embed.weight, torch.ones(11, 4))
    assert separate == []


def test_nothing_is_left_on_the_meta_device() -> None:
    model, _ = load(StateDictSource(tensors()))
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert not model.counter.is_meta
    assert model.cache.is_meta  # not stored: its owner rebuilds it


class _Failing(WeightSource):
    """The third read fails; a read that goes on then notes whether the source is closed under it."""

    def __init__(self, inner: StateDictSource) -> None:
        self.name, self.specs, self._inner = "failing", inner.specs, inner
        self.is_open = False
        self.reads = 0
        self.closed_under_a_read = False
        self._failed = threading.Event()

    def groups(self) -> list[list[str]]:
        return self._inner.groups()

    @contextmanager
    def opened(self, group: list[str]) -> Iterator[None]:
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False

    def read_into(self, name: str, out: torch.Tensor) -> None:
        self.reads += 1
        if self.reads == 3:
            self._failed.set()
            raise CheckpointError("ended")
        if self.reads == 2 and self._failed.wait(5.0):
            self.closed_under_a_read = any(not self.is_open for _ in range(300_000))


def test_an_error_while_reading_ends_all_reading_before_the_file_is_closed() -> None:
    source = _Failing(StateDictSource(tensors()))
    with pytest.raises(CheckpointError, match="ended"):
        load(source, num_threads=2)
    assert not source.closed_under_a_read
    assert not source.is_open


def test_tensors_that_the_plan_does_not_name_are_not_read() -> None:
    with on_meta_device():
        model = nn.Linear(2, 2)
    source = _Failing(StateDictSource({"other": torch.ones(1)}))
    plan = LoadPlan({}, ("weight", "bias"), ("other",), ())
    load_weights(model, source, plan, Target(torch.float32, CPU), init_module=fill_with_ones, show_progress=False)
    assert source.reads == 0
    assert torch.equal(model.weight, torch.ones(2, 2))


def test_loading_inside_inference_mode_gives_parameters_that_can_be_trained() -> None:
    with torch.inference_mode():
        model, _ = load(StateDictSource(tensors()))
    model.inner(torch.ones(1, 4)).sum().backward()
    assert model.inner[0].weight.grad is not None


def test_more_memory_than_there_is_is_a_typed_error() -> None:
    with pytest.raises(CheckpointError, match="takes 4503599627370496 bytes as float32, more than the memory left"):
        Target(torch.float32, CPU).empty_like(torch.empty(2**50, device="meta"))
