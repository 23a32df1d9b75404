"""Strict JSON: what is refused, with which words, and how fast."""

import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seed_oss.errors import CheckpointError
from seed_oss.files import parse_json
from seed_oss.files.strict_json import MAX_DEPTH
from tests.stopwatch import Stopwatch

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(JSON, st.booleans())
def test_equals_the_standard_parser_on_what_is_allowed(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text, source="x") == value
    assert parse_json(text.encode(), source="x") == value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "line 1, column 2"),
        (b'{"a": 1,}', "not valid JSON"),
        (b"[1] [2]", "Extra data"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[-Infinity]", "only finite"),
        (b"1e999", "too large"),
        (b"-1e999", "too large"),
        (b'{"a": 1, "b": {"k": 1, "k": 1}}', "key 'k' stands twice"),
        (b'{"a": 1, "\\u0061": 2}', "key 'a' stands twice"),
        (b'["\\ud800"]', "lone surrogate"),
        (b'{"\\udc00x": 1}', "lone surrogate"),
        (b'["\\ud83d\\ud83d\\ude00"]', "lone surrogate"),
        (b'["\xff"]', "UTF-8"),
        (b'["\xed\xa0\x80"]', "UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('["\ud800"]', "UTF-8"),
        (b'["a\nb"]', "control character"),
        (b"1" * 65, "65 characters; the limit is 64"),
        (b"0." + b"1" * 63, "65 characters"),
    ],
)
def test_refuses(data: bytes | str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        parse_json(data, source="folder/config.json")
    assert "folder/config.json" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_number_of_64_characters_is_allowed() -> None:
    assert parse_json("9" * 64, source="x") == int("9" * 64)


def test_paired_surrogates_are_one_character() -> None:
    assert parse_json(b'["\\ud83d\\ude00", "\\\\ud800"]', source="x") == ["\U0001f600", "\\ud800"]


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_depth_is_bounded_at_64(opening: str, depth: int) -> None:
    closing = "]" if opening == "[" else "}"
    text = opening * depth + "1" + closing * depth
    if depth == MAX_DEPTH:
        assert parse_json(text, source="x") == json.loads(text)
    else:
        with pytest.raises(CheckpointError, match="deeper than 64"):
            parse_json(text, source="x")


def test_depth_counts_no_brackets_in_strings() -> None:
    tricky = ['[[[["\\', "\\\\", '"' + "[" * 500, "{" * 500, "\\"]
    assert parse_json(json.dumps(tricky), source="x") == tricky


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


def standard_outcome(text: str) -> Any:
    """What the standard parser makes of a text, or "refused"."""
    try:
        value = json.loads(text)
    except ValueError:
        return "refused"
    return value if depth_of(value) <= MAX_DEPTH else "refused"


@settings(deadline=None)
@given(st.text(alphabet='[]{}",:\\a1 ', max_size=300), st.integers(0, 200))
@example("", MAX_DEPTH)
@example("", MAX_DEPTH + 1)
@example('{"a":1}', MAX_DEPTH - 1)
def test_accepts_exactly_what_the_standard_parser_does_up_to_the_depth(text: str, extra: int) -> None:
    text = "[" * extra + text + "]" * extra
    try:
        outcome: Any = parse_json(text, source="x")
    except CheckpointError as error:
        if "stands twice" in str(error):  # the standard parser keeps the last of equal keys
            return
        outcome = "refused"
    assert outcome == standard_outcome(text)


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(b"[" * 5_000_000, id="open brackets"),
        pytest.param(b"[" + b"[]," * 2_500_000 + b"1]", id="empty lists"),
        pytest.param(b"[" + b"{}," * 2_500_000 + b"1]", id="empty objects"),
        pytest.param(b"[" + b"0," * 7_000_000 + b"0]", id="numbers"),
        pytest.param(b"[" + b'"",' * 2_600_000 + b'""]', id="empty strings"),
        pytest.param(b'"' * 8_000_000, id="quotation marks"),
        pytest.param((b"[" * 64 + b"]" * 64 + b",") * 60_000, id="depth 64 again and again"),
        pytest.param(b"\\" * 8_000_000, id="backslashes"),
        pytest.param(b"1" * 8_000_000, id="one long number"),
    ],
)
def test_bombs_are_refused_within_two_seconds(bomb: bytes) -> None:
    with Stopwatch(time.process_time) as spent, pytest.raises(CheckpointError) as caught:
        parse_json(bomb, source="x", max_bytes=2**26)
    assert spent.seconds < 2
    assert len(str(caught.value)) < 300


def test_size_is_bounded() -> None:
    assert parse_json(b" " * 98 + b"{}", source="x", max_bytes=100) == {}
    with pytest.raises(CheckpointError, match="101 bytes; the limit is 100"):
        parse_json(b" " * 99 + b"{}", source="x", max_bytes=100)


def test_a_vocabulary_of_155_thousand_words_parses_in_a_second_or_two() -> None:
    words = {f"token{index}": index for index in range(155_000)}
    merges = [[f"a{index}", f'b"{index}'] for index in range(155_000)]
    data = json.dumps({"model": {"vocab": words, "merges": merges}}).encode()
    with Stopwatch(time.process_time) as spent:
        parsed = parse_json(data, source="x", max_bytes=2**26)
    assert spent.seconds < 3
    assert len(parsed["model"]["vocab"]) == 155_000


def test_depth_counts_brackets_of_both_kinds_together() -> None:
    def nested(depth: int) -> str:
        return '{"a":[' * (depth // 2) + "]}" * (depth // 2)

    assert parse_json(nested(64), source="f") is not None
    with pytest.raises(CheckpointError, match="nested"):
        parse_json(nested(66), source="f")
