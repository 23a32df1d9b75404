"""Fields inside the objects that spell a thinking budget are known, or refused by name."""

from typing import Any

import pytest

from tests.server.api_calls import chat, engine


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning": {"bogus": 1}}, "reasoning"),
        ({"reasoning": {"exclude": True}}, "reasoning"),
        ({"thinking": {"type": "disabled", "foo": 1}}, "thinking"),
        ({"chat_template_kwargs": {"reasoning": {"foo": 1}}}, "chat_template_kwargs.reasoning"),
        ({"extra_body": {"thinking": {"foo": 1}}}, "extra_body.thinking"),
        ({"thinking_budget": 8, "enable_thinking": False}, "thinking_budget"),
    ],
)
def test_an_unknown_field(fields: dict[str, Any], param: str) -> None:
    answer = chat(engine(), **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_known_ones() -> None:
    given = {"reasoning": {"effort": "low", "summary": "auto", "enabled": True}, "thinking": {"type": "enabled"}}
    assert chat(engine(), **given).status == 200
