"""Quantized models: made while loading, saved and loaded again, read from foreign files; refused where wrong."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seed_oss import SeedOssForCausalLM
from seed_oss.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    NumericalError,
    SeedOssError,
    StateError,
    UnsupportedModelError,
)
from seed_oss.quant.quantize import quantize_
from tests.factory import random_ids, tiny_checkpoint, tiny_model
from tests.quant.foreign_files import gptq_tensors, random_numbers

SCHEMES = ("int4", "int4-min", "int4-sym", "int8", "int8-channel")


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "plain", SeedOssForCausalLM, tie_word_embeddings=request.param)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A quantized model, saved."""
    model = tiny_model(SeedOssForCausalLM)
    quantize_(model, "int4").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def load(folder: Path, **kwargs: Any) -> Any:
    return SeedOssForCausalLM.from_pretrained(folder, device="cpu", **kwargs)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(random_ids(2, 9)).logits


def assert_same(one: Any, other: Any) -> None:
    first, second = one.state_dict(packed=True), other.state_dict(packed=True)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert one.config.quantization_config == other.config.quantization_config


def change_record(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantizing_on_load_equals_quantizing_in_memory(plain: Path, scheme: str) -> None:
    assert_same(load(plain, quantization=scheme), quantize_(load(plain), scheme))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("disable_mmap", [False, True])
def test_saved_and_loaded_again(plain: Path, tmp_path: Path, scheme: str, disable_mmap: bool) -> None:
    model = load(plain, quantization=scheme)
    model.save_pretrained(tmp_path / "again")
    record = json.loads((tmp_path / "again" / "config.json").read_text())["quantization_config"]
    assert (record["format"], record["version"], record["scheme"]) == ("seed_oss", 1, scheme)
    again = load(tmp_path / "again", disable_mmap=disable_mmap)
    assert_same(model, again)
    assert torch.equal(logits(model), logits(again))
    assert (again.lm_head.packed is again.model.embed_tokens.packed) == model.config.tie_word_embeddings
    assert_same(model, load(tmp_path / "again", quantization=scheme))  # what it is already


def test_shards_and_saving_over_the_files_that_are_mapped(saved: Path) -> None:
    model = load(saved)
    before = logits(model)
    model.save_pretrained(saved, max_shard_size="20KB")
    assert len(list(saved.glob("*.safetensors"))) > 1
    assert torch.equal(logits(model), before)
    assert torch.equal(logits(load(saved)), before)


def test_state_dicts(plain: Path) -> None:
    original, model = load(plain), load(plain, quantization="int8")
    state, packed = model.state_dict(), model.state_dict(packed=True)
    assert set(state) == set(original.state_dict())
    name = "model.layers.0.mlp.up_proj"
    assert packed[f"{name}.packed"].dtype == torch.uint8
    assert f"{name}.weight" not in packed
    for key, value in original.state_dict().items():
        torch.testing.assert_close(state[key].float(), value, atol=0.02, rtol=0)
    assert model.num_parameters() == original.num_parameters()
    with pytest.raises(StateError, match="takes no state dict"):
        model.load_state_dict(original.state_dict())
    with pytest.raises(StateError, match="keeps its size"):
        model.resize_token_embeddings(200)


def test_saved_dequantized(plain: Path, tmp_path: Path) -> None:
    model = load(plain, quantization="int8")
    model.save_pretrained(tmp_path / "numbers", dequantize=True)
    again = load(tmp_path / "numbers")
    assert "quantization_config" not in again.config
    state = model.state_dict()
    assert [name for name, value in again.state_dict().items() if not torch.equal(value, state[name])] == []


def test_gptq_files(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "gptq", SeedOssForCausalLM)
    tensors = load_file(folder / "model.safetensors")
    numbers_model = load(folder)
    for seed, name in enumerate([name for name in tensors if name.endswith("_proj.weight")]):
        weight = tensors.pop(name)
        numbers = random_numbers(*weight.shape, 16, seed=seed)
        module = name.removesuffix(".weight")
        tensors.update({f"{module}.{part}": value for part, value in gptq_tensors(numbers).items()})
        numbers_model.get_parameter(name).data.copy_(torch.from_numpy(numbers.weight()))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": False}
    (folder / "config.json").write_text(json.dumps(config))
    model = load(folder)
    state = model.state_dict()
    for name, value in numbers_model.state_dict().items():
        assert torch.equal(state[name], value), name
    torch.testing.assert_close(logits(model), logits(numbers_model), atol=0.2, rtol=0.05)
    model.save_pretrained(tmp_path / "own")
    assert torch.equal(logits(load(tmp_path / "own")), logits(model))
    with pytest.raises(InputError, match=r"'int8'.*quantized already"):
        load(folder, quantization="int8")


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ("int3", "there are int4"),
        ("float8", "and fp8, which is for CUDA devices"),
        ("int8", "is quantized already"),
        (4, "there are int4"),
    ],
)
def test_schemes_that_are_refused(saved: Path, quantization: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(saved, quantization=quantization)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda record: record.update(version=2), UnsupportedModelError, "version is 2; this release reads 1"),
        (lambda record: record.update(packing=9), UnsupportedModelError, "packing is 9"),
        (lambda record: record.pop("weights"), ConfigError, "has no weights"),
        (lambda record: record["weights"].update(bits=5), ConfigError, "weights"),
        (lambda record: record["weights"].update(group_size=16), CheckpointError, "takes torch.uint8"),
        (lambda record: record["weights"].update(group_size=20), CheckpointError, "do not divide"),
        (lambda record: record["shapes"].update(up_proj=[48, 64]), CheckpointError, "the model needs"),
    ],
)
def test_records_that_do_not_fit(saved: Path, change: Any, error: type[SeedOssError], message: str) -> None:
    change_record(saved, change)
    with pytest.raises(error, match=message):
        load(saved)


def test_a_file_that_is_cut_off(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        load(saved)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize(("scheme", "position"), [("int4", 7), ("int4-min", 40), ("int8-channel", 31)])
def test_scales_and_minimums_that_are_no_numbers(tmp_path: Path, scheme: str, position: int, bad: float) -> None:
    """Named where the bytes are read; mapped ones where numbers are made of them, or a token is chosen by them."""
    folder, name = tmp_path / "packed", "model.layers.1.mlp.up_proj"
    plain = tiny_checkpoint(tmp_path / "plain", SeedOssForCausalLM)
    load(plain, quantization=scheme).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{name}.packed"].view(torch.float16)[0, position] = bad
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    said = rf"{name}\.packed holds NaN or infinity in its scales.*fetch or quantize it again"
    with pytest.raises(CheckpointError, match=said):
        load(folder, disable_mmap=True)
    mapped = load(folder)
    with pytest.raises(CheckpointError, match=said):
        mapped.state_dict()[f"{name}.weight"]
    with pytest.raises(CheckpointError, match=said):
        mapped.save_pretrained(tmp_path / "numbers", dequantize=True)
    assert not (tmp_path / "numbers").exists()
    with pytest.raises(NumericalError, match="disable_mmap=True"):
        mapped.generate(random_ids(1, 4), max_new_tokens=2)


@pytest.mark.parametrize("quantization", [None, "int4"])
def test_a_bias_of_another_size_is_made_anew_where_that_is_wanted(tmp_path: Path, quantization: str | None) -> None:
    folder, name = tmp_path / "model", "model.layers.0.self_attn.q_proj.bias"
    plain = tiny_checkpoint(tmp_path / "plain", SeedOssForCausalLM)
    load(plain, quantization=None if quantization else "int4").save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="of another shape"):
        load(folder, quantization=quantization)
    with pytest.warns(UserWarning, match=name):
        model = load(folder, quantization=quantization, ignore_mismatched_sizes=True)
    assert not model.state_dict()[name].any()
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("change", [lambda order: order[:-1].clone(), lambda order: order.long()])
def test_an_order_of_columns_that_is_none_is_never_made_anew(tmp_path: Path, change: Any) -> None:
    folder, name = tmp_path / "gptq", "model.layers.0.mlp.up_proj"
    tiny_checkpoint(folder, SeedOssForCausalLM)
    tensors = load_file(folder / "model.safetensors")
    rows, columns = tensors.pop(f"{name}.weight").shape
    numbers = random_numbers(rows, columns, 16, shuffled=True)
    tensors.update({f"{name}.{part}": value for part, value in gptq_tensors(numbers).items()})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": False}
    (folder / "config.json").write_text(json.dumps(config))
    load(folder).save_pretrained(tmp_path / "own")
    tensors = load_file(tmp_path / "own" / "model.safetensors")
    tensors[f"{name}.column_order"] = change(tensors[f"{name}.column_order"])
    save_file(tensors, tmp_path / "own" / "model.safetensors", metadata={"format": "pt"})
    for ignore in (False, True):
        with pytest.raises(CheckpointError, match=rf"{name}\.column_order is .*it must be torch.int32 \[32\]"):
            load(tmp_path / "own", ignore_mismatched_sizes=ignore)


def test_a_missing_tensor(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.packed"]
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="up_proj"):
        load(saved)
