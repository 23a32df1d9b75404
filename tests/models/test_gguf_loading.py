"""GGUF files opened by from_pretrained: blocks stay integers, and every value is the one that gguf reads in them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as T
from safetensors.torch import load_file

from seed_oss import (
    AutoModelForCausalLM,
    SeedOssConfig,
    SeedOssForCausalLM,
    SeedOssForTokenClassification,
)
from seed_oss.errors import CheckpointError, InputError, SeedOssError, UnsupportedModelError
from seed_oss.nn.fused import FusedLayers
from seed_oss.nn.quantized_linear import QuantizedModule
from seed_oss.ops.native import library
from seed_oss.quant import gguf_blocks
from seed_oss.quant.gguf_blocks import GROUPED_FORMATS
from seed_oss.quant.gguf_dequantize import READABLE_TYPES
from seed_oss.weights.gguf_import import convert_gguf
from tests.quant.gguf_factory import HEAD_DIM, LAYERS, VOCAB_SIZE, Recipe, file_name_of, random_weights, write_gguf

PLAIN = {"F32", "F16", "BF16"}
NOT_HELD = sorted((READABLE_TYPES & T.__members__.keys()) - GROUPED_FORMATS.keys() - PLAIN)
MAX_DIFFERENCE = 0.05
"""Of logits, relative: activations are rounded to 8 bits on the way."""
MIXED = (T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.F16, T.BF16, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K)


def written(folder: Path, kinds: Any, architecture: str = "seed_oss", tied: bool = False, **fields: Any) -> Path:
    """A file whose matrices have the given types in turn."""
    weights = fields.pop("weights", None) or random_weights(architecture, tied=tied)
    matrices = [name for name, values in weights.items() if values.ndim == 2]
    types = {file_name_of(name, architecture): kinds[index % len(kinds)] for index, name in enumerate(matrices)}
    return write_gguf(folder / "model.gguf", Recipe(architecture, weights=weights, types=types, **fields))


def load(place: Path, **kwargs: Any) -> Any:
    return SeedOssForCausalLM.from_pretrained(place, device="cpu", **kwargs)


def logits(model: Any) -> torch.Tensor:
    ids = torch.randint(0, VOCAB_SIZE, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(ids).logits


def differing(state: Any, expected: Any) -> list[str]:
    """Names of tensors that are not equal bit for bit, so that 0.0 and -0.0 differ."""
    return [
        name
        for name, value in expected.items()
        if not np.array_equal(state[name].numpy().view(np.uint32), value.numpy().view(np.uint32))
    ]


def converted(path: Path) -> dict[str, torch.Tensor]:
    """What the converter makes of a file: it dequantizes everything, with the gguf package."""
    return load_file(convert_gguf(path, path.parent / "converted") / "model.safetensors")


@pytest.mark.parametrize("architecture", ["seed_oss", "llama", "qwen2"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_value_is_that_of_the_blocks(
    architecture: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_blocks, "PIECE_VALUES", 256 * 100)  # several pieces per tensor
    path = written(tmp_path, MIXED, architecture, tied)
    expected = converted(path)
    model = load(path)
    assert differing(model.state_dict(), expected) == []
    modules = {name: one for name, one in model.named_modules() if isinstance(one, QuantizedModule)}
    num_held = sum(kind.name in GROUPED_FORMATS for kind in MIXED)
    assert len(modules) >= len([name for name in expected if "_proj.weight" in name]) * num_held // len(MIXED)
    assert {module.format for module in modules.values()} <= set(GROUPED_FORMATS.values())
    assert (getattr(model.lm_head, "packed", 0) is getattr(model.model.embed_tokens, "packed", 1)) == tied


@pytest.mark.parametrize("kind", GROUPED_FORMATS)
def test_every_type_is_computed_with_and_saved(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, [T[kind]], "llama")
    model = load(path)
    assert {one.format for one in model.modules() if isinstance(one, QuantizedModule)} == {GROUPED_FORMATS[kind]}
    if library() is not None:
        assert isinstance(model.model.layers, FusedLayers)
    numbers = load(convert_gguf(path, tmp_path / "converted"))
    difference = logits(model) - logits(numbers)
    assert difference.norm() < MAX_DIFFERENCE * logits(numbers).norm()
    model.save_pretrained(tmp_path / "own")
    again = load(tmp_path / "own")
    assert differing(again.state_dict(), numbers.state_dict()) == []
    assert torch.equal(logits(again), logits(model))
    assert again.config.quantization_config == model.config.quantization_config
    assert again.config.quantization_config["scheme"] == "gguf"


@pytest.mark.parametrize("kind", NOT_HELD)
def test_types_that_no_groups_hold_are_dequantized_and_named(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, [T[kind], T.Q4_K], "llama")
    with pytest.warns(UserWarning, match=rf"8 of 16 matrices .* \({kind}\); they are dequantized"):
        model = load(path)
    assert differing(model.state_dict(), converted(path)) == []
    kept = model.config.quantization_config["kept"]
    assert len(kept) == 8
    assert {reason.split()[0] for reason in kept.values()} == {kind}


def test_a_file_of_such_types_alone_is_a_plain_model(tmp_path: Path) -> None:
    path = written(tmp_path, [T.IQ4_NL])
    with pytest.warns(UserWarning, match=r"16 of 16 matrices .* \(IQ4_NL\)"):
        model = load(path)
    assert "quantization_config" not in model.config
    assert differing(model.state_dict(), converted(path)) == []
    model.train()  # nothing in it is frozen or fused


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_numbers_stay_numbers_in_their_dtype(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, [T[kind]])
    model = load(path)
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    assert model.dtype == dtype
    assert "quantization_config" not in model.config
    expected = converted(path)
    state = model.state_dict()
    assert [name for name in expected if not torch.equal(state[name], expected[name].to(dtype))] == []
    assert differing(load(path, dtype=torch.float32).state_dict(), expected) == []
    small = load(path, quantization="int8")
    other = load(path.parent / "converted", quantization="int8")
    assert differing(small.state_dict(), other.state_dict()) == []


def test_dtype_of_hidden_states_and_of_what_is_not_quantized(tmp_path: Path) -> None:
    path = written(tmp_path, [T.Q4_K, T.F16])
    assert load(path).dtype == torch.float32
    model = load(path, dtype=torch.bfloat16)
    assert model.model.norm.weight.dtype == torch.bfloat16
    assert logits(model).dtype == torch.bfloat16


def test_config_advice_and_arguments(tmp_path: Path) -> None:
    advice = {"general.sampling.temp": np.float32(0.5)}
    path = written(tmp_path, [T.Q8_0], "llama", metadata=advice)
    with pytest.warns(UserWarning, match=r"not used: model\.layers\.1"):
        model = AutoModelForCausalLM.from_pretrained(
            str(path), device="cpu", num_hidden_layers=1, attention_dropout=0.5
        )
    assert (len(model.model.layers), model.config.attention_dropout) == (1, 0.5)
    assert (model.generation_config.temperature, model.generation_config.do_sample) == (0.5, False)
    assert model.name_or_path == model.config.name_or_path == str(path)
    config = SeedOssConfig.from_pretrained(convert_gguf(path, tmp_path / "converted"))
    assert torch.equal(logits(load(path, config=config)), logits(load(path)))
    assert torch.equal(logits(load(path, config=tmp_path / "converted")), logits(load(path)))
    with pytest.raises(InputError, match="no field num_layers"):
        load(path, num_layers=1)


def test_another_head(tmp_path: Path) -> None:
    path = written(tmp_path, [T.Q4_0])
    with pytest.warns(UserWarning, match=r"not used: lm_head\.weight; new and random.*score"):
        model = SeedOssForTokenClassification.from_pretrained(path, device="cpu", num_labels=3)
    assert logits(model).shape == (2, 9, 3)


def test_blocks_are_not_quantized_again(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'int8'.*quantized already \('gguf'\)"):
        load(written(tmp_path, [T.Q4_0]), quantization="int8")


def test_a_link_is_followed_and_a_name_in_capitals_is_known(tmp_path: Path) -> None:
    path = written(tmp_path, [T.Q4_0])
    (tmp_path / "link.GGUF").symlink_to(path)
    assert torch.equal(logits(load(tmp_path / "link.GGUF")), logits(load(path)))


def test_scales_that_are_not_finite(tmp_path: Path) -> None:
    path = written(tmp_path, [T.Q8_0])
    data = bytearray(path.read_bytes())
    data[-272 * 20 : -272 * 20 + 2] = b"\x00\x7c"  # the head is the last tensor; rows of 8 blocks of 34 bytes
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"output\.weight.*NaN or infinite; the file is damaged"):
        load(path)


def test_a_file_that_ends_early_or_is_none(tmp_path: Path) -> None:
    data = written(tmp_path, [T.Q4_K]).read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 4, 100, len(data) // 3, len(data) - 200_000, len(data) - 1_000):
        cut.write_bytes(data[:size])
        with pytest.raises(SeedOssError) as caught:
            load(cut)
        assert "cut.gguf" in str(caught.value)
    with pytest.raises(SeedOssError, match="not a folder"):
        load(tmp_path / "missing.gguf")


def test_a_file_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, [T.Q4_0])
    import seed_oss.models.pretrained as pretrained

    original = pretrained.plan_load

    def plan_and_change(*args: Any, **kwargs: Any) -> Any:
        path.write_bytes(path.read_bytes()[:-1])
        return original(*args, **kwargs)

    monkeypatch.setattr(pretrained, "plan_load", plan_and_change)
    with pytest.raises(CheckpointError, match="was changed while it was being loaded"):
        load(path)


def test_sizes_that_contradict_each_other(tmp_path: Path) -> None:
    weights = random_weights()
    weights["model.layers.1.mlp.up_proj.weight"] = np.zeros((512, 512), np.float32)
    with pytest.raises(CheckpointError, match=r"blk\.1\.ffn_up\.weight \(\(512, 512\) instead of \(512, 256\)\)"):
        load(written(tmp_path, [T.Q4_0], weights=weights))
    with pytest.raises(UnsupportedModelError, match="expert_count"):
        load(written(tmp_path, [T.Q4_0], metadata={"seed_oss.expert_count": np.uint32(4)}))
    config = load(written(tmp_path, [T.Q4_0])).config
    del config.quantization_config
    config.num_key_value_heads, config.head_dim = 1, HEAD_DIM
    with pytest.raises(CheckpointError, match=r"k_proj\.weight is \[128, 256\], the model needs \[64, 256\]"):
        load(tmp_path / "model.gguf", config=config)


def test_damaged_bytes_end_in_our_errors_or_in_a_model(tmp_path: Path) -> None:
    path = written(tmp_path, MIXED, "llama")
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes: list[str] = []
    for _ in range(30):
        trial = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            trial[at] = rng.integers(0, 256)
        path.write_bytes(trial)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outcomes.append(f"{len(load(path).model.layers)} layers")
            except SeedOssError as error:
                outcomes.append(str(error))
    assert outcomes.count(f"{LAYERS} layers") > 10
    assert [text for text in outcomes if not re.search("gguf|tensor|layers", text)] == []
