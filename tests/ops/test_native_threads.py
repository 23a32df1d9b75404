"""How many threads the kernels and torch take, and that the two never run beside each other."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seed_oss import SeedOssForCausalLM
from seed_oss.nn.fused import fuse_, unfuse_
from seed_oss.ops.native import alone, library, num_threads, together, why_not
from seed_oss.quant.quantize import quantize_
from tests.factory import random_ids, tiny_model

needs_library = pytest.mark.skipif(library() is None, reason=f"no native kernels: {why_not()}")


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def elsewhere() -> Iterator[Callable[[Callable[[], object]], object]]:
    """Calls functions in one other thread."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda function: pool.submit(function).result(60)


def in_alone() -> tuple[int, int]:
    with alone():
        return torch.get_num_threads(), num_threads()


def test_a_thread_that_begins_while_another_is_alone_has_all_threads(
    elsewhere: Callable[[Callable[[], object]], object],
) -> None:
    with alone():
        assert elsewhere(num_threads) == 3
        assert elsewhere(in_alone) == (1, 3)
        assert (torch.get_num_threads(), num_threads()) == (1, 3)
    assert elsewhere(torch.get_num_threads) == num_threads() == 3


def test_so_has_one_that_asks_only_afterwards(elsewhere: Callable[[Callable[[], object]], object]) -> None:
    with alone():
        assert elsewhere(torch.get_num_threads) == 1
    assert elsewhere(num_threads) == 3
    assert elsewhere(torch.get_num_threads) == 3


def test_a_number_that_a_thread_was_given_stays(elsewhere: Callable[[Callable[[], object]], object]) -> None:
    with alone():
        pass
    elsewhere(lambda: torch.set_num_threads(1))
    assert elsewhere(num_threads) == 1
    assert num_threads() == 3
    with alone():
        assert elsewhere(num_threads) == 1


def fail_in(block: AbstractContextManager[None], expected: tuple[int, int]) -> None:
    with block:
        assert (torch.get_num_threads(), num_threads()) == expected
        raise KeyError


def test_torch_has_one_thread_within_alone_and_all_within_together() -> None:
    for _ in range(2):
        with pytest.raises(KeyError):
            fail_in(alone(), (1, 3))
        assert (torch.get_num_threads(), num_threads()) == (3, 3)
        with alone():
            with pytest.raises(KeyError):
                fail_in(together(), (3, 3))
            assert (torch.get_num_threads(), num_threads()) == (1, 3)
    with alone(wanted=False):
        assert torch.get_num_threads() == 3


@needs_library
def test_torch_has_one_thread_while_a_quantized_model_generates() -> None:
    model: Any = quantize_(tiny_model(SeedOssForCausalLM, hidden_size=64, intermediate_size=96, head_dim=16), "int8")
    seen, call = list[int](), {"max_new_tokens": 3, "do_sample": False}

    def look(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        return scores

    def fail(ids: Tensor, scores: Tensor) -> Tensor:
        raise KeyError

    fuse_(model)
    model.generation_config.eos_token_id = None
    model.generate(random_ids(2, 5), logits_processor=[look], **call)
    assert seen == [1, 1, 1]
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyError):
        model.generate(random_ids(2, 5), logits_processor=[fail], **call)
    assert torch.get_num_threads() == 3
    unfuse_(model)
    model.generate(random_ids(2, 5), logits_processor=[look], **call)
    assert seen[3:] == [3, 3, 3]


@needs_library
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_kernels_bring_no_threads_of_openmp() -> None:
    """A second runtime beside torch's would spin against it."""
    kernels = library()
    assert kernels is not None
    code = f"import ctypes\nctypes.CDLL({kernels._name!r})\nprint(open('/proc/self/maps').read())"
    maps = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert "_kernels" in maps
    assert not [name for name in ("gomp", "iomp", "libomp") if name in maps]
