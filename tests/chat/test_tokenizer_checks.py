"""Hostile tokenizer.json files: a TokenizerError before the tokenizers package can abort the process."""

import base64
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers

from seed_oss.chat import SeedOssTokenizer
from seed_oss.chat.tokenizer_checks import (
    MAX_ADDED_TOKENS,
    MAX_CHARSMAP_PIECE,
    MAX_COMPONENTS,
    MAX_GROWTH,
    MAX_MERGES,
    MAX_PATTERN_LEN,
    MAX_PIECE_LEN,
    MAX_TEMPLATE_TOKENS,
    MAX_TOKEN_LEN,
    MAX_TOKENS_LEN,
    MAX_WORD_LEN,
    MAX_WORDS,
    check_tokenizer_json,
)
from seed_oss.errors import TokenizerError
from tests.chat.tokenizer_factory import tiny_backend, write_tiny_tokenizer

_MODEL: dict[str, Any] = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}


def _replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}


def _sequence(*normalizers: dict[str, Any]) -> dict[str, Any]:
    return {"normalizer": {"type": "Sequence", "normalizers": list(normalizers)}}


def _added(**token: Any) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": 2, "content": "<x>", **flags, **token}


def _charsmap(trie: bytes, pieces: bytes, size: int | None = None) -> dict[str, Any]:
    blob = (len(trie) if size is None else size).to_bytes(4, "little") + trie + pieces
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(blob).decode()}


def _template(
    single: list[Any], specials: dict[str, Any] | None = None, pair: list[Any] | None = None
) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": single, "pair": pair or [], "special_tokens": specials or {}}


_TEXT_A = {"Sequence": {"id": "A", "type_id": 0}}
_BOS = {"SpecialToken": {"id": "s", "type_id": 0}}


def _special(num_ids: int) -> dict[str, Any]:
    return {"s": {"id": "s", "ids": [0] * num_ids, "tokens": ["a"] * num_ids}}


def _byte_level(**flags: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False, **flags}


def _split_by(*components: dict[str, Any]) -> dict[str, Any]:
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(components)}}


_GROWING_CHARSMAP = _charsmap(b"\0" * 8, b"a" * 250 + b"\0")
_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def _unigram(*words: str) -> dict[str, Any]:
    return {"type": "Unigram", "vocab": [[word, -1.0] for word in words], "unk_id": 0}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "model must be a JSON object"),
    "model a list": ({"model": []}, "model must be a JSON object, got list"),
    "model of no kind": ({"model": {}}, "not a tokenizer that the tokenizers package can read"),
    "unknown model": ({"model": {"type": "Neural"}}, "not a tokenizer"),
    "merge of unknown tokens": ({"model": {**_MODEL, "merges": ["a c"]}}, "out of vocabulary"),
    "prefix that merges lack": (
        {"model": {**_MODEL, "vocab": {"a": 0, "é": 1, "aé": 2}, "merges": ["a é"], "continuing_subword_prefix": ","}},
        "right half of every merge",
    ),
    "prefix of two bytes": ({"model": {**_MODEL, "continuing_subword_prefix": "é"}}, "must be ASCII"),
    "negative id": ({"model": {**_MODEL, "vocab": {"a": -1}}}, "not a tokenizer"),
    "growing text": (_sequence(*[_replace("aaaaaaaaaa")] * 20), "growth of text in the normalizer"),
    "growing text by regex": (_sequence(*[_replace("aaaaaaaaaa", Regex="")] * 20), "growth"),
    "growing decoded text": (
        {"decoder": {"type": "Sequence", "decoders": [_replace("aaaaaaaaaa")] * 20}},
        "growth of text in the decoder",
    ),
    "prepending": (_sequence(*[{"type": "Prepend", "prepend": "a" * 99}] * 5), "growth"),
    "bytes of bytes": (_split_by(*[_byte_level()] * 13), "growth of text in the pre_tokenizer"),
    "bytes of words": (_split_by(*[_byte_level(add_prefix_space=True, use_regex=True)] * 7), "growth of text"),
    "bytes without a type": (_split_by(*[{"add_prefix_space": True, "trim_offsets": True}] * 5), "growth of text"),
    "normalizing to bytes": (_sequence(*[{"type": "ByteLevel"}] * 16), "growth of text in the normalizer"),
    "words of words": (_split_by(*[_METASPACE, {"type": "Punctuation", "behavior": "Isolated"}] * 5), "growth of text"),
    "charsmaps that grow": (_sequence(_GROWING_CHARSMAP, _GROWING_CHARSMAP), "growth of text in the normalizer"),
    "growth in two parts": (
        {**_sequence(_GROWING_CHARSMAP), **_split_by(*[_byte_level()] * 5)},
        "growth of text in normalizer and pre_tokenizer",
    ),
    "many components": (_sequence(*[{"type": "NFC"}] * MAX_COMPONENTS), "number of components of the normalizer"),
    "long pattern": (_sequence(_replace("", Regex="a" * (MAX_PATTERN_LEN + 1))), "length of a pattern"),
    "bad pattern": (_sequence(_replace("", Regex="((((")), "pattern '.*' of the normalizer lacks a \\)"),
    "bad range": (_sequence(_replace("", Regex="[z-a]")), "not a tokenizer"),
    "charsmap of 8 GiB": (_sequence(_charsmap(b"\xff" * 8, b"", size=2**32 - 1)), "it is damaged"),
    "charsmap too short": (_sequence({"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "it is damaged"),
    "charsmap no base64": (_sequence({"type": "Precompiled", "precompiled_charsmap": "?"}), "not base64"),
    "charsmap that grows": (
        _sequence(_charsmap(b"\0" * 8, b"x" * (MAX_CHARSMAP_PIECE + 1) + b"\0")),
        "length of a replacement",
    ),
    "pieces of length 0": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "at least 1 is needed"),
    "template without its token": ({"post_processor": _template([_BOS])}, "does not define"),
    "template without its type": ({"post_processor": {**_template([_BOS]), "type": None}}, "does not define"),
    "template repeating the text": ({"post_processor": _template([_TEXT_A, _TEXT_A])}, "repeats the text"),
    "template of many tokens": (
        {"post_processor": _template([_BOS] * 40 + [_TEXT_A], _special(40))},
        "number of special tokens",
    ),
    "long words": ({"model": {"type": "WordPiece", "max_input_chars_per_word": 10**9}}, "max_input_chars_per_word"),
    "long words of Unigram": ({"model": _unigram("a" * 200_000)}, "length of a word of the Unigram model"),
    "long words without a type": ({"model": {**_unigram("a" * 200_000), "type": None}}, "length of a word"),
    "many added tokens": ({"added_tokens": [_added()] * (MAX_ADDED_TOKENS + 1)}, "number of added tokens"),
    "long added token": ({"added_tokens": [_added(content="x" * (MAX_TOKEN_LEN + 1))]}, "length of an added token"),
    "added tokens an object": ({"added_tokens": {}}, "added_tokens must be a JSON list"),
    "dropout": ({"model": {**_MODEL, "dropout": 7.0}}, "Dropout"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": _MODEL, **change}))
    start = time.monotonic()
    with pytest.raises(TokenizerError, match=message):
        SeedOssTokenizer.from_pretrained(tmp_path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        (lambda n: _sequence(_replace("x" * n)), MAX_GROWTH),
        (lambda n: _sequence(*[{"type": "NFC"}] * (n - 1)), MAX_COMPONENTS),
        (lambda n: _sequence(_replace("", Regex="a" * n)), MAX_PATTERN_LEN),
        (lambda n: _sequence(_charsmap(b"\0" * 8, b"x" * n + b"\0")), MAX_CHARSMAP_PIECE),
        (lambda n: {"added_tokens": [_added()] * n}, MAX_ADDED_TOKENS),
        (lambda n: {"added_tokens": [_added(content="x" * n)]}, MAX_TOKEN_LEN),
        (
            lambda n: {"added_tokens": [*[_added(content="x" * 512)] * 511, _added(content="x" * (n - 511 * 512))]},
            2**18,
        ),
        (lambda n: {"post_processor": _template([_BOS, _TEXT_A], _special(n))}, MAX_TEMPLATE_TOKENS),
        (lambda n: {"model": _unigram("a" * n)}, MAX_PIECE_LEN),
        (lambda n: {"model": _unigram(*["a"] * n)}, MAX_WORDS),
        (lambda n: {"model": {**_MODEL, "vocab": dict(enumerate(range(n)))}}, MAX_WORDS),
        (lambda n: {"model": {**_MODEL, "merges": ["a b"] * n}}, MAX_MERGES),
        (lambda n: {"model": {**_MODEL, "max_input_chars_per_word": n}}, MAX_WORD_LEN),
    ],
)
def test_limits_are_exact(change: Any, limit: int) -> None:
    check_tokenizer_json({"model": _MODEL, **change(limit)}, "x")
    with pytest.raises(TokenizerError, match=f"the limit is {limit}"):
        check_tokenizer_json({"model": _MODEL, **change(limit + 1)}, "x")


def test_what_real_tokenizers_do_before_the_model_is_within_the_growth_allowed() -> None:
    longest = _charsmap(b"\0" * 8, b"x" * 33 + b"\0")  # as in the rules of SentencePiece
    spaces = _replace("▁", Regex=" {2,}")
    for change in (
        {**_sequence(longest, spaces), "pre_tokenizer": _METASPACE},
        {**_sequence({"type": "Prepend", "prepend": "▁"}, _replace("▁", String=" ")), "pre_tokenizer": None},
        {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}},
        {"normalizer": {"type": "NFC"}, **_split_by({"type": "Digits"}, _byte_level(use_regex=True))},
    ):
        check_tokenizer_json({"model": _MODEL, **change}, "x")


def test_the_longest_words_allowed_load_and_encode() -> None:
    tokenizer = _with(model=_unigram("<unk>", "b" * MAX_PIECE_LEN, "🙂" * MAX_PIECE_LEN))
    assert tokenizer.encode("b" * MAX_PIECE_LEN) == [1]
    assert tokenizer.encode("🙂" * MAX_PIECE_LEN) == [2]


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"{", b'{"model": NaN}', b"\xff", b'{"a":1,"a":2}', b"[" * 100_000, b'"\\ud800"'],
)
def test_what_is_no_tokenizer_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError):
        SeedOssTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
def test_what_stands_beside_it_is_checked_too(tmp_path: Path, name: str) -> None:
    write_tiny_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for content in (b"[]", b"{", b'{"a": 1e999}', b'{"eos_token": {"content": 1}}'):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TokenizerError):
            SeedOssTokenizer.from_pretrained(tmp_path)


def _random_tokens(number: int, length: int) -> list[str]:
    letters = random.Random(0)
    return ["".join(letters.choices("abcdefghijklmnop", k=length)) for _ in range(number)]


@pytest.mark.parametrize(
    ("number", "length", "message"),
    [
        (MAX_ADDED_TOKENS + 1, 8, f"number of added tokens is 16[34]..; the limit is {MAX_ADDED_TOKENS}"),
        (1, MAX_TOKEN_LEN + 1, "length of an added token"),
        (300, 1000, f"length of all added tokens together is 300...; the limit is {MAX_TOKENS_LEN}"),
    ],
)
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "decoder"])
def test_many_or_long_tokens_beside_it(tmp_path: Path, name: str, number: int, length: int, message: str) -> None:
    write_tiny_tokenizer(tmp_path)
    tokens = _random_tokens(number, length)
    content: dict[str, Any] = {"additional_special_tokens": tokens}
    (tmp_path / "tokenizer_config.json").write_text("{}")
    if name == "added_tokens.json":
        content = {token: 1000 + index for index, token in enumerate(tokens)}
    elif name == "decoder":
        name = "tokenizer_config.json"
        content = {"added_tokens_decoder": {str(1000 + i): {"content": token} for i, token in enumerate(tokens)}}
    (tmp_path / name).write_text(json.dumps(content))
    start = time.monotonic()
    with pytest.raises(TokenizerError, match=message):
        SeedOssTokenizer.from_pretrained(tmp_path)
    assert time.monotonic() - start < 2


def test_a_few_thousand_added_tokens_are_normal(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path)
    tokens = [f"<|reserved_special_token_{number}|>" for number in range(5_000)]
    decoder = {str(1000 + index): {"content": token} for index, token in enumerate(tokens)}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": decoder, "additional_special_tokens": tokens})
    )
    tokenizer = SeedOssTokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode(tokenizer.encode(tokens[-1])) == tokens[-1]


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match="not valid UTF-8"):
        SeedOssTokenizer.from_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(TokenizerError, match="larger than"):
        SeedOssTokenizer.from_pretrained(tmp_path)


def _with(**change: Any) -> SeedOssTokenizer:
    from seed_oss.chat.backend import load_backend

    state = {"version": "1.0", "model": _MODEL, **change}
    return SeedOssTokenizer(load_backend(json.dumps(state).encode(), source="x")[0])


def test_failures_inside_the_package_become_ours(capfd: pytest.CaptureFixture[str]) -> None:
    strip = _with(decoder={"type": "Strip", "content": "a", "start": 1, "stop": 10})
    with pytest.raises(TokenizerError, match="cannot be decoded"):
        strip.decode([0, 1])
    with pytest.raises(TokenizerError, match="cannot be decoded"):
        strip.detokenizer().put([0, 1])
    backend = tiny_backend()
    slow: Any = pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated")  # a file could not ask for it
    backend.pre_tokenizer = slow
    with pytest.raises(TokenizerError, match="retry-limit"):
        SeedOssTokenizer(backend).encode("x" * 60)
    unigram = _with(model={"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]], "byte_fallback": False})
    with pytest.raises(TokenizerError, match="unknown token"):
        unigram.encode("b")
    capfd.readouterr()  # the package reports its panics on standard error


def test_ids_that_cannot_be_rebuilt(tmp_path: Path) -> None:
    state = {"version": "1.0", "model": _MODEL, "added_tokens": [_added(id=4_000_000_000)]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    tokenizer = SeedOssTokenizer.from_pretrained(tmp_path)
    assert tokenizer.convert_tokens_to_ids("<x>") == 2  # as the package numbers it
    assert tokenizer.encode("a<x>", max_length=9) == [0, 2]
