"""Bytes of quantized models in a plan: those of models that are really built, loaded or stored."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import seed_oss
from seed_oss import SeedOssForCausalLM
from seed_oss.errors import CheckpointError, InputError
from seed_oss.nn.quantized_linear import stored_tensors
from seed_oss.planning.result import Placement
from seed_oss.quant.schemes import SCHEMES
from tests.factory import tiny_checkpoint
from tests.quant.foreign_files import gptq_tensors, random_numbers


def placed(folder: Path, **options: Any) -> Placement:
    """The only placement of a plan on the CPU."""
    (found,) = seed_oss.plan(folder, device="cpu", measure_speed=False, **options).placements
    return found


def held_bytes(model: Any) -> int:
    """Bytes of everything that a model keeps, shared tensors once."""
    tensors = {tensor.data_ptr(): tensor for tensor in stored_tensors(model).values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_takes_what_the_loaded_model_holds(tmp_path: Path, scheme: str, tied: bool) -> None:
    folder = tiny_checkpoint(tmp_path, SeedOssForCausalLM, tie_word_embeddings=tied, mlp_bias=tied)
    model = SeedOssForCausalLM.from_pretrained(folder, quantization=scheme)
    plan = placed(folder, quantization=scheme)
    assert plan.weights.total == held_bytes(model)
    assert (plan.weights.head == 0) == tied


def test_widths_that_no_usual_group_divides(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, SeedOssForCausalLM, hidden_size=36, intermediate_size=50, head_dim=10)
    model = SeedOssForCausalLM.from_pretrained(folder, quantization="int4")
    assert placed(folder, quantization="int4").weights.total == held_bytes(model)


@pytest.mark.parametrize("scheme", ["int4", "int8-channel", "int4-min-g64"])
def test_a_quantized_folder_is_planned_as_it_is(tmp_path: Path, scheme: str) -> None:
    plain = tiny_checkpoint(tmp_path / "plain", SeedOssForCausalLM)
    SeedOssForCausalLM.from_pretrained(plain, quantization=scheme).save_pretrained(tmp_path / "packed")
    found = placed(tmp_path / "packed")
    asked = placed(plain, quantization=scheme)
    assert (found.form, found.weights) == (asked.form, asked.weights)
    assert found.weights.total == held_bytes(SeedOssForCausalLM.from_pretrained(tmp_path / "packed"))
    assert found.quantization is None
    assert found.loading_bytes < asked.loading_bytes


def test_what_is_quantized_is_not_quantized_again(tmp_path: Path) -> None:
    plain = tiny_checkpoint(tmp_path / "plain", SeedOssForCausalLM)
    SeedOssForCausalLM.from_pretrained(plain, quantization="int8").save_pretrained(tmp_path / "packed")
    with pytest.raises(InputError, match="quantized already"):
        placed(tmp_path / "packed", quantization="int4")


def write_gptq(folder: Path) -> Path:
    """A tiny checkpoint whose MLPs are stored as GPTQ stores them."""
    tiny_checkpoint(folder, SeedOssForCausalLM)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if ".mlp." in name]:
        rows, columns = tensors.pop(name).shape
        numbers = random_numbers(rows, columns, 16)
        module = name.removesuffix(".weight")
        tensors.update({f"{module}.{part}": value for part, value in gptq_tensors(numbers).items()})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_foreign_format_is_planned_as_it_is_repacked(tmp_path: Path) -> None:
    folder = write_gptq(tmp_path)
    found = placed(folder)
    assert found.form == "gptq"
    assert found.weights.total == held_bytes(SeedOssForCausalLM.from_pretrained(folder))


def test_quantized_weights_that_are_not_here_have_no_known_size(tmp_path: Path) -> None:
    folder = write_gptq(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not here, so their size is unknown; download it first"):
        placed(folder)


def test_a_plain_folder_without_weights_is_planned_from_its_configuration(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, SeedOssForCausalLM)
    whole = placed(folder, quantization="none")
    (folder / "model.safetensors").unlink()
    assert placed(folder, quantization="none").weights == whole.weights


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, SeedOssForCausalLM)
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError):
        placed(folder)


def test_planning_loads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_checkpoint(tmp_path, SeedOssForCausalLM)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("seed_oss.weights.source.CheckpointSource.read_into", refuse)
    assert placed(folder, quantization="none", dtype=torch.bfloat16).weights.total > 0
