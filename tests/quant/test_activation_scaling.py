"""Scaling of columns: the function stays, the error of the output falls where inputs differ in size."""

import copy

import pytest
import torch

import seed_oss
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.quant.activation_scaling import (
    best_alpha,
    fold_into_norm_,
    fold_into_rows_,
    fold_into_values_,
    input_factors,
    shared_factors,
)
from seed_oss.quant.error_feedback import output_error
from seed_oss.quant.rounding import quantize_weight
from tests.factory import random_ids, tiny_model


def factors(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).mul(0.7).exp()


@pytest.mark.parametrize("fold", ["attention norm", "mlp norm", "values", "product"])
def test_the_function_stays(fold: str) -> None:
    """Biases everywhere, eight query heads on two key/value heads. Measured in fp64: it is exact."""
    model = tiny_model(seed_oss.SeedOssForCausalLM, mlp_bias=True, attention_bias=True).double()
    ids = random_ids(2, 24)
    before = model(ids).logits
    weights = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for layer in model.model.layers:
            attention, mlp, scales = layer.self_attn, layer.mlp, factors(32).double()
            if fold == "attention norm":
                qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
                fold_into_norm_(layer.input_layernorm, qkv, scales, torch.float64)
            elif fold == "mlp norm":
                fold_into_norm_(layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), scales, torch.float64)
            elif fold == "values":
                scales = factors(16).double().view(2, 1, 8).expand(2, 4, 8).reshape(-1)
                fold_into_values_(attention.v_proj, attention.o_proj, scales, (2, 4, 8))
            else:
                fold_into_rows_(mlp.up_proj, mlp.down_proj, factors(48).double())
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])]
    assert len(changed) >= 2 * len(model.model.layers)
    torch.testing.assert_close(model(ids).logits, before, atol=1e-12, rtol=1e-12)


def test_columns_take_what_the_norms_dtype_rounds_away() -> None:
    layer = tiny_model(seed_oss.SeedOssForCausalLM).model.layers[0]
    norm, linear = layer.post_attention_layernorm, layer.mlp.up_proj
    with torch.no_grad():
        norm.weight.copy_(norm.weight.bfloat16().float())
        norm.weight[3] = 0
        before = linear.weight * norm.weight
        fold_into_norm_(norm, (linear,), factors(32), torch.bfloat16)
    assert torch.equal(norm.weight, norm.weight.bfloat16().float())
    torch.testing.assert_close(linear.weight * norm.weight, before, atol=0, rtol=1e-6)


def test_factors_follow_the_inputs() -> None:
    hessian = torch.diag(torch.tensor([1.0, 4.0, 16.0, 0.0]))
    assert torch.equal(input_factors(hessian, 0.0), torch.ones(4))
    found = input_factors(hessian, 0.5)
    torch.testing.assert_close(found[1:3] / found[0:2], torch.full((2,), 2**0.5))
    assert found.log().mean().abs() < 1e-5
    assert found[3] > 0
    assert torch.equal(input_factors(torch.zeros(4, 4), 1.0), torch.ones(4))


def test_heads_that_share_values_share_factors() -> None:
    squares = factors(2 * 3 * 4)
    found = shared_factors(torch.diag(squares), 0.5, (2, 3, 4)).view(2, 3, 4)
    assert torch.equal(found, found[:, :1].expand(-1, 3, -1))
    assert found.unique().numel() == 8


def test_scaling_helps_where_inputs_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, format = torch.randn(64, 64, generator=generator), QuantFormat(4, 32)
    squares = torch.ones(64)
    squares[::16] = 400  # a few inputs twenty times as large
    alpha = best_alpha([(weight, format)], torch.diag(squares))
    assert alpha > 0
    scales = input_factors(torch.diag(squares), alpha)
    scaled = quantize_weight(weight * scales, format).dequantize() / scales
    plain = quantize_weight(weight, format).dequantize()
    assert output_error(weight, scaled, torch.diag(squares)) < 0.6 * output_error(weight, plain, torch.diag(squares))
    assert best_alpha([(weight, format)], torch.eye(64)) == 0.0
