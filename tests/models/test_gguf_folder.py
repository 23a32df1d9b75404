"""A GGUF file as a folder of our own format: the values of its blocks, its tokenizer, all at once or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as T
from safetensors.torch import load_file

import seed_oss
from seed_oss.errors import CheckpointError, InputError
from seed_oss.models.gguf_folder import convert_gguf_packed
from seed_oss.quant.gguf_blocks import GROUPED_FORMATS
from seed_oss.weights.gguf_import import convert_gguf
from tests.models.test_gguf_loading import MIXED, converted, differing, load, logits, written
from tests.quant.gguf_factory import random_weights


@pytest.mark.parametrize("architecture", ["seed_oss", "llama"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_folder_holds_what_the_file_holds(architecture: str, tied: bool, tmp_path: Path) -> None:
    path = written(tmp_path, MIXED, architecture, tied)
    out = convert_gguf_packed(path, tmp_path / "out")
    model, direct = load(out), load(path)
    assert differing(model.state_dict(), converted(path)) == []
    assert torch.equal(logits(model), logits(direct))
    assert model.config.quantization_config == direct.config.quantization_config
    assert (getattr(model.lm_head, "packed", 0) is getattr(model.model.embed_tokens, "packed", 1)) == tied
    direct.save_pretrained(tmp_path / "saved")
    packed = {name for name in load_file(out / "model.safetensors") if name.endswith(".packed")}
    assert packed == {name for name in load_file(tmp_path / "saved/model.safetensors") if name.endswith(".packed")}


def test_everything_else_is_what_the_other_conversion_writes(tmp_path: Path) -> None:
    path = written(tmp_path, [T.Q4_K])
    out, plain = convert_gguf_packed(path, tmp_path / "out"), convert_gguf(path, tmp_path / "plain")
    assert {entry.name for entry in out.iterdir()} == {entry.name for entry in plain.iterdir()}
    for entry in plain.iterdir():
        if entry.name not in ("config.json", "model.safetensors"):
            assert (out / entry.name).read_bytes() == entry.read_bytes()
    config = json.loads((out / "config.json").read_text())
    assert config.pop("quantization_config")["scheme"] == "gguf"
    assert config == json.loads((plain / "config.json").read_text())
    assert seed_oss.AutoTokenizer.from_pretrained(out)("hello")["input_ids"]
    assert seed_oss.plan(out, device="cpu", measure_speed=False).placements[0].form == "gguf"


@pytest.mark.parametrize("kind", GROUPED_FORMATS)
def test_shards_and_every_type(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, [T[kind]])
    calls: list[tuple[int, int]] = []
    out = convert_gguf_packed(
        path, tmp_path / "out", max_shard_size="300KB", progress=lambda done, total: calls.append((done, total))
    )
    shards = [load_file(shard) for shard in out.glob("model-*.safetensors")]
    assert len(shards) > 2
    assert calls[-1] == (sum(one.nbytes for shard in shards for one in shard.values()),) * 2
    assert differing(load(out).state_dict(), converted(path)) == []


def test_what_is_not_packed_gets_the_dtype(tmp_path: Path) -> None:
    path = written(tmp_path, [T.Q4_K, T.F16, T.IQ4_XS], "llama")
    with pytest.warns(UserWarning, match="IQ4_XS"):
        out = convert_gguf_packed(path, tmp_path / "out", dtype="bfloat16")
    found = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.uint8, torch.bfloat16}
    expected = converted(path)
    state = load(out, dtype=torch.float32).state_dict()
    for name in expected:
        is_packed = name.replace(".weight", ".packed") in found
        assert torch.equal(state[name], expected[name] if is_packed else expected[name].bfloat16().float()), name


def test_failures_leave_the_folder_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path, [T.Q8_0])
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("old")
    data = bytearray(path.read_bytes())
    data[-272:] = b"\xff" * 272
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        convert_gguf_packed(path, out)
    assert [(entry.name, entry.read_text()) for entry in out.iterdir()] == [("config.json", "old")]


def test_wrong_arguments_and_files_without_blocks(tmp_path: Path) -> None:
    weights = random_weights()
    weights["model.norm.weight"][3] = 1e6
    path = written(tmp_path, [T.Q4_0], weights=weights)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"dtype": "int8"}, "float32, bfloat16, float16 are allowed"),
        ({"max_shard_size": 0}, "max_shard_size"),
        ({"dtype": "float16"}, r"model\.norm\.weight holds numbers beyond float16"),
    ]
    for arguments, message in wrong:
        with pytest.raises(InputError, match=message):
            convert_gguf_packed(path, tmp_path / "out", **arguments)
    with pytest.raises(InputError, match="no matrix in blocks"):
        convert_gguf_packed(written(tmp_path, [T.F16]), tmp_path / "out")
    few = {"tokenizer.ggml.token_type": [np.int32(1)] * 3}
    path = written(tmp_path, [T.Q4_0], metadata=few)
    with pytest.raises(CheckpointError, match="token types"):
        convert_gguf_packed(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
