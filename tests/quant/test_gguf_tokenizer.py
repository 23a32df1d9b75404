"""Tokenizers rebuilt from GGUF metadata: cut as llama.cpp cuts, merged in rank order, special tokens by their types."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from seed_oss.errors import CheckpointError, SeedOssError, UnsupportedModelError
from seed_oss.quant import gguf_tokenizer
from seed_oss.quant.gguf_header import GGUFHeader, read_gguf_header
from seed_oss.quant.gguf_tokenizer import PRE_TOKENIZERS, GGUFTokenizer, tokenizer_from_gguf
from tests.quant.gguf_factory import MERGES, SPECIAL, TOKENS, Recipe, write_gguf

GOLDEN = Path(__file__).parent / "golden" / "pretokenizers.jsonl"
BOS, EOS = TOKENS.index("<s>"), TOKENS.index("</s>")


def header_of(path: Path, **settings: Any) -> GGUFHeader:
    metadata = {key if "." in key else f"tokenizer.ggml.{key}": value for key, value in settings.items()}
    write_gguf(path / "a.gguf", Recipe(metadata=metadata))
    with (path / "a.gguf").open("rb") as file:
        return read_gguf_header(file, source="a.gguf")


def rebuilt(path: Path, **settings: Any) -> GGUFTokenizer:
    return tokenizer_from_gguf(header_of(path, **settings), context_len=2048)


def loaded(path: Path, **settings: Any) -> Tokenizer:
    return Tokenizer.from_buffer(rebuilt(path, **settings).tokenizer_json)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_cuts_are_llama_cpps(name: str, tmp_path: Path) -> None:
    pre_tokenizer = loaded(tmp_path, pre=name).pre_tokenizer
    lines = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 250
    for line in lines:
        cuts = [line["text"][start:end] for _, (start, end) in pre_tokenizer.pre_tokenize_str(line["text"])]
        assert cuts == line[name], line["text"]


def reference_ids(pieces: list[str]) -> list[int]:
    """Byte-level BPE in the plainest form: join the pair of lowest rank until there is none."""
    symbols = ByteLevel(add_prefix_space=False, use_regex=False)
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(MERGES)}
    ids: list[int] = []
    for piece in pieces:
        parts = list(symbols.pre_tokenize_str(piece)[0][0])
        while pairs := [(ranks[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in ranks]:
            _, at = min(pairs)
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        ids += [TOKENS.index(part) for part in parts]
    return ids


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_ids_are_those_of_plain_merging(name: str, tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path, pre=name, add_bos_token=False)
    texts = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    texts += [{"text": "hello world12", name: ["hello", " world", *(["12"] if name == "llama-bpe" else ["1", "2"])]}]
    for line in texts:
        if name == "qwen2":  # its NFC step comes before the cut
            continue
        ids = tokenizer.encode(line["text"]).ids
        assert ids == reference_ids(line[name]), line["text"]
        assert tokenizer.decode(ids) == line["text"]


def test_qwen2_composes_characters(tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path, pre="qwen2")
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("\u00e9").ids
    assert loaded(tmp_path, pre="seed-coder").encode("e\u0301").ids != tokenizer.encode("\u00e9").ids


def test_a_word_in_the_vocabulary_goes_before_merges_in_llama_bpe(tmp_path: Path) -> None:
    # "hell" has no merge any more, but is a token
    merges = [merge for merge in MERGES if merge not in ("he ll", "hell o")]
    assert loaded(tmp_path, pre="llama-bpe", merges=merges, add_bos_token=False).encode("hell").ids == [
        TOKENS.index("hell")
    ]
    assert loaded(tmp_path, pre="seed-coder", merges=merges).encode("hell").ids == [
        TOKENS.index("he"),
        TOKENS.index("ll"),
    ]


def test_added_tokens_follow_their_types(tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path)
    added = {token.content: token.special for token in tokenizer.get_added_tokens_decoder().values()}
    assert added == {"<s>": True, "</s>": True, "<pad>": True, "<tool>": False}
    ids = tokenizer.encode("a<tool><s> [PAD9]").ids
    assert ids[1:3] == [TOKENS.index("<tool>"), BOS]
    assert TOKENS.index("[PAD9]") not in ids
    assert tokenizer.id_to_token(TOKENS.index("[PAD9]")) == "[PAD9]"
    assert tokenizer.get_vocab_size() == len(TOKENS)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<tool> [PAD9]"


@pytest.mark.parametrize(
    ("settings", "frame"),
    [
        ({}, ([], [])),
        ({"pre": "llama-bpe"}, ([BOS], [])),
        ({"pre": "llama-bpe", "add_bos_token": False}, ([], [])),
        ({"pre": "llama-bpe", "bos_token_id": None}, ([], [])),
        ({"add_bos_token": True}, ([BOS], [])),
        ({"add_bos_token": True, "add_eos_token": True}, ([BOS], [EOS])),
        ({"add_eos_token": True}, ([], [EOS])),
    ],
)
def test_begin_and_end_tokens(settings: dict[str, Any], frame: tuple[list[int], list[int]], tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path, **settings)
    begin, end = frame
    a, b = TOKENS.index("a"), TOKENS.index("b")
    assert tokenizer.encode("a").ids == [*begin, a, *end]
    assert tokenizer.encode("a", "b").ids == [*begin, a, *end, *begin, b, *end]
    assert tokenizer.encode("a", add_special_tokens=False).ids == [a]


def test_config_and_end_ids(tmp_path: Path) -> None:
    result = rebuilt(tmp_path, eot_token_id=np.uint32(TOKENS.index("<pad>")), eom_token_id=np.uint32(EOS))
    assert result.tokenizer_config == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    assert result.end_ids == (EOS, TOKENS.index("<pad>"))
    assert result.num_tokens == len(TOKENS)


def test_chat_templates(tmp_path: Path) -> None:
    key = "tokenizer.chat_template"
    assert rebuilt(tmp_path, **{key: "x"}).chat_template == "x"
    none = rebuilt(tmp_path, **{key: None})
    assert (none.chat_template, "chat_template" in none.tokenizer_config) == (None, False)
    several = rebuilt(tmp_path, **{key: "x", f"{key}.tool_use": "y"})
    assert several.chat_template is None
    assert several.tokenizer_config["chat_template"] == [
        {"name": "default", "template": "x"},
        {"name": "tool_use", "template": "y"},
    ]
    rebuilt(tmp_path, **{key: "x" * gguf_tokenizer.MAX_TEMPLATE_BYTES})
    with pytest.raises(CheckpointError, match="chat template"):
        rebuilt(tmp_path, **{key: "x" * (gguf_tokenizer.MAX_TEMPLATE_BYTES + 1)})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "sentencepiece": ({"model": "llama"}, "'llama'; only 'gpt2'"),
    "other cut": ({"pre": "deepseek-llm"}, "'deepseek-llm' is not supported, smollm, llama-bpe, qwen2, seed-coder"),
    "no cut": ({"pre": None}, "pre-tokenizer '' is not supported"),
    "prefix space": ({"add_space_prefix": True}, "add_space_prefix"),
    "whitespace": ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces"),
    "charsmap": ({"precompiled_charsmap": [np.int32(1)]}, "precompiled_charsmap"),
    "byte token": ({"token_type": [np.int32(6)] + [np.int32(1)] * (len(TOKENS) - 1)}, "token 0 has the type 6"),
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no tokens": ({"tokens": None}, "no tokenizer.ggml.tokens"),
    "tokens are numbers": ({"tokens": [np.int32(1)]}, "array of strings"),
    "token twice": ({"tokens": ["a", *TOKENS[1:]]}, "'a' twice"),
    "empty token": ({"tokens": ["", *TOKENS[1:]]}, "empty"),
    "too few types": ({"token_type": [np.int32(1)] * 3}, f"{len(TOKENS)} tokens have 3"),
    "types are text": ({"token_type": ["a"]}, "array of integers"),
    "merge of strangers": ({"merges": ["a b"]}, "'a b' names tokens outside"),
    "merge without a space": ({"merges": ["ab"]}, "'ab' names tokens outside"),
    "merge twice": ({"merges": [*MERGES, MERGES[0]]}, "1 of the merges are there twice"),
    "id outside": ({"eos_token_id": np.uint32(len(TOKENS))}, "eos_token_id is"),
    "negative id": ({"eos_token_id": np.int32(-1)}, "eos_token_id is"),
    "bos without an id": ({"add_bos_token": True, "bos_token_id": None}, "names no bos_token"),
    "flag is text": ({"add_bos_token": "yes"}, "true or false"),
    "template is a number": ({"tokenizer.chat_template": np.uint32(1)}, "a string"),
}


@pytest.mark.parametrize("name", [*REFUSED, *WRONG])
def test_refusals(name: str, tmp_path: Path) -> None:
    settings, message = {**REFUSED, **WRONG}[name]
    with pytest.raises(UnsupportedModelError if name in REFUSED else CheckpointError, match=message):
        rebuilt(tmp_path, **settings)


def test_an_added_token_that_the_package_cannot_take(tmp_path: Path) -> None:
    tokens = [*TOKENS[: -len(SPECIAL)], "<" + "x" * 5000 + ">", *TOKENS[1 - len(SPECIAL) :]]
    with pytest.raises(SeedOssError, match="added token"):
        rebuilt(tmp_path, tokens=tokens)
