"""Arguments of a call that the tokenizers package would abort the process on, or answer with errors of its own."""

import subprocess
import sys
from collections import UserDict
from collections.abc import ItemsView
from typing import Any

import pytest

from seed_oss.chat import SeedOssTokenizer
from seed_oss.chat import plain_data as plain_data_module
from seed_oss.chat.batch import MAX_WINDOW_TOKENS
from seed_oss.chat.plain_data import MAX_VALUES, plain_data
from seed_oss.errors import TemplateError, TokenizerError
from tests.chat.tokenizer_factory import tiny_backend

_OVERLAPPING = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
from seed_oss.chat import SeedOssTokenizer
from seed_oss.errors import InputError
from tests.chat.tokenizer_factory import tiny_backend
tokenizer = SeedOssTokenizer(tiny_backend())
for text in ("a b c d e f g" * 20_000, ["a b c d e f g" * 10_000] * 2):
    try:
        tokenizer(text, truncation=True, max_length=1000, stride=999, return_overflowing_tokens=True)
    except InputError as error:
        print(error)
"""


def test_pieces_that_overlap_almost_wholly_are_refused() -> None:
    done = subprocess.run([sys.executable, "-c", _OVERLAPPING], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"may take more than {MAX_WINDOW_TOKENS} tokens") == 2


def test_ordinary_pieces_are_not_limited() -> None:
    tokenizer = SeedOssTokenizer(tiny_backend())
    rows = tokenizer("a b" * 3000, truncation=True, max_length=16, stride=12, return_overflowing_tokens=True)
    assert len(rows["input_ids"]) > 100
    words = tokenizer([["a", "b"]] * 9, is_split_into_words=True, truncation=True, max_length=9, stride=8)
    assert len(words["input_ids"]) == 9


def test_tokens_that_are_no_text() -> None:
    tokenizer = SeedOssTokenizer(tiny_backend())
    wrong: Any
    for wrong in ("\ud800", ["a", "\ud800"], None, 1, [None]):
        with pytest.raises(TokenizerError):
            tokenizer.convert_tokens_to_ids(wrong)


class _Failing(UserDict[str, Any]):
    def items(self) -> ItemsView[str, Any]:
        raise KeyError("x")


class _Model:
    def model_dump(self) -> Any:
        return 1 // 0


@pytest.mark.parametrize(("value", "kind"), [([_Failing()], "KeyError"), ({"a": _Model()}, "ZeroDivisionError")])
def test_objects_that_fail_to_be_read(value: Any, kind: str) -> None:
    with pytest.raises(TemplateError, match=f"messages holds an object that cannot be read: {kind}"):
        plain_data(value, "messages")


def test_values_that_share_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    value: list[Any] = []
    for _ in range(40):
        value = [value, value]
    monkeypatch.setattr(plain_data_module, "MAX_VALUES", 1000)
    with pytest.raises(TemplateError, match="messages holds more than 1000 values"):
        plain_data(value, "messages")
    assert plain_data([0] * 999, "messages") == [0] * 999
    with pytest.raises(TemplateError):
        plain_data([0] * 1000, "messages")
    assert MAX_VALUES > 100_000
