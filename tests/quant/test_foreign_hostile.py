"""Damaged and hostile files in foreign formats: a typed error, or what the bytes really say; never another number."""

from __future__ import annotations

import copy
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seed_oss.errors import ConfigError, SeedOssError
from seed_oss.quant.foreign import foreign_format
from seed_oss.quant.foreign_plan import ForeignFormat
from tests.quant.foreign_files import (
    awq_meaning,
    awq_tensors,
    block_meaning,
    gptq_meaning,
    gptq_tensors,
    integer_meaning,
    packed_meaning,
    random_numbers,
    tensor_of,
    words_of,
)
from tests.stopwatch import Stopwatch

OUT, IN, GROUP = 24, 64, 16
ASKED_FOR = {"qweight", "qzeros", "scales", "weight_packed", "weight_scale", "weight_scale_inv", "weight_zero_point"}
Meaning = Callable[[dict[str, Tensor]], np.ndarray]


def _packed_tensors() -> dict[str, Tensor]:
    numbers = random_numbers(OUT, IN, GROUP, seed=3)
    return {
        "weight_packed": tensor_of(words_of(numbers.q.T, 4)),
        "weight_scale": torch.from_numpy(numbers.scale.T.copy()),
        "weight_zero_point": tensor_of(words_of(numbers.zero, 4).T),
        "weight_shape": torch.tensor([OUT, IN]),
        "weight_g_idx": torch.randperm(IN, generator=torch.Generator().manual_seed(0)).int() // GROUP,
    }


def _integer_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randint(-128, 128, (OUT, IN), dtype=torch.int8, generator=generator),
        "weight_scale": torch.rand(OUT, 1, generator=generator).to(torch.bfloat16),
    }


def _block_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(OUT, IN, generator=generator).to(torch.float8_e4m3fn),
        "weight_scale_inv": torch.rand(3, 8, generator=generator).to(torch.bfloat16),
    }


def _compressed(format: str, **weights: Any) -> dict[str, Any]:
    group = {
        "targets": ["Linear"],
        "weights": {"type": "int", "observer": "minmax", **weights},
        "input_activations": None,
    }
    return {
        **{"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group}},
        **{"ignore": ["lm_head", "re:(a+)+$"], "quantization_status": "compressed", "kv_cache_scheme": None},
    }


FILES: dict[str, tuple[dict[str, Any], dict[str, Tensor], Meaning]] = {
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "desc_act": True, "damp_percent": 0.1},
        gptq_tensors(random_numbers(OUT, IN, GROUP, shuffled=True)),
        lambda tensors: gptq_meaning(tensors, group_size=GROUP),
    ),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True},
        awq_tensors(random_numbers(OUT, IN, GROUP)),
        lambda tensors: awq_meaning(tensors, group_size=GROUP),
    ),
    "packed": (
        _compressed(
            "pack-quantized", num_bits=4, group_size=GROUP, strategy="group", symmetric=False, actorder="group"
        ),
        _packed_tensors(),
        lambda tensors: packed_meaning(tensors, group_size=GROUP),
    ),
    "int8": (
        _compressed("int-quantized", num_bits=8, strategy="channel", symmetric=True),
        _integer_tensors(),
        integer_meaning,
    ),
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [8, 8], "activation_scheme": "dynamic", "fmt": "e4m3"},
        _block_tensors(),
        lambda tensors: block_meaning(tensors, block=8),
    ),
}


def read(format: ForeignFormat, tensors: dict[str, Tensor]) -> np.ndarray | None:
    """The weight of a module `m`; None where the plan is that it is not quantized."""
    stored = {f"m.{suffix}": tensor for suffix, tensor in tensors.items()}
    headers = {name: tensor.to("meta") for name, tensor in stored.items()}
    plan = format.plan("m", (OUT, IN), headers)
    return None if plan is None else plan.read(stored).dequantize().numpy()


@pytest.mark.parametrize("kind", FILES)
def test_undamaged(kind: str) -> None:
    config, tensors, meaning = FILES[kind]
    result = read(foreign_format(config), tensors)
    assert result is not None
    assert len(np.unique(result)) > 50
    assert np.array_equal(result, meaning(tensors))


DTYPES = [
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.int64,
    torch.float32,
    torch.float16,
    torch.bool,
    torch.float8_e5m2,
]


def flip_bits(tensor: Tensor, rng: random.Random) -> Tensor:
    data = bytearray(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for _ in range(rng.randint(1, 8) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return torch.frombuffer(data, dtype=tensor.dtype).view(tensor.shape) if data else tensor


def other_shape(tensor: Tensor, rng: random.Random) -> Tensor:
    kind = rng.randrange(6)
    if kind == 0:
        return tensor[: rng.randrange(len(tensor))] if tensor.dim() and len(tensor) else tensor
    if kind == 1:
        return torch.cat((tensor.view(torch.uint8), tensor.view(torch.uint8))).view(tensor.dtype)
    if kind == 2:
        return tensor.flatten()
    if kind == 3:
        return tensor[None]
    if kind == 4:
        return tensor.T.contiguous() if tensor.dim() == 2 else tensor[:, None]
    return tensor.flatten()[0].expand(1 << 20, 1 << 20)  # 4 TiB by its shape, a few bytes in truth


def poison(tensor: Tensor, rng: random.Random) -> Tensor:
    changed = tensor.clone().flatten()
    if not changed.numel():
        return changed
    values = [float("nan"), float("inf"), -float("inf")] if tensor.is_floating_point() else [-1, 127, 3, 0, 64]
    changed[rng.randrange(changed.numel())] = rng.choice(values)
    return changed.view(tensor.shape)


def damage(tensors: dict[str, Tensor], rng: random.Random) -> dict[str, Tensor]:
    """The tensors with one or two things wrong."""
    result = dict(tensors)
    for _ in range(rng.randint(1, 2)):
        if not result:
            return result
        name = rng.choice(list(result))
        kind = rng.choice(["bits", "bits", "shape", "dtype", "value", "drop", "move", "stray"])
        if kind == "drop":
            del result[name]
        elif kind == "move":
            result[rng.choice(["weight", "scales", "g_idx", "bitmask"])] = result.pop(name)
        elif kind == "stray":
            result[rng.choice(["weight", "qweight", "weight_g_idx", "weight_zero_point"])] = torch.zeros(OUT, IN)
        elif kind == "dtype":
            result[name] = result[name].flatten()[:64].float().to(rng.choice(DTYPES)).expand(1, -1)
        else:
            change = {"bits": flip_bits, "shape": other_shape, "value": poison}[kind]
            result[name] = change(result[name], rng) if result[name].numel() < 1 << 30 else result[name]
    return result


@pytest.mark.parametrize("kind", FILES)
def test_damaged_tensors(kind: str) -> None:
    config, tensors, meaning = FILES[kind]
    format, rng, outcomes = foreign_format(config), random.Random(kind), Counter[str]()
    messages: list[str] = []
    for _ in range(250):
        damaged = damage(tensors, rng)
        with Stopwatch(time.perf_counter) as spent:
            try:
                result = read(format, damaged)
            except SeedOssError as error:
                outcomes["refused"] += 1
                messages.append(str(error))
            else:
                outcomes["not quantized" if result is None else "read"] += 1
                if result is None:  # its tensors are gone, or one of plain floats hides under the name of the weight
                    assert not ASKED_FOR & damaged.keys() - {"weight"}
                else:
                    assert np.array_equal(result, meaning(damaged).astype(np.float32))
        assert spent.seconds < 2
    assert all(20 < len(message) < 2000 for message in messages)
    assert outcomes["refused"] > 50
    assert outcomes["read"] > 20


BOMB = "re:(a+)+$"
DEEP: list[Any] = []
for _ in range(60):
    DEEP = [DEEP]
HOSTILE = [
    *(None, True, False, -1, 0, 1, 3, 7, 2**31, 10**40, -(10**5000), 0.5, float("nan"), float("inf"), "", "x" * 5000),
    *("4", BOMB, "\x1b[2J", "\ud800", [], {}, [None], [BOMB] * 3, {"bits": 4}, {"": {}}, DEEP, {"a": DEEP}, [[8, 8]]),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(value, dict):
        return [path]
    return [path, *(place for key, item in value.items() for place in places(item, (*path, key)))]


def changed_config(config: dict[str, Any], rng: random.Random) -> Any:
    """One field replaced, removed, renamed or added."""
    result = copy.deepcopy(config)
    path = rng.choice(places(config)[1:])
    parent = result
    for key in path[:-1]:
        parent = parent[key]
    kind = rng.choice(["replace", "replace", "replace", "drop", "rename", "add"])
    if kind == "replace":
        parent[path[-1]] = rng.choice(HOSTILE)
    elif kind == "add":
        parent[rng.choice(["rotation", "weights", "dynamic", "extra_config", "bits ", "\ud800", ""])] = rng.choice(
            HOSTILE
        )
    else:
        value = parent.pop(path[-1])
        if kind == "rename":
            parent[f"{path[-1]}s"] = value
    return result


@pytest.mark.parametrize("kind", FILES)
def test_changed_configs(kind: str) -> None:
    """No change here means other numbers by right: what is still read is what was written."""
    config, tensors, meaning = FILES[kind]
    expected, rng, outcomes = meaning(tensors), random.Random(kind), Counter[str]()
    messages: list[str] = []
    for _ in range(300):
        changed = changed_config(config, rng)
        with Stopwatch(time.perf_counter) as spent:
            try:
                result = read(foreign_format(changed), tensors)
            except SeedOssError as error:
                outcomes[type(error).__name__] += 1
                messages.append(str(error))
            else:
                outcomes["read"] += 1
                assert result is not None
                assert np.array_equal(result, expected), changed
        assert spent.seconds < 2
    assert all(20 < len(message) < 1000 and "\x1b" not in message for message in messages)
    assert outcomes["read"] > 20
    assert outcomes["ConfigError"] > 50
    assert outcomes["UnsupportedModelError"] > 20


def test_many_fields() -> None:
    with pytest.raises(ConfigError, match="has 100000 keys; at most 4096"):
        foreign_format({str(key): None for key in range(100_000)})
    many = {"quant_method": "gptq", "bits": 4, "dynamic": {f"+:{BOMB}{key}": {"bits": 8} for key in range(4_000)}}
    with Stopwatch(time.perf_counter) as spent:
        format = foreign_format(many)
        for layer in range(500):
            assert format.plan(f"model.layers.{layer}.mlp.up_proj", (OUT, IN), {}) is None
    assert spent.seconds < 2
    assert len(format.layouts) == 2
