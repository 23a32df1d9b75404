"""Errors never give back what a client sent, but for names of parameters."""

from typing import Any

import pytest

from seed_oss.engine.messages import Refused
from seed_oss.server.errors import without_quotes
from tests.server.api_calls import ASK, chat, engine
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


CALL = {"id": "SECRET-1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGES: list[list[Any]] = [
    [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "SECRET-2", "content": "x"}],
    [{"role": "assistant", "tool_calls": [{**CALL, "type": "SECRET"}]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "SECRET"}}]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"SECRET": 1, "SECRET": 2}'}}]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": ["SECRET"]}}]}],
    [{"role": "SECRET", "content": "x"}],
    [{"role": "user", "content": [{"type": "SECRET" * 20}]}],
    [{"role": "user", "content": [{"type": ["SECRET"] * 20}]}],
    [{"role": "user", "content": {"SECRET": 1}}],
]


@pytest.mark.parametrize("messages", MESSAGES)
def test_nothing_of_a_message_is_echoed(messages: list[Any]) -> None:
    answer = chat(engine(), messages=[*ASK, *messages])
    assert answer.status == 400
    assert "SECRET" not in str(answer.body)
    assert answer.error["param"].startswith("messages[1]" if "tool_call_id" not in str(messages) else "messages[2]")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("the vocabulary has no <seed:think>, so this model does not think; leave the thinking budget out",
         "thinking_budget"),
        ("the vocabulary has no <seed:tool_call>; leave tool_choice and parallel_tool_calls out", "tool_choice"),
        ("response_format.json_schema.schema: it allows no text at all", "response_format.json_schema.schema"),
    ],
)  # fmt: skip
def test_refusals_of_the_engine_name_a_parameter(message: str, param: str) -> None:
    answer = chat(engine(refusal=lambda submit: Refused(submit.request_id, "invalid", message)))
    assert (answer.status, answer.error["param"]) == (400, param)


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
