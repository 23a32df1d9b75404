"""Tokenizers and configs straight from a GGUF file: those that converting it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seed_oss import AutoConfig, AutoTokenizer, GenerationConfig, SeedOssConfig
from seed_oss.errors import CheckpointError, MissingFileError, UnsupportedModelError
from seed_oss.weights.gguf_import import convert_gguf
from tests.quant.gguf_factory import Recipe, random_weights, write_gguf


@pytest.fixture
def path(tmp_path: Path) -> Path:
    metadata = {"general.sampling.temp": np.float32(0.5), "tokenizer.ggml.pre": "llama-bpe"}
    return write_gguf(tmp_path / "model.gguf", Recipe("llama", weights=random_weights("llama"), metadata=metadata))


def test_the_same_as_from_the_converted_folder(path: Path, tmp_path: Path) -> None:
    folder = convert_gguf(path, tmp_path / "out")
    ours, theirs = AutoTokenizer.from_pretrained(path), AutoTokenizer.from_pretrained(folder)
    for text in ("hello world 12", "a<tool><s>  b", ""):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert (ours.special_tokens_map, ours.chat_template) == (theirs.special_tokens_map, theirs.chat_template)
    assert ours.model_max_length == theirs.model_max_length
    assert AutoTokenizer.from_pretrained(str(path), padding_side="left").padding_side == "left"
    assert GenerationConfig.from_pretrained(path) == GenerationConfig.from_pretrained(folder)
    assert AutoConfig.from_pretrained(path) == SeedOssConfig.from_pretrained(folder)
    assert SeedOssConfig.from_pretrained(path, num_hidden_layers=1).num_hidden_layers == 1


def test_a_file_without_a_template(tmp_path: Path) -> None:
    recipe = Recipe(weights=random_weights(), metadata={"tokenizer.chat_template": None})
    assert AutoTokenizer.from_pretrained(write_gguf(tmp_path / "a.gguf", recipe)).chat_template is None


def test_no_torch_is_loaded(path: Path) -> None:
    code = (
        "import sys; from seed_oss import AutoTokenizer, SeedOssConfig; "
        f"AutoTokenizer.from_pretrained({str(path)!r}); SeedOssConfig.from_pretrained({str(path)!r}); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_what_is_refused(path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:1000])
    other = Recipe(weights=random_weights(), metadata={"tokenizer.ggml.pre": "gpt-2"})
    write_gguf(tmp_path / "other.gguf", other)
    for opened in (AutoTokenizer, SeedOssConfig, GenerationConfig):
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            opened.from_pretrained(cut)
        with pytest.raises(MissingFileError, match="not a folder"):
            opened.from_pretrained(tmp_path / "none.gguf")
    with pytest.raises(UnsupportedModelError, match="'gpt-2' is not supported"):
        AutoTokenizer.from_pretrained(tmp_path / "other.gguf")
    assert SeedOssConfig.from_pretrained(tmp_path / "other.gguf").num_hidden_layers == 2
