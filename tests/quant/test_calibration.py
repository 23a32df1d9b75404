"""A whole model quantized for its inputs: results fit the model, and its outputs stay nearer than with rounding."""

import copy
from typing import Any

import pytest
import torch

import seed_oss
from seed_oss.errors import InputError, NumericalError
from seed_oss.quant.calibration import calibrate
from seed_oss.quant.layer_calibration import Calibrated, CalibrationSettings, gram
from seed_oss.quant.rounding import quantize_weight
from seed_oss.quant.schemes import SCHEMES, TensorPlan, plan_tensors, weight_shapes
from tests.factory import random_ids, tiny_model

WAYS = {
    "scaling": CalibrationSettings(scaling=True, feedback=False),
    "feedback": CalibrationSettings(scaling=False),
    "both": CalibrationSettings(),
}


def model_of(**overrides: Any) -> Any:
    return tiny_model(seed_oss.SeedOssForCausalLM, attention_out_bias=True, mlp_bias=True, **overrides)


def plans_of(model: Any, scheme: str = "int4-sym") -> dict[str, TensorPlan]:
    return plan_tensors(SCHEMES[scheme], weight_shapes(model))


def filled(model: Any, found: Calibrated) -> Any:
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in found.weights.items():
            result.get_submodule(name).weight.copy_(weight.dequantize())
        for name, value in found.tensors.items():
            result.get_parameter(name).copy_(value)
    return result


@torch.no_grad()
def distance(model: Any, other: Any, ids: torch.Tensor) -> float:
    """Mean square between the last hidden states."""
    return float((model.model(ids).last_hidden_state - other.model(ids).last_hidden_state).square().mean())


@pytest.mark.parametrize("way", WAYS)
def test_outputs_stay_nearer_than_with_rounding(way: str) -> None:
    model, ids = model_of(), random_ids(24, 64, seed=1)
    plans = plans_of(model)
    plain = {
        name: quantize_weight(model.get_submodule(name).weight, plan.format, "plain") for name, plan in plans.items()
    }  # type: ignore[arg-type]
    found = calibrate(model, ids, plans, WAYS[way])
    assert set(found.weights) == set(plans)
    unseen = random_ids(8, 64, seed=2)
    rounded = distance(model, filled(model, Calibrated(plain, {})), unseen)
    assert distance(model, filled(model, found), unseen) < (0.98 if way == "scaling" else 0.75) * rounded


@pytest.mark.parametrize("way", WAYS)
def test_the_model_is_left_alone_and_twice_gives_the_same(way: str) -> None:
    model, ids = model_of(), random_ids(2, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done: list[int] = []
    first = calibrate(model, ids, plans_of(model), WAYS[way], done.append)
    second = calibrate(model, ids, plans_of(model), WAYS[way])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(done) == model.config.num_hidden_layers + 2
    assert sum(done) == sum(weight.q.numel() for weight in first.weights.values())
    for name, weight in first.weights.items():
        assert torch.equal(weight.q, second.weights[name].q)
    assert set(first.tensors) == set(second.tensors)


def test_scales_end_up_in_norms_and_biases() -> None:
    model = model_of()
    found = calibrate(model, random_ids(4, 32), plans_of(model), WAYS["scaling"])
    kinds = {name.split(".", 3)[-1] for name in found.tensors}
    assert kinds <= {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "self_attn.v_proj.bias",
        "mlp.up_proj.bias",
    }
    assert kinds
    assert calibrate(model, random_ids(4, 32), plans_of(model), WAYS["feedback"]).tensors == {}


def test_enough_bits_give_the_model_back() -> None:
    """With integers so fine that they are exact, all that could be wrong is the folding and the order of things."""
    model, ids = model_of(), random_ids(4, 32)
    found = calibrate(model, ids, plans_of(model, "int8"), WAYS["both"])
    assert distance(model, filled(model, found), ids) < 1e-3 * float(model.model(ids).last_hidden_state.detach().var())


def test_bf16_models_keep_their_dtype() -> None:
    model = model_of().bfloat16()
    found = calibrate(model, random_ids(2, 32), plans_of(model), WAYS["both"])
    assert {value.dtype for value in found.tensors.values()} == {torch.bfloat16}


def test_tensors_that_stay_are_not_in_the_result() -> None:
    model = model_of()
    kept = ("model.layers.1.mlp.down_proj", "model.embed_tokens", "lm_head")
    plans = {**plans_of(model), **dict.fromkeys(kept, TensorPlan(None, "stays"))}
    found = calibrate(model, random_ids(2, 32), plans, WAYS["feedback"])
    assert set(plans) - set(found.weights) == set(kept)


def test_a_tied_head_is_the_embedding() -> None:
    model = model_of(tie_word_embeddings=True)
    found = calibrate(model, random_ids(2, 32), plans_of(model))
    assert found.weights["lm_head"] is found.weights["model.embed_tokens"]


def test_gram_is_the_mean_of_products() -> None:
    inputs = torch.randn(5, 700, 6, generator=torch.Generator().manual_seed(0))
    rows = inputs.flatten(0, 1).double()
    torch.testing.assert_close(gram(inputs).double(), rows.t() @ rows / 3500, atol=1e-5, rtol=1e-5)


def test_numbers_that_are_none_are_found_by_name() -> None:
    model = model_of()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[2, 3] = torch.nan
    with pytest.raises(NumericalError, match=r"model.layers.1.mlp.up_proj.*NaN or infinity, first in row 2"):
        calibrate(model, random_ids(2, 16), plans_of(model))


def test_numbers_that_are_none_on_the_way_are_found_by_name() -> None:
    model = model_of()
    with torch.no_grad():
        model.model.layers[1].post_attention_layernorm.weight[3] = torch.inf
    with pytest.raises(NumericalError, match=r"the inputs of model.layers.1.mlp.gate_proj.*NaN or infinity"):
        calibrate(model, random_ids(2, 16), plans_of(model))


def test_ids_must_be_windows() -> None:
    model = model_of()
    for ids in (random_ids(5), random_ids(0, 5)):
        with pytest.raises(InputError, match="calibration takes"):
            calibrate(model, ids, plans_of(model))
    for wrong in ("a text", random_ids(2, 5).tolist(), torch.rand(2, 5), torch.ones(2, 5, dtype=torch.bool)):
        with pytest.raises(InputError, match="calibration takes token ids"):
            seed_oss.quantize_(model, "int4", calibration=wrong)  # type: ignore[arg-type]
    for token in (-1, 160):
        with pytest.raises(InputError, match=f"input_ids go from .*{token}.* tokens 0 to 159"):
            calibrate(model, torch.full((1, 4), token), plans_of(model))
