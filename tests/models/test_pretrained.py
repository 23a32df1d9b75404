"""from_pretrained and save_pretrained, with transformers as the other side."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import seed_oss
from seed_oss import SeedOssConfig, SeedOssForCausalLM, SeedOssModel
from tests.factory import random_ids, tiny_config, tiny_model
from tests.parity.oracle import CLASSES, oracle_config

VARIANTS = [
    (True, "5GB", "float32"),
    (True, "20KB", "bfloat16"),
    (False, "20KB", "float32"),
    (False, "5GB", "bfloat16"),
    (False, "5GB", "float16"),
]
"""Tied or not, one file or shards, dtype: every pair of values."""
INDEX = "model.safetensors.index.json"


def ours(name: str) -> Any:
    return getattr(seed_oss, name)


def theirs(name: str) -> Any:
    return getattr(transformers, name)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors in the files of a folder."""
    result: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        result.update(load_file(file))
    return result


def assert_same_state(left: torch.nn.Module, right: torch.nn.Module) -> None:
    first, second = left.state_dict(), right.state_dict()
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize(("tied", "size", "dtype"), VARIANTS)
@pytest.mark.parametrize("name", CLASSES)
def test_ours_loads_there_and_here(tmp_path: Path, name: str, tied: bool, size: str, dtype: str) -> None:
    model = tiny_model(ours(name), tie_word_embeddings=tied).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path, max_shard_size=size)
    there, info = theirs(name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert_same_state(model, there)
    here, info = ours(name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert_same_state(model, here)
    assert not here.training
    ids = random_ids(1, 6)
    assert torch.equal(here(ids)[0], model(ids)[0])


@pytest.mark.parametrize(("tied", "size", "dtype"), VARIANTS)
@pytest.mark.parametrize("name", CLASSES)
def test_theirs_loads_here(tmp_path: Path, name: str, tied: bool, size: str, dtype: str) -> None:
    torch.manual_seed(1)
    there = theirs(name)(oracle_config(tiny_config(tie_word_embeddings=tied))).to(getattr(torch, dtype))
    there.save_pretrained(tmp_path, max_shard_size=size)
    here = ours(name).from_pretrained(tmp_path)
    assert_same_state(here, there)
    assert here.config.dtype == dtype
    assert here.config.architectures == [name]
    assert (tmp_path / INDEX).exists() == (size == "20KB")


@pytest.mark.parametrize("tied", [True, False])
def test_the_file_is_the_one_that_they_write(tmp_path: Path, tied: bool) -> None:
    """Not only the tensors are equal: every byte is. (Shards are cut elsewhere: they sort names first.)"""
    tiny_model(SeedOssForCausalLM, tie_word_embeddings=tied).save_pretrained(tmp_path / "ours")
    transformers.SeedOssForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    files = [tmp_path / side / "model.safetensors" for side in ("ours", "theirs")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_is_written(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM, tie_word_embeddings=True).to(torch.bfloat16)
    model.generation_config.temperature = 1.1
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["SeedOssForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert config["model_type"] == "seed_oss"
    assert "lm_head.weight" not in stored(tmp_path)
    assert SeedOssForCausalLM.from_pretrained(tmp_path).generation_config.temperature == 1.1
    assert transformers.GenerationConfig.from_pretrained(tmp_path).temperature == 1.1
    assert model.config.architectures is None  # the model's own config is left alone


def test_heads_write_no_generation_config(tmp_path: Path) -> None:
    tiny_model(seed_oss.SeedOssForTokenClassification).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


# a folder that is saved into again


def test_stale_weights_go_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"mine")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("hello")
    for size in ("20KB", "5GB", "40KB", "20KB", "5GB"):
        model = tiny_model(SeedOssForCausalLM, seed=len(size))
        model.save_pretrained(tmp_path, max_shard_size=size)
        assert_same_state(SeedOssForCausalLM.from_pretrained(tmp_path), model)
        assert_same_state(transformers.SeedOssForCausalLM.from_pretrained(tmp_path), model)
        assert (tmp_path / "model.safetensors").exists() == (size == "5GB")
        assert (tmp_path / INDEX).exists() == (size != "5GB")
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == b"mine"
    assert (tmp_path / "notes" / "README.md").read_text() == "hello"


def test_a_model_can_be_saved_over_the_files_it_came_from(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path, max_shard_size="20KB")
    model = SeedOssForCausalLM.from_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert_same_state(SeedOssForCausalLM.from_pretrained(tmp_path), model)


def test_a_save_that_fails_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tiny_model(SeedOssForCausalLM)
    old.save_pretrained(tmp_path)
    new = tiny_model(SeedOssForCausalLM, seed=1)

    def fail(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        "seed_oss.models.pretrained.tensor_pieces",
        lambda tensor: fail() if tensor.dim() == 1 else [bytes(tensor.nbytes)],
    )
    with pytest.raises(OSError, match="No space left"):
        new.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert_same_state(SeedOssForCausalLM.from_pretrained(tmp_path), old)


# dtype


@pytest.mark.parametrize("in_config", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("asked", [None, "auto", "float16", torch.float16, "torch.float16", "half"])
def test_dtype(tmp_path: Path, in_config: str | None, asked: Any) -> None:
    tiny_model(SeedOssModel).to(torch.bfloat16).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["dtype"] = in_config
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = SeedOssModel.from_pretrained(tmp_path, dtype=asked)
    expected = torch.float16 if asked not in (None, "auto") else getattr(torch, in_config or "bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.config.dtype == str(expected).removeprefix("torch.")
    assert model.rotary_emb.inv_freq.dtype == torch.float32


def test_torch_dtype_is_the_same_argument_and_the_same_key(tmp_path: Path) -> None:
    tiny_model(SeedOssModel).save_pretrained(tmp_path)
    assert SeedOssModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    assert SeedOssModel.from_pretrained(tmp_path, torch_dtype="auto").dtype == torch.float32
    config = json.loads((tmp_path / "config.json").read_text())
    config["torch_dtype"] = "float16"
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert SeedOssModel.from_pretrained(tmp_path).dtype == torch.float16


# config


def test_fields_of_the_config_as_arguments(tmp_path: Path) -> None:
    tiny_model(seed_oss.SeedOssForSequenceClassification).save_pretrained(tmp_path)
    model = seed_oss.SeedOssForSequenceClassification.from_pretrained(
        tmp_path,
        id2label={0: "no", 1: "yes", 2: "maybe"},
        problem_type="single_label_classification",
        attention_dropout=0.0,
        attn_implementation="eager",
    )
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert model.config.problem_type == "single_label_classification"
    assert model.config.attention_dropout == 0.0
    assert model.config.attn_implementation == "eager"


def test_attention_implementations(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path)
    assert SeedOssForCausalLM.from_pretrained(tmp_path).config.attn_implementation == "sdpa"
    with pytest.warns(UserWarning, match="flash_attention_2") as caught:
        model = SeedOssForCausalLM.from_pretrained(tmp_path, attn_implementation="flash_attention_2")
    assert len(caught) == 1
    assert model.config.attn_implementation == "sdpa"
    config = SeedOssConfig.from_pretrained(tmp_path)
    model = SeedOssForCausalLM.from_pretrained(tmp_path, config=config, attn_implementation="eager")
    assert (model.config.attn_implementation, config.attn_implementation) == ("eager", None)


def test_a_config_object_or_another_folders_config(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path / "model")
    config = SeedOssConfig.from_pretrained(tmp_path / "model", rope_theta=5e5)
    config.save_pretrained(tmp_path / "config")
    for given in (config, tmp_path / "config", str(tmp_path / "config"), tmp_path / "config" / "config.json"):
        model = SeedOssForCausalLM.from_pretrained(tmp_path / "model", config=given)
        assert model.config.rope_theta == 5e5
        assert model.config is not config
    model = SeedOssForCausalLM.from_pretrained(tmp_path / "model", config=tmp_path / "config", use_cache=False)
    assert model.config.use_cache is False


def test_without_the_last_layers(tmp_path: Path) -> None:
    full = tiny_model(SeedOssForCausalLM)
    full.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"not used: model\.layers\.2\.input_layernorm\.weight") as caught:
        short = SeedOssForCausalLM.from_pretrained(tmp_path, num_hidden_layers=2)
    assert len(caught) == 1
    assert len(short.model.layers) == 2
    assert torch.equal(short.model.layers[1].mlp.up_proj.weight, full.model.layers[1].mlp.up_proj.weight)


# state_dict, subfolder, names


def test_a_state_dict_instead_of_files() -> None:
    config = tiny_config(tie_word_embeddings=True)
    source = tiny_model(SeedOssForCausalLM, tie_word_embeddings=True)
    state = source.state_dict()
    del state["lm_head.weight"]
    model = SeedOssForCausalLM.from_pretrained(None, config=config, state_dict=state, dtype="float32")
    assert_same_state(model, source)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    source.model.norm.weight.data.zero_()
    assert model.model.norm.weight.abs().sum() > 0
    assert config.dtype is None  # the caller's config is left alone


def test_a_state_dict_is_saved_instead_of_the_models_own(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM)
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in stored(tmp_path).items())


def test_subfolder(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM)
    model.generation_config.top_k = 7
    model.save_pretrained(tmp_path / "checkpoints" / "last")
    for name in ("checkpoints/last", "checkpoints/last/"):
        loaded = SeedOssForCausalLM.from_pretrained(tmp_path, subfolder=name)
        assert_same_state(loaded, model)
        assert loaded.generation_config.top_k == 7


def test_the_name_is_kept(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path)
    model = SeedOssForCausalLM.from_pretrained(str(tmp_path))
    assert model.name_or_path == model.config.name_or_path == str(tmp_path)


def test_only_one_process_saves(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path / "x", is_main_process=False)
    assert not (tmp_path / "x").exists()


# generation config


def test_without_a_generation_config_the_models_is_used(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM, eos_token_id=[2, 7]).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    model = SeedOssForCausalLM.from_pretrained(tmp_path)
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == [2, 7]


def test_heads_read_no_generation_config(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text("broken")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert SeedOssModel.from_pretrained(tmp_path).generation_config is None


# placement


@pytest.mark.parametrize(
    "arguments",
    [
        {"device": "cpu"},
        {"device": torch.device("cpu")},
        {"device_map": "cpu"},
        {"device_map": {"": "cpu"}},
        {"device_map": {"model": "cpu", "lm_head": torch.device("cpu")}},
        {"low_cpu_mem_usage": True, "use_safetensors": True, "trust_remote_code": False},
        {"force_download": False, "weights_only": True, "quantization_config": None, "variant": None},
        {"show_progress": False},
    ],
)
def test_arguments_that_change_nothing_here(tmp_path: Path, arguments: dict[str, Any]) -> None:
    model = tiny_model(SeedOssForCausalLM)
    model.save_pretrained(tmp_path)
    assert_same_state(SeedOssForCausalLM.from_pretrained(tmp_path, **arguments), model)


def test_device_map_auto(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path)
    model = SeedOssForCausalLM.from_pretrained(tmp_path, device_map="auto")
    expected = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert expected is not None
    assert model.device.type == expected.type


def test_buffers_are_where_the_weights_are_and_hold_numbers(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    model.save_pretrained(tmp_path)
    loaded = SeedOssForCausalLM.from_pretrained(tmp_path)
    expected = dict(model.named_buffers())
    assert list(expected) == [name for name, _ in loaded.named_buffers()]
    assert all(torch.equal(buffer, expected[name]) for name, buffer in loaded.named_buffers())


def test_the_random_state_is_left_alone(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    SeedOssForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(torch.rand(1), expected)
