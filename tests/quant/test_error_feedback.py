"""Error feedback: on correlated inputs the output's error falls well below that of rounding alone."""

from typing import Any

import pytest
import torch

from seed_oss.errors import InputError, NumericalError
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.quant.error_feedback import FeedbackSettings, output_error, quantize_with_feedback
from seed_oss.quant.rounding import quantize_weight

KINDS = ("symmetric", "minimum", "point")


def layer_and_inputs(out_features: int = 24, in_features: int = 96, tokens: int = 400) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out_features, in_features, generator=generator)
    mixing = torch.randn(in_features, in_features, generator=generator)
    inputs = torch.randn(tokens, in_features, generator=generator) * torch.logspace(0, -1.5, in_features) @ mixing
    return weight, inputs, inputs.t() @ inputs


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero", KINDS)
def test_beats_rounding_on_correlated_inputs(bits: int, zero: Any) -> None:
    weight, inputs, hessian = layer_and_inputs()
    format = QuantFormat(bits, 32, zero)
    plain, searched, fed = (
        found.dequantize()
        for found in (
            quantize_weight(weight, format, "plain"),
            quantize_weight(weight, format, importance=hessian.diagonal()),
            quantize_with_feedback(weight, hessian, format),
        )
    )
    errors = [float((inputs @ (weight - each).t()).square().sum()) for each in (plain, searched, fed)]
    assert errors[2] < 0.6 * min(errors[:2])
    assert output_error(weight, fed, hessian) == pytest.approx(errors[2], rel=1e-3)


@pytest.mark.parametrize("zero", KINDS)
def test_each_descent_lowers_the_error(zero: Any) -> None:
    weight, _, hessian = layer_and_inputs()
    errors = [
        output_error(weight, quantize_with_feedback(weight, hessian, format, settings=settings).dequantize(), hessian)
        for format in [QuantFormat(4, 16, zero)]
        for settings in [FeedbackSettings(damping=1e-6, num_descents=count) for count in (0, 1, 2, 4)]
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.74 * errors[0]  # scales alone reach 0.77 at best


@pytest.mark.parametrize("zero", KINDS)
def test_inputs_without_correlation_give_rounding(zero: Any) -> None:
    weight = layer_and_inputs()[0]
    format = QuantFormat(4, 32, zero)
    fed = quantize_with_feedback(weight, torch.eye(96), format, settings=FeedbackSettings(num_descents=0))
    identity = torch.eye(96)
    errors = [output_error(weight, found.dequantize(), identity) for found in (fed, quantize_weight(weight, format))]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)
    assert float((fed.q != quantize_weight(weight, format).q).float().mean()) < 0.05  # grids that are equally good


def test_columns_may_come_in_any_blocks() -> None:
    weight, _, hessian = layer_and_inputs()
    format = QuantFormat(4, 32, "point")
    first, second = (
        quantize_with_feedback(weight, hessian, format, settings=FeedbackSettings(block_columns=count, num_descents=0))
        for count in (1, 96)
    )
    assert float((first.q != second.q).float().mean()) < 0.01  # only the order of sums differs


def test_the_same_twice() -> None:
    weight, _, hessian = layer_and_inputs()
    first, second = (quantize_with_feedback(weight, hessian, QuantFormat(4, 32, "minimum")) for _ in range(2))
    assert torch.equal(first.q, second.q)
    assert torch.equal(first.scale, second.scale)


def test_inputs_that_were_never_seen() -> None:
    """Fewer tokens than columns, and columns that were always 0: their weights are kept as rounding would."""
    weight, inputs, _ = layer_and_inputs(tokens=20)
    inputs[:, 5] = 0
    found = quantize_with_feedback(weight, inputs.t() @ inputs, QuantFormat(4, 32, "minimum")).dequantize()
    assert found.isfinite().all()
    assert float((found - weight)[:, 5].square().mean()) < 0.3
    nothing = quantize_with_feedback(weight, torch.zeros(96, 96), QuantFormat(4, 32)).dequantize()
    assert float((nothing - weight).square().mean()) < 0.01


def test_large_weights_get_fp32_scales() -> None:
    weight, _, hessian = layer_and_inputs()
    found = quantize_with_feedback(weight * 1e6, hessian, QuantFormat(4, 32))
    assert found.format.param_dtype == "float32"


def test_what_is_refused() -> None:
    weight, _, hessian = layer_and_inputs()
    with pytest.raises(InputError, match=r"hessian is \[96, 96\]; 'o_proj' has 64 columns"):
        quantize_with_feedback(weight[:, :64], hessian, QuantFormat(4, 32), name="o_proj")
    with pytest.raises(NumericalError, match="o_proj"):
        quantize_with_feedback(weight * torch.nan, hessian, QuantFormat(4, 32), name="o_proj")
    with pytest.raises(NumericalError, match="no Gram matrix"):
        quantize_with_feedback(weight, torch.eye(96) - 5 * torch.eye(96).flip(0), QuantFormat(4, 32))
