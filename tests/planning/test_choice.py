"""Where `device_map="auto"` puts a model."""

import warnings

import pytest
import torch

from seed_oss import SeedOssForCausalLM
from seed_oss.errors import InputError
from seed_oss.planning import choice, devices
from seed_oss.planning.choice import choose_device, default_load
from seed_oss.planning.devices import DeviceMemory
from seed_oss.planning.model import NAMED_SHAPES
from seed_oss.planning.placing import Candidate, place
from seed_oss.planning.weights import plain_form
from tests.factory import tiny_config, tiny_model

GIB = 2**30
CONFIG = tiny_config(**NAMED_SHAPES["36b"])
WEIGHTS = plain_form(CONFIG, torch.bfloat16).weights.total


def gpu(free: int, name: str = "cuda:0") -> DeviceMemory:
    return DeviceMemory(name, free)


def cpu(free: int) -> DeviceMemory:
    return DeviceMemory("cpu", free)


def needed_on(device: DeviceMemory) -> int:
    return place(Candidate(CONFIG, plain_form(CONFIG, torch.bfloat16)), device, default_load(CONFIG), None).total_bytes


def test_an_accelerator_that_holds_the_plan_is_taken():
    needed = needed_on(gpu(0))
    assert WEIGHTS < needed
    assert choose_device(WEIGHTS, CONFIG, devices=[gpu(needed), cpu(10 * needed)]) == torch.device("cuda:0")


def test_the_next_accelerator_is_taken_where_the_first_is_too_full():
    found = [gpu(GIB), gpu(needed_on(gpu(0)), "cuda:1"), cpu(0)]
    assert choose_device(WEIGHTS, CONFIG, devices=found) == torch.device("cuda:1")


def test_weights_alone_are_not_enough_for_an_accelerator():
    found = [gpu(needed_on(gpu(0)) - 1), cpu(WEIGHTS)]
    with pytest.warns(UserWarning, match=r"67\.3 GiB.* cuda:0: loading onto the CPU"):
        assert choose_device(WEIGHTS, CONFIG, devices=found) == torch.device("cpu")


def test_without_accelerators_there_is_nothing_to_say():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_device(WEIGHTS, devices=[cpu(WEIGHTS)]) == torch.device("cpu")


@pytest.mark.parametrize(
    ("free", "remedy"),
    [(40 * GIB, "quantization='int8'"), (22 * GIB, "quantization='int4' they take 20.2 GiB"), (GIB, "seed-oss plan")],
)
def test_what_fits_nowhere_is_refused_with_what_would(free: int, remedy: str):
    with pytest.raises(InputError, match=remedy):
        choose_device(WEIGHTS, CONFIG, devices=[gpu(GIB), cpu(free)])


def test_a_quantized_checkpoint_is_not_told_to_quantize():
    config = CONFIG.copy()
    config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(InputError, match="smaller dtype"):
        choose_device(WEIGHTS, config, devices=[cpu(22 * GIB)])


def test_quantized_weights_need_room_for_their_products():
    device = gpu(8 * GIB)
    plain, quantized = (choice._working_bytes(size, CONFIG, torch.bfloat16, device) for size in (WEIGHTS, WEIGHTS // 3))
    assert quantized > plain + CONFIG.vocab_size * CONFIG.hidden_size


def test_memory_that_is_unknown_stops_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "memory_bytes", lambda: (None, None))
    monkeypatch.setattr(devices, "cuda_names", list)
    assert choose_device(10**15) == torch.device("cpu")


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
