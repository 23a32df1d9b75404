"""Names of quantizations, and what tensors become under them."""

import pytest
import torch

import seed_oss
from seed_oss.errors import InputError
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.quant.schemes import SCHEMES, bits_per_weight, parse_scheme, plan_tensors, weight_shapes
from tests.factory import tiny_config

SHAPES = {
    "model.embed_tokens": (160, 64),
    "model.layers.0.self_attn.q_proj": (64, 64),
    "model.layers.0.mlp.up_proj": (48, 64),
    "model.layers.0.mlp.down_proj": (64, 48),
    "model.layers.1.mlp.down_proj": (64, 37),
    "lm_head": (160, 64),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_every_name_is_read_in_any_spelling(name: str) -> None:
    assert parse_scheme(name) is SCHEMES[name]
    assert parse_scheme(f" {name.upper().replace('-', '_')} ") is SCHEMES[name]
    assert parse_scheme(SCHEMES[name]) is SCHEMES[name]


@pytest.mark.parametrize("name", ["int5", "", "int4-", None, 4])
def test_unknown_names_are_answered_with_the_list(name: object) -> None:
    with pytest.raises(InputError, match=r"there are int4, .*int8-channel"):
        parse_scheme(name)  # type: ignore[arg-type]


def test_bits_of_the_named_ones() -> None:
    bits = {
        name: QuantFormat(scheme.bits, scheme.group_size or 5120, scheme.zero).bits_per_weight
        for name, scheme in SCHEMES.items()
    }
    assert (bits["int4"], bits["int4-sym"], bits["int4-min"], bits["int8"]) == (4.625, 4.5, 5.0, 8.5)
    assert bits["int4-g128"] < bits["int4-g64"] < bits["int4"]
    assert bits["int8-channel"] < 8.01


def test_head_and_embedding_have_eight_bits() -> None:
    plans = plan_tensors(SCHEMES["int4"], SHAPES)
    assert plans["lm_head"].format == plans["model.embed_tokens"].format == QuantFormat(8, 32)
    assert plans["model.layers.0.self_attn.q_proj"].format == QuantFormat(4, 32, "point")
    assert plans["model.layers.0.self_attn.q_proj"].note == ""


def test_a_tied_head_gets_the_more_accurate_of_both() -> None:
    scheme = parse_scheme("int4")
    scheme = type(scheme)("mine", 4, embedding_bits=4)
    assert plan_tensors(scheme, SHAPES)["model.embed_tokens"].format == QuantFormat(4, 32)
    assert plan_tensors(scheme, SHAPES, tied=True)["model.embed_tokens"].format == QuantFormat(8, 32)


def test_groups_that_do_not_divide_are_smaller_and_said() -> None:
    plans = plan_tensors(SCHEMES["int4"], SHAPES)
    smaller, kept = plans["model.layers.0.mlp.down_proj"], plans["model.layers.1.mlp.down_proj"]
    assert smaller.format == QuantFormat(4, 24, "point")
    assert "groups of 24, since 32 does not divide 48" in smaller.note
    assert kept.format is None
    assert "37 columns" in kept.note


@pytest.mark.parametrize("left_out", ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"])
def test_strict_raises_for_both(left_out: str) -> None:
    shapes = {name: shape for name, shape in SHAPES.items() if shape[1] == 64 or name == left_out}
    with pytest.raises(InputError, match=rf"int4 does not fit {left_out}: .*(48|37)"):
        plan_tensors(SCHEMES["int4"], shapes, strict=True)


def test_rows_of_their_own_scale() -> None:
    plans = plan_tensors(SCHEMES["int8-channel"], SHAPES, strict=False)
    assert plans["model.layers.0.mlp.down_proj"].format == QuantFormat(8, 48)
    assert plans["model.layers.0.mlp.down_proj"].note == ""


def test_every_matrix_of_a_model_is_planned() -> None:
    with torch.device("meta"):
        model = seed_oss.SeedOssForCausalLM(tiny_config())
        classifier = seed_oss.SeedOssForSequenceClassification(tiny_config())
    shapes = weight_shapes(model)
    assert len(shapes) == 2 + 7 * model.config.num_hidden_layers
    assert shapes["model.layers.0.self_attn.q_proj"] == (64, 32)
    plans = plan_tensors(SCHEMES["int4-sym"], shapes)
    assert all(plan.format is not None for plan in plans.values())
    assert 4.5 < bits_per_weight(plans, shapes) < 8.5
    score = plan_tensors(SCHEMES["int4"], weight_shapes(classifier), strict=False)["score"]
    assert score.format is None
    assert score.note
