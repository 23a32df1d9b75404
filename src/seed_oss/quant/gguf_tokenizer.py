"""The tokenizer in a GGUF file's metadata, as the files of a checkpoint: tokenizer.json and its companions.

A GGUF file stores vocabulary, merges and token types, but only the *name* of the way text is cut before merging. Four
names are known here. Their patterns are those of the tokenizer.json files the names stand for, as llama.cpp quotes them
(src/llama-vocab.cpp, "original regex from tokenizer.json"); llama.cpp's own patterns are rewritten for an engine
without (?i:...). Everything else is refused by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seed_oss.chat.backend import load_backend
from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.files.names import short
from seed_oss.quant.gguf_metadata import get_bool, get_int, get_ints, get_text, get_texts

if TYPE_CHECKING:
    from seed_oss.quant.gguf_header import GGUFHeader

PREFIX = "tokenizer.ggml."
MAX_TEMPLATE_BYTES = 1 << 20

# llama.cpp's token types. Unused ones are ordinary entries of the vocabulary that no text leads to.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_NAMED_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # spelled so in the format
    "mask_token": "mask_token_id",
    "cls_token": "cls_token_id",
}
_READ_KEYS = {"model", "pre", "tokens", "token_type", "merges", "add_bos_token", "add_eos_token"}
# Remarks and ids for llama.cpp's own use, without effect on what text becomes.
_IDLE_KEYS = {"scores", "token_type_count", "eot_token_id", "eom_token_id"}
_IDLE_ENDS = ("fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id", "fim_pad_token_id", "fim_rep_token_id")
_IDLE_ENDS += ("fim_sep_token_id", "prefix_token_id", "suffix_token_id", "middle_token_id")

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class _PreTokenizer:
    """How text is cut: `pattern`, or without one GPT-2's with every digit on its own."""

    pattern: str = ""
    normalizer: str = ""
    whole_words_first: bool = False
    adds_bos: bool = False


PRE_TOKENIZERS = {
    "smollm": _PreTokenizer(),
    "llama-bpe": _PreTokenizer(
        rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
        whole_words_first=True,
        adds_bos=True,
    ),
    # llama.cpp leaves the NFC step of Qwen2's tokenizer.json out
    "qwen2": _PreTokenizer(
        rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}", normalizer="NFC"
    ),
    "seed-coder": _PreTokenizer(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"),
}


@dataclass(frozen=True)
class GGUFTokenizer:
    """The tokenizer of a GGUF file.

    Attributes:
        tokenizer_json: Content of tokenizer.json.
        tokenizer_config: Content of tokenizer_config.json.
        chat_template: Content of chat_template.jinja, or None.
        num_tokens: Entries of the vocabulary.
        end_ids: Ids that end a turn or a text: the file's eos, then its eot and eom if it names them.
    """

    tokenizer_json: bytes
    tokenizer_config: dict[str, Any]
    chat_template: str | None
    num_tokens: int
    end_ids: tuple[int, ...]


def tokenizer_from_gguf(header: GGUFHeader, *, context_len: int) -> GGUFTokenizer:
    """Rebuild the tokenizer of a GGUF file.

    Args:
        header: The file's header.
        context_len: Written as the tokenizer's model_max_length, in tokens.

    Returns:
        The content of the tokenizer's files; tokenizer.json was loaded once by the tokenizers package.

    Raises:
        UnsupportedModelError: A kind of tokenizer, pre-tokenizer or setting that is not known.
        CheckpointError: The vocabulary, the merges or an id are impossible.
        TokenizerError: The tokenizers package cannot load the result.
    """
    pre = _pre_tokenizer(header)
    _refuse_unknown_keys(header)
    tokens = get_texts(header, f"{PREFIX}tokens")
    ids = _vocabulary(header, tokens)
    named = _named_tokens(header, tokens)
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(header, tokens),
        "normalizer": {"type": pre.normalizer} if pre.normalizer else None,
        "pre_tokenizer": _cutting(pre.pattern),
        "post_processor": _framing(header, named, ids, pre.adds_bos),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.whole_words_first,
            "vocab": ids,
            "merges": _merges(header, ids),
        },
    }
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    load_backend(data, source=f"{header.source}: the tokenizer")
    template, templates = _chat_templates(header)
    config: dict[str, Any] = {
        **named,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_len,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **({"chat_template": templates} if templates else {}),
    }
    return GGUFTokenizer(data, config, template, len(tokens), end_ids(header, len(tokens)))


def _pre_tokenizer(header: GGUFHeader) -> _PreTokenizer:
    model = get_text(header, f"{PREFIX}model")
    if model != "gpt2":
        raise UnsupportedModelError(
            f"{header.source}: the tokenizer model is {short(model)}; only 'gpt2' (byte-level BPE) is supported"
        )
    name = get_text(header, f"{PREFIX}pre", "")
    if name not in PRE_TOKENIZERS:
        raise UnsupportedModelError(
            f"{header.source}: the pre-tokenizer {short(name)} is not supported, {', '.join(PRE_TOKENIZERS)} are"
        )
    return PRE_TOKENIZERS[name]


def _refuse_unknown_keys(header: GGUFHeader) -> None:
    known = {*_READ_KEYS, *_IDLE_KEYS, *_IDLE_ENDS, *_NAMED_TOKENS.values()}
    for key, value in header.metadata.items():
        name = key.removeprefix(PREFIX)
        # any other switch may be off, such as add_space_prefix
        if name == key or name in known or value is False:
            continue
        shown = short(value) if isinstance(value, str | int | float) else type(value).__name__
        raise UnsupportedModelError(
            f"{header.source}: {short(key)} is {shown}; this tokenizer setting is not supported"
        )


def _vocabulary(header: GGUFHeader, tokens: list[str]) -> dict[str, int]:
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens) or "" in ids:
        bad = next((token for index, token in enumerate(tokens) if ids[token] != index), "")
        raise CheckpointError(
            f"{header.source}: the vocabulary holds {short(bad)} {'twice' if bad else '(an empty token)'}"
        )
    return ids


def _merges(header: GGUFHeader, ids: dict[str, int]) -> list[tuple[str, str]]:
    pairs: dict[tuple[str, str], None] = {}
    texts = get_texts(header, f"{PREFIX}merges")
    for text in texts:
        left, _, right = text.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise CheckpointError(f"{header.source}: the merge {short(text)} names tokens outside the vocabulary")
        pairs[left, right] = None
    if len(pairs) != len(texts):
        raise CheckpointError(f"{header.source}: {len(texts) - len(pairs)} of the merges are there twice")
    return list(pairs)


def _added_tokens(header: GGUFHeader, tokens: list[str]) -> list[dict[str, Any]]:
    types = get_ints(header, f"{PREFIX}token_type").tolist()
    if len(types) != len(tokens):
        raise CheckpointError(f"{header.source}: {len(tokens)} tokens have {len(types)} token types")
    unknown = set(types) - {_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED}
    if unknown:
        raise UnsupportedModelError(
            f"{header.source}: token {types.index(min(unknown))} has the type {min(unknown)}, which "
            "byte-level BPE has not"
        )
    return [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != _USER_DEFINED,
        }
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]


def _cutting(pattern: str) -> dict[str, Any]:
    first: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    if pattern:
        first = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    second = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not pattern}
    return {"type": "Sequence", "pretokenizers": [first, second]}


def _framing(header: GGUFHeader, named: dict[str, str], ids: dict[str, int], adds_bos: bool) -> dict[str, Any] | None:
    """The post-processor: begin and end tokens around a text, where the file asks for them."""
    frame: list[str | None] = []
    for flag, name, default in (("add_bos_token", "bos_token", adds_bos), ("add_eos_token", "eos_token", False)):
        wanted = get_bool(header, f"{PREFIX}{flag}", default and name in named)
        if wanted and name not in named:
            raise CheckpointError(f"{header.source}: {PREFIX}{flag} is true, but the file names no {name}")
        frame.append(named[name] if wanted else None)
    begin, end = frame
    if begin is None and end is None:
        return None

    def around(text: str, kind: int) -> list[dict[str, Any]]:
        pieces = [
            {"SpecialToken": {"id": begin, "type_id": kind}} if begin is not None else None,
            {"Sequence": {"id": text, "type_id": kind}},
            {"SpecialToken": {"id": end, "type_id": kind}} if end is not None else None,
        ]
        return [piece for piece in pieces if piece is not None]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (begin, end) if token is not None
        },
    }


def _named_tokens(header: GGUFHeader, tokens: list[str]) -> dict[str, str]:
    keys = {name: f"{PREFIX}{key}" for name, key in _NAMED_TOKENS.items()}
    return {name: tokens[_token_id(header, key, len(tokens))] for name, key in keys.items() if key in header.metadata}


def end_ids(header: GGUFHeader, num_tokens: int) -> tuple[int, ...]:
    """Ids that end a turn or a text: the file's eos, then its eot and eom if it names them.

    Args:
        header: The file's header.
        num_tokens: Entries of the vocabulary.

    Raises:
        CheckpointError: An id beyond them.
    """
    keys = [f"{PREFIX}{name}" for name in ("eos_token_id", "eot_token_id", "eom_token_id")]
    return tuple(dict.fromkeys(_token_id(header, key, num_tokens) for key in keys if key in header.metadata))


def _token_id(header: GGUFHeader, key: str, num_tokens: int) -> int:
    value = get_int(header, key)
    if value >= num_tokens:
        raise CheckpointError(f"{header.source}: {key} is {value}, the vocabulary has {num_tokens} tokens")
    return value


def _chat_templates(header: GGUFHeader) -> tuple[str | None, list[dict[str, str]]]:
    """The template where there is only one, else all of them by name."""
    key = "tokenizer.chat_template"
    named = {"default": get_text(header, key)} if key in header.metadata else {}
    named.update(
        {name.removeprefix(f"{key}."): get_text(header, name) for name in header.metadata if name.startswith(f"{key}.")}
    )
    for name, text in named.items():
        if len(text.encode("utf-8")) > MAX_TEMPLATE_BYTES:
            raise CheckpointError(
                f"{header.source}: the chat template {short(name)} has over the {MAX_TEMPLATE_BYTES} bytes allowed"
            )
    if list(named) == ["default"]:
        return named["default"], []
    return None, [{"name": name, "template": text} for name, text in named.items()]
