"""Fields inside the objects of a body are known, or refused by name; of a wrong type they are refused, too."""

from typing import Any

import pytest

from tests.server.api_calls import ASK, MODEL, Answer, chat, engine, post

USER = {"role": "user", "content": "a"}
PARTS = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "foo": 1}]}]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string"}}}


def tool(**more: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", **more}}]


def calls(**more: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"}
    return {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "1", "function": function, **more}]}]}


def formatted(**more: Any) -> dict[str, Any]:
    return {"response_format": {**FORMAT, "json_schema": {**FORMAT["json_schema"], **more}}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning": {"bogus": 1}}, "reasoning.bogus"),
        ({"reasoning": {"exclude": True}}, "reasoning.exclude"),
        ({"reasoning": {"summary": 1}}, "reasoning.summary"),
        ({"thinking": {"type": "disabled", "foo": 1}}, "thinking.foo"),
        ({"chat_template_kwargs": {"reasoning": {"foo": 1}}}, "chat_template_kwargs.reasoning.foo"),
        ({"extra_body": {"thinking": {"foo": 1}}}, "extra_body.thinking.foo"),
        ({"thinking_budget": 8, "enable_thinking": False}, "thinking_budget"),
        ({"tools": tool(foo=1)}, "tools[0].function.foo"),
        ({"tools": tool(description=1)}, "tools[0].function.description"),
        ({"tools": tool(strict="yes")}, "tools[0].function.strict"),
        ({"tools": tool(strict=1)}, "tools[0].function.strict"),
        ({"tools": [{**tool()[0], "foo": 1}]}, "tools[0].foo"),
        ({"tools": [{"type": "function", "name": "f", "foo": 1}]}, "tools[0].foo"),
        ({"tools": tool(), "tool_choice": {"type": "function", "function": {"name": "f", "foo": 1}}},
         "tool_choice.function.foo"),
        (formatted(foo=1), "response_format.json_schema.foo"),
        (formatted(description=1), "response_format.json_schema.description"),
        (formatted(strict="yes"), "response_format.json_schema.strict"),
        ({"response_format": {**FORMAT, "foo": 1}}, "response_format.foo"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
        (PARTS, "messages[0].content[0].foo"),
        (calls(foo=1), "messages[1].tool_calls[0].foo"),
        (calls(index=True), "messages[1].tool_calls[0].index"),
        (calls(function={"name": "f", "foo": 1}), "messages[1].tool_calls[0].function.foo"),
        ({"stream": True, "stream_options": {"foo": 1}}, "stream_options.foo"),
        ({"foo": 1}, "foo"),
    ],
)  # fmt: skip
def test_an_unknown_or_mistyped_field(fields: dict[str, Any], param: str) -> None:
    answer = chat(engine(), **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_known_ones_and_null() -> None:
    given = {"reasoning": {"effort": "low", "summary": "auto", "enabled": True}, "thinking": {"type": "enabled"}}
    assert chat(engine(), **given).status == 200
    assert chat(engine(), tools=tool(strict=True, description="d", foo=None), foo=None).status == 200
    assert chat(engine(), **formatted(strict=True, description="d", foo=None)).status == 200
    assert chat(engine(), **calls(type="function", index=0, foo=None)).status == 200


def anthropic(**fields: Any) -> Answer:
    return post(engine(), "/v1/messages", {"model": MODEL, "max_tokens": 9, "messages": ASK, **fields})


@pytest.mark.parametrize(
    ("block", "param"),
    [
        ({"type": "text", "text": "a", "foo": 1}, "messages[0].content[0].foo"),
        ({"type": "text", "text": "a", "citations": 1}, "messages[0].content[0].citations"),
        ({"type": "text", "text": "a", "cache_control": "x"}, "messages[0].content[0].cache_control"),
    ],
)
def test_blocks_of_messages(block: dict[str, Any], param: str) -> None:
    answer = anthropic(messages=[{"role": "user", "content": [block]}])
    assert (answer.status, answer.body["error"]["param"]) == (400, param)


def test_forms_of_messages() -> None:
    form = {"type": "json_schema", "schema": {"type": "string"}}
    answer = anthropic(output_config={"format": {**form, "foo": 1}})
    assert (answer.status, answer.body["error"]["param"]) == (400, "output_config.format.foo")
    assert anthropic(output_config={"format": form}).status == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"role": "user", "content": "a", "foo": 1}]}, "input[0].foo"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "a", "x": 1}]}]},
         "input[0].content[0].x"),
        ({"input": [{"type": "reasoning", "summary": [{"foo": 1}]}]}, "input[0].summary[0]"),
        ({"input": [{"type": "function_call", "name": "f", "call_id": 1}]}, "input[0].call_id"),
        ({"tools": [{"type": "function", "name": "f", "foo": 1}]}, "tools[0].foo"),
        ({"tools": [{"type": "function", "name": "f", "strict": 1}]}, "tools[0].strict"),
        ({"text": {"format": {"type": "text", "foo": 1}}}, "text.format.foo"),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format.name"),
    ],
)  # fmt: skip
def test_items_of_responses(fields: dict[str, Any], param: str) -> None:
    answer = post(engine(), "/v1/responses", {"model": MODEL, "input": "a", **fields})
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [*tool(), *tool()]}, "tools[1]"),
        ({"tools": tool(parameters=[])}, "tools[0].function.parameters"),
        ({"tools": tool(parameters="x")}, "tools[0].function.parameters"),
        (formatted(name="a" * 65), "response_format.json_schema.name"),
        (formatted(name="a b"), "response_format.json_schema.name"),
        (formatted(name=""), "response_format.json_schema.name"),
        ({"thinking_budget": 0.0}, "thinking_budget"),
        ({"thinking_budget": 512.0}, "thinking_budget"),
        ({"thinking_token_budget": 512.0}, "thinking_token_budget"),
        ({"thinking": {"type": "enabled", "budget_tokens": 512.0}}, "thinking.budget_tokens"),
        ({"reasoning": {"max_tokens": 512.0}}, "reasoning.max_tokens"),
        ({"chat_template_kwargs": {"thinking_budget": 0.0}}, "chat_template_kwargs.thinking_budget"),
        ({"extra_body": {"chat_template_kwargs": {"thinking_budget": 0.0}}},
         "extra_body.chat_template_kwargs.thinking_budget"),
    ],
)  # fmt: skip
def test_values_that_are_none(fields: dict[str, Any], param: str) -> None:
    answer = chat(engine(), **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_names_at_their_limit() -> None:
    assert chat(engine(), **formatted(name="a" * 64)).status == 200
    assert chat(engine(), tools=tool(parameters={})).status == 200


def test_thinking_that_is_given_twice() -> None:
    def answer(**more: str) -> Answer:
        return chat(engine(), messages=[USER, {"role": "assistant", "content": "b", **more}, USER])

    differing = answer(reasoning="One.", reasoning_content="Two.")
    assert (differing.status, differing.error["param"]) == (400, "messages[1].reasoning")
    assert "messages[1].reasoning_content and messages[1].reasoning" in differing.error["message"]
    assert answer(reasoning="One.", reasoning_content="One.").status == 200


def test_too_many_stop_strings_are_counted() -> None:
    answer = chat(engine(), stop=["x"] * 17)
    assert (answer.status, answer.error["param"]) == (400, "stop")
    assert "16" in answer.error["message"]
    assert "17" in answer.error["message"]
    assert "list" in chat(engine(), stop=3).error["message"] or "string" in chat(engine(), stop=3).error["message"]
