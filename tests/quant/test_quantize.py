"""`quantize_`: what becomes of a model, what it refuses, and what other packages make of the result."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from seed_oss import (
    SeedOssConfig,
    SeedOssForCausalLM,
    SeedOssForQuestionAnswering,
    SeedOssForSequenceClassification,
    SeedOssModel,
    quantize_,
)
from seed_oss.errors import InputError, NumericalError, StateError
from seed_oss.nn.fused import FusedLayers, fuse_
from seed_oss.nn.quantized_linear import QuantizedEmbedding, QuantizedLinear, quantized_modules
from seed_oss.ops.packing import pack
from seed_oss.quant import quantize
from seed_oss.quant.calibration import calibrate
from seed_oss.quant.layer_calibration import Calibrated, CalibrationSettings
from seed_oss.quant.quantize import has_tied_head
from seed_oss.quant.record import QuantizationRecord
from seed_oss.quant.rounding import quantize_weight
from seed_oss.quant.schemes import SCHEMES, Scheme, plan_tensors, weight_shapes
from tests.factory import random_ids, tiny_config, tiny_model

FUSABLE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(random_ids(1, 5)).logits  # few enough that fused layers of plain weights run natively, too


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_weight_is_rounded_to_its_format(scheme: str) -> None:
    plain = tiny_model(SeedOssForCausalLM)
    model = quantize_(copy.deepcopy(plain), scheme)
    record = QuantizationRecord.from_config(model.config.quantization_config)
    assert record.scheme == scheme
    for name, module in quantized_modules(model).items():
        wanted = quantize_weight(plain.get_submodule(name).weight, record.format_of(name), SCHEMES[scheme].method)
        assert torch.equal(module.weight, wanted.dequantize()), name
    assert {type(model.lm_head), type(model.model.layers[0].mlp.up_proj)} == {QuantizedLinear}
    assert type(model.model.embed_tokens) is QuantizedEmbedding
    assert model.lm_head.format.bits == model.model.embed_tokens.format.bits == 8
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.model.layers[0].self_attn.q_proj.bias, plain.model.layers[0].self_attn.q_proj.bias)


def test_the_tensors_that_get_smaller_groups_are_named() -> None:
    model = quantize_(tiny_model(SeedOssForCausalLM), "int4")
    record = QuantizationRecord.from_config(model.config.quantization_config)
    assert record.weights.group_size == 32
    assert {name for name, format in record.modules.items() if format.group_size == 24} == {
        f"model.layers.{index}.mlp.down_proj" for index in range(3)
    }
    with pytest.raises(InputError, match=r"down_proj: groups of 24, since 32 does not divide 48 columns"):
        quantize_(tiny_model(SeedOssForCausalLM), "int4", strict=True)


@pytest.mark.parametrize("cls", [SeedOssModel, SeedOssForSequenceClassification, SeedOssForQuestionAnswering])
def test_every_class(cls: type[Any]) -> None:
    model = quantize_(tiny_model(cls), "int8")
    ids = random_ids(1, 7)
    with torch.no_grad():
        for first, second in zip(model(ids).to_tuple(), tiny_model(cls)(ids).to_tuple(), strict=True):
            if isinstance(first, torch.Tensor):
                torch.testing.assert_close(first, second, atol=0.2, rtol=0.05)
    heads = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert set(model.config.quantization_config["kept"]) == set(heads)


def test_tied_weights_stay_tied() -> None:
    model = quantize_(tiny_model(SeedOssForCausalLM, tie_word_embeddings=True), "int4")
    assert model.lm_head.packed is model.model.embed_tokens.packed
    assert has_tied_head(model.to(torch.bfloat16))
    assert has_tied_head(copy.deepcopy(model))
    model.tie_weights()
    assert has_tied_head(model)


def test_conversions_and_copies() -> None:
    model = quantize_(tiny_model(SeedOssForCausalLM), "int8")
    expected = logits(model)
    assert torch.equal(logits(copy.deepcopy(model)), expected)
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert logits(half).dtype == torch.bfloat16
    assert half.model.layers[0].self_attn.q_proj.bias.dtype == torch.float32
    torch.testing.assert_close(logits(half).float(), expected, atol=0.3, rtol=0.05)


def test_a_fused_model_is_fused_anew() -> None:
    model = fuse_(tiny_model(SeedOssForCausalLM, **FUSABLE))
    if not isinstance(model.model.layers, FusedLayers):
        pytest.skip("the native kernels are not built here")
    before = logits(model)
    expected = logits(quantize_(tiny_model(SeedOssForCausalLM, **FUSABLE), "int4"))
    quantize_(model, "int4")
    assert isinstance(model.model.layers, FusedLayers)
    torch.testing.assert_close(logits(model), expected, atol=0.2, rtol=0.05)
    assert not torch.equal(logits(model), before)


def test_a_scheme_cannot_claim_a_text() -> None:
    assert not any("calibrated" in name for name in dir(Scheme))
    model = quantize_(tiny_model(SeedOssForCausalLM), SCHEMES["int4"])
    assert model.config.quantization_config["is_calibrated"] is False


def test_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, plain = random_ids(4, 32), tiny_model(SeedOssForCausalLM)
    found = calibrate(plain, ids, plan_tensors(SCHEMES["int4"], weight_shapes(plain)))
    found.tensors["model.layers.1.input_layernorm.weight"] = torch.full((32,), 0.5)  # as if it had taken up scales
    monkeypatch.setattr(quantize, "calibrate", lambda *_, **__: Calibrated(dict(found.weights), found.tensors))
    model = quantize_(copy.deepcopy(plain), "int4", calibration=ids)
    assert model.config.quantization_config["is_calibrated"] is True
    for name, module in quantized_modules(model).items():
        assert torch.equal(module.packed, pack(found.weights[name])), name
    assert torch.equal(model.model.layers[1].input_layernorm.weight, torch.full((32,), 0.5))


def test_a_text_scales_columns_and_feeds_errors_forward() -> None:
    ids, plain = random_ids(4, 32), tiny_model(SeedOssForCausalLM)
    both = calibrate(plain, ids, plan_tensors(SCHEMES["int4"], weight_shapes(plain)), CalibrationSettings(True, True))
    model = quantize_(copy.deepcopy(plain), "int4", calibration=ids)
    assert both.tensors, "no norm took up scales"
    found = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(torch.equal(found[name], value) for name, value in both.tensors.items())
    for name, module in quantized_modules(model).items():
        assert torch.equal(module.packed, pack(both.weights[name])), name


@pytest.mark.parametrize("calibration", [None, random_ids(2, 16)], ids=["plain", "calibrated"])
def test_progress_counts_every_weight(calibration: torch.Tensor | None) -> None:
    done: list[int] = []
    model = quantize_(tiny_model(SeedOssForCausalLM), "int8", calibration=calibration, advance=done.append)
    assert len(done) > 3
    assert sum(done) == sum(one.shape[0] * one.shape[1] for one in quantized_modules(model).values())


def test_gradients_of_inputs_pass_through() -> None:
    model = quantize_(tiny_model(SeedOssForCausalLM), "int8")
    embeds = torch.randn(1, 5, 32, requires_grad=True)
    model(inputs_embeds=embeds).logits.sum().backward()
    assert embeds.grad is not None
    assert bool(embeds.grad.abs().sum() > 0)


@pytest.mark.parametrize("scheme", ["int3", "", "q4_0", None, 4, ["int4"]])
def test_unknown_schemes(scheme: Any) -> None:
    with pytest.raises(InputError, match="there are int4, int4-g64"):
        quantize_(tiny_model(SeedOssForCausalLM), scheme)


def test_models_that_cannot_be_quantized() -> None:
    model = tiny_model(SeedOssForCausalLM)
    with pytest.raises(StateError, match=r"call model\.eval\(\) first"):
        quantize_(model.train(), "int4")
    with pytest.raises(StateError, match="quantized already"):
        quantize_(quantize_(model.eval(), "int4"), "int8")
    with torch.device("meta"), pytest.raises(StateError, match="meta device"):
        quantize_(SeedOssForCausalLM(tiny_config()).eval(), "int4")
    with pytest.raises(InputError, match="a Linear is no Seed-OSS model"):
        quantize_(nn.Linear(4, 4), "int4")
    with pytest.raises(InputError, match="a dict is no Seed-OSS model"):
        quantize_({}, "int4")


def test_nan_is_named_and_nothing_is_recorded() -> None:
    model = tiny_model(SeedOssForCausalLM)
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[2, 3] = torch.inf
    with pytest.raises(NumericalError, match=r"layers\.1\.mlp\.gate_proj.*row 2"):
        quantize_(model, "int4")
    assert "quantization_config" not in model.config


def test_adapters_before_and_after() -> None:
    lora = LoraConfig(target_modules=["q_proj"], r=2, task_type="CAUSAL_LM")
    adapted = get_peft_model(tiny_model(SeedOssForCausalLM), lora).eval()
    for model in (adapted, adapted.base_model.model):
        with pytest.raises(StateError, match="merge_and_unload"):
            quantize_(model, "int4")
    quantize_(adapted.merge_and_unload(), "int4")
    with pytest.raises(ValueError, match=r"QuantizedLinear\(.*is not supported"):
        get_peft_model(quantize_(tiny_model(SeedOssForCausalLM), "int4"), lora)


def test_transformers_refuses_the_format(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    quantize_(tiny_model(SeedOssForCausalLM), "int4").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="quant_method"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_the_config_of_a_quantized_model_makes_a_plain_one() -> None:
    config = quantize_(tiny_model(SeedOssForCausalLM), "int4").config
    assert isinstance(config, SeedOssConfig)
    assert quantized_modules(SeedOssForCausalLM(config)) == {}
