"""What the tokenizer does beyond giving transformers' numbers: settings, special tokens, saving, errors."""

import copy
import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken

from seed_oss.chat import BatchEncoding, SeedOssTokenizer
from seed_oss.errors import InputError, MissingFileError, TokenizerError, UnsafeFileError
from tests.chat.tokenizer_factory import CHATML_TEMPLATE, tiny_backend, wordpiece_backend, write_tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_tokenizer(tmp_path / "tiny")


@pytest.fixture
def tokenizer(folder: Path) -> SeedOssTokenizer:
    return SeedOssTokenizer.from_pretrained(folder)


# --- the result of a call


def test_the_result_answers_by_key_attribute_and_unpacking(tokenizer: SeedOssTokenizer) -> None:
    encoded = tokenizer("Hello")

    def unpacked(**kwargs: Any) -> dict[str, Any]:
        return kwargs

    assert encoded["input_ids"] == encoded.input_ids == unpacked(**encoded)["input_ids"]
    assert list(encoded) == list(encoded.keys()) == ["input_ids", "attention_mask"]
    assert "input_ids" in encoded
    assert len(encoded) == 2
    assert encoded[0].ids == encoded.input_ids
    assert tokenizer(["ab", "cd"])[0:1]["input_ids"] == tokenizer(["ab"]).input_ids
    with pytest.raises(AttributeError, match="no 'labels'; it holds input_ids, attention_mask"):
        _ = encoded.labels
    with pytest.raises(KeyError):
        _ = encoded["labels"]
    assert pickle.loads(pickle.dumps(BatchEncoding(dict(encoded)))) == encoded  # noqa: S301 - our own bytes
    assert copy.deepcopy(BatchEncoding(dict(encoded))).input_ids == encoded.input_ids


def test_characters_and_tokens_find_each_other(tokenizer: SeedOssTokenizer) -> None:
    encoded = tokenizer("the capital")
    start, end = encoded.token_to_chars(0, 1) or (0, 0)
    assert encoded.char_to_token(0, start) == 1
    assert 0 < start < end <= len("the capital")
    with pytest.raises(TokenizerError, match="straight from tokenizing"):
        BatchEncoding({"input_ids": [1]}).word_ids()


def test_tensors_and_devices(tokenizer: SeedOssTokenizer) -> None:
    one = tokenizer("Hello", return_tensors="pt")
    assert one.input_ids.shape[0] == 1
    assert one.input_ids.dtype == one.attention_mask.dtype == torch.int64
    moved = tokenizer(["a", "b"], return_tensors="pt", return_length=True).to("meta")
    assert {value.device.type for value in moved.values()} == {"meta"}
    array = tokenizer(["a", "bc d"], padding=True, return_tensors="np").input_ids
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.int64
    assert tokenizer("", return_tensors="pt").input_ids.shape == (1, 0)
    assert tokenizer("").input_ids == []
    assert tokenizer([]).input_ids == []
    assert tokenizer([], padding=True, return_tensors="pt").input_ids.dtype == torch.int64
    with pytest.raises(InputError, match="pass padding=True"):
        tokenizer(["a", "bc d"], return_tensors="pt")
    with pytest.raises(InputError, match='"pt", "np" or None'):
        tokenizer("a", return_tensors="tf")


# --- bad arguments


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((None,), {}, "text 0 must be a string"),
        ((5,), {}, "got int"),
        ((["a", 5],), {}, "text 1 must be a string"),
        ((["a", ["b", "c", "d"]],), {}, "a list of 3 items"),
        ((["a", "b"], "c"), {}, "a batch of 2 texts needs"),
        ((["a", "b"], ["c"]), {}, "a batch of 2 texts needs"),
        (("a",), {"is_split_into_words": True}, "text 0 must be a list of words"),
        (("a",), {"padding": "long"}, "padding must be True"),
        (("a",), {"truncation": "yes"}, "truncation must be True"),
        (("a",), {"max_length": -1}, "max_length must be an integer of at least 0"),
        (("a",), {"max_length": 2.5}, "max_length must be an integer"),
        (("a",), {"max_length": 3, "stride": -1}, "stride must be"),
        (("a",), {"padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of must be"),
        (("a",), {"padding": True, "padding_side": "up"}, 'padding_side must be "right" or "left"'),
        (("a",), {"max_length": 3, "truncation_side": "up"}, "truncation_side must be"),
        (("a",), {"padding": "max_length", "max_length": 10**10}, "exceeds"),
        (("a",), {"padding": True, "truncation": True, "max_length": 10, "pad_to_multiple_of": 8}, "multiple of"),
    ],
)
def test_bad_arguments_are_named(
    tokenizer: SeedOssTokenizer, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer(*args, **kwargs)


def test_text_that_is_not_unicode_is_refused(tokenizer: SeedOssTokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"text 0 cannot be encoded: character 0 is the lone surrogate \\ud800"):
        tokenizer("\ud800")
    with pytest.raises(TokenizerError, match="text 1 cannot be encoded: character 2 is the lone surrogate"):
        tokenizer(["fine", "ab\udfff"])
    for words in ({"text": ["a"], "text_pair": ["b\ud800"]}, {"text": ["a", "\ud800"], "is_split_into_words": True}):
        with pytest.raises(TokenizerError, match="lone surrogate"):
            tokenizer(**words)


def test_stride_as_long_as_the_piece_is_refused(tokenizer: SeedOssTokenizer) -> None:
    with pytest.raises(TokenizerError, match="tride"):
        tokenizer("a b c d e", truncation=True, max_length=2, stride=2)


def test_max_length_goes_with_truncation_alone(tokenizer: SeedOssTokenizer) -> None:
    assert len(tokenizer("What is the capital of France?", max_length=3).input_ids) == 3
    assert len(tokenizer("What is the capital of France?", max_length=3, truncation=False).input_ids) > 3
    assert tokenizer("What is the capital?", truncation=True).input_ids == tokenizer("What is the capital?").input_ids


def test_long_texts_are_told_of_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = SeedOssTokenizer.from_pretrained(folder, model_max_length=4)
    tokenizer("What is the capital of France?")
    tokenizer("What is the capital of France?")
    assert len(caplog.records) == 1
    assert "the model takes 4" in caplog.text


# --- decoding


def test_decoding_takes_ids_lists_arrays_and_tensors(tokenizer: SeedOssTokenizer) -> None:
    ids = tokenizer("Hi <seed:think>").input_ids
    for given in (ids, tuple(ids), np.array(ids), torch.tensor(ids), [torch.tensor(i) for i in ids]):
        assert tokenizer.decode(given) == "Hi <seed:think>"
    for batch in ([ids, ids], torch.tensor([ids, ids]), np.array([ids, ids]), [torch.tensor(ids)] * 2):
        assert tokenizer.batch_decode(batch) == tokenizer.decode(batch) == ["Hi <seed:think>"] * 2
    assert tokenizer.decode(3) == tokenizer.decode(torch.tensor(3)) == "<seed:think>"
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([2, 3], skip_special_tokens=True) == "<seed:think>"
    assert tokenizer.decode([10**6]) == ""


def test_tokens_and_ids(tokenizer: SeedOssTokenizer) -> None:
    assert tokenizer.convert_ids_to_tokens(torch.tensor([2, 3])) == ["<seed:eos>", "<seed:think>"]
    assert tokenizer.convert_ids_to_tokens(2) == "<seed:eos>"
    assert tokenizer.convert_ids_to_tokens([2, 10**6]) == ["<seed:eos>", None]
    assert tokenizer.convert_tokens_to_ids("no such token") is None
    tokenizer.unk_token = "<seed:pad>"
    assert tokenizer.convert_tokens_to_ids(["no such token", "<seed:eos>"]) == [1, 2]


# --- special tokens


def test_special_tokens_can_be_set(tokenizer: SeedOssTokenizer) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer.pad_token_id == 2
    assert tokenizer(["a", "a b c"], padding=True).input_ids[0][-1] == 2
    tokenizer.pad_token_id = 1
    assert tokenizer.pad_token == "<seed:pad>"
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None
    with pytest.raises(TokenizerError, match=r"tokenizer.pad_token = tokenizer.eos_token"):
        tokenizer(["a", "b"], padding=True)
    with pytest.raises(TokenizerError, match="not an id of the vocabulary"):
        tokenizer.pad_token_id = 10**6
    with pytest.raises(TokenizerError, match="must be the text of a token"):
        tokenizer.eos_token = 5  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match="no attribute 'eos'"):
        _ = tokenizer.eos


def test_mask_of_special_tokens(tokenizer: SeedOssTokenizer) -> None:
    ids = torch.tensor([0, 3, 300, 2])
    assert tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True) == [1, 0, 0, 1]
    with pytest.raises(TokenizerError, match="return_special_tokens_mask=True"):
        tokenizer.get_special_tokens_mask([0])


def test_names_of_the_checkpoints_own(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path, image_token="<seed:think>", extra_special_tokens={"audio_token": "<audio>"})
    tokenizer = SeedOssTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.image_token, tokenizer.image_token_id) == ("<seed:think>", 3)
    assert tokenizer.audio_token_id == len(tokenizer) - 1
    assert "<audio>" in tokenizer.all_special_tokens
    tokenizer.save_pretrained(tmp_path / "saved")
    assert SeedOssTokenizer.from_pretrained(tmp_path / "saved").audio_token_id == tokenizer.audio_token_id


def test_adding_tokens(tokenizer: SeedOssTokenizer) -> None:
    size = len(tokenizer)
    assert tokenizer.add_tokens(["<new>", AddedToken("<seed:think>", normalized=False)]) == 1
    assert tokenizer.add_tokens("<new>") == 0
    assert tokenizer.add_tokens([]) == 0
    assert len(tokenizer) == size + 1
    assert tokenizer("a<new>b", max_length=2).input_ids[-1] == size  # truncated calls know it too
    assert tokenizer.add_special_tokens({"mask_token": "<mask>", "additional_special_tokens": ["<x>", "<new>"]}) == 3
    assert tokenizer.mask_token_id == size + 1
    assert tokenizer.additional_special_tokens == ["<x>", "<new>"]
    assert tokenizer.additional_special_tokens_ids == [size + 2, size]
    assert tokenizer.decode([size, size + 1], skip_special_tokens=True) == ""
    assert tokenizer.detokenizer(skip_special_tokens=True).put([size, size + 1, 3]) == "<seed:think>"
    assert tokenizer.add_special_tokens({"extra_special_tokens": ["<y>"]}, replace_extra_special_tokens=False) == 1
    assert tokenizer.extra_special_tokens == ["<x>", "<new>", "<y>"]
    with pytest.raises(TokenizerError, match="not the name of a special token"):
        tokenizer.add_special_tokens({"end_token": "<e>"})
    with pytest.raises(TokenizerError, match="must be the text of a token"):
        tokenizer.add_tokens([5])  # pyright: ignore[reportArgumentType]


def test_bos_and_eos_around_texts(folder: Path) -> None:
    tokenizer = SeedOssTokenizer.from_pretrained(folder, add_bos_token=True)
    plain = tokenizer.encode("Hi", add_special_tokens=False)
    assert tokenizer.encode("Hi") == [0, *plain]
    tokenizer.add_eos_token = True
    assert tokenizer.encode("Hi") == [0, *plain, 2]
    assert tokenizer.encode("Hi there, you", max_length=4)[::3] == [0, 2]
    assert tokenizer("Hi", "Hi", return_token_type_ids=True).token_type_ids.count(1) == len(plain) + 2
    tokenizer.add_bos_token = tokenizer.add_eos_token = False
    assert tokenizer.encode("Hi") == plain
    tokenizer.bos_token = None
    with pytest.raises(TokenizerError, match="needs a bos_token"):
        tokenizer.add_bos_token = True


# --- opening


def test_arguments_go_before_the_files(folder: Path) -> None:
    tokenizer = SeedOssTokenizer.from_pretrained(
        folder, padding_side="left", model_max_length=9, pad_token="<seed:eos>", use_fast=True, trust_remote_code=False
    )
    assert (tokenizer.padding_side, tokenizer.model_max_length, tokenizer.pad_token_id) == ("left", 9, 2)
    with pytest.raises(InputError, match="'paddign_side' is not an argument"):
        SeedOssTokenizer.from_pretrained(folder, paddign_side="left")
    with pytest.raises(TokenizerError, match="padding_side"):
        SeedOssTokenizer.from_pretrained(folder, padding_side="up")


def test_subfolder_and_missing_files(folder: Path, tmp_path: Path) -> None:
    assert len(SeedOssTokenizer.from_pretrained(folder.parent, subfolder="tiny")) == 448
    with pytest.raises(MissingFileError, match=r"holds no checkpoint and no tokenizer: neither config.json nor tok"):
        SeedOssTokenizer.from_pretrained(folder.parent)
    (folder.parent / "config.json").write_text("{}")
    with pytest.raises(MissingFileError, match=r"has no tokenizer\.json"):
        SeedOssTokenizer.from_pretrained(folder.parent)
    with pytest.raises(MissingFileError):
        SeedOssTokenizer.from_pretrained(tmp_path / "nowhere")


def test_tokenizer_json_is_enough(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    tokenizer = SeedOssTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token is None
    assert tokenizer.chat_template == CHATML_TEMPLATE


def test_older_files(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<seed:pad>"}')
    eos = {"content": "<seed:eos>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": eos, "additional_special_tokens": ["<s>"]})
    )
    (folder / "added_tokens.json").write_text('{"<old>": 448}')
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    ours = SeedOssTokenizer.from_pretrained(folder)
    assert ours.eos_token_id == theirs.eos_token_id == 2
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    text = "a<old> <s><seed:eos>"
    assert ours.encode(text) == theirs.encode(text)
    ids = ours.encode(text)
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


def test_padding_of_tokenizer_json_gives_defaults(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    state["padding"] = {
        "strategy": {"Fixed": 10**12}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
        "pad_token": "<seed:pad>",
    }  # fmt: skip
    state["truncation"] = {"max_length": 1, "stride": 0, "strategy": "LongestFirst", "direction": "Left"}
    (folder / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "tokenizer_config.json").unlink()
    tokenizer = SeedOssTokenizer.from_pretrained(folder)
    assert (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token) == ("left", "left", "<seed:pad>")
    assert len(tokenizer("What is the capital of France?").input_ids) > 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model_max_length": "long"}, "model_max_length"),
        ({"model_max_length": -1}, "model_max_length"),
        ({"eos_token": 5}, "eos_token must be the text"),
        ({"eos_token": {"text": "x"}}, "eos_token must be the text"),
        ({"additional_special_tokens": "abc"}, "must be a list of tokens"),
        ({"additional_special_tokens": [1]}, "must be the text"),
        ({"model_input_names": "input_ids"}, "must be a list of names"),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "not a token id"),
        ({"added_tokens_decoder": {"3": "a"}}, "is not a token"),
        ({"added_tokens_decoder": []}, "must map ids to tokens"),
        ({"chat_template": 5}, "chat_template must be"),
        ({"chat_template": [{"name": "a"}]}, "chat_template must be"),
        ({"truncation_side": 3}, "truncation_side"),
        ({"pad_token_type_id": -1}, "pad_token_type_id"),
        ({f"x{n}_token": "<seed:eos>" for n in range(300)}, "300 special tokens|30[0-9] special tokens"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, setting: dict[str, Any], message: str) -> None:
    write_tiny_tokenizer(tmp_path, chat_template=None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(setting))
    with pytest.raises(TokenizerError, match=message):
        SeedOssTokenizer.from_pretrained(tmp_path)


def test_files_outside_the_folder_are_not_opened(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").rename(tmp_path / "outside.json")
    (folder / "tokenizer.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(UnsafeFileError, match="leaves the model folder"):
        SeedOssTokenizer.from_pretrained(folder)


# --- saving and copying


def test_saving_keeps_what_is_not_ours_and_drops_stale_templates(tokenizer: SeedOssTokenizer, tmp_path: Path) -> None:
    target = tmp_path / "out"
    (target / "additional_chat_templates").mkdir(parents=True)
    (target / "additional_chat_templates" / "tool_use.jinja").write_text("stale")
    (target / "chat_template.jinja").write_text("stale")
    (target / "README.md").write_text("mine")
    (target / "model.safetensors").write_text("weights")
    tokenizer.chat_template = None
    written = tokenizer.save_pretrained(target)
    assert sorted(Path(name).name for name in written) == [
        "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert (target / "README.md").read_text() == "mine"
    assert (target / "model.safetensors").read_text() == "weights"
    again = SeedOssTokenizer.from_pretrained(target)
    assert again.chat_template is None
    with pytest.raises(InputError):
        tokenizer.save_pretrained(target / "README.md")


def test_settings_survive_saving(folder: Path, tmp_path: Path) -> None:
    tokenizer = SeedOssTokenizer.from_pretrained(folder, model_max_length=77, truncation_side="left")
    tokenizer.padding_side = "left"
    tokenizer.pad_token = "<seed:eos>"
    tokenizer.add_tokens([AddedToken("<kept>", special=True)])
    tokenizer.add_bos_token = True
    tokenizer.save_pretrained(tmp_path / "out")
    again = SeedOssTokenizer.from_pretrained(tmp_path / "out")
    for name in ("model_max_length", "truncation_side", "padding_side", "pad_token_id", "chat_template"):
        assert getattr(again, name) == getattr(tokenizer, name)
    assert again.encode("a<kept>") == tokenizer.encode("a<kept>")
    assert again.decode(again.encode("a<kept>"), skip_special_tokens=True) == "a"
    assert "auto_map" not in (tmp_path / "out" / "tokenizer_config.json").read_text()


def test_settings_without_effect_are_kept_and_private_ones_dropped(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path, do_lower_case=True, auto_map={"AutoTokenizer": "x.Y"}, _private=1)
    SeedOssTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert saved["do_lower_case"] is True
    assert "auto_map" not in saved
    assert "_private" not in saved


def test_a_copy_is_independent(tokenizer: SeedOssTokenizer) -> None:
    for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):  # noqa: S301 - our own bytes
        assert twin.encode("Hi <seed:eos>") == tokenizer.encode("Hi <seed:eos>")
        twin.add_tokens(["<only here>"])
        twin.pad_token = None
        assert len(tokenizer) == 448
        assert tokenizer.pad_token_id == 1


# --- beyond one thread, and without torch


def test_threads_do_not_cut_each_others_texts(tokenizer: SeedOssTokenizer) -> None:
    text = "What is the capital of France? " * 20
    full = len(tokenizer.encode(text))
    wrong: list[int] = []

    def work(max_length: int | None) -> None:
        for _ in range(50):
            found = len(tokenizer.encode(text, max_length=max_length))
            if found != (max_length or full):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(length,)) for length in (None, 3, 7, None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_torch_until_a_tensor_is_asked_for(folder: Path) -> None:
    program = (
        "import sys; from seed_oss.chat import SeedOssTokenizer\n"
        "t = SeedOssTokenizer.from_pretrained(sys.argv[1])\n"
        "t(['a', 'b c'], padding=True, return_tensors='np'); t.decode([5, 6]); t.detokenizer().put([7])\n"
        "t.apply_chat_template([{'role': 'user', 'content': 'x'}])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules and 'jinja2' not in sys.modules\n"
        "t('a', return_tensors='pt'); assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True)


def test_words_of_cleaning_up() -> None:
    tokenizer = SeedOssTokenizer(wordpiece_backend(), unk_token="[UNK]", clean_up_tokenization_spaces=True)
    ids = tokenizer.encode("the capital, don't .", add_special_tokens=False)
    assert tokenizer.decode(ids) == tokenizer.decode(ids, clean_up_tokenization_spaces=True)


def test_representation_and_truth(tokenizer: SeedOssTokenizer) -> None:
    assert "vocab_size=448" in repr(tokenizer)
    assert bool(SeedOssTokenizer(tiny_backend()))
    assert tokenizer.is_fast


@pytest.mark.parametrize(
    "name", ["chat_template", "padding_side", "model_max_length", "_told_too_long", "_named_token", "a b_token", ""]
)
def test_names_of_tokens_shadow_no_attribute(tmp_path: Path, name: str) -> None:
    write_tiny_tokenizer(tmp_path, extra_special_tokens={name: "<seed:bos>"})
    with pytest.raises(TokenizerError, match="a word that ends in _token"):
        SeedOssTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["add_bos_token", "_named_token"])
def test_settings_that_only_look_like_tokens(tmp_path: Path, name: str) -> None:
    write_tiny_tokenizer(tmp_path, **{name: "<seed:pad>"})
    tokenizer = SeedOssTokenizer.from_pretrained(tmp_path)
    assert "<seed:pad>" not in [tokenizer.special_tokens_map.get(name)]
    tokenizer.add_bos_token = False
    assert tokenizer.add_bos_token is False


def test_the_folder_of_further_templates_is_a_folder(tmp_path: Path) -> None:
    folder = write_tiny_tokenizer(tmp_path / "model")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret.jinja").write_text("secret")
    (folder / "additional_chat_templates").symlink_to(elsewhere)
    with pytest.raises(UnsafeFileError, match="symbolic link where a folder is required"):
        SeedOssTokenizer.from_pretrained(folder)
    (folder / "additional_chat_templates").unlink()
    (folder / "additional_chat_templates").write_text("no folder")
    assert isinstance(SeedOssTokenizer.from_pretrained(folder).chat_template, str)


def test_further_templates_of_the_hub_cache_are_links_into_its_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    folder = write_tiny_tokenizer(repository / "snapshots" / ("0" * 40))
    (repository / "blobs").mkdir()
    (repository / "blobs" / ("1" * 40)).write_text("rag")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").symlink_to(f"../../../blobs/{'1' * 40}")
    templates = SeedOssTokenizer.from_pretrained(folder).chat_template
    assert isinstance(templates, dict)
    assert templates["rag"] == "rag"
