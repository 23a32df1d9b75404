"""Adapter files that somebody else made: what does not fit is refused, with file and remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seed_oss.errors import CheckpointError, MissingFileError, SeedOssError, UnsafeFileError, UnsupportedModelError
from seed_oss.weights.lora import read_lora
from tests.factory import tiny_config
from tests.lora import saved

FITTING = tiny_config(head_dim=16, hidden_size=64)
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{PREFIX}.lora_A.weight", f"{PREFIX}.lora_B.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path / "adapter", 1)[0]


def with_config(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def with_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"peft_type": "PREFIX_TUNING"}, UnsupportedModelError, "only 'LORA' is served.*merge"),
        ({"use_dora": True}, UnsupportedModelError, "'use_dora' is True, which is not served.*merge"),
        ({"bias": "all"}, UnsupportedModelError, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedModelError, "modules_to_save"),
        ({"fan_in_fan_out": True}, UnsupportedModelError, "fan_in_fan_out"),
        ({"trainable_token_indices": [1]}, UnsupportedModelError, "trainable_token_indices"),
        ({"a_setting_of_tomorrow": 3}, UnsupportedModelError, "a_setting_of_tomorrow"),
        ({"init_lora_weights": "pissa"}, UnsupportedModelError, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": {}}, UnsupportedModelError, "init_lora_weights"),
        ({"rank_pattern": {"(a+)+$": 2}}, UnsupportedModelError, "no regular expressions"),
        ({"rank_pattern": {"q_proj": 0}}, CheckpointError, "from 1 to 1024"),
        ({"rank_pattern": [1]}, CheckpointError, "must map module names"),
        ({"alpha_pattern": {"q_proj": "2"}}, CheckpointError, "must be a number"),
        ({"r": 10**9}, CheckpointError, "from 1 to 1024"),
        ({"r": True}, CheckpointError, "r is True"),
        ({"r": 5}, CheckpointError, r"lora_A is \[4, .*rank 5"),
        ({"lora_alpha": 1e300}, CheckpointError, "lora_alpha"),
        ({"use_rslora": "yes"}, CheckpointError, "true or false"),
        ({"target_modules": None}, CheckpointError, "must be a list"),
        ({"target_modules": ["q_proj"]}, CheckpointError, "not among target_modules"),
    ],
    ids=str,
)
def test_settings_that_are_refused(folder: Path, fields: dict[str, Any], kind: type[SeedOssError], said: str) -> None:
    with_config(folder, **fields)
    with pytest.raises(kind, match=said) as caught:
        read_lora(folder, FITTING)
    assert str(folder) in str(caught.value)


def test_other_targets_are_refused_by_name(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, 1, target_modules=["q_proj", "lm_head"])
    with pytest.raises(UnsupportedModelError, match=r"lm_head.*q_proj, k_proj"):
        read_lora(folder, FITTING)
    with_tensors(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "lm_head" in name])
    with pytest.raises(UnsupportedModelError, match=r"target_modules names 'lm_head'"):
        read_lora(folder, FITTING)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(A), "has not both"),
        (lambda tensors: (tensors.pop(A), tensors.pop(B)), r"layers\.0\.self_attn\.q_proj is missing"),
        (lambda tensors: tensors.clear(), "no tensor"),
        (lambda tensors: tensors.update({A: torch.zeros(4, 63)}), r"is \[4, 63\].*another model"),
        (lambda tensors: tensors.update({B: torch.zeros(128, 5)}), r"lora_B is \[128, 5\]"),
        (lambda tensors: tensors.update({A: torch.zeros(4, 64, dtype=torch.int64)}), "is I64"),
        (lambda tensors: tensors.update({A: torch.full((4, 64), float("nan"))}), "NaN"),
        (lambda tensors: tensors.update({A.replace("layers.0", "layers.7"): torch.zeros(4, 64)}), "has not both"),
        (lambda tensors: tensors.update({PREFIX + ".lora_magnitude_vector": torch.zeros(4)}), "is no lora_A"),
        (
            lambda tensors: tensors.update({A.replace("model.model.model", "model.model"): tensors[A] * 2}),
            "two tensors",
        ),
    ],
    ids=["no A", "a module less", "nothing", "columns", "rank", "dtype", "nan", "lonely", "dora", "twice"],
)
def test_tensors_that_do_not_fit(folder: Path, change: Any, said: str) -> None:
    with_tensors(folder, change)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_lora(folder, FITTING)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("more", [{"num_hidden_layers": 2}, {"intermediate_size": 64}])
def test_an_adapter_of_another_model(folder: Path, more: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match="for another model"):
        read_lora(folder, tiny_config(head_dim=16, hidden_size=64, **more))


def test_files_that_are_none(folder: Path) -> None:
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole = weights.read_bytes()
    for data in (b"", whole[:-1], b"\x80\x04pickle" * 9, whole + b"x"):
        weights.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors"):
            read_lora(folder, FITTING)
    weights.unlink()
    (folder / "adapter_model.bin").write_bytes(whole)
    with pytest.raises(MissingFileError, match=r"adapter_model\.safetensors"):
        read_lora(folder, FITTING)
    weights.symlink_to("/etc/hostname")
    with pytest.raises(UnsafeFileError, match="leaves the model folder"):
        read_lora(folder, FITTING)
    config.write_text('{"r": 1, "r": 2}')
    with pytest.raises(CheckpointError, match="twice"):
        read_lora(folder, FITTING)


def test_the_digest_is_of_what_counts(folder: Path, tmp_path: Path) -> None:
    first = read_lora(folder, FITTING).digest
    with_config(folder, base_model_name_or_path="elsewhere", lora_dropout=0.1)
    assert read_lora(folder, FITTING).digest == first
    with_config(folder, lora_alpha=9)
    assert read_lora(folder, FITTING).digest != first
    assert read_lora(saved(tmp_path / "other", 2)[0], FITTING).digest != first


def test_numbers_of_16_bits_become_those_of_32(folder: Path) -> None:
    exact = read_lora(folder, FITTING).low_ranks
    with_tensors(folder, lambda tensors: tensors.update({name: one.bfloat16() for name, one in tensors.items()}))
    for path, rounded in read_lora(folder, FITTING).low_ranks.items():
        assert torch.equal(rounded.a, exact[path].a.bfloat16().float())
