"""Matching of names, shapes and dtypes: pure data in, a plan or one error out."""

import pytest
import torch

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.weights import LoadRules, TensorSpec, listed_names, num_stored_layers, plan_load

F32 = torch.float32
PREFIXES = ("model.", "transformer.")
HEADS = ("lm_head", "score", "qa_outputs")
BASE = {"embed_tokens.weight": (8, 4), "layers.0.mlp.up_proj.weight": (6, 4), "norm.weight": (4,)}


def specs(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = F32) -> dict[str, TensorSpec]:
    return {name: TensorSpec(dtype, shape) for name, shape in shapes.items()}


def under(prefix: str, **heads: tuple[int, ...]) -> dict[str, TensorSpec]:
    """The base tensors under a prefix, and heads (with `__` for dots)."""
    shapes = {prefix + name: shape for name, shape in BASE.items()}
    return specs({**shapes, **{name.replace("__", "."): shape for name, shape in heads.items()}})


def plan(expected, stored, shared=(), **rules):
    rules = LoadRules(**{"prefixes": PREFIXES, "heads": HEADS, **rules})
    return plan_load(expected, shared, stored, rules, where="DIR", model_name="Model")


@pytest.mark.parametrize("have", ["", "model.", "transformer."])
@pytest.mark.parametrize("want", ["", "model.", "transformer."])
def test_base_tensors_match_under_every_prefix(have: str, want: str) -> None:
    result = plan(under(want), under(have))
    assert result.sources == {want + name: have + name for name in BASE}
    assert (result.new, result.skipped, result.mismatched) == ((), (), ())


def test_sources_come_in_the_order_of_the_checkpoint() -> None:
    stored = dict(reversed(under("model.").items()))
    assert list(plan(under(""), stored).sources.values()) == list(stored)


def test_other_heads_are_skipped_and_the_own_one_is_new() -> None:
    result = plan(under("model.", score__weight=(3, 4)), under("model.", lm_head__weight=(8, 4)), new_head=True)
    assert result.new == ("score.weight",)
    assert result.skipped == ("lm_head.weight",)


def test_a_head_that_must_be_there_is_missing() -> None:
    with pytest.raises(CheckpointError, match=r"missing: score\.weight \[3, 4\]"):
        plan(under("model.", score__weight=(3, 4)), under("model.", lm_head__weight=(8, 4)))


def test_base_tensors_are_never_new() -> None:
    stored = under("model.")
    del stored["model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"missing: model\.norm\.weight \[4\]"):
        plan(under("model."), stored, new_head=True)


def test_all_problems_are_in_one_error() -> None:
    stored = {
        "model.embed_tokens.weight": TensorSpec(F32, (9, 4)),
        "model.norm.weight": TensorSpec(torch.int64, (4,)),
        "model.adapter.weight": TensorSpec(F32, (1,)),
    }
    with pytest.raises(CheckpointError) as error:
        plan(under("model."), stored)
    message = str(error.value)
    assert message.startswith("DIR does not fit Model:")
    assert "missing: model.layers.0.mlp.up_proj.weight [6, 4]" in message
    assert "unexpected: model.adapter.weight" in message
    assert "model.embed_tokens.weight is [9, 4], the model needs [8, 4]" in message
    assert "model.norm.weight is int64" in message
    assert "ignore_mismatched_sizes" in message


def test_long_lists_are_cut_and_counted() -> None:
    stored = {**under("model."), **specs({f"extra.{index}": (1,) for index in range(1000)})}
    with pytest.raises(CheckpointError) as error:
        plan(under("model."), stored)
    assert "extra.7 and 992 more" in str(error.value)
    assert len(str(error.value)) < 1000
    assert listed_names(["x" * 1000]) == "x" * 200 + "..."


@pytest.mark.parametrize(
    "name", ["model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq", "inv_freq"]
)
def test_old_rotary_buffers_are_ignored(name: str) -> None:
    result = plan(under("model."), {**under("model."), **specs({name: (4,)})})
    assert name not in result.sources.values()
    assert result.skipped == ()


def test_an_exact_name_wins_over_a_mapped_one() -> None:
    stored = {**under(""), **under("model.")}
    with pytest.raises(CheckpointError, match=r"unexpected: embed_tokens\.weight, layers"):
        plan(under("model."), stored)


@pytest.mark.parametrize("prefix", ["model.model.", "base_model.model.", "module.", "Model."])
def test_other_prefixes_do_not_match(prefix: str) -> None:
    with pytest.raises(CheckpointError, match="unexpected"):
        plan(under("model."), under(prefix))


SHARED = [["model.embed_tokens.weight", "lm_head.weight"]]


@pytest.mark.parametrize("missing", ["model.embed_tokens.weight", "lm_head.weight"])
def test_one_name_of_a_shared_parameter_is_enough(missing: str) -> None:
    expected = under("model.", lm_head__weight=(8, 4))
    stored = {name: spec for name, spec in expected.items() if name != missing}
    assert missing not in plan(expected, stored, SHARED).sources


def test_a_shared_parameter_that_is_missing_is_named_once() -> None:
    expected = under("model.", lm_head__weight=(8, 4))
    with pytest.raises(CheckpointError) as error:
        plan(expected, {"model.norm.weight": expected["model.norm.weight"]}, SHARED, new_head=True)
    assert "missing: model.embed_tokens.weight [8, 4], model.layers" in str(error.value)
    assert "lm_head" not in str(error.value)


def test_mismatched_sizes_can_be_ignored() -> None:
    expected = under("model.", score__weight=(5, 4))
    result = plan(expected, under("model.", score__weight=(3, 4)), ignore_mismatched_sizes=True)
    assert result.mismatched == (("score.weight", (3, 4), (5, 4)),)
    assert "score.weight" not in result.sources
    assert result.new == ()


def test_fewer_layers_only_where_asked_for() -> None:
    stored = {**under("model."), **specs({"model.layers.1.mlp.up_proj.weight": (6, 4)})}
    with pytest.raises(CheckpointError, match=r"unexpected: model\.layers\.1"):
        plan(under("model."), stored)
    assert plan(under("model."), stored, num_layers_kept=1).skipped == ("model.layers.1.mlp.up_proj.weight",)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_floating_dtypes_fit(dtype: torch.dtype) -> None:
    stored = {name: TensorSpec(dtype, spec.shape) for name, spec in under("model.").items()}
    assert len(plan(under("model."), stored).sources) == len(BASE)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.int64, torch.complex64, torch.uint16])
def test_other_dtypes_do_not(dtype: torch.dtype) -> None:
    stored = {**under("model."), "model.norm.weight": TensorSpec(dtype, (4,))}
    with pytest.raises(CheckpointError, match=r"of a dtype that is not a weight's: model\.norm\.weight"):
        plan(under("model."), stored)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu])
def test_fp8_is_refused_by_name(dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedModelError, match="fp8"):
        plan(under("model."), {**under("model."), "model.norm.weight": TensorSpec(dtype, (4,))})


def test_layers_are_counted_under_any_prefix() -> None:
    names = [
        "model.layers.0.a",
        "model.layers.0.b",
        "transformer.layers.7.a",
        "layers.11.a",
        "xlayers.5.a",
        "norm.weight",
    ]
    assert num_stored_layers(names) == 3


def test_listed_names_cannot_command_a_terminal() -> None:
    assert listed_names(["\x9b31m\u202eEVIL", "plain"]) == "\\x9b31m\\u202eEVIL, plain"
