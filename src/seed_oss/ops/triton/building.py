"""Compiles kernels beside the steps that still run torch's operations, and lets them take over between steps.

asked for  ->  being built, in a thread  ->  built  ->  in use
                                         ->  failed, with the reason: torch's operations stay
"""

import logging
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import TypeVar

import torch

from seed_oss.ops.triton.gate import is_interpreted

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")
Start = Callable[[Callable[[], None]], "Future[None]"]


class Builder:
    """Knows which kernels are built.

    Args:
        start: runs a build and returns its future; a single thread if None.
    """

    def __init__(self, start: Start | None = None) -> None:
        self._start = start
        self._futures: dict[Hashable, Future[None]] = {}
        self._in_use: set[Hashable] = set()
        self._failures: dict[Hashable, str] = {}
        self._num_held = 0
        self._lock = Lock()

    @property
    def failures(self) -> dict[Hashable, str]:
        """Kernel to why it could not be built."""
        return dict(self._failures)

    @property
    def num_in_use(self) -> int:
        """How many kernels are in use."""
        return len(self._in_use)

    def is_busy(self) -> bool:
        """Whether something is being built, or built and not in use yet."""
        return bool(self._futures)

    def ready(self, key: Hashable, build: Callable[[], None]) -> bool:
        """Whether a kernel is in use; the first question starts building it.

        Args:
            key: all that it is compiled for.
            build: compiles it, by running it once.
        """
        if key in self._in_use:
            return True
        with self._lock:
            if key not in self._futures and key not in self._failures:
                self._futures[key] = self._submit(build)
            if not self._num_held:
                self._settle()
            return key in self._in_use

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is in use stays as it is inside: a step runs as it began."""
        with self._lock:
            self._settle()
            self._num_held += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_held -= 1

    def _settle(self) -> None:
        for key, future in list(self._futures.items()):
            if not future.done():
                continue
            del self._futures[key]
            error = future.exception()
            if error is None:
                self._in_use.add(key)
            else:
                self._failures[key] = f"{type(error).__name__}: {error}"
                _LOG.warning("a kernel is not used, torch's operations stay in its place: %s: %.500s", key, error)

    def _submit(self, build: Callable[[], None]) -> "Future[None]":
        if self._start is None:
            self._start = run_now if is_interpreted() else ThreadPoolExecutor(1, "seed-oss-kernels").submit
        return self._start(build)


def run_now(build: Callable[[], None]) -> "Future[None]":
    """Build at once: Triton's interpreter is not made for threads."""
    future: Future[None] = Future()
    try:
        build()
    except Exception as error:  # noqa: BLE001 - kept, as the thread's future does
        future.set_exception(error)
    else:
        future.set_result(None)
    return future


@cache
def builder() -> Builder:
    """The builder of this process."""
    return Builder()


def take_over(
    device: torch.device, key: Hashable, kernel: Callable[[], Result], torch_form: Callable[[], Result]
) -> Result:
    """Run a kernel if it is built; else torch's operations, while it gets built on the same inputs.

    Args:
        device: where the inputs are.
        key: all that the kernel is compiled for, beside the device.
        kernel: runs it; writes to nothing but its result.
        torch_form: computes the same.
    """

    def build() -> None:
        if device.type != "cuda":
            kernel()
            return
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):  # which makes its device the current one
            kernel()
        stream.synchronize()

    return kernel() if builder().ready((key, device), build) else torch_form()
