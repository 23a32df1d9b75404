"""Pieces joined equal the whole, for any ids and any decoder."""

import json
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from seed_oss.chat import Detokenizer, SeedOssTokenizer, decoder_stages
from seed_oss.errors import TokenizerError
from tests.chat.random_text import random_texts
from tests.chat.tokenizer_factory import (
    CONTROL_TOKENS,
    metaspace_backend,
    tiny_backend,
    unigram_backend,
    wordpiece_backend,
)

_ODD_TOKENS = (
    "a", "b", "▁", "▁the", "the▁", "▁▁", " ", "  ", " .", " n't", "##ing", "##", "in</w>", "</w>", "|", "<pad>",
    "<0xE2>", "<0x82>", "<0xAC>", "<0x61>", "<0xff>", "<0xF0>", "<0x+1>", "<0x4>", "Ġ", "é", "â", "Ĥ", "¬", "🙂", "x y",
)  # fmt: skip


def _with_decoder(decoder: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(_ODD_TOKENS)}, unk_token="a"))
    tokenizer.add_tokens([AddedToken("<n>"), AddedToken("▁s", special=True)])
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


def _llama() -> decoders.Sequence:
    fallback = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*fallback, decoders.Strip(" ", 1, 0)])


_BACKENDS = {
    "seed": tiny_backend,
    "metaspace": metaspace_backend,
    "wordpiece": wordpiece_backend,
    "unigram": unigram_backend,
    "none": lambda: _with_decoder(None),
    "byte-level": lambda: _with_decoder(decoders.ByteLevel()),
    "llama": lambda: _with_decoder(_llama()),
    "strip-start": lambda: _with_decoder(decoders.Strip(" ", 2, 0)),
    "replace": lambda: _with_decoder(decoders.Replace("the", "▁▁")),
    "metaspace-never": lambda: _with_decoder(decoders.Metaspace(prepend_scheme="never")),
    "metaspace-first": lambda: _with_decoder(decoders.Metaspace(prepend_scheme="first")),
    "wordpiece-plain": lambda: _with_decoder(decoders.WordPiece(cleanup=False)),
    "bpe": lambda: _with_decoder(decoders.BPEDecoder()),
    "ctc": lambda: _with_decoder(decoders.CTC()),
    "nested": lambda: _with_decoder(
        decoders.Sequence([decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]), decoders.Fuse()])
    ),
    "bytes-then-all": lambda: _with_decoder(
        decoders.Sequence([decoders.ByteLevel(), decoders.Replace("th", "TH"), decoders.Strip("a", 3, 0)])
    ),
    "fused-wordpiece": lambda: _with_decoder(decoders.Sequence([decoders.Fuse(), decoders.WordPiece()])),
    "fused-metaspace": lambda: _with_decoder(
        decoders.Sequence([decoders.Fuse(), decoders.Metaspace(), decoders.Replace("a", "")])
    ),
}


@pytest.fixture(scope="module", params=list(_BACKENDS))
def tokenizer(request: pytest.FixtureRequest) -> SeedOssTokenizer:
    return SeedOssTokenizer(_BACKENDS[request.param]())


def _pieces(detokenizer: Detokenizer, ids: list[int], rng: random.Random) -> list[str]:
    pieces: list[str] = []
    start = 0
    while start < len(ids):
        end = start + rng.choice((1, 1, 1, 2, 5))
        pieces.append(detokenizer.put(ids[start] if end == start + 1 else ids[start:end]))
        start = end
    return [*pieces, detokenizer.finish()]


@pytest.mark.parametrize("skip", [False, True])
def test_pieces_joined_are_the_whole(tokenizer: SeedOssTokenizer, skip: bool) -> None:
    rng = random.Random(11)
    detokenizer = tokenizer.detokenizer(skip_special_tokens=skip)
    for _ in range(300):
        size = rng.choice((3, 30))
        ids = [
            rng.randrange(min(len(tokenizer) + 3, rng.choice((12, 60, 2000)))) for _ in range(rng.randrange(1, size))
        ]
        expected = tokenizer.decode(ids, skip_special_tokens=skip)
        assert "".join(_pieces(detokenizer, ids, rng)) == expected, ids


def test_ids_of_real_text(tokenizer: SeedOssTokenizer) -> None:
    rng = random.Random(5)
    for text in random_texts(60, 21, CONTROL_TOKENS):
        if not tokenizer.unk_token and tokenizer.vocab_size < 100:
            text = "a b"
        ids = tokenizer.encode(text)
        assert "".join(_pieces(tokenizer.detokenizer(), ids, rng)) == tokenizer.decode(ids)


@settings(deadline=None)
@given(st.lists(st.integers(min_value=0, max_value=460), max_size=40), st.booleans())
def test_any_ids_of_the_byte_level_vocabulary(ids: list[int], skip: bool) -> None:
    detokenizer = _SEED.detokenizer(skip_special_tokens=skip)
    pieces = [*(detokenizer.put(token_id) for token_id in ids), detokenizer.finish()]
    assert "".join(pieces) == _SEED.decode(ids, skip_special_tokens=skip)


@settings(deadline=None)
@given(st.binary(max_size=24))
def test_any_bytes(data: bytes) -> None:
    ids = [_ID_OF_BYTE[byte] for byte in data]
    detokenizer = _SEED.detokenizer()
    pieces = [*(detokenizer.put(token_id) for token_id in ids), detokenizer.finish()]
    assert "".join(pieces) == _SEED.decode(ids) == data.decode("utf-8", "replace")


def test_a_character_comes_when_its_last_byte_does() -> None:
    detokenizer = _SEED.detokenizer()
    ids = [_ID_OF_BYTE[byte] for byte in "é🙂".encode()]
    assert [detokenizer.put(token_id) for token_id in ids] == ["", "é", "", "", "", "🙂"]
    assert detokenizer.finish() == ""


def test_an_unfinished_character_is_closed_by_a_control_token() -> None:
    detokenizer = _SEED.detokenizer()
    assert detokenizer.put(_ID_OF_BYTE[0xE2]) == ""
    assert detokenizer.put(3) == "\ufffd<seed:think>"


@pytest.mark.parametrize("name", list(_BACKENDS))
def test_plain_tokens_come_at_once(name: str) -> None:
    tokenizer = SeedOssTokenizer(_BACKENDS[name]())
    detokenizer = tokenizer.detokenizer()
    b = tokenizer.convert_tokens_to_ids("b")
    pieces = [detokenizer.put(b).strip() for _ in range(3)]
    late = {"bpe": ["", "b", "b"], "bytes-then-all": [""] * 3, "fused-wordpiece": [""] * 3, "ctc": ["b", "", ""]}
    assert pieces == late.get(name, ["b", "b", "b"])


def test_a_decoder_of_an_unknown_kind_waits_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_stages, "_stage", lambda component: None)
    tokenizer = SeedOssTokenizer(wordpiece_backend())
    ids = tokenizer.encode("the capital of France")
    detokenizer = tokenizer.detokenizer()
    assert [detokenizer.put(ids), detokenizer.copy().finish(), detokenizer.finish()] == [
        "",
        *[tokenizer.decode(ids)] * 2,
    ]


def test_finish_starts_a_new_text() -> None:
    llama = SeedOssTokenizer(_with_decoder(_llama())).detokenizer()
    assert [llama.put(3) + llama.finish() for _ in range(2)] == ["the", "the"]


def test_a_copy_goes_on_by_itself(tokenizer: SeedOssTokenizer) -> None:
    rng = random.Random(17)
    for _ in range(40):
        head, one, two = ([rng.randrange(len(tokenizer)) for _ in range(6)] for _ in range(3))
        first = tokenizer.detokenizer()
        start = first.put(head)
        second = first.copy()
        ends = [first.put(one) + first.finish(), second.put(two) + second.finish()]
        assert [start + end for end in ends] == [tokenizer.decode(head + one), tokenizer.decode(head + two)]


def test_bad_ids_are_named(tokenizer: SeedOssTokenizer) -> None:
    for bad in (-1, 2**32, "5", 1.5, None):
        with pytest.raises(TokenizerError, match="token ids are integers"):
            tokenizer.detokenizer().put(bad)
        with pytest.raises(TokenizerError, match="token ids are integers"):
            tokenizer.decode([1, bad])


def test_time_is_linear(tokenizer: SeedOssTokenizer) -> None:
    rng = random.Random(1)
    ids = [rng.randrange(len(tokenizer)) for _ in range(16_000)]
    short, long = (min(_seconds(tokenizer, ids[:length]) for _ in range(3)) for length in (2_000, 16_000))
    assert long < 8 * short * 4  # a quadratic one would take 64 times as long


def _seconds(tokenizer: SeedOssTokenizer, ids: list[int]) -> float:
    detokenizer = tokenizer.detokenizer()
    start = time.thread_time()  # other jobs on the machine do not count
    for token_id in ids:
        detokenizer.put(token_id)
    detokenizer.finish()
    return time.thread_time() - start


def test_all_decoder_kinds_of_the_package_are_covered() -> None:
    known = {"BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"}
    kinds = {name for name in dir(decoders) if isinstance(getattr(decoders, name), type)}
    assert kinds - {"Decoder", "DecodeStream"} == known | {"WordPiece"}
    assert json.loads(_SEED.backend_tokenizer.decoder.__getstate__())["type"] == "ByteLevel"


_SEED = SeedOssTokenizer(tiny_backend())
_BYTE_CHARS = [chr(b) for b in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
_HIDDEN = [b for b in range(256) if chr(b) not in _BYTE_CHARS]
_ID_OF_BYTE = {ord(char): _SEED.convert_tokens_to_ids(char) for char in _BYTE_CHARS} | {
    byte: _SEED.convert_tokens_to_ids(chr(0x100 + place)) for place, byte in enumerate(_HIDDEN)
}
