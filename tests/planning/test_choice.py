"""Where `device_map="auto"` puts a model."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

import seed_oss
from seed_oss import SeedOssForCausalLM
from seed_oss.errors import InputError
from seed_oss.planning import devices
from seed_oss.planning.choice import choose_device, default_load
from seed_oss.planning.devices import DeviceMemory
from seed_oss.planning.model import NAMED_SHAPES, PlannedModel
from seed_oss.planning.placing import Candidate, place
from seed_oss.planning.weights import plain_form, scheme_form
from seed_oss.quant.schemes import SCHEMES
from seed_oss.weights.source import TensorSpec
from tests.factory import tiny_checkpoint, tiny_config, tiny_model
from tests.quant.gguf_factory import Recipe, file_name_of, random_weights, write_gguf

GIB = 2**30
Q8_0 = GGMLQuantizationType.Q8_0
CONFIG = tiny_config(**NAMED_SHAPES["36b"])
MODEL = PlannedModel("36b", CONFIG, {})
CANDIDATE = Candidate(CONFIG, plain_form(CONFIG, torch.bfloat16))
WEIGHTS = CANDIDATE.form.weights.total
STORED = {"model.norm.weight": TensorSpec(torch.bfloat16, (CONFIG.hidden_size,))}


def gpu(free: int, name: str = "cuda:0") -> DeviceMemory:
    return DeviceMemory(name, free)


def cpu(free: int) -> DeviceMemory:
    return DeviceMemory("cpu", free)


def needed_on(device: DeviceMemory) -> int:
    return place(CANDIDATE, device, default_load(CONFIG), None).total_bytes


def test_an_accelerator_that_holds_the_plan_is_taken():
    needed = needed_on(gpu(0))
    assert WEIGHTS < needed
    assert choose_device(WEIGHTS, MODEL, devices=[gpu(needed), cpu(10 * needed)]) == torch.device("cuda:0")


def test_the_next_accelerator_is_taken_where_the_first_is_too_full():
    found = [gpu(GIB), gpu(needed_on(gpu(0)), "cuda:1"), cpu(0)]
    assert choose_device(WEIGHTS, MODEL, devices=found) == torch.device("cuda:1")


def test_weights_alone_are_not_enough_for_an_accelerator():
    found = [gpu(needed_on(gpu(0)) - 1), cpu(needed_on(cpu(0)))]
    with pytest.warns(UserWarning, match=r"67\.3 GiB.* cuda:0: loading onto the CPU"):
        assert choose_device(WEIGHTS, MODEL, devices=found) == torch.device("cpu")


def test_a_plan_that_fits_on_the_cpu_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_device(WEIGHTS, MODEL, devices=[cpu(needed_on(cpu(0)))]) == torch.device("cpu")


def test_on_the_cpu_a_shorter_context_that_fits_is_said():
    short = needed_on(cpu(0)) - 2**20
    longest = place(CANDIDATE, cpu(short), default_load(CONFIG), None).longest_context
    assert 1 < longest < 4096
    with pytest.warns(UserWarning, match=rf"with 4,096 tokens.*up to {longest:,} tokens fits"):
        assert choose_device(WEIGHTS, MODEL, devices=[cpu(short)]) == torch.device("cpu")


def test_weights_alone_are_not_enough_for_the_cpu():
    with pytest.raises(InputError, match=r"the weights take 67\.3 GiB and with 4,096 tokens .* 67\.3 GiB on cpu"):
        choose_device(WEIGHTS, MODEL, devices=[cpu(WEIGHTS)])


@pytest.mark.parametrize(
    ("free", "remedy"),
    [
        (42 * GIB, "quantization='int8'"),
        (27 * GIB, "quantization='int4' 2"),
        (24 * GIB, "quantization='int4"),
        (GIB, "seed-oss plan"),
    ],
)
def test_what_fits_nowhere_is_refused_with_what_would(free: int, remedy: str):
    with pytest.raises(InputError, match=remedy):
        choose_device(WEIGHTS, MODEL, devices=[gpu(GIB), cpu(free)])


def test_what_quantizing_takes_on_the_way_counts():
    scheme = SCHEMES["int4"]
    planned = scheme_form(CONFIG, scheme, torch.float32, torch.bfloat16)
    needed = place(Candidate(CONFIG, planned, "int4"), cpu(0), default_load(CONFIG), None).total_bytes
    size = planned.weights.total
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_device(size, MODEL, scheme, torch.float32, devices=[cpu(needed)]) == torch.device("cpu")
    with pytest.warns(UserWarning, match="a context of up to"):
        choose_device(size, MODEL, scheme, torch.float32, devices=[cpu(needed - 1)])
    with pytest.raises(InputError, match="device='cpu' insists"):
        choose_device(size, MODEL, scheme, torch.float32, devices=[cpu(size + planned.loading_bytes)])


def test_a_quantized_checkpoint_is_not_told_to_quantize():
    config = CONFIG.copy()
    config.quantization_config = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    with pytest.raises(InputError, match="smaller dtype"):
        choose_device(WEIGHTS, PlannedModel("36b", config, STORED), devices=[cpu(22 * GIB)])


def test_memory_that_is_unknown_stops_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "memory_bytes", lambda: (None, None))
    monkeypatch.setattr(devices, "cuda_names", list)
    assert choose_device(10**15, MODEL) == torch.device("cpu")


def test_the_current_accelerator_comes_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "cuda_names", lambda: ["cuda:0", "cuda:1"])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB, 2 * GIB))
    assert [device.name for device in devices.devices_here()] == ["cuda:1", "cuda:0", "cpu"]


def test_from_pretrained_asks_the_planner(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "memory_bytes", lambda: (GIB, 1000))
    monkeypatch.setattr(devices, "cuda_names", list)
    with pytest.raises(InputError, match="device='cpu' insists"):
        SeedOssForCausalLM.from_pretrained(
            None, config=tiny_config(), state_dict=tiny_model(SeedOssForCausalLM).state_dict(), device_map="auto"
        )


def write_packed(folder: Path) -> Path:
    plain = tiny_checkpoint(folder / "plain", SeedOssForCausalLM)
    SeedOssForCausalLM.from_pretrained(plain, quantization="int4").save_pretrained(folder / "packed")
    return folder / "packed"


def write_blocks(folder: Path) -> Path:
    weights = random_weights(tied=False)
    types = {file_name_of(name, "seed_oss"): Q8_0 for name, values in weights.items() if values.ndim == 2}
    return write_gguf(folder / "model.gguf", Recipe(weights=weights, types=types))


def write_halves(folder: Path) -> Path:
    tiny_model(SeedOssForCausalLM).bfloat16().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("write", "quantization"),
    [(write_halves, None), (write_halves, "int4"), (write_packed, None), (write_blocks, None)],
    ids=["plain", "int4 on the way", "packed", "gguf"],
)
def test_from_pretrained_needs_what_the_plan_says_and_not_a_byte_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path], quantization: str | None
):
    saved = write(tmp_path)
    plan = seed_oss.plan(saved, device="cpu", measure_speed=False, quantization=quantization)
    needed, free = plan.placements[0].total_bytes, []
    monkeypatch.setattr(devices, "memory_bytes", lambda: (free[-1], free[-1]))
    monkeypatch.setattr(devices, "cuda_names", list)
    free.append(needed)
    SeedOssForCausalLM.from_pretrained(saved, device_map="auto", quantization=quantization)
    free.append(needed - 1)
    with pytest.warns(UserWarning, match="a context of up to"):
        SeedOssForCausalLM.from_pretrained(saved, device_map="auto", quantization=quantization)
