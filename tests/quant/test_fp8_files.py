"""8-bit floating point in files: what is written, what it is loaded as on either kind of device, what is refused."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from seed_oss import SeedOssForCausalLM, SeedOssForSequenceClassification, quantize_
from seed_oss.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    NumericalError,
    SeedOssError,
    StateError,
    UnsupportedModelError,
)
from seed_oss.models import pretrained
from seed_oss.models import quantized_shards as module
from seed_oss.models.quantize_calibrated import quantize_calibrated
from seed_oss.models.quantize_folder import quantize_folder
from seed_oss.nn.float8_linear import Float8Linear
from seed_oss.ops import float8
from seed_oss.quant import fp8
from tests.factory import random_ids, tiny_checkpoint, tiny_model

IDS = random_ids(2, 9)
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Stop(BaseException):
    """A kill, as far as the code sees one."""


def give_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's scaled product also runs on the CPU, which stands in for a device that has it."""
    for place in (float8, fp8):
        monkeypatch.setattr(place, "why_no_float8", lambda device: None)


@pytest.fixture
def device_with_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    give_products(monkeypatch)


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "plain", SeedOssForCausalLM, tie_word_embeddings=request.param)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    source = tiny_checkpoint(tmp_path / "in", SeedOssForCausalLM)
    return quantize_folder(source, tmp_path / "saved", "fp8")


def load(folder: Path, **kwargs: Any) -> Any:
    return SeedOssForCausalLM.from_pretrained(folder, device="cpu", **kwargs)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def record_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def change_record(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))


def assert_same(one: Any, other: Any) -> None:
    first, second = one.state_dict(packed=True), other.state_dict(packed=True)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name].float(), second[name].float())] == []
    assert one.config.quantization_config == other.config.quantization_config


def test_the_bits_of_the_file(plain: Path, tmp_path: Path) -> None:
    """Against torch's own cast, with the rule of docs/quantization.md: a row's largest magnitude becomes 448."""
    quantize_folder(plain, tmp_path / "out", "fp8")
    before, after = load_file(plain / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    chosen = [name for name in before if name.split(".")[-2] in LAYERS and name.endswith(".weight")]
    assert len(chosen) == 3 * 7
    for name in chosen:
        numbers = before.pop(name)
        packed, scale = (after.pop(name.removesuffix("weight") + part) for part in ("packed", "scale"))
        largest = numbers.abs().max(dim=1, keepdim=True).values
        assert torch.equal(scale, largest / 448)
        wanted = (numbers * (448 / largest)).to(torch.float8_e4m3fn)
        assert packed.dtype == torch.float8_e4m3fn
        assert torch.equal(packed.view(torch.uint8), wanted.view(torch.uint8))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    record = record_in(tmp_path / "out")
    assert (record["format"], record["version"], record["scheme"]) == ("seed_oss", 2, "fp8")
    assert record["numbers"] == "float8_e4m3fn"
    assert set(record["kept"]) == {"lm_head", "model.embed_tokens"}
    assert record["shapes"]["q_proj"] == [before["model.layers.0.self_attn.q_proj.bias"].shape[0], 32]


@pytest.mark.usefixtures("device_with_float8")
def test_the_files_are_those_of_quantizing_in_memory(plain: Path, tmp_path: Path) -> None:
    quantize_folder(plain, tmp_path / "out", "fp8")
    quantize_(load(plain), "fp8").save_pretrained(tmp_path / "memory")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "memory")


@pytest.mark.usefixtures("device_with_float8")
def test_on_a_device_with_products(plain: Path, tmp_path: Path) -> None:
    model = load(plain, quantization="FP8")
    assert_same(model, quantize_(load(plain), "fp8"))
    assert sum(isinstance(one, Float8Linear) for one in model.modules()) == 3 * 7
    assert not any(one.requires_grad for one in model.parameters())
    assert model.num_parameters() == load(plain).num_parameters()
    model.save_pretrained(tmp_path / "again", max_shard_size="10KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 3
    for kwargs in ({}, {"quantization": "fp8"}):  # what it is already
        again = load(tmp_path / "again", **kwargs)
        assert_same(model, again)
        assert torch.equal(logits(model), logits(again))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == model.config.tie_word_embeddings
    half = load(tmp_path / "again", dtype="bfloat16")
    assert half.model.norm.weight.dtype == torch.bfloat16
    assert half.model.layers[0].mlp.up_proj.scale.dtype == torch.float32
    assert logits(half).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_device_without_products(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    quantize_folder(plain, tmp_path / "out", "fp8")
    with pytest.warns(UserWarning, match=rf"is in fp8, which cpu does not multiply.* now {dtype}") as noted:
        model = load(tmp_path / "out", dtype=dtype)
    assert [one.filename for one in noted] == [__file__]
    assert "quantization_config" not in model.config
    assert not any(isinstance(one, Float8Linear) for one in model.modules())
    state = model.state_dict()
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for name in [name.removesuffix(".packed") for name in stored if name.endswith(".packed")]:
        numbers = stored[f"{name}.packed"].float() * stored[f"{name}.scale"]
        assert torch.equal(state[f"{name}.weight"], numbers.to(getattr(torch, dtype)))
    assert {value.dtype for value in state.values()} == {getattr(torch, dtype)}
    assert logits(model).isfinite().all()
    model.save_pretrained(tmp_path / "numbers")
    assert torch.equal(logits(load(tmp_path / "numbers", dtype=dtype)), logits(model))


def test_the_automatic_device_decides_what_becomes_of_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the accelerator multiplies such numbers and has no room for them, the CPU gets plain ones."""
    monkeypatch.setattr(pretrained, "_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(fp8, "why_no_float8", lambda device: None if device.type == "cuda" else "no products")
    wanted: list[int] = []

    def on_the_cpu(num_bytes: int, *_: Any) -> torch.device:
        wanted.append(num_bytes)
        return torch.device("cpu")

    monkeypatch.setattr(pretrained, "automatic_device", on_the_cpu)
    with pytest.warns(UserWarning, match="which cpu does not multiply"):
        model = SeedOssForCausalLM.from_pretrained(saved, device_map="auto")
    assert not any(isinstance(one, Float8Linear) for one in model.modules())
    assert wanted[0] < sum(one.numel() * one.element_size() for one in model.parameters())


def test_asking_for_it_without_products_stops_before_anything_is_opened(tmp_path: Path) -> None:
    for device in ("cpu", "auto", None):
        with pytest.raises(StateError, match=r"capability 8\.9 or newer, .*'int8', which runs everywhere"):
            SeedOssForCausalLM.from_pretrained(tmp_path / "nothing here", quantization="fp8", device=device)


@pytest.mark.usefixtures("device_with_float8")
def test_state_dicts(plain: Path, tmp_path: Path) -> None:
    original, model = load(plain), load(plain, quantization="fp8")
    state, packed = model.state_dict(), model.state_dict(packed=True)
    assert set(state) == set(original.state_dict())
    name = "model.layers.0.mlp.up_proj"
    assert packed[f"{name}.packed"].dtype == torch.float8_e4m3fn
    assert packed[f"{name}.packed"].data_ptr() == model.get_submodule(name).packed.data_ptr()
    assert f"{name}.weight" not in packed
    assert torch.equal(state[f"{name}.weight"], packed[f"{name}.packed"].float() * packed[f"{name}.scale"])
    with pytest.raises(StateError, match="takes no state dict"):
        model.load_state_dict(original.state_dict())
    model.save_pretrained(tmp_path / "numbers", dequantize=True)
    again = load(tmp_path / "numbers")
    assert "quantization_config" not in again.config
    assert [name for name, value in again.state_dict().items() if not torch.equal(value, state[name])] == []


def test_another_head_bfloat16_and_widths_that_do_not_fit(tmp_path: Path) -> None:
    source = tmp_path / "in"
    tiny_model(SeedOssForSequenceClassification, intermediate_size=40).to(torch.bfloat16).save_pretrained(source)
    quantize_folder(source, tmp_path / "out", "fp8")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored["score.weight"].dtype == torch.bfloat16
    assert sum(name.endswith(".packed") for name in stored) == 3 * 4
    assert "model.layers.1.mlp.up_proj" in record_in(tmp_path / "out")["kept"]
    numbers = load_file(source / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"].float()
    assert torch.equal(stored["model.layers.0.self_attn.q_proj.scale"], numbers.abs().amax(1, keepdim=True) / 448)
    with pytest.warns(UserWarning, match="is in fp8"):
        SeedOssForSequenceClassification.from_pretrained(tmp_path / "out", device="cpu")
    with pytest.raises(InputError, match=r"mlp.gate_proj \[40, 32\]: rows and columns"):
        quantize_folder(source, tmp_path / "strict", "fp8", strict=True)


def test_stopped_anywhere_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_checkpoint(tmp_path / "in", SeedOssForCausalLM)
    quantize_folder(source, tmp_path / "whole", "fp8", max_shard_size="4KB")
    made: list[str] = []
    original = module._tensor

    def counted(work: Any, name: str) -> torch.Tensor:
        made.append(name)
        if len(made) == stops[0]:
            raise Stop
        return original(work, name)

    monkeypatch.setattr(module, "_tensor", counted)
    stops = [9, 10, 0]  # between a weight and its scales, too; then not at all
    while stops[0]:
        with pytest.raises(Stop):
            quantize_folder(source, tmp_path / "out", "fp8", max_shard_size="4KB")
        assert not (tmp_path / "out").exists()
        made.clear()
        del stops[0]
    done: list[tuple[int, int]] = []
    quantize_folder(source, tmp_path / "out", "fp8", max_shard_size="4KB", progress=lambda *at: done.append(at))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    stored = sum(tensor.nbytes for tensor in load_file(source / "model.safetensors").values())
    assert done[-1] == (stored, stored)
    assert all(first <= second for (first, _), (second, _) in pairwise(done))


def test_damaged_sources_and_calibration(tmp_path: Path, saved: Path) -> None:
    model = tiny_model(SeedOssForCausalLM)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 4] = torch.inf
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(NumericalError, match=r"layers\.2\.mlp\.up_proj\.weight has NaN or infinity"):
        quantize_folder(tmp_path / "broken", tmp_path / "out", "fp8")
    with pytest.raises(InputError, match="rounds without it"):
        quantize_calibrated(tmp_path / "broken", tmp_path / "out", "fp8", "a text")
    for scheme in ("fp8", "int4"):
        with pytest.raises(InputError, match="quantized already"):
            quantize_folder(saved, tmp_path / "out", scheme)
    with pytest.raises(InputError, match=r"'int8', and .* is quantized already \('fp8'\)"):
        load(saved, quantization="int8")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda record: record.update(version=3), UnsupportedModelError, "version is 3; this release reads 2"),
        (lambda record: record.update(version=1), UnsupportedModelError, "version is 1"),
        (lambda record: record.update(numbers="float8_e5m2"), ConfigError, "must be float8_e4m3fn"),
        (lambda record: record.pop("kept"), ConfigError, "has no kept"),
        (lambda record: record.update(weights={}), ConfigError, "unknown field"),
        (lambda record: record["kept"].clear(), CheckpointError, "is not quantized, and config.json does not say so"),
        (lambda record: record["shapes"].update(up_proj=[48, 64]), CheckpointError, "the model needs"),
        (lambda record: record["shapes"].update(up_proj=[48]), ConfigError, "shapes"),
        (lambda record: record.update(scheme="int4", version=1), ConfigError, "quantization_config"),
    ],
)
def test_records_that_do_not_fit(saved: Path, change: Any, error: type[SeedOssError], message: str) -> None:
    change_record(saved, change)
    with pytest.raises(error, match=message):
        load(saved)


def test_older_releases_refuse_it_by_its_version(saved: Path) -> None:
    from seed_oss.quant.record import QuantizationRecord

    with pytest.raises(UnsupportedModelError, match="version is 2; this release reads 1"):
        QuantizationRecord.from_config(record_in(saved))


def damaged(folder: Path, **changed: torch.Tensor | None) -> None:
    """Exchange tensors of the first layer's up_proj; None leaves one out."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for part, tensor in changed.items():
        del tensors[f"model.layers.0.mlp.up_proj.{part}"]
        if tensor is not None:
            tensors[f"model.layers.0.mlp.up_proj.{part}"] = tensor
    save_file(tensors, file, metadata={"format": "pt"})


def of_up_proj(folder: Path, part: str) -> torch.Tensor:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return file.get_tensor(f"model.layers.0.mlp.up_proj.{part}")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("scale", lambda found: None, "up_proj.scale is missing"),
        ("scale", lambda found: found.bfloat16(), "up_proj.scale is torch.bfloat16"),
        ("scale", lambda found: found[:, 0].clone(), "up_proj.scale is torch.float32"),
        ("scale", lambda found: found * torch.nan, "up_proj.scale holds NaN"),
        ("scale", lambda found: -found, "up_proj.scale holds NaN, infinity or negative"),
        ("scale", lambda found: torch.full_like(found, 3e38), "up_proj.scale makes numbers beyond torch.float32"),
        ("packed", lambda found: found.view(torch.uint8), "up_proj.packed is torch.uint8"),
        ("packed", lambda found: found[:16].clone(), "up_proj.packed is torch.float8_e4m3fn"),
        ("packed", lambda found: (found.float() * torch.nan).to(found.dtype), "up_proj.packed holds NaN"),
        ("packed", lambda found: None, "up_proj"),
    ],
)
def test_files_that_are_damaged(saved: Path, part: str, change: Any, message: str) -> None:
    damaged(saved, **{part: change(of_up_proj(saved, part))})
    with pytest.raises(CheckpointError, match=message):
        load(saved)


def test_numbers_that_the_dtype_does_not_hold(saved: Path) -> None:
    damaged(saved, scale=torch.full_like(of_up_proj(saved, "scale"), 1e4))
    with pytest.raises(CheckpointError, match=r"up_proj.scale makes numbers beyond torch\.float16"):
        load(saved, dtype="float16")


@pytest.mark.usefixtures("device_with_float8")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1.0, 3e38])
def test_damaged_scales_on_a_device_with_products(saved: Path, value: float) -> None:
    damaged(saved, scale=torch.full_like(of_up_proj(saved, "scale"), value))
    with pytest.raises(CheckpointError, match=r"up_proj.scale holds NaN, infinity, negative"):
        load(saved)


def test_a_weight_beside_what_stands_for_it(saved: Path, plain: Path) -> None:
    """Which of the two is meant cannot be known."""
    for folder, part in ((saved, "weight"), (plain, "packed")):
        file, name = folder / "model.safetensors", f"model.layers.0.mlp.up_proj.{part}"
        save_file({**load_file(file), name: torch.ones(48, 32)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"up_proj.weight is stored beside .*up_proj.packed, .*up_proj.scale"):
        load(saved)
    with pytest.raises(CheckpointError, match=r"up_proj.packed is stored beside .*up_proj.weight"):
        load(plain, quantization="int8")
