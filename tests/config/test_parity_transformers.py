"""The same attributes and files as the installed transformers 5.x."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import GenerationConfig as ReferenceGeneration
from transformers import SeedOssConfig as Reference

from seed_oss import GenerationConfig, SeedOssConfig
from seed_oss.config.known_keys import GENERATION_KEYS
from seed_oss.config.unimplemented import UNIMPLEMENTED, is_used
from seed_oss.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:config has keys:UserWarning")
logging.getLogger("transformers").setLevel(logging.CRITICAL)

LISTS = {"short_factor": [1.0] * 64, "long_factor": [2.0] * 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPES: list[dict[str, Any]] = [
    {},
    {"rope_theta": 1e7, "rope_scaling": {"rope_type": "default"}},
    {"rope_theta": 1e7, "rope_scaling": None},
    {"rope_scaling": {}},
    {"rope_parameters": {}},
    {"rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_scaling": {"rope_type": "linear", "factor": 2}},
    {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 7.0}, "rope_theta": 5.0},
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    {"rope_scaling": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 4096}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 16, "mscale": 0.7, "truncate": False}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.1}, "rope_theta": 5e5},
    {"rope_parameters": {"rope_type": "longrope", **LISTS}},
    {"rope_parameters": {"rope_type": "longrope", **LISTS, "original_max_position_embeddings": 4096, "factor": 8.0}},
    {"rope_scaling": LLAMA3},
    {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 8192}},
    {"rope_scaling": {"rope_type": "proportional"}},
    {"rope_scaling": {"rope_type": "proportional", "factor": 2.0}, "partial_rotary_factor": 0.5},
    {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.25}, "partial_rotary_factor": 0.5},
    {"partial_rotary_factor": 0.5},
]
FIELDS: list[dict[str, Any]] = [
    {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": None, "head_dim": None},
    {"vocab_size": 99, "num_hidden_layers": 2, "tie_word_embeddings": True, "attention_out_bias": True},
    {"pad_token_id": None, "bos_token_id": None, "eos_token_id": [1, 2]},
    {"eos_token_id": None, "use_cache": False, "return_dict": False, "output_hidden_states": True},
    {"output_hidden_states": [0, -1]},
    {"output_hidden_states": 2},
    {"num_labels": 5},
    {"num_labels": 1, "problem_type": "regression"},
    {"id2label": {"0": "a", "1": "b", "2": "c"}},
    {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}, "problem_type": "multi_label_classification"},
    {"architectures": ["SeedOssForCausalLM"], "dtype": "bfloat16"},
    {"torch_dtype": "float16"},
    {"classifier_dropout": 0.25, "hidden_dropout": 0.5},
    {"attention_dropout": 0, "residual_dropout": 1, "mlp_bias": True, "hidden_act": "gelu"},
    {"quantization_config": {"quant_method": "fp8"}, "my_key": [1, {"a": None}]},
]


def name_of(fields: dict[str, Any]) -> str:
    return json.dumps(fields)[:60]


def reference(**fields: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Reference(**fields)


def same(ours: Any, theirs: Any) -> None:
    """Every attribute the reference writes is ours too; its own bookkeeping apart."""
    expected = theirs.to_dict()
    # the last one is written for 4.57, which looks for it there, beside the same value in rope_parameters
    for key in ("transformers_version", "_name_or_path", "original_max_position_embeddings"):
        expected.pop(key, None)
    content = ours.to_dict()
    assert {key: content[key] for key in expected} == expected
    assert set(content) - set(expected) <= {"transformers_version", "rope_parameters"}
    for key in expected:
        if key not in ("dtype", "model_type"):
            assert getattr(ours, key) == getattr(theirs, key)
    assert (ours.num_labels, ours.model_type) == (theirs.num_labels, theirs.model_type)


@pytest.mark.parametrize("fields", [*ROPES, *FIELDS], ids=name_of)
def test_attributes(fields: dict[str, Any]):
    same(SeedOssConfig(**json.loads(json.dumps(fields))), reference(**json.loads(json.dumps(fields))))


@pytest.mark.parametrize("fields", [*ROPES, *FIELDS], ids=name_of)
def test_ours_saved_loads_there(fields: dict[str, Any], tmp_path: Path):
    ours = SeedOssConfig(**fields)
    ours.save_pretrained(tmp_path)
    same(ours, Reference.from_pretrained(tmp_path))


@pytest.mark.parametrize("fields", [*ROPES, *FIELDS], ids=name_of)
def test_theirs_saved_loads_here(fields: dict[str, Any], tmp_path: Path):
    theirs = reference(**json.loads(json.dumps(fields)))
    theirs.save_pretrained(tmp_path)
    ours = SeedOssConfig.from_pretrained(tmp_path)
    same(ours, theirs)
    assert ours.transformers_version == transformers.__version__


def test_the_length_of_the_config_ends_up_the_same():
    """5.23 lays the config's own length over the object's when frequencies are computed, we do it when reading."""
    fields: dict[str, Any] = {
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096},
        "original_max_position_embeddings": 100,
    }
    theirs = reference(**json.loads(json.dumps(fields)))
    theirs.standardize_rope_params()
    assert SeedOssConfig(**fields).rope_parameters == theirs.rope_parameters


def test_longrope_saved_for_both_readers_keeps_its_values_there(tmp_path: Path):
    parameters = {"rope_type": "longrope", **LISTS, "original_max_position_embeddings": 4096}
    SeedOssConfig(rope_parameters=parameters).save_pretrained(tmp_path)
    theirs = Reference.from_pretrained(tmp_path)
    theirs.standardize_rope_params()
    assert theirs.rope_parameters == {**parameters, "rope_theta": 10_000.0}


@pytest.mark.parametrize(
    ("labels", "num_labels"), [(None, 3), ({"0": "a", "1": "b"}, 4), ({"0": "a", "1": "b"}, 2), (None, None)]
)
def test_num_labels_over_a_file(labels: dict[str, str] | None, num_labels: int | None, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "seed_oss", "id2label": labels}))
    kwargs = {} if num_labels is None else {"num_labels": num_labels}
    ours, theirs = SeedOssConfig.from_pretrained(tmp_path, **kwargs), Reference.from_pretrained(tmp_path, **kwargs)
    assert (ours.id2label, ours.num_labels) == (theirs.id2label, theirs.num_labels)


def test_kwargs_over_a_file(tmp_path: Path):
    Reference(hidden_size=64).save_pretrained(tmp_path)
    kwargs: dict[str, Any] = {
        "attention_dropout": 0.5,
        "output_attentions": True,
        "foo": 1,
        "return_unused_kwargs": True,
    }
    ours, our_unused = SeedOssConfig.from_pretrained(tmp_path, **kwargs)
    theirs, their_unused = Reference.from_pretrained(tmp_path, **kwargs)
    assert our_unused == their_unused == {"foo": 1}
    assert (ours.hidden_size, ours.attention_dropout, ours.output_attentions) == (64, 0.5, True)
    assert (theirs.hidden_size, theirs.attention_dropout, theirs.output_attentions) == (64, 0.5, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": "a"},
        {"vocab_size": True},
        {"head_dim": 7},
        {"head_dim": None, "num_key_value_heads": None},
        {"num_labels": 1, "problem_type": "single_label_classification"},
        {"rope_scaling": {"rope_type": "linear"}},
        {"rope_scaling": {"rope_type": "yarn"}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0] * 64}},
        {"output_attentions": True, "attn_implementation": "sdpa"},
    ],
    ids=name_of,
)
def test_what_the_reference_refuses_we_refuse(fields: dict[str, Any]):
    with pytest.raises(Exception):  # noqa: B017, PT011 - the reference has no error type of its own
        reference(**json.loads(json.dumps(fields)))
    with pytest.raises(ConfigError):
        SeedOssConfig(**fields)


def test_generation_keys_that_the_reference_drops_are_dropped():
    dropped = set(ReferenceGeneration._get_default_generation_params()) - {"use_cache"}
    assert dropped <= GENERATION_KEYS


def test_every_generation_field_of_the_reference_is_a_field_or_refused():
    bookkeeping = {"transformers_version", "_from_model_config"}
    assistant_only = {
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "assistant_lookbehind",
        "target_lookbehind",
        "max_matching_ngram_size",
        "decoder_start_token_id",
    }
    names = set(vars(ReferenceGeneration())) - bookkeeping - assistant_only
    assert names - set(GenerationConfig.FIELDS) - set(UNIMPLEMENTED) == set()


def test_generation_defaults():
    for name, value in ReferenceGeneration._get_default_generation_params().items():
        if name in GenerationConfig.FIELDS:
            assert GenerationConfig.FIELDS[name].default == value, name
        elif name in UNIMPLEMENTED:
            assert not is_used(name, value), name


def test_generation_config_files_go_both_ways(tmp_path: Path):
    fields: dict[str, Any] = {"temperature": 1.1, "top_p": 0.95, "do_sample": True, "eos_token_id": [2, 3], "top_k": 0}
    GenerationConfig(**fields, seed=5).save_pretrained(tmp_path)
    theirs = ReferenceGeneration.from_pretrained(tmp_path)
    assert {key: getattr(theirs, key) for key in fields} == fields
    theirs.save_pretrained(tmp_path)
    ours = GenerationConfig.from_pretrained(tmp_path)
    assert {key: getattr(ours, key) for key in fields} == fields
    assert ours.seed == 5


def test_from_model_config_is_the_same():
    ours = GenerationConfig.from_model_config(SeedOssConfig(eos_token_id=[2, 9])).to_diff_dict()
    theirs = ReferenceGeneration.from_model_config(Reference(eos_token_id=[2, 9]))
    assert {key: getattr(theirs, key) for key in ours} == ours
