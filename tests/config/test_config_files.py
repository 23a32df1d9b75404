"""Configs as files and dicts: reading, overriding, writing."""

import json
from pathlib import Path
from typing import Any

import pytest

from seed_oss import GenerationConfig, SeedOssConfig
from seed_oss.errors import CheckpointError, ConfigError, InputError, MissingFileError

LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 64,
    "long_factor": [2.0] * 64,
    "original_max_position_embeddings": 4096,
    "factor": 8.0,
}
RELEASED = {  # the published values, in the 4.x form
    "architectures": ["SeedOssForCausalLM"],
    "attention_bias": True,
    "head_dim": 128,
    "hidden_size": 5120,
    "model_type": "seed_oss",
    "rope_scaling": {"rope_type": "default"},
    "rope_theta": 10000000.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.56.1",
}


def write(folder: Path, content: Any, name: str = "config.json") -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder


def test_the_released_file(tmp_path: Path):
    config = SeedOssConfig.from_pretrained(write(tmp_path, RELEASED))
    assert config.num_parameters() == 36_151_104_512
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 1e7}
    assert (config.dtype, config.name_or_path) == ("bfloat16", str(tmp_path))


def test_from_a_json_file_and_a_subfolder(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", {"hidden_size": 64})
    assert SeedOssConfig.from_pretrained(tmp_path / "sub" / "config.json").hidden_size == 64
    assert SeedOssConfig.from_pretrained(tmp_path, subfolder="sub").hidden_size == 64


def test_missing_and_malformed_files(tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"config\.json"):
        SeedOssConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 1, "hidden_size": 2}')
    with pytest.raises(CheckpointError, match=r"config\.json"):
        SeedOssConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rope_scaling": LONGROPE},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "truncate": False}, "rope_theta": 1e6},
        {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.5}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"num_labels": 5, "problem_type": "regression", "classifier_dropout": 0.2, "eos_token_id": [2, 7]},
        {"id2label": {7: "a"}, "dtype": "float16", "output_attentions": True, "output_hidden_states": True},
        {"return_dict": False, "architectures": ["SeedOssModel"], "quantization_config": {"bits": 4}},
        {"pad_token_id": None, "eos_token_id": [], "head_dim": None, "num_key_value_heads": None, "hidden_size": 8000},
    ],
)
def test_save_and_load_is_the_identity(tmp_path: Path, fields: dict[str, Any]):
    config = SeedOssConfig(**fields)
    config.save_pretrained(tmp_path / "new" / "folder")
    loaded = SeedOssConfig.from_pretrained(tmp_path / "new" / "folder")
    assert loaded == config
    assert loaded.rope_parameters == config.rope_parameters
    assert SeedOssConfig.from_dict(config.to_dict()) == config
    assert SeedOssConfig.from_dict(config.to_diff_dict()) == config
    assert SeedOssConfig.from_dict(json.loads(config.to_json_string(use_diff=False))) == config
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["config.json"]


def test_the_file_holds_both_forms():
    content = json.loads(SeedOssConfig(rope_scaling=LONGROPE, rope_theta=1e6).to_json_string())
    assert content["rope_parameters"] == {**LONGROPE, "rope_theta": 1e6}
    assert content["rope_scaling"] == LONGROPE
    assert (content["rope_theta"], content["original_max_position_embeddings"]) == (1e6, 4096)
    plain = json.loads(SeedOssConfig.seed_oss_36b().to_json_string())
    assert "rope_scaling" not in plain
    assert plain["rope_theta"] == plain["rope_parameters"]["rope_theta"] == 1e7


def test_kwargs_replace_fields(tmp_path: Path):
    folder = write(tmp_path, {**RELEASED, "classifier_dropout": 0.3, "my_key": 1})
    with pytest.warns(UserWarning, match="my_key"):
        config = SeedOssConfig.from_pretrained(
            folder, num_labels=3, attention_dropout=0.0, dtype="float32", attn_implementation="eager", my_key=2
        )
    assert (config.num_labels, config.attention_dropout, config.dtype, config.my_key) == (3, 0.0, "float32", 2)
    assert config.attn_implementation == "eager"


def test_dtype_auto_is_the_one_of_the_file():
    assert SeedOssConfig.from_dict(RELEASED, dtype="auto").dtype == "bfloat16"
    assert SeedOssConfig.from_dict(RELEASED, torch_dtype="float16").dtype == "float16"


def test_unused_kwargs_are_returned_or_named():
    config, unused = SeedOssConfig.from_dict(RELEASED, return_unused_kwargs=True, foo=1, hidden_size=64)
    assert (unused, config.hidden_size) == ({"foo": 1}, 64)
    with pytest.warns(UserWarning, match="'foo': no such config fields"):
        SeedOssConfig.from_dict(RELEASED, foo=1)


def test_trust_remote_code_is_named(tmp_path: Path):
    with pytest.warns(UserWarning, match="no code of a model is ever run"):
        SeedOssConfig.from_pretrained(write(tmp_path, RELEASED), trust_remote_code=True)
    SeedOssConfig.from_pretrained(tmp_path, trust_remote_code=False)


@pytest.mark.parametrize("form", ["rope_scaling", "rope_parameters"])
def test_new_rotary_parameters_replace_both_forms_and_keep_the_base(form: str):
    saved = json.loads(SeedOssConfig(rope_scaling=LONGROPE, rope_theta=1e6).to_json_string())
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32_768}
    config = SeedOssConfig.from_dict(saved, **{form: yarn})
    assert config.rope_parameters == {**yarn, "rope_theta": 1e6}
    assert saved["rope_scaling"] == LONGROPE
    saved = {"rope_parameters": {**LONGROPE, "rope_theta": 1e6}}  # as 5.x writes it
    assert SeedOssConfig.from_dict(saved, **{form: yarn}).rope_parameters == {**yarn, "rope_theta": 1e6}


def test_a_new_base_replaces_the_old_one_in_every_form():
    saved = json.loads(SeedOssConfig(rope_scaling={"rope_type": "linear", "factor": 2.0}).to_json_string())
    assert SeedOssConfig.from_dict(saved, rope_theta=5e5).rope_parameters["rope_theta"] == 5e5
    saved = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}}  # as 5.x writes it
    assert SeedOssConfig.from_dict(saved, rope_theta=5e5).rope_parameters["rope_theta"] == 5e5


def test_labels_are_replaced_together():
    saved = SeedOssConfig(id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2}).to_dict()
    assert SeedOssConfig.from_dict(saved, num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert SeedOssConfig.from_dict(saved, num_labels=3).id2label[2] == "c"
    assert SeedOssConfig.from_dict(saved, id2label={0: "x"}).num_labels == 1


def test_a_file_does_not_choose_the_attention():
    config = SeedOssConfig.from_dict(
        {"attn_implementation": "hub/kernel", "_attn_implementation": "x", "name_or_path": 3}
    )
    assert config.attn_implementation is None


def test_from_dict_does_not_change_its_argument():
    given = {"rope_scaling": {"type": "linear", "factor": 2}, "id2label": {"0": "a"}, "auto_map": {}}
    before = json.dumps(given)
    SeedOssConfig.from_dict(given, rope_theta=5.0, num_labels=4)
    assert json.dumps(given) == before


@pytest.mark.parametrize("content", [[], "x", None, 5, {1: 2}])
def test_something_else_than_named_fields(content: Any):
    for cls in (SeedOssConfig, GenerationConfig):
        with pytest.raises(ConfigError, match=r"_?config\.json|keys must be strings"):
            cls.from_dict(content)


@pytest.mark.parametrize("value", [object(), float("nan"), {"a": {1, 2}}, {(1, 2): 3}, "\ud800"])
def test_a_key_that_json_cannot_hold_is_named_when_written(value: object):
    with pytest.warns(UserWarning, match="my_key"):
        config = SeedOssConfig(my_key=value)
    with pytest.raises(ConfigError, match="my_key is"):
        config.to_json_string()


def test_deep_nesting_is_refused():
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(ConfigError, match="my_key is nested deeper than 64"):
        SeedOssConfig(my_key=value)


def test_saving_replaces_the_file_and_nothing_else(tmp_path: Path):
    write(tmp_path, {"hidden_size": 3})
    (tmp_path / "README.md").write_text("mine")
    SeedOssConfig(hidden_size=64).save_pretrained(tmp_path)
    assert SeedOssConfig.from_pretrained(tmp_path).hidden_size == 64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json"]


def test_a_config_that_contradicts_itself_is_not_written(tmp_path: Path):
    config = SeedOssConfig()
    config.num_attention_heads = 7
    with pytest.raises(ConfigError, match="num_attention_heads is 7"):
        config.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_no_reader_would_accept_is_not_written(tmp_path: Path):
    SeedOssConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        SeedOssConfig(quantization_config=10**70).save_pretrained(tmp_path)
    assert SeedOssConfig.from_pretrained(tmp_path) == SeedOssConfig()


def test_saving_into_a_file_is_refused(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="is a file; give a folder"):
        SeedOssConfig().save_pretrained(tmp_path / "taken")


@pytest.mark.filterwarnings("ignore:generation config has keys:UserWarning")
def test_generation_config_file(tmp_path: Path):
    write(tmp_path, {"temperature": 1.1, "top_p": 0.95, "eos_token_id": [2, 3], "x": 1}, "generation_config.json")
    config = GenerationConfig.from_pretrained(tmp_path, max_new_tokens=7)
    assert (config.temperature, config.top_p, config.eos_token_id, config.max_new_tokens) == (1.1, 0.95, [2, 3], 7)
    assert config.x == 1
    config.save_pretrained(tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out") == config
    content = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert content == {"eos_token_id": [2, 3], "max_new_tokens": 7, "temperature": 1.1, "top_p": 0.95, "x": 1}
