"""8-bit floating point. torch's scaled product also runs on the CPU, which stands in for a device that has it."""

from pathlib import Path
from typing import Any

import pytest
import torch

import seed_oss
from seed_oss import AutoModelForCausalLM, SeedOssForCausalLM
from seed_oss.errors import InputError, NumericalError, StateError
from seed_oss.nn.float8_linear import Float8Linear
from seed_oss.ops import float8
from seed_oss.ops.float8 import FLOAT8, check_float8, float8_linear, float8_linear_reference, round_to_float8
from tests.factory import random_ids, tiny_model

IDS = random_ids(2, 7)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def device_with_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "why_no_float8", lambda device: None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 32), (5, 32), (2, 3, 32)])
def test_product(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, bias = normal(*shape).to(dtype), normal(48, seed=1)
    weight, scale = round_to_float8(normal(48, 32, seed=2))
    out = float8_linear(x, weight, scale, bias)
    wanted = float8_linear_reference(x.float(), weight, scale, bias)
    assert out.dtype == dtype
    assert out.shape == (*shape[:-1], 48)
    assert (out.float() - wanted).abs().max() <= 2**-7 * wanted.abs().max()  # bfloat16 on the way
    assert float8_linear(x.new_empty(0, 32), weight, scale).shape == (0, 48)


def test_rounding() -> None:
    numbers = normal(6, 64) * torch.logspace(-20, 20, 6)[:, None]
    numbers[3] = 0
    rounded, scale = round_to_float8(numbers)
    assert rounded.dtype == FLOAT8
    assert torch.equal(rounded[3].float(), torch.zeros(64))
    again = rounded.float() * scale
    smallest = numbers.abs().amax(-1, keepdim=True) / 448 * 2**-9  # below the normal numbers of a row, steps are even
    assert ((again - numbers).abs() <= 2**-4 * numbers.abs() + smallest).all()
    assert torch.equal(again.abs().amax(-1) > 0, numbers.abs().amax(-1) > 0)


def test_what_is_no_number_stays_in_its_row() -> None:
    x = normal(3, 32)
    weight, scale = round_to_float8(normal(16, 32, seed=2))
    clean = float8_linear(x, weight, scale)
    for bad in (float("nan"), float("inf")):
        x[1, 5] = bad
        out = float8_linear(x, weight, scale)
        assert not out[1].isfinite().any()
        assert torch.equal(out[[0, 2]], clean[[0, 2]])


def test_gradients_of_the_input() -> None:
    x = normal(3, 32).requires_grad_()
    weight, scale = round_to_float8(normal(16, 32, seed=2))
    float8_linear(x, weight, scale).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, (weight.float() * scale).sum(0).expand(3, -1), atol=1e-5)


@pytest.mark.usefixtures("device_with_float8")
def test_a_model(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM)
    with torch.no_grad():
        wanted = model(IDS).logits
    done: list[int] = []
    assert seed_oss.quantize_(model, "fp8", advance=done.append) is model
    layers = [one for one in model.modules() if isinstance(one, Float8Linear)]
    assert len(layers) == len(done) == 3 * 7
    assert sum(done) == sum(one.packed.numel() for one in layers)
    with torch.no_grad():
        logits = model(IDS).logits
        assert torch.nn.functional.cosine_similarity(logits.flatten(), wanted.flatten(), dim=0) > 0.99
        assert not torch.equal(logits, wanted)
        assert model.bfloat16()(IDS).logits.dtype == torch.bfloat16
    assert all(one.scale.dtype == torch.float32 and one.packed.dtype == torch.uint8 for one in layers)
    assert model.generate(IDS, max_new_tokens=3).shape == (2, 10)
    with pytest.raises(StateError, match="quantized already"):
        seed_oss.quantize_(model, "int4")


@pytest.mark.usefixtures("device_with_float8")
def test_it_is_saved_as_the_numbers_that_it_stands_for_on_demand(tmp_path: Path) -> None:
    model = seed_oss.quantize_(tiny_model(SeedOssForCausalLM), "fp8")
    model.save_pretrained(tmp_path / "saved", dequantize=True)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    weights = {name: module.weight for name, module in model.named_modules() if isinstance(module, Float8Linear)}
    for name, weight in weights.items():
        assert torch.equal(again.get_parameter(name + ".weight"), weight.to(again.dtype))


@pytest.mark.usefixtures("device_with_float8")
def test_what_is_refused() -> None:
    model = tiny_model(SeedOssForCausalLM)
    with pytest.raises(InputError, match="leave it out"):
        seed_oss.quantize_(model, "fp8", calibration=IDS)
    odd = tiny_model(SeedOssForCausalLM, intermediate_size=40)
    with pytest.raises(InputError, match=r"mlp.gate_proj \[40, 32\]: rows and columns must be multiples of 16"):
        seed_oss.quantize_(odd, "fp8", strict=True)
    assert not any(isinstance(one, Float8Linear) for one in odd.modules())
    seed_oss.quantize_(odd, "fp8")
    assert sum(isinstance(one, Float8Linear) for one in odd.modules()) == 3 * 4
    broken = tiny_model(SeedOssForCausalLM)
    with torch.no_grad():
        broken.model.layers[1].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"layers.1.self_attn.q_proj.weight"):
        seed_oss.quantize_(broken, "fp8")


def test_a_device_without_it_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = tiny_model(SeedOssForCausalLM)
    with pytest.raises(StateError, match=r"compute capability 8.9 or newer, and the model is on cpu; .* 'int8'"):
        seed_oss.quantize_(model, "fp8")
    assert not any(isinstance(one, Float8Linear) for one in model.modules())
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(StateError, match=r"the device has compute capability 8\.6"):
        check_float8(device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_float8(device)
    with pytest.raises(InputError, match="and fp8, which is for CUDA devices"):
        seed_oss.quant.schemes.parse_scheme("float8")
