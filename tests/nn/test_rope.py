"""The rows that single steps look up are those that a whole sequence gets."""

from typing import Any

import pytest
import torch

from seed_oss.nn.rope import SeedOssRotaryEmbedding
from tests.factory import tiny_config

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}


def embedding(rope: dict[str, Any] | None = None) -> SeedOssRotaryEmbedding:
    return SeedOssRotaryEmbedding(tiny_config(**({} if rope is None else {"rope_parameters": rope})))


@pytest.mark.parametrize("rope", [None, LINEAR, DYNAMIC])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_equal_a_sequence(rope: dict[str, Any] | None, dtype: torch.dtype) -> None:
    module, step = embedding(rope), torch.zeros(2, 1, 4, dtype=dtype)
    for start in (0, 1, 255, 256, 257, 700, 3):
        expected = embedding(rope)(step, torch.tensor([[start]]))
        for given, wanted in zip(module.following(step, start), expected, strict=True):
            assert torch.equal(given, wanted)
            assert given.dtype == dtype


def test_several_tokens_and_a_tensor_as_start() -> None:
    module, prompt, step = embedding(), torch.zeros(1, 5, 4), torch.zeros(1, 1, 4)
    for given, wanted in zip(module.following(prompt, 7), module(prompt, torch.arange(7, 12)[None]), strict=True):
        assert torch.equal(given, wanted)
    start = torch.tensor(9)
    for given, wanted in zip(module.following(step, start), module(step, torch.tensor([[9]])), strict=True):
        assert torch.equal(given, wanted)


def test_new_frequencies_are_noticed() -> None:
    module, step = embedding(), torch.zeros(1, 1, 4)
    before = module.following(step, 5)[0].clone()
    module.inv_freq = module.inv_freq * 0.5
    assert not torch.equal(module.following(step, 5)[0], before)
    module.reset_buffers()
    assert torch.equal(module.following(step, 5)[0], before)


def test_rows_made_without_autograd_serve_with_it() -> None:
    module, step = embedding(), torch.zeros(1, 1, 4)
    with torch.inference_mode():
        module.following(step, 0)
    row = module.following(step, 1)[0]
    weight = torch.ones(row.shape[-1], requires_grad=True)
    (weight * row).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("positions", [(0,), (255,), (256, 3, 256, 700), (5, 32_767), (32_768, 1)])
def test_rows_of_several_sequences_equal_computed_ones(positions: tuple[int, ...]) -> None:
    module = embedding(LINEAR)
    expected = module.of_sequences(torch.zeros(1, 1, 4), torch.tensor([positions]), None)
    table, places = module.of_steps(positions, torch.float32)
    for given, wanted in zip((table.cos, table.sin), expected, strict=True):
        assert torch.equal(given[:, list(places)], wanted)


def test_new_frequencies_are_noticed_in_rows_of_several_sequences() -> None:
    module = embedding()
    before = module.of_steps((5, 9), torch.float32)[0].cos[:, [5, 9]]
    module.inv_freq = module.inv_freq * 0.5
    assert not torch.equal(module.of_steps((5, 9), torch.float32)[0].cos[:, [5, 9]], before)
