"""From quantization_config and headers to weights: what is read, and what is refused by which words."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seed_oss.errors import CheckpointError, ConfigError, UnsupportedModelError
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat
from seed_oss.quant.awq import AWQLayout
from seed_oss.quant.compressed_tensors import IntegerLayout, PackedLayout
from seed_oss.quant.float8 import Float8Layout
from seed_oss.quant.foreign import METHODS, foreign_format
from seed_oss.quant.gptq import GPTQLayout
from seed_oss.quant.scale_grid import ScaleGrid
from tests.quant.foreign_files import awq_tensors, gptq_tensors, random_numbers

WEIGHTS_4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False}
FLOATS_8 = {"num_bits": 8, "type": "float", "strategy": "channel"}


def packed(weights: dict[str, Any] | None = None, *, format: str = "pack-quantized", **fields: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {**WEIGHTS_4, **(weights or {})}}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*mlp.gate$"],
        **fields,
    }


READ: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, (GPTQLayout(4, 128, True),)),
    # as AutoGPTQ, GPTQModel and AutoRound write them
    (
        {
            **{"quant_method": "gptq", "bits": 4, "group_size": 128, "damp_percent": 0.1, "desc_act": True},
            **{"static_groups": False, "sym": False, "true_sequential": True, "model_name_or_path": None},
            **{"model_file_base_name": None, "is_marlin_format": False},
        },
        (GPTQLayout(4, 128, needs_g_idx=True),),
    ),
    (
        {
            **{"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": False, "desc_act": False},
            **{"checkpoint_format": "gptq_v2", "pack_dtype": "int32", "lm_head": False, "pack_impl": "cpu"},
            "meta": {"quantizer": ["gptqmodel:5.0.0"], "mse": 0.0},
            "dynamic": {"-:.*gate.*": {}, "+:.*down.*": {"bits": 4, "group_size": 32}},
        },
        (GPTQLayout(8, None, is_version_2=True), GPTQLayout(4, 32, is_version_2=True)),
    ),
    (
        {
            **{"amp": True, "autoround_version": "0.4.2.dev", "batch_size": 8, "bits": 4, "damp_percent": 0.01},
            **{"data_type": "int", "desc_act": False, "enable_minmax_tuning": True, "group_size": 128, "iters": 1000},
            **{"quant_method": "gptq", "scale_dtype": "torch.float16", "seqlen": 2048, "sym": True},
            **{"to_quant_block_names": None, "true_sequential": False},
        },
        (GPTQLayout(4, 128, True),),
    ),
    (
        {
            **{"quant_method": "awq", "bits": 4, "group_size": 128, "version": "GEMM", "zero_point": True},
            "modules_to_not_convert": ["lm_head", "model.layers.0."],
        },
        (AWQLayout(128),),
    ),
    (
        {
            **{"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True, "data_type": "int"},
            **{"autoround_version": "0.9.5", "packing_format": "auto_round:auto_gptq"},
            "extra_config": {"lm_head": {"bits": 16}, "model.layers.3.mlp.down_proj": {"bits": 8, "group_size": 32}},
        },
        (GPTQLayout(4, 128, True), GPTQLayout(8, 32, True)),
    ),
    (
        {"quant_method": "auto-round", "bits": 4, "group_size": 32, "packing_format": "auto_round:auto_awq"},
        (AWQLayout(32),),
    ),
    (packed(), (PackedLayout(4, ScaleGrid(1, 32)),)),
    (
        packed({"symmetric": False, "actorder": "group", "observer": "minmax", "zp_dtype": "torch.int8"}),
        (PackedLayout(4, ScaleGrid(1, 32), False, True),),
    ),
    (packed({"strategy": "channel", "group_size": None, "actorder": "static"}), (PackedLayout(4, ScaleGrid(1)),)),
    (packed({"strategy": None, "group_size": -1}), (PackedLayout(4, ScaleGrid(1)),)),
    (packed({"strategy": None, "group_size": None}), (PackedLayout(4, ScaleGrid()),)),
    (
        packed({"strategy": "channel", "group_size": None, "num_bits": 8}, format="int-quantized"),
        (IntegerLayout(ScaleGrid(1)),),
    ),
    (
        packed({"strategy": "block", "group_size": None, "block_structure": "16x32"}, format="naive-quantized"),
        (IntegerLayout(ScaleGrid(16, 32)),),
    ),
    (
        packed({**FLOATS_8, "group_size": None}, format="float-quantized"),
        (Float8Layout(ScaleGrid(1), zero_point_name="weight_zero_point"),),
    ),
    (
        {
            **packed(format="mixed-precision"),
            "config_groups": {
                "group_0": {"targets": ["re:.*down.*"], "weights": WEIGHTS_4, "format": "pack-quantized"},
                "group_1": {"targets": ["Linear"], "weights": FLOATS_8, "format": "float-quantized"},
                "group_2": {"targets": [], "weights": {**WEIGHTS_4, "symmetric": False}, "format": "pack-quantized"},
            },
            **{"sparsity_config": {}, "transform_config": {}, "version": "0.12", "quantization_status": "compressed"},
        },
        (
            PackedLayout(4, ScaleGrid(1, 32), False),
            PackedLayout(4, ScaleGrid(1, 32)),
            Float8Layout(ScaleGrid(1), zero_point_name="weight_zero_point"),
        ),
    ),
    (
        {
            **{"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]},
            "modules_to_not_convert": ["lm_head"],
        },
        (Float8Layout(ScaleGrid(128, 128), "weight_scale_inv"), Float8Layout(ScaleGrid(128, 128), "weight_scale")),
    ),
    (
        {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
        (Float8Layout(ScaleGrid(), "weight_scale_inv"), Float8Layout(ScaleGrid(), "weight_scale")),
    ),
    ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, (Float8Layout(ScaleGrid(1)),)),
]


@pytest.mark.parametrize(("config", "layouts"), READ)
def test_what_is_read(config: dict[str, Any], layouts: tuple[Any, ...]) -> None:
    before = copy.deepcopy(config)
    format = foreign_format(config)
    assert format.layouts == layouts
    assert config == before
    assert format.method == config["quant_method"]
    assert format.method in METHODS


def test_notes_and_names() -> None:
    format = foreign_format(
        packed(kv_cache_scheme={"num_bits": 8}, config_groups={"g": {"weights": WEIGHTS_4, "input_activations": {}}})
    )
    assert format.not_converted == ("lm_head", "re:.*mlp.gate$")
    assert [note.split(";")[0] for note in format.notes] == [
        "activations stay in the model's dtype",
        "keys and values are cached as usual",
    ]
    assert foreign_format(packed()).notes == ()
    for name in ("m.input_scale", "model.layers.0.self_attn.k_scale", "m.output_zero_point"):
        assert format.is_idle(name)
    for name in ("m.weight_scale", "m.scales", "k_scale.weight"):
        assert not format.is_idle(name)


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32}
ROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 32}
REFUSED: list[tuple[Any, type[Exception], str]] = [
    (None, ConfigError, "quantization_config is None; it must be an object"),
    ([], ConfigError, "quantization_config is a list"),
    ({1: 2}, ConfigError, "all of them strings"),
    ({"quant_method": 7}, ConfigError, r"quantization_config\.quant_method is 7; it must be a short string"),
    ({}, UnsupportedModelError, "an unnamed method cannot be read; load the bfloat16 original"),
    ({"group_size": 64, "bits": 4}, UnsupportedModelError, "by 'mlx' cannot be read"),
    ({"load_in_4bit": True}, UnsupportedModelError, r"by 'bitsandbytes' cannot be read \(its 4-bit numbers lie on no"),
    *(
        ({"quant_method": name}, UnsupportedModelError, f"by '{name}' cannot be read")
        for name in ("bitsandbytes", "hqq", "eetq", "quanto", "mxfp4", "torchao", "aqlm", "higgs", "quark", "modelopt")
    ),
    ({**GPTQ, "bits": 3}, UnsupportedModelError, "GPTQ weights of bits 3 are not supported, 4, 8 can be read"),
    ({**GPTQ, "bits": 2}, UnsupportedModelError, "GPTQ weights of bits 2"),
    ({**GPTQ, "bits": "4"}, ConfigError, r"bits is '4'; it must be an integer from 1 to 32"),
    ({**GPTQ, "bits": True}, ConfigError, "bits is True"),
    ({**GPTQ, "bits": 10**5000}, ConfigError, "bits is a huge integer"),
    ({**GPTQ, "bits": None}, ConfigError, "bits is None"),
    ({**GPTQ, "group_size": 0}, ConfigError, "group_size is 0; it must be positive, or -1 for whole rows"),
    ({**GPTQ, "group_size": -2}, ConfigError, "group_size is -2"),
    ({**GPTQ, "group_size": 1 << 21}, ConfigError, "group_size is 2097152"),
    ({**GPTQ, "sym": "yes"}, ConfigError, "sym is 'yes'; it must be true or false"),
    ({**GPTQ, "desc_act": 1}, ConfigError, "desc_act is 1"),
    (
        {**GPTQ, "checkpoint_format": "marlin"},
        UnsupportedModelError,
        "stored as 'marlin' are not supported, gptq, gptq_v2",
    ),
    ({**GPTQ, "is_marlin_format": True}, UnsupportedModelError, "stored as 'marlin'"),
    ({**GPTQ, "pack_dtype": "int64"}, UnsupportedModelError, "pack_dtype 'int64'"),
    (
        {**GPTQ, "rotation": "hadamard"},
        UnsupportedModelError,
        r"rotation is 'hadamard'; this setting is not known here",
    ),
    ({**GPTQ, "adapter": {"rank": 4}}, UnsupportedModelError, "adapter is a dict; this setting is not known"),
    ({**GPTQ, "zeros": 0}, UnsupportedModelError, "zeros is 0; this setting is not known"),
    ({**GPTQ, "dynamic": {"x": {"bits": 3}}}, UnsupportedModelError, "GPTQ weights of bits 3"),
    (
        {**GPTQ, "dynamic": {"x": {"sym": False}}},
        UnsupportedModelError,
        r"dynamic\.x\.sym differs from quantization_config",
    ),
    ({**GPTQ, "dynamic": {"x": 7}}, ConfigError, r"dynamic\.x is 7; it must be an object"),
    ({**GPTQ, "dynamic": {"x": {"rotation": 1}}}, UnsupportedModelError, r"dynamic\.x\.rotation is 1"),
    (
        {**GPTQ, "dynamic": {str(i): {"group_size": i} for i in range(4, 99)}},
        ConfigError,
        "95 kinds of weights; at most 32",
    ),
    (
        {**AWQ, "version": "gemv"},
        UnsupportedModelError,
        "AWQ weights of version 'gemv' are not supported, gemm can be read",
    ),
    ({**AWQ, "backend": "llm-awq"}, UnsupportedModelError, "backend 'llm-awq'"),
    ({**AWQ, "bits": 8}, UnsupportedModelError, "AWQ weights of bits 8"),
    ({**AWQ, "modules_to_not_convert": "lm_head"}, ConfigError, "must be a list of at most 16384 short strings"),
    ({**AWQ, "modules_to_not_convert": ["a" * 2000]}, ConfigError, "must be a list of at most 16384 short strings"),
    ({**AWQ, "modules_to_not_convert": ["a"] * 20000}, ConfigError, "must be a list of at most 16384 short strings"),
    (
        {**ROUND, "sym": False, "packing_format": "auto_round:gptq"},
        UnsupportedModelError,
        "asymmetric AutoRound weights",
    ),
    ({**ROUND, "packing_format": "auto_round:llm_compressor"}, UnsupportedModelError, "AutoRound weights packed as"),
    ({**ROUND, "data_type": "mx_fp"}, UnsupportedModelError, "data_type 'mx_fp' are not supported, int can be read"),
    (
        packed({"num_bits": 3}),
        UnsupportedModelError,
        "int weights of 3 bits stored as 'pack-quantized' are not supported",
    ),
    (packed({"num_bits": 4, "type": "float"}), UnsupportedModelError, "float weights of 4 bits"),
    (
        packed(format="nvfp4-pack-quantized"),
        UnsupportedModelError,
        "stored as 'nvfp4-pack-quantized' are not supported",
    ),
    (packed(format="marlin-24"), UnsupportedModelError, "stored as 'marlin-24'"),
    (packed(format="dense"), UnsupportedModelError, "stored as 'dense'"),
    (
        packed(sparsity_config={"format": "sparse-24-bitmask"}),
        UnsupportedModelError,
        r"sparsity_config is set \('sparse-24",
    ),
    (packed(transform_config={"config_groups": {}}), UnsupportedModelError, "transform_config is set"),
    (packed({"dynamic": True}), UnsupportedModelError, "dynamic is set: weights are not stored quantized"),
    (packed({"strategy": "tensor_group"}), UnsupportedModelError, "strategy is 'tensor_group'"),
    (packed({"strategy": "channel"}), ConfigError, "strategy channel does not go with group_size 32"),
    (packed({"strategy": "group", "group_size": None}), ConfigError, "strategy group does not go with group_size None"),
    (packed({"strategy": "block", "group_size": None}), ConfigError, "strategy block does not go with"),
    (
        packed({"block_structure": [0, 4], "group_size": None, "strategy": "block"}),
        ConfigError,
        "two integers from 1 to",
    ),
    (packed({"block_structure": "4x", "group_size": None, "strategy": "block"}), ConfigError, "as in '128x128'"),
    (packed({"actorder": "sideways"}), ConfigError, "actorder is 'sideways'"),
    (packed({"rotation": 1}), UnsupportedModelError, "rotation is 1; this setting is not known"),
    (packed(config_groups={}), ConfigError, "config_groups is missing"),
    (packed(config_groups={"W4A16": ["Linear"]}), ConfigError, r"config_groups\.W4A16 is a list; it must be an object"),
    (packed(config_groups={"g": None}), ConfigError, r"config_groups\.g is None; it must be an object with weights"),
    (packed(config_groups={"g": {"targets": []}}), ConfigError, "declares 0 kinds of weights"),
    (
        {"quant_method": "fp8", "weight_block_size": [128]},
        ConfigError,
        "weight_block_size is a list; it must be two integers",
    ),
    ({"quant_method": "fp8", "weight_block_size": [128, -1]}, ConfigError, "weight_block_size is a list"),
    ({"quant_method": "fp8", "fmt": "e5m2"}, UnsupportedModelError, "fmt 'e5m2' are not supported"),
]


@pytest.mark.parametrize(("config", "error", "message"), REFUSED)
def test_what_is_refused(config: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        foreign_format(config)
    assert type(caught.value) is error
    assert len(str(caught.value)) < 500


def checkpoint(**modules: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{module}.{suffix}": one for module, parts in modules.items() for suffix, one in parts.items()}


def test_from_headers_to_weights() -> None:
    """4 and 8 bits, one with activation order, one left alone, in one file; headers decide, tensors follow."""
    up, down = random_numbers(16, 64, 32), random_numbers(64, 16, 16, bits=8, shuffled=True)
    stored = checkpoint(
        up=gptq_tensors(up, g_idx=False), down=gptq_tensors(down, bits=8), head={"weight": torch.ones(8, 16)}
    )
    format = foreign_format({**GPTQ, "sym": False, "dynamic": {"+:.*down": {"bits": 8, "group_size": 16}}})
    headers = {name: tensor.to("meta") for name, tensor in stored.items()}
    assert format.plan("head", (8, 16), headers) is None
    assert format.plan("nowhere", (8, 16), headers) is None
    plans = [format.plan("up", (16, 64), headers), format.plan("down", (64, 16), headers)]
    for plan, numbers, bits in zip(plans, (up, down), (4, 8), strict=True):
        assert plan is not None
        assert plan.may_reorder == (bits == 8)
        assert plan.format == QuantFormat(bits, 32 if bits == 4 else 16, "point")
        result = plan.read(stored)
        assert isinstance(result.weight, GroupedWeight)
        assert result.weight.format == plan.format
        assert np.array_equal(result.dequantize().numpy(), numbers.weight())
        with pytest.raises(CheckpointError, match=rf"{plan.module}\.qzeros is missing"):
            plan.read({name: one for name, one in stored.items() if not name.endswith("qzeros")})
        with pytest.raises(CheckpointError, match="must be int32"):  # another file than the headers
            plan.read({**stored, f"{plan.module}.qweight": torch.zeros(3)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"qweight": torch.zeros(4, 16, dtype=torch.int32)},
            r"up\.qweight is int32 \[4, 16\]; it must be int32 \[8, 16\]",
        ),
        ({"weight": torch.zeros(16, 64)}, r"up\.weight has no place beside the other tensors of up"),
        ({"weight_scale": torch.zeros(16, 1)}, r"up\.weight_scale has no place"),
        ({"qweight": None}, r"up\.qweight is missing"),
        (
            {"qweight": None, "qzeros": None, "scales": None, "weight": torch.ones(16, 64).int()},
            r"up\.qweight is missing",
        ),
    ],
)
def test_a_module_stored_otherwise(change: dict[str, Tensor | None], message: str) -> None:
    parts = {**gptq_tensors(random_numbers(16, 64, 32), g_idx=False), **change}
    stored = {f"up.{name}": tensor for name, tensor in parts.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        foreign_format({**GPTQ, "sym": False}).plan("up", (16, 64), stored)


def test_all_declared_ways_are_named() -> None:
    format = foreign_format({**GPTQ, "dynamic": {"x": {"bits": 8}, "y": {"group_size": 16}, "z": {"group_size": 64}}})
    with pytest.raises(CheckpointError) as caught:
        format.plan("up", (16, 64), {"up.qweight": torch.zeros(1)})
    text = str(caught.value)
    assert text.count("; or up.qweight") == 2
    assert "GPTQ, 8 bits" in text
    assert "(and 1 more)" in text


def test_awq_file() -> None:
    numbers = random_numbers(16, 64, 32)
    stored = checkpoint(up=awq_tensors(numbers))
    plan = foreign_format(AWQ).plan("up", (16, 64), stored)
    assert plan is not None
    assert not plan.may_reorder
    assert np.array_equal(plan.read(stored).dequantize().numpy(), numbers.weight())


def test_fp8_file_is_dequantized() -> None:
    stored = checkpoint(
        up={"weight": torch.full((200, 300), 1.5).to(torch.float8_e4m3fn), "weight_scale_inv": torch.full((2, 3), 0.3)}
    )
    format = foreign_format({"quant_method": "fp8", "weight_block_size": [128, 128]})
    plan = format.plan("up", (200, 300), stored)
    assert plan is not None
    assert plan.format is None
    weight = plan.read(stored, torch.bfloat16).weight
    assert isinstance(weight, Tensor)
    assert torch.equal(weight, (torch.full((200, 300), 1.5) * 0.3).to(torch.bfloat16))
    bare = {"up.weight": stored["up.weight"]}
    with pytest.raises(CheckpointError, match=r"up\.weight_scale_inv is missing .*; or up\.weight_scale is missing"):
        format.plan("up", (200, 300), bare)


def test_a_module_that_fits_no_layout_is_named() -> None:
    stored = awq_tensors(random_numbers(16, 64, 16))
    headers = {f"up.{name}": value for name, value in stored.items()}
    with pytest.raises(CheckpointError, match=r"^up: a weight \[16, 64\] does not fill words of 8 outputs"):
        foreign_format({**AWQ, "group_size": 24}).plan("up", (16, 64), headers)
