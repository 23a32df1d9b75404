"""GGUF files as checkpoints: every tensor in its place, all at once, opened by transformers and by us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as T
from safetensors.torch import load_file

import seed_oss
from seed_oss.errors import CheckpointError, InputError, MissingFileError, SeedOssError, UnsupportedModelError
from seed_oss.quant import gguf_dequantize
from seed_oss.weights.gguf_import import convert_gguf, half_split_rows
from tests.quant.gguf_factory import (
    HEAD_DIM,
    TOKENS,
    Recipe,
    dequantized,
    file_name_of,
    interleaved,
    random_weights,
    write_gguf,
)

KINDS = (T.Q4_0, T.Q4_1, T.Q5_1, T.Q8_0, T.F16, T.BF16, T.Q6_K, T.Q4_K, T.Q3_K, T.IQ4_XS)
FILES = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def source(path: Path, architecture: str = "seed_oss", **fields: Any) -> Path:
    fields.setdefault("weights", random_weights(architecture))
    return write_gguf(path / "model.gguf", Recipe(architecture, **fields))


def as_stored(name: str, values: np.ndarray, architecture: str, kind: T) -> np.ndarray:
    """What a tensor is after llama.cpp's converter and quantizer, back in the layout of the checkpoint."""
    rotary = architecture == "llama" and ("q_proj" in name or "k_proj" in name)
    if not rotary:
        return dequantized(values, kind)
    stored = dequantized(interleaved(values), kind)
    back = np.empty_like(stored)
    for row, place in enumerate(interleaved(np.arange(len(values)))):
        back[place] = stored[row]
    return back


@pytest.mark.parametrize("architecture", ["seed_oss", "llama", "qwen2"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_value_is_in_its_place(
    architecture: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_dequantize, "PIECE_VALUES", 256 * 100)  # several pieces per tensor, cut between heads
    weights = random_weights(architecture, tied=tied)
    matrices = [name for name, values in weights.items() if values.ndim == 2]
    kinds = {name: KINDS[index % len(KINDS)] for index, name in enumerate(matrices)}
    types = {file_name_of(name, architecture): kind for name, kind in kinds.items()}
    path = source(tmp_path, architecture, weights=weights, types=types)
    out = convert_gguf(path, tmp_path / "out")
    assert {entry.name for entry in out.iterdir()} == FILES
    found = load_file(out / "model.safetensors")
    assert set(found) == set(weights)
    for name, values in weights.items():
        expected = as_stored(name, values, architecture, kinds.get(name, T.F32))
        assert found[name].dtype == torch.float32
        np.testing.assert_array_equal(found[name].numpy(), expected, err_msg=name)


def test_biases_of_llama_are_reordered_with_their_rows(tmp_path: Path) -> None:
    weights = {**random_weights("seed_oss"), **random_weights("llama", out_bias=True, mlp_bias=True)}
    out = convert_gguf(source(tmp_path, "llama", weights=weights), tmp_path / "out")
    found = load_file(out / "model.safetensors")
    assert set(found) == set(weights)
    assert sum(name.endswith(".bias") for name in found) == 2 * 7
    for name, values in weights.items():
        np.testing.assert_array_equal(found[name].numpy(), values, err_msg=name)


def test_half_split_rows_undoes_the_converters_order() -> None:
    values = np.random.default_rng(0).standard_normal((3 * HEAD_DIM, 5), dtype=np.float32)
    np.testing.assert_array_equal(half_split_rows(interleaved(values), HEAD_DIM), values)
    bias = values[:, 0]
    np.testing.assert_array_equal(half_split_rows(interleaved(bias)[None], HEAD_DIM), bias[None])
    assert half_split_rows(values, 0) is values


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_other_dtypes_round_as_torch_does(name: Any, tmp_path: Path) -> None:
    weights = random_weights()
    out = convert_gguf(source(tmp_path, weights=weights), tmp_path / "out", dtype=name)
    found = load_file(out / "model.safetensors")
    for key, values in weights.items():
        assert torch.equal(found[key], torch.from_numpy(values).to(getattr(torch, name)))
    assert json.loads((out / "config.json").read_text())["dtype"] == name


def test_values_beyond_float16(tmp_path: Path) -> None:
    weights = random_weights()
    weights["model.norm.weight"][3] = 1e6
    path = source(tmp_path, weights=weights)
    with pytest.raises(InputError, match=r"model\.norm\.weight holds 1e\+06"):
        convert_gguf(path, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
    convert_gguf(path, tmp_path / "out", dtype="bfloat16")


def test_shards(tmp_path: Path) -> None:
    weights = random_weights()
    path = source(tmp_path, weights=weights)
    out = convert_gguf(path, tmp_path / "out", max_shard_size="1MB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    found = {name: load_file(out / file)[name] for name, file in index["weight_map"].items()}
    for name, values in weights.items():
        np.testing.assert_array_equal(found[name].numpy(), values)
    convert_gguf(path, out)
    assert {entry.name for entry in out.iterdir()} == FILES


@pytest.mark.parametrize("architecture", ["seed_oss", "llama", "qwen2"])
def test_opens_in_transformers_and_here_alike(architecture: str, tmp_path: Path) -> None:
    out = convert_gguf(source(tmp_path, architecture), tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    ours = seed_oss.SeedOssForCausalLM.from_pretrained(out).eval()
    assert type(theirs) is transformers.SeedOssForCausalLM
    ids = torch.randint(0, len(TOKENS), (2, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    assert ours.generation_config.eos_token_id == theirs.generation_config.eos_token_id == TOKENS.index("</s>")


def test_same_logits_as_a_llama_of_transformers(tmp_path: Path) -> None:
    """The rotary order: the oracle reads the same file itself, as a Llama."""
    path = source(tmp_path, "llama", metadata={"llama.rope.dimension_count": np.uint32(HEAD_DIM)})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    assert type(theirs) is transformers.LlamaForCausalLM
    ours = seed_oss.SeedOssForCausalLM.from_pretrained(convert_gguf(path, tmp_path / "out"))
    ids = torch.randint(0, len(TOKENS), (2, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(ids).logits, theirs.eval()(ids).logits, atol=1e-5, rtol=1e-5)


def test_tokenizer_opens_in_transformers_and_here_alike(tmp_path: Path) -> None:
    out = convert_gguf(source(tmp_path, "llama", metadata={"tokenizer.ggml.pre": "llama-bpe"}), tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    ours = seed_oss.AutoTokenizer.from_pretrained(out)
    for text in ("hello world 12", "a<tool><s>  b", ""):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours("a")["input_ids"] == [TOKENS.index("<s>"), TOKENS.index("a")]
    assert (ours.eos_token, ours.pad_token) == (theirs.eos_token, theirs.pad_token) == ("</s>", "<pad>")
    assert ours.chat_template == theirs.chat_template == (out / "chat_template.jinja").read_text()


def test_sampling_advice_is_kept_without_switching_it_on(tmp_path: Path) -> None:
    advice = {"temp": np.float32(1.1), "top_p": np.float32(0.95), "top_k": np.int32(40)}
    metadata = {f"general.sampling.{key}": value for key, value in advice.items()}
    metadata["tokenizer.ggml.eot_token_id"] = np.uint32(TOKENS.index("<pad>"))
    out = convert_gguf(source(tmp_path, metadata=metadata), tmp_path / "out")
    config = seed_oss.GenerationConfig.from_pretrained(out)
    assert (config.temperature, config.top_p, config.top_k, config.do_sample) == (1.1, 0.95, 40, False)
    assert config.eos_token_id == [TOKENS.index("</s>"), TOKENS.index("<pad>")]


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    out = convert_gguf(source(tmp_path), tmp_path / "out", progress=lambda done, total: calls.append((done, total)))
    total = sum(tensor.nbytes for tensor in load_file(out / "model.safetensors").values())
    assert calls == sorted(calls)
    assert calls[-1] == (total, total)
    assert {all_bytes for _, all_bytes in calls} == {total}


def test_what_is_in_the_folder_already(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("README.md", "special_tokens_map.json", "model-00001-of-00002.safetensors", "config.json"):
        (out / name).write_text("old")
    convert_gguf(source(tmp_path), out)
    assert {entry.name for entry in out.iterdir()} == FILES | {"README.md"}


def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    """The last tensor is damaged: everything before it was written, and nothing of it remains."""
    path = source(tmp_path)
    data = bytearray(path.read_bytes())
    data[-600:] = b"\xff" * 600
    path.write_bytes(data)
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("old")
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        convert_gguf(path, out)
    assert [entry.name for entry in tmp_path.rglob("*") if entry != path] == ["out", "config.json"]
    assert (out / "config.json").read_text() == "old"


def test_refusals_come_before_anything_is_written(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], type[SeedOssError], str]] = [
        ({"metadata": {"seed_oss.expert_count": np.uint32(4)}}, UnsupportedModelError, "expert_count"),
        ({"metadata": {"tokenizer.ggml.pre": "gpt-2"}}, UnsupportedModelError, "'gpt-2' is not supported"),
        ({"extra": {"rope_freqs.weight": np.ones((2, 2), np.float32)}}, UnsupportedModelError, "rope_freqs"),
        ({"extra": {"numbers": np.ones(4, np.int32)}}, UnsupportedModelError, "stored as I32"),
        ({"metadata": {"tokenizer.ggml.tokens": [*TOKENS, "more"]}}, CheckpointError, "token types"),
        (
            {
                "metadata": {
                    "tokenizer.ggml.tokens": [*TOKENS, "more"],
                    "tokenizer.ggml.token_type": [np.int32(1)] * (len(TOKENS) + 1),
                }
            },
            CheckpointError,
            f"{len(TOKENS) + 1} tokens, the embedding {len(TOKENS)} rows",
        ),
    ]
    for fields, error, message in cases:
        with pytest.raises(error, match=message):
            convert_gguf(source(tmp_path, **fields), tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_wrong_arguments(tmp_path: Path) -> None:
    path = source(tmp_path)
    with pytest.raises(InputError, match="float32, bfloat16, float16 are allowed"):
        convert_gguf(path, tmp_path / "out", dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_shard_size"):
        convert_gguf(path, tmp_path / "out", max_shard_size=0)
    with pytest.raises(MissingFileError):
        convert_gguf(tmp_path / "none.gguf", tmp_path / "out")
    with pytest.raises(SeedOssError):
        convert_gguf(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="is a file"):
        convert_gguf(path, path)


def test_a_link_of_the_user_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link.gguf"
    link.symlink_to(source(tmp_path / "elsewhere"))
    for given, out in ((link, tmp_path / "out"), (str(link), str(tmp_path / "again"))):
        convert_gguf(given, out)
        assert (Path(out) / "config.json").is_file()
