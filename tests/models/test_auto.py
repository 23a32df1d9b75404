"""The Auto classes give the class of ours that transformers' give of theirs."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import seed_oss
from seed_oss import AutoConfig, AutoModel, AutoModelForCausalLM, SeedOssConfig, SeedOssForCausalLM
from seed_oss.errors import ConfigError, InputError
from tests.factory import tiny_checkpoint, tiny_config
from tests.parity.oracle import CLASSES, oracle_config

AUTO = (
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
)


@pytest.mark.parametrize("source", CLASSES)
def test_any_checkpoint_with_any_class(tmp_path: Path, source: str) -> None:
    tiny_checkpoint(tmp_path, getattr(seed_oss, source))
    for name in AUTO:
        expected = type(getattr(transformers, name).from_config(oracle_config(tiny_config()))).__name__
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = getattr(seed_oss, name).from_pretrained(tmp_path)
        assert type(model) is getattr(seed_oss, expected)
        assert not model.training


def test_arguments_are_passed_on(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "sub", SeedOssForCausalLM)
    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path, subfolder="sub", dtype=torch.bfloat16, attn_implementation="eager", output_loading_info=True
    )
    assert model.dtype == torch.bfloat16
    assert model.config.attn_implementation == "eager"
    assert not any(info.values())
    config = tiny_config(use_cache=False)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "sub", config=config).config.use_cache is False


@pytest.mark.parametrize("name", AUTO)
def test_from_config(name: str) -> None:
    config = tiny_config(dtype="bfloat16")
    model = getattr(seed_oss, name).from_config(config)
    reference = getattr(transformers, name).from_config(oracle_config(config))
    assert type(model).__name__ == type(reference).__name__
    assert model.dtype == reference.dtype == torch.bfloat16
    assert model.training == reference.training
    assert model.config is not config


def test_from_config_arguments() -> None:
    assert AutoModel.from_config(tiny_config()).dtype == torch.float32
    assert AutoModel.from_config(tiny_config(dtype="bfloat16"), dtype="float16").dtype == torch.float16
    model = AutoModel.from_config(tiny_config(), torch_dtype=torch.float16, attn_implementation="eager")
    assert (model.dtype, model.config.dtype, model.config.attn_implementation) == (torch.float16, "float16", "eager")
    with torch.device("meta"):
        assert next(AutoModel.from_config(tiny_config(dtype="bfloat16")).parameters()).is_meta
    with pytest.raises(InputError, match="must be a SeedOssConfig"):
        AutoModel.from_config({"hidden_size": 8})  # type: ignore[arg-type]


def test_auto_config(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, SeedOssForCausalLM)
    config = AutoConfig.from_pretrained(tmp_path, num_labels=7)
    assert type(config) is SeedOssConfig
    assert config.num_labels == 7
    config, unused = AutoConfig.from_pretrained(tmp_path, colour="red", return_unused_kwargs=True)
    assert unused == {"colour": "red"}
    assert AutoConfig.for_model("seed_oss", num_hidden_layers=2).num_hidden_layers == 2
    with pytest.raises(ConfigError, match="'llama'"):
        AutoConfig.for_model("llama")


@pytest.mark.parametrize("name", [*AUTO, "AutoConfig"])
def test_they_have_no_instances(name: str) -> None:
    make: Any = getattr(seed_oss, name)
    with pytest.raises(InputError, match=rf"{name} has no instances; call {name}\.from_pretrained"):
        make(tiny_config())
