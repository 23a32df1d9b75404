"""Errors never give back what a client sent, but for names of parameters."""

from typing import Any

import pytest

from seed_oss.server.errors import without_quotes
from tests.server.api_calls import chat, engine
from tests.server.test_limits import schema, tools

ECHOES: list[dict[str, Any]] = [
    {"stop": ["SECRET" * 60]},
    {"tool_choice": "SECRET", "tools": tools(1)},
    {"tool_choice": {"type": "function", "function": {"name": "SECRET"}}, "tools": tools(1)},
    {"response_format": {"type": "SECRET"}},
    {"response_format": {**schema(1), "json_schema": {"name": "x", "schema": {"SECRET" * 9000: 1}}}},
    {"thinking_budget": "SECRET"},
    {"logit_bias": {"SECRET": 1}},
    {"dry_multiplier": 1, "dry_sequence_breakers": ["SECRET" * 20]},
]


@pytest.mark.parametrize("fields", ECHOES)
def test_nothing_is_echoed(fields: dict[str, Any]) -> None:
    answer = chat(engine(), **fields)
    assert answer.status == 400
    assert "SECRET" not in str(answer.body)
    assert str(answer.error["param"]).startswith(tuple(fields))


@pytest.mark.parametrize(
    ("message", "left"),
    [
        ("stop is 'a \\' b'; give less", "stop is (a text); give less"),
        ('x is "it\'s"; y', "x is (a text); y"),
        ("x is 'cut sho", "x is (a text)"),
        ("the model's names are 3", "the model's names are 3"),
        ("give 'auto' or 'none'", "give 'auto' or 'none'"),
    ],
)
def test_what_is_quoted_is_left_out(message: str, left: str) -> None:
    assert without_quotes(message) == left
