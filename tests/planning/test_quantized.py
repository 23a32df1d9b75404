"""Bytes of quantized models in a plan: those of models that are really built, loaded or stored."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as T
from safetensors.torch import load_file, save_file

import seed_oss
from seed_oss import SeedOssForCausalLM
from seed_oss.errors import CheckpointError, InputError
from seed_oss.models.quantize_folder import quantize_folder
from seed_oss.nn.quantized_linear import stored_tensors
from seed_oss.ops import float8
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.planning.result import Placement
from seed_oss.planning.weights import scheme_form
from seed_oss.planning.workspace import Load, workspace_bytes
from seed_oss.quant import fp8
from seed_oss.quant.gguf_blocks import GROUPED_FORMATS
from seed_oss.quant.schemes import SCHEMES
from tests.factory import tiny_checkpoint, tiny_config
from tests.quant.foreign_files import gptq_tensors, random_numbers
from tests.quant.gguf_factory import Recipe, file_name_of, random_weights, write_gguf


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


def test_rounded_activations_take_twelve_bytes_a_group() -> None:
    """A scale, a sum and a scaled sum: of twice as many groups, twice of each."""
    config = tiny_config(hidden_size=96, num_attention_heads=4, head_dim=16, intermediate_size=64)
    form, load = scheme_form(config, SCHEMES["int8"], torch.float32, torch.float32), Load(1, 640)
    sizes = [
        workspace_bytes(
            config,
            replace(form, formats=dict.fromkeys(form.formats, QuantFormat(8, group))),
            load,
            device="cpu",
            is_native=True,
            cache_bytes=0,
        ).activations
        for group in (16, 8)
    ]
    assert sizes[1] - sizes[0] == load.num_new * 96 // 16 * 3 * 4


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


def write_blocks(folder: Path, kind: T, *, tied: bool = False) -> Path:
    """A GGUF file with all of its matrices in one type of blocks."""
    weights = random_weights(tied=tied)
    types = {file_name_of(name, "seed_oss"): kind for name, values in weights.items() if values.ndim == 2}
    return write_gguf(folder / "model.gguf", Recipe(weights=weights, types=types))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", [*GROUPED_FORMATS, "F16", "F32"])
def test_a_gguf_file_is_planned_as_it_is_loaded(tmp_path: Path, kind: str, tied: bool) -> None:
    path = write_blocks(tmp_path, T[kind], tied=tied)
    model = SeedOssForCausalLM.from_pretrained(path)
    found = placed(path, **({} if kind in GROUPED_FORMATS else {"quantization": "none"}))
    assert found.weights.total == held_bytes(model)
    assert (found.weights.head == 0) == tied
    assert found.form == ("gguf" if kind in GROUPED_FORMATS else f"float{kind[1:]}")


def test_blocks_that_are_dequantized_are_counted_as_numbers(tmp_path: Path) -> None:
    path = write_blocks(tmp_path, T.IQ4_NL)
    with pytest.warns(UserWarning, match="IQ4_NL"):
        model = SeedOssForCausalLM.from_pretrained(path)
    assert placed(path).weights.total == held_bytes(model)


@pytest.mark.parametrize(("kind", "grows"), [("Q4_0", False), ("Q8_0", False), ("Q4_K", True), ("Q6_K", True)])
def test_growth_is_said(tmp_path: Path, kind: str, grows: bool) -> None:
    plan = seed_oss.plan(write_blocks(tmp_path, T[kind]), device="cpu", measure_speed=False)
    assert any("of weights, which take" in sentence for sentence in plan.advice) == grows


def test_a_gguf_file_in_blocks_is_not_quantized_again(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quantized already"):
        placed(write_blocks(tmp_path, T.Q4_0), quantization="int4")


def placed_on_cuda(folder: Path, **options: Any) -> Placement:
    """The only placement of a plan for a CUDA device that is not here."""
    (found,) = seed_oss.plan(folder, device="cuda", memory=2**34, measure_speed=False, **options).placements
    return found


def give_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU stand in for a device that multiplies 8-bit floating point."""
    for place in (float8, fp8):
        monkeypatch.setattr(place, "why_no_float8", lambda device: None)


@pytest.mark.parametrize(("tied", "inner"), [(False, 48), (True, 40)])
def test_fp8_takes_what_the_loaded_model_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool, inner: int
) -> None:
    shape = {"tie_word_embeddings": tied, "mlp_bias": tied, "intermediate_size": inner}
    folder = tiny_checkpoint(tmp_path / "plain", SeedOssForCausalLM, **shape)
    quantize_folder(folder, tmp_path / "packed", "fp8")
    asked, found = placed_on_cuda(folder, quantization="fp8"), placed_on_cuda(tmp_path / "packed")
    give_products(monkeypatch)
    model = SeedOssForCausalLM.from_pretrained(folder, quantization="fp8", device="cpu", dtype=asked_dtype(folder))
    held = {tensor.data_ptr(): tensor.nbytes for tensor in stored_tensors(model).values()}
    assert asked.weights.total == found.weights.total == sum(held.values())
    assert (asked.form, asked.quantization, found.form, found.quantization) == ("fp8", "fp8", "fp8", None)
    plain = placed_on_cuda(folder, quantization="none")
    assert asked.weights.layers < plain.weights.layers
    assert asked.workspace.activations > plain.workspace.activations


def asked_dtype(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["dtype"]


def test_fp8_on_a_cpu_is_planned_as_the_numbers_that_it_becomes(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "plain", SeedOssForCausalLM)
    quantize_folder(folder, tmp_path / "packed", "fp8")
    with pytest.warns(UserWarning, match="is in fp8"):
        model = SeedOssForCausalLM.from_pretrained(tmp_path / "packed", device="cpu")
    assert placed(tmp_path / "packed").weights.total == held_bytes(model)


def test_fp8_is_not_planned_where_nothing_multiplies_it(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, SeedOssForCausalLM)
    with pytest.raises(InputError, match=r"none is among cpu; plan for one with device='cuda' and memory=.*'int8'"):
        placed(folder, quantization="fp8")
