"""The widened product beside torch's."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from seed_oss.nn.linear import Linear
from seed_oss.ops import linear as linear_op
from seed_oss.ops.linear import linear, linear_widened


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 48), (2, 5, 48), (1, 48)])
def test_widened_is_the_exact_product_rounded_once(
    shape: tuple[int, ...], has_bias: bool, dtype: torch.dtype, monkeypatch: Any
) -> None:
    monkeypatch.setattr(linear_op, "BLOCK_ELEMENTS", 48 * 64)  # several blocks, the last one short
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(150, 48, generator=generator).to(dtype)
    bias = torch.randn(150, generator=generator).to(dtype) if has_bias else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    got = linear_widened(x, weight, bias)
    assert got.dtype == dtype
    assert got.shape == (*shape[:-1], 150)
    half_unit = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(got.double(), exact, atol=1e-4, rtol=1.01 * half_unit)


@pytest.mark.parametrize("helps", [True, False])
def test_same_layer_on_every_processor(helps: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(linear_op, "widening_helps", lambda: helps)
    torch.manual_seed(0)
    layer = Linear(32, 40).to(torch.bfloat16)
    x = torch.randn(6, 32).to(torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=2e-2, rtol=2e-2)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert isinstance(layer, torch.nn.Linear)


def test_which_product_runs(monkeypatch: Any) -> None:
    monkeypatch.setattr(linear_op, "widening_helps", lambda: True)
    calls: list[int] = []
    monkeypatch.setattr(linear_op, "linear_widened", lambda x, *_: calls.append(x.shape[0]) or x)
    weight = torch.zeros(8, 8, dtype=torch.bfloat16)
    linear(torch.zeros(4, 8, dtype=torch.bfloat16), weight)
    linear(torch.zeros(3, 8, dtype=torch.bfloat16), weight)
    linear(torch.zeros(5, 8), weight.float())
    linear(torch.zeros(6, 8, dtype=torch.bfloat16, requires_grad=True), weight)
    assert calls == [4]


def test_the_reference_can_be_forced(monkeypatch: Any) -> None:
    linear_op.widening_helps.cache_clear()
    monkeypatch.setenv("SEED_OSS_OPS", "reference")
    assert not linear_op.widening_helps()
    linear_op.widening_helps.cache_clear()
