"""set_seed reaches every global generator."""

import random

import numpy as np
import pytest
import torch

from seed_oss import set_seed
from seed_oss.errors import InputError


def _draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_all_generators_repeat() -> None:
    set_seed(5)
    first = _draw()
    set_seed(5)
    assert _draw() == first
    set_seed(6)
    assert all(a != b for a, b in zip(_draw(), first, strict=True))


def test_the_draws_are_those_of_torch() -> None:
    set_seed(5)
    ours = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), ours)


def test_deterministic() -> None:
    try:
        set_seed(5, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_not_an_integer() -> None:
    with pytest.raises(InputError, match="seed is a str"):
        set_seed("5")  # type: ignore[arg-type]
