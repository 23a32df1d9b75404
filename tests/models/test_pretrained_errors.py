"""What cannot be loaded or saved is refused with a typed error that says what to do."""

import inspect
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from seed_oss import SeedOssForCausalLM, SeedOssForSequenceClassification, SeedOssModel
from seed_oss.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    MissingFileError,
    SeedOssError,
    UnsafeFileError,
    UnsupportedModelError,
)
from seed_oss.models.load_options import REFUSED
from tests.factory import tiny_checkpoint, tiny_config, tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A causal language model, saved."""
    return tiny_checkpoint(tmp_path / "model", SeedOssForCausalLM)


def change_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


# arguments


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_unsupported_arguments_are_refused_by_name_with_the_substitute(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"{name} is not supported: {REFUSED[name]}")):
        SeedOssForCausalLM.from_pretrained(folder, **{name: "something"})
    for nothing in (None, False):
        assert SeedOssForCausalLM.from_pretrained(folder, **{name: nothing}) is not None


def test_every_argument_of_the_reference_is_known(folder: Path) -> None:
    """Taken, ignored or refused by name: an argument of the reference never counts as misspelt."""
    source = inspect.getsource(transformers.PreTrainedModel.from_pretrained)
    names = set(re.findall(r'kwargs\.pop\("(\w+)"', source))
    names |= set(inspect.signature(transformers.PreTrainedModel.from_pretrained).parameters)
    names -= {"cls", "pretrained_model_name_or_path", "model_args", "kwargs"}
    names -= {name for name in names if name.startswith("_")}
    assert {"dtype", "device_map", "gguf_file", "key_mapping", "cache_dir"} <= names
    assert [name for name in sorted(names) if "check the spelling" in answer_to(folder, name)] == []


def answer_to(folder: Path, name: str) -> str:
    """The message of the error that an argument gives, if it gives one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            SeedOssForCausalLM.from_pretrained(folder, **{name: "x"})
        except (SeedOssError, TypeError, ValueError) as error:
            return str(error)
    return ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_lables": 3}, "no argument and the config no field num_lables; check the spelling"),
        ({"dtype": "int8"}, "dtype is 'int8'; it must be 'auto' or one of float32"),
        ({"dtype": torch.int64}, "dtype is torch.int64"),
        ({"dtype": "nonsense"}, "dtype is 'nonsense'"),
        ({"dtype": {"": "float32"}}, "dtype is {'': 'float32'}"),
        ({"dtype": "float32", "torch_dtype": "float16"}, "give one"),
        ({"device": "cpu", "device_map": "cpu"}, "give one of them"),
        ({"device": "nowhere"}, "'nowhere' is not a device"),
        ({"device": "meta"}, "meta device"),
        ({"device_map": -1}, "-1 is not a device"),
        ({"device_map": True}, "True is not a device"),
        ({"device_map": "balanced"}, "'balanced' is not a device; use device_map='auto'"),
        ({"device_map": "sequential"}, "use device_map='auto'"),
        ({"device_map": {}}, "names 0 devices"),
        ({"device_map": {"model": "cpu", "lm_head": "cuda:0"}}, r"names 2 devices (cpu, cuda:0)"),
        ({"device_map": {"": "disk"}}, "'disk' is not a device"),
        ({"quantization": "int3"}, "quantization is 'int3'; there are int4"),
        ({"use_safetensors": False}, "only safetensors files are read"),
        ({"state_dict": {}}, "both a checkpoint and a state_dict"),
        ({"config": tiny_config(), "num_labels": 4}, "both a config object and num_labels"),
        ({"subfolder": 3}, "subfolder must be a string"),
    ],
)
def test_wrong_arguments(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, UnsafeFileError), match=re.escape(message)):
        SeedOssForCausalLM.from_pretrained(folder, **arguments)


def test_wrong_values_of_config_fields(folder: Path) -> None:
    with pytest.raises(ConfigError, match="num_labels"):
        SeedOssForCausalLM.from_pretrained(folder, num_labels=0)
    with pytest.raises(ConfigError, match="attn_implementation"):
        SeedOssForCausalLM.from_pretrained(folder, attn_implementation="flex")


def test_no_checkpoint_at_all() -> None:
    with pytest.raises(InputError, match="no checkpoint is given"):
        SeedOssForCausalLM.from_pretrained(None)
    with pytest.raises(InputError, match="without a config"):
        SeedOssForCausalLM.from_pretrained(None, state_dict={})


def test_a_meta_context_is_no_place_for_weights(folder: Path) -> None:
    with torch.device("meta"), pytest.raises(InputError, match="meta device"):
        SeedOssForCausalLM.from_pretrained(folder)


def test_trust_remote_code_warns_once_and_runs_nothing(folder: Path) -> None:
    change_config(folder, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.warns(UserWarning, match="no code of a model is ever run") as caught:
        SeedOssForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert len(caught) == 1
    assert caught[0].filename == __file__


# files


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="not a folder here"):
        SeedOssForCausalLM.from_pretrained(tmp_path / "nothing")
    with pytest.raises(MissingFileError, match=r"config\.json"):
        SeedOssForCausalLM.from_pretrained(tmp_path)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match="no weights"):
        SeedOssForCausalLM.from_pretrained(folder)


def test_truncated_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        SeedOssForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"temperature": -1}', '{"top_k": "many"}', '{"a": NaN}'])
def test_a_bad_generation_config(folder: Path, content: str) -> None:
    (folder / "generation_config.json").write_text(content)
    with pytest.raises((CheckpointError, ConfigError)):
        SeedOssForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 33}, r"model\.embed_tokens\.weight is \[160, 32\], the model needs \[160, 33\]"),
        ({"attention_bias": False}, r"unexpected: model\.layers\.\d\.self_attn\.[kqv]_proj\.bias"),
        ({"mlp_bias": True}, r"missing: model\.layers\.0\.mlp\.gate_proj\.bias \[48\]"),
        ({"num_hidden_layers": 2}, r"unexpected: model\.layers\.2"),
        ({"num_hidden_layers": 4}, "holds 3 layers, the config asks for num_hidden_layers=4"),
        ({"vocab_size": 2**31 - 1}, r"needs \[2147483647, 32\]"),
        ({"intermediate_size": 2**31 - 1}, r"needs \[2147483647, 32\]"),
        ({"head_dim": 2**30}, "with head_dim=1073741824 the keys of a layer alone are"),
    ],
)
def test_a_config_that_does_not_fit(folder: Path, fields: dict[str, Any], message: str) -> None:
    change_config(folder, **fields)
    with pytest.raises(CheckpointError, match=message):
        SeedOssForCausalLM.from_pretrained(folder)


def test_a_config_of_ten_thousand_layers_is_not_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_config(folder, num_hidden_layers=10_000)
    monkeypatch.setattr(SeedOssForCausalLM, "__init__", lambda *_: pytest.fail("built"))
    with pytest.raises(CheckpointError, match="num_hidden_layers=10000"):
        SeedOssForCausalLM.from_pretrained(folder)


def test_everything_that_does_not_fit_is_in_one_error(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM)
    state: dict[str, torch.Tensor] = dict(model.state_dict())
    del state["model.norm.weight"]
    state["model.extra"] = torch.ones(2)
    state["lm_head.weight"] = torch.ones(3, 3)
    state["model.layers.0.mlp.up_proj.weight"] = torch.ones(48, 32, dtype=torch.int32)
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(CheckpointError) as error:
        SeedOssForCausalLM.from_pretrained(tmp_path)
    for part in (
        f"{tmp_path} does not fit SeedOssForCausalLM",
        "missing: model.norm.weight [32]",
        "unexpected: model.extra",
        "lm_head.weight is [3, 3], the model needs [160, 32]",
        "model.layers.0.mlp.up_proj.weight is int32",
    ):
        assert part in str(error.value)


def test_checks_come_before_any_weight_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_config(folder, mlp_bias=True)
    monkeypatch.setattr("seed_oss.weights.source._pread", lambda *_: pytest.fail("read"))
    monkeypatch.setattr("seed_oss.weights.load.Target.empty_like", lambda *_: pytest.fail("allocated"))
    with pytest.raises(CheckpointError, match="missing"):
        SeedOssForCausalLM.from_pretrained(folder)


# quantized


@pytest.mark.parametrize(
    ("quantization", "error", "message"),
    [
        ({"quant_method": "fp8"}, CheckpointError, "no weight is quantized"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 16}, CheckpointError, "no weight is quantized"),
        ({"bits": 4}, UnsupportedModelError, "quantized by an unnamed method cannot be read"),
    ],
)
def test_a_quantization_config_without_quantized_weights(
    folder: Path, quantization: dict[str, Any], error: type[SeedOssError], message: str
) -> None:
    change_config(folder, quantization_config=quantization)
    with pytest.raises(error, match=message):
        SeedOssForCausalLM.from_pretrained(folder)


def test_a_null_quantization_config_is_none(folder: Path) -> None:
    change_config(folder, quantization_config=None)
    assert SeedOssForCausalLM.from_pretrained(folder) is not None


def test_fp8_weights(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM)
    state = dict(model.state_dict())
    state["model.layers.0.mlp.up_proj.weight"] = state["model.layers.0.mlp.up_proj.weight"].to(torch.float8_e4m3fn)
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UnsupportedModelError, match=r"up_proj\.weight is stored as float8_e4m3fn, and config.json"):
        SeedOssForCausalLM.from_pretrained(tmp_path)


def test_a_dtype_in_the_config_that_is_none_of_weights(folder: Path) -> None:
    change_config(folder, dtype="float8_e4m3fn")
    with pytest.raises((UnsupportedModelError, InputError), match="float8_e4m3fn"):
        SeedOssForCausalLM.from_pretrained(folder)
    assert SeedOssForCausalLM.from_pretrained(folder, dtype="float32").dtype == torch.float32


def test_another_kind_of_model(folder: Path) -> None:
    change_config(folder, model_type="llama")
    with pytest.raises(SeedOssError, match="llama"):
        SeedOssForCausalLM.from_pretrained(folder)


# saving


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"safe_serialization": False}, "only safetensors files are written"),
        ({"push_to_hub": True}, "push_to_hub is not supported: upload the saved folder"),
        ({"variant": "fp16"}, "variant is not supported"),
        ({"distributed_checkpoint": True}, "distributed_checkpoint is not supported"),
        ({"max_shard_size": "big"}, "max_shard_size is 'big'"),
        ({"max_shard_sise": 5}, "no argument max_shard_sise"),
        ({"state_dict": {"x": 1}}, "x is a int"),
    ],
)
def test_wrong_arguments_of_saving(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_model(SeedOssModel).save_pretrained(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_arguments_of_saving_without_effect(tmp_path: Path) -> None:
    tiny_model(SeedOssModel).save_pretrained(
        tmp_path, push_to_hub=False, variant=None, token=None, save_peft_format=True, save_function=print
    )
    assert SeedOssModel.from_pretrained(tmp_path) is not None


def test_a_model_without_weights_cannot_be_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = SeedOssModel(tiny_config())
    with pytest.raises(InputError, match="meta device"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        tiny_model(SeedOssModel).save_pretrained(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_warnings_point_at_the_caller(folder: Path) -> None:
    with pytest.warns(UserWarning, match="new and random") as caught:
        SeedOssForSequenceClassification.from_pretrained(folder)
    assert [warning.filename for warning in caught] == [__file__]
