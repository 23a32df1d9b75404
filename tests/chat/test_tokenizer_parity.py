"""The tokenizer beside transformers' generic fast tokenizer, opened from the same folder."""

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from seed_oss.chat import SeedOssTokenizer
from seed_oss.errors import TokenizerError
from tests.chat.random_text import random_texts
from tests.chat.tokenizer_factory import (
    CONTROL_TOKENS,
    metaspace_backend,
    tiny_backend,
    unigram_backend,
    wordpiece_backend,
    write_tiny_tokenizer,
    write_tokenizer,
)

transformers = pytest.importorskip("transformers")
SEED_NAMES = {"bos_token": "<seed:bos>", "pad_token": "<seed:pad>", "eos_token": "<seed:eos>"}
KINDS = ("seed", "odd-added", "metaspace", "wordpiece", "unigram")
NUM_TEXTS = 400  # times five kinds


def _write(kind: str, folder: Path) -> Path:
    if kind == "seed":
        return write_tiny_tokenizer(folder)
    if kind == "odd-added":
        backend = tiny_backend()
        backend.add_tokens(
            [
                AddedToken("capital", single_word=True),
                AddedToken("<strip>", lstrip=True, rstrip=True, normalized=False),
                AddedToken("<l>", lstrip=True, special=True),
                "é",
                "<seed:bo",
            ]
        )
        return write_tokenizer(folder, backend, {**SEED_NAMES, "additional_special_tokens": ["<l>", "<new>"]})
    if kind == "metaspace":
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
        return write_tokenizer(folder, metaspace_backend(), names)
    if kind == "wordpiece":
        names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        more = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"], "model_max_length": 64}
        return write_tokenizer(folder, wordpiece_backend(), {**names, **more, "clean_up_tokenization_spaces": True})
    return write_tokenizer(folder, unigram_backend(), {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"})


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SeedOssTokenizer, Any]:
    folder = _write(request.param, tmp_path_factory.mktemp(request.param))
    return SeedOssTokenizer.from_pretrained(folder), transformers.PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return random_texts(NUM_TEXTS, 7, (*CONTROL_TOKENS, "<strip>", "<l>", "<new>", "[SEP]", "</s>", "<unk>"))


def test_ids_masks_and_offsets_of_random_texts(pair: tuple[SeedOssTokenizer, Any], texts: list[str]) -> None:
    ours, theirs = pair
    wanted = {
        "return_offsets_mapping": True,
        "return_special_tokens_mask": True,
        "return_token_type_ids": True,
        "return_length": True,
    }
    for special in (True, False):
        found = ours(texts, add_special_tokens=special, **wanted)
        expected = theirs(texts, add_special_tokens=special, **wanted)
        assert dict(found) == dict(expected)


def test_one_text_at_a_time(pair: tuple[SeedOssTokenizer, Any], texts: list[str]) -> None:
    ours, theirs = pair
    for text in texts[:60]:
        assert dict(ours(text, return_length=True)) == dict(theirs(text, return_length=True))
        assert ours.encode(text) == theirs.encode(text)
        assert ours.tokenize(text) == theirs.tokenize(text)
        assert ours(text).word_ids() == theirs(text).word_ids()


def test_decoding(pair: tuple[SeedOssTokenizer, Any], texts: list[str]) -> None:
    ours, theirs = pair
    rng = random.Random(3)
    rows = [*ours(texts[:200]).input_ids, *([rng.randrange(len(ours)) for _ in range(30)] for _ in range(100))]
    for skip in (True, False):
        assert ours.batch_decode(rows, skip_special_tokens=skip) == theirs.batch_decode(rows, skip_special_tokens=skip)
        for clean in (True, False):
            rows = rows[:50]
            found = [ours.decode(row, skip_special_tokens=skip, clean_up_tokenization_spaces=clean) for row in rows]
            assert found == [
                theirs.decode(r, skip_special_tokens=skip, clean_up_tokenization_spaces=clean) for r in rows
            ]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cut_side", ["left", "right"])
def test_padding_and_truncation(pair: tuple[SeedOssTokenizer, Any], texts: list[str], side: str, cut_side: str) -> None:
    ours, theirs = pair
    theirs.truncation_side = cut_side
    calls: list[dict[str, Any]] = [
        {"padding": True},
        {"padding": "longest", "pad_to_multiple_of": 8},
        {"padding": "max_length", "max_length": 40, "truncation": True},
        {"padding": True, "max_length": 16, "truncation": "longest_first", "pad_to_multiple_of": 8},
        {"max_length": 9},
        {"max_length": 4, "truncation": "only_first"},
        {"truncation": True},
        {"padding": "max_length"},
        {"padding": True, "max_length": 12, "truncation": True, "stride": 3, "return_overflowing_tokens": True},
    ]
    for call in calls:
        batch = texts[: 24 if "stride" in call else 40]
        found = ours(batch, padding_side=side, truncation_side=cut_side, return_special_tokens_mask=True, **call)
        expected = theirs(batch, padding_side=side, return_special_tokens_mask=True, **call)
        assert dict(found) == dict(expected), call
        assert [found.word_ids(i) for i in range(20)] == [expected.word_ids(i) for i in range(20)]
        assert [found.sequence_ids(i) for i in range(20)] == [expected.sequence_ids(i) for i in range(20)]
    theirs.truncation_side = "right"


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
def test_pairs(pair: tuple[SeedOssTokenizer, Any], strategy: str) -> None:
    ours, theirs = pair
    first, second = (
        ["What is the capital?", "a b c d e f g", "x"],
        ["France Paris and more of it", "h i j k l m", "y z"],
    )
    kwargs: dict[str, Any] = {"return_token_type_ids": True, "return_offsets_mapping": True}
    assert dict(ours(first, second, padding=True, **kwargs)) == dict(theirs(first, second, padding=True, **kwargs))
    assert dict(ours(first[0], second[0], **kwargs)) == dict(theirs(first[0], second[0], **kwargs))
    assert dict(ours(list(zip(first, second, strict=True)))) == dict(theirs(list(zip(first, second, strict=True))))
    for max_length in (9, 12, 20):
        cut = {"truncation": strategy, "max_length": max_length}
        try:
            expected = dict(theirs(first[:2], second[:2], **cut))
        except Exception as error:  # noqa: BLE001 - the tokenizers package raises nothing narrower
            with pytest.raises(TokenizerError, match=str(error)):
                ours(first[:2], second[:2], **cut)
        else:
            assert dict(ours(first[:2], second[:2], **cut)) == expected


def test_words(pair: tuple[SeedOssTokenizer, Any]) -> None:
    ours, theirs = pair
    words = [["Paris", "is", "the", "capital", "日本語"], ["<seed:eos>", "🙂"], ["x"]]
    found, expected = (t(words, is_split_into_words=True, padding=True, truncation=True, max_length=8) for t in pair)
    assert dict(found) == dict(expected)
    assert [found.word_ids(i) for i in range(3)] == [expected.word_ids(i) for i in range(3)]
    assert ours(words[0], is_split_into_words=True).input_ids == theirs(words[0], is_split_into_words=True).input_ids


def test_special_tokens_split_into_text(pair: tuple[SeedOssTokenizer, Any], texts: list[str]) -> None:
    ours, theirs = pair
    found = ours(texts[:100], split_special_tokens=True).input_ids
    assert found == theirs(texts[:100], split_special_tokens=True).input_ids
    assert ours(texts[:100]).input_ids == theirs(texts[:100], split_special_tokens=False).input_ids


def test_names_and_numbers(pair: tuple[SeedOssTokenizer, Any]) -> None:
    ours, theirs = pair
    for name in ("bos", "eos", "pad", "unk", "cls", "sep", "mask"):
        assert getattr(ours, f"{name}_token") == getattr(theirs, f"{name}_token")
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    for name in (
        "all_special_tokens", "all_special_ids", "special_tokens_map", "extra_special_tokens", "vocab_size",
        "model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert str(ours.added_tokens_decoder) == str(dict(sorted(theirs.added_tokens_decoder.items())))
    assert ours.num_special_tokens_to_add() == theirs.num_special_tokens_to_add()
    tokens = ["the", "<seed:eos>", "no such token"]
    assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_ids("zzzz") == theirs.convert_tokens_to_ids("zzzz")
    ids = list(range(0, len(ours), 7))
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert ours.convert_ids_to_tokens(ids, True) == theirs.convert_ids_to_tokens(ids, skip_special_tokens=True)
    assert ours.convert_tokens_to_string(["the", "of"]) == theirs.convert_tokens_to_string(["the", "of"])


def test_padding_of_features(pair: tuple[SeedOssTokenizer, Any], texts: list[str]) -> None:
    ours, theirs = pair
    rows = [{"input_ids": ids, "special_tokens_mask": [0] * len(ids)} for ids in ours(texts[:12]).input_ids]
    for kwargs in (
        {},
        {"padding_side": "left"},
        {"pad_to_multiple_of": 8},
        {"padding": "max_length", "max_length": 99},
    ):
        assert dict(ours.pad(rows, **kwargs)) == dict(theirs.pad(rows, **kwargs))
    single = {"input_ids": [5, 6, 7]}
    assert dict(ours.pad(single)) == dict(theirs.pad(dict(single)))


def test_saving_and_loading_both_ways(pair: tuple[SeedOssTokenizer, Any], texts: list[str], tmp_path: Path) -> None:
    ours, theirs = pair
    texts = texts[:150]
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    expected = theirs(texts).input_ids
    for folder in ("ours", "theirs"):
        again = SeedOssTokenizer.from_pretrained(tmp_path / folder)
        assert again(texts).input_ids == expected
        assert again.special_tokens_map == ours.special_tokens_map
        assert again.all_special_tokens == ours.all_special_tokens
    for auto in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        reloaded = auto.from_pretrained(tmp_path / "ours")
        assert reloaded(texts).input_ids == expected
        assert reloaded.all_special_tokens == theirs.all_special_tokens
        assert reloaded.model_max_length == theirs.model_max_length
        assert reloaded.model_input_names == theirs.model_input_names
        assert reloaded.batch_decode(expected, skip_special_tokens=True) == theirs.batch_decode(
            expected, skip_special_tokens=True
        )
