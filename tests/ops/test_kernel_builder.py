"""Which kernels are in use: built beside, taken over between steps, never in the middle of one."""

from collections.abc import Callable
from concurrent.futures import Future

import pytest
import torch

from seed_oss.ops.triton import Builder, can_run, why_not
from seed_oss.ops.triton.building import run_now


class Later:
    """Builds when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], None], Future[None]]] = []

    def __call__(self, build: Callable[[], None]) -> "Future[None]":
        future: Future[None] = Future()
        self.waiting.append((build, future))
        return future

    def build(self) -> None:
        """Everything that waits."""
        for build, future in self.waiting:
            done = run_now(build)
            error = done.exception()
            future.set_result(None) if error is None else future.set_exception(error)
        self.waiting.clear()


def test_torch_runs_until_the_kernel_is_built() -> None:
    later, built = Later(), []
    builder = Builder(later)
    for _ in range(3):
        assert not builder.ready("norm", lambda: built.append("norm"))
    assert builder.is_busy()
    later.build()
    assert built == ["norm"]
    assert builder.ready("norm", lambda: built.append("again"))
    assert not builder.is_busy()
    assert built == ["norm"]


def test_a_step_goes_on_as_it_began() -> None:
    later = Later()
    builder = Builder(later)
    assert not builder.ready("norm", lambda: None)
    with builder.held():
        later.build()
        assert not builder.ready("norm", lambda: None)
        assert builder.is_busy()
    with builder.held():
        assert builder.ready("norm", lambda: None)


def test_what_cannot_be_built_is_told_and_not_tried_again() -> None:
    tries = []

    def fails() -> None:
        tries.append(1)
        raise RuntimeError("out of resources")

    builder = Builder(run_now)
    for _ in range(2):
        assert not builder.ready("norm", fails)
    assert builder.failures == {"norm": "RuntimeError: out of resources"}
    assert len(tries) == 1
    assert not builder.is_busy()


def test_a_thread_of_its_own() -> None:
    builder, built = Builder(), []
    with builder.held():
        builder.ready("norm", lambda: built.append(torch.get_num_threads()))
        builder._futures["norm"].result(30)
    assert builder.ready("norm", lambda: None)
    assert len(built) == 1


def test_what_runs_where(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_run(torch.zeros(2))  # on the CPU
    monkeypatch.setenv("SEED_OSS_OPS", "reference")
    why_not.cache_clear()
    assert why_not() == "SEED_OSS_OPS=reference is set"
    monkeypatch.delenv("SEED_OSS_OPS")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    why_not.cache_clear()
    assert why_not() in ("there is no CUDA device", "triton is not installed; pip install 'seed-oss[gpu]'")
    why_not.cache_clear()
