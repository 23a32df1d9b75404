"""What clients send, in the form that the Seed templates read; strict mode refuses what the model never saw."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from seed_oss.chat import render
from seed_oss.chat.normalize import normalize_chat
from seed_oss.errors import TemplateError

_USER = {"role": "user", "content": "q"}
_CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": [1, null]}'}}
_CALLS = {"role": "assistant", "content": None, "tool_calls": [_CALL]}
_RESULT = {"role": "tool", "tool_call_id": "a", "content": "r"}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    return normalize_chat([_USER, message]).messages[1]


def test_content() -> None:
    parts = [{"type": "text", "text": "a"}, "b", {"text": "c"}]
    assert _message({"role": "user", "content": parts})["content"] == "abc"
    assert _message({"role": "user", "content": None})["content"] == ""
    assert _message({"role": "tool"})["content"] == ""
    assert render([{"role": "user", "content": parts}]) == "<seed:bos>user\nabc<seed:eos>"


def test_a_first_system_message_without_content_is_left_out_as_in_the_template() -> None:
    assert render([{"role": "system"}, _USER]) == "<seed:bos>user\nq<seed:eos>"
    assert render([{"role": "system", "content": None}]) == "<seed:bos>system\n<seed:eos>"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_under_every_name(name: str) -> None:
    assert _message({"role": "assistant", "content": "a", name: "r"})["reasoning_content"] == "r"
    assert "<seed:think>r</seed:think>" in render([{"role": "assistant", "content": "a", name: "r"}])


def test_reasoning_that_is_not_blank_goes_first() -> None:
    message = {"role": "assistant", "content": "a", "reasoning_content": "", "reasoning": "r"}
    assert _message(message)["reasoning_content"] == "r"
    assert "reasoning_content" not in _message({"role": "assistant", "content": "a", "reasoning": None})


@pytest.mark.parametrize("arguments", ['{"x": true}', {"x": True}])
@pytest.mark.parametrize("nested", [True, False])
def test_tool_calls(arguments: Any, nested: bool) -> None:
    call: dict[str, Any] = {"name": "f", "arguments": arguments}
    given = {"id": "a", "type": "function", "function": call} if nested else call
    text = render([{"role": "assistant", "content": None, "tool_calls": [given]}])
    assert text == (
        "<seed:bos>assistant\n<seed:tool_call>\n<function=f>\n<parameter=x>True</parameter>\n</function>\n"
        "</seed:tool_call><seed:eos>"
    )


@pytest.mark.parametrize("arguments", [None, "", " ", "{}", "null", {}])
def test_calls_without_arguments(arguments: Any) -> None:
    call = {"name": "f", "arguments": arguments}
    assert _message({"role": "assistant", "content": "", "tool_calls": [call]})["tool_calls"] == [
        {"name": "f", "arguments": {}}
    ]


@pytest.mark.parametrize(
    "function",
    [
        {"name": "f"},
        {"name": "f", "parameters": None},
        {"name": "f", "parameters": {}},
        {"name": "f", "parameters": {"type": "object", "properties": None, "required": None}},
    ],
)
def test_tools_without_parameters(function: dict[str, Any]) -> None:
    expected = '\n\nFunction:\ndef f():\n    """\n    \n\n\n\n    """\n'
    assert expected in render([_USER], tools=[{"type": "function", "function": function}])
    assert expected in render([_USER], tools=[{"type": "function", **function}])


def test_tools_shown_as_json_stay_as_given() -> None:
    tools = [{"type": "function", "name": "f"}]
    assert '[{"type": "function", "name": "f"}]\n' in render([_USER], tools=tools, use_json_tooldef=True)


@dataclass
class Message:
    role: str
    content: str | None
    tool_calls: list[Any] = field(default_factory=list)


def test_objects() -> None:
    assert (
        render([Message("user", "q"), Message("assistant", None)]) == "<seed:bos>user\nq<seed:eos><seed:bos>assistant"
    )


def test_what_the_caller_gave_is_left_alone() -> None:
    messages = [{"role": "assistant", "content": ["a"], "tool_calls": [{"name": "f", "arguments": "{}"}]}]
    tools: list[Any] = [{"type": "function", "function": {"name": "f"}}]
    render(messages, tools=tools)
    assert messages == [{"role": "assistant", "content": ["a"], "tool_calls": [{"name": "f", "arguments": "{}"}]}]
    assert tools == [{"type": "function", "function": {"name": "f"}}]


@dataclass
class Budget:
    template_value: int | None


def test_budgets() -> None:
    assert normalize_chat([_USER], None, Budget(512)).thinking_budget == 512
    assert normalize_chat([_USER], None, Budget(None)).thinking_budget == -1
    assert normalize_chat([_USER]).thinking_budget == -1
    assert "which is -2." in render([_USER], thinking_budget=-2)


@pytest.mark.parametrize("budget", ["512", True, [512], float("nan"), float("inf"), {}, object()])
def test_budgets_that_are_no_numbers(budget: Any) -> None:
    with pytest.raises(TemplateError, match="thinking_budget must be a number"):
        render([_USER], thinking_budget=budget)


_IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"content": "x"}, r"messages\[1\]\.role must be text"),
        ({"role": 3, "content": "x"}, r"messages\[1\]\.role must be text"),
        ("hello", r"messages\[1\] must be a mapping"),
        ({"role": "user", "content": 3}, r"messages\[1\]\.content must be text"),
        ({"role": "user", "content": ["a", _IMAGE]}, r"messages\[1\]\.content\[1\] is a part of type 'image_url'"),
        ({"role": "user", "content": [{"type": "text"}]}, r"messages\[1\]\.content\[0\]\.text must be text"),
        ({"role": "user", "content": [3]}, r"messages\[1\]\.content\[0\] must be a mapping"),
        ({"role": "assistant", "content": "", "reasoning_content": 3}, r"messages\[1\]\.reasoning_content must be"),
        ({"role": "assistant", "content": "", "tool_calls": "f"}, r"messages\[1\]\.tool_calls must be a list"),
        ({"role": "assistant", "tool_calls": ["f"]}, r"messages\[1\]\.tool_calls\[0\] must be a mapping"),
        ({"role": "assistant", "tool_calls": [{}]}, r"messages\[1\]\.tool_calls\[0\]\.name must be the name"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            r"messages\[1\]\.tool_calls\[0\]\.function\.arguments must be a JSON object",
        ),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[" * 100_000}]},
            r"messages\[1\]\.tool_calls\[0\]\.arguments must be a JSON object",
        ),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "1" * 5000}]},
            r"messages\[1\]\.tool_calls\[0\]\.arguments must be",
        ),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]},
            r"messages\[1\]\.tool_calls\[0\]\.arguments must be a mapping",
        ),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {1: 2}}]},
            r"messages\[1\]\.tool_calls\[0\]\.arguments has the name 1",
        ),
    ],
)
def test_bad_messages_are_named(message: Any, place: str) -> None:
    with pytest.raises(TemplateError, match=place):
        render([_USER, message])


@pytest.mark.parametrize("messages", [[], None, "hello", {"role": "user"}, 3])
def test_no_messages(messages: Any) -> None:
    with pytest.raises(TemplateError, match="messages must be a list of at least one message"):
        render(messages)


def test_strict_takes_what_openai_clients_send() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    chat = normalize_chat([_USER, _CALLS, _RESULT, _RESULT, _USER], tools, 512, strict=True)
    assert chat.messages[1]["tool_calls"] == [{"id": "a", "name": "f", "arguments": {"x": [1, None]}}]
    assert normalize_chat([_USER, _CALLS, {"role": "tool", "content": "r"}], strict=True).messages[2]["content"] == "r"


def _function(name: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("messages", "arguments", "place"),
    [
        ([{"role": "critic", "content": "x"}], {}, r"messages\[0\]\.role must be one of"),
        ([{"role": "user", "content": None}], {}, r"messages\[0\]\.content must be text"),
        ([_USER, _RESULT], {}, r"messages\[1\] is a tool result, and no"),
        ([_CALLS, _USER, _RESULT], {}, r"messages\[2\] is a tool result, and no"),
        ([_CALLS, {**_RESULT, "tool_call_id": "b"}], {}, r"messages\[1\]\.tool_call_id is 'b'"),
        ([_USER], {"thinking_budget": -2}, "at least -1"),
        ([_USER], {"thinking_budget": 512.5}, "whole number"),
        ([_USER], {"tools": [_function("a b")]}, r"tools\[0\]\.function\.name must be 1 to 64"),
        ([_USER], {"tools": [_function("f"), _function("f" * 65)]}, r"tools\[1\]\.function\.name must be"),
        ([_USER], {"tools": [_function("f\n")]}, r"tools\[0\]\.function\.name must be"),
        ([_USER], {"tools": [_function(None)]}, r"tools\[0\]\.function\.name must be"),
        ([_USER], {"tools": [{"type": "search"}]}, r"tools\[0\]\.type must be 'function'"),
        ([_USER], {"tools": [_function("f")] * 129}, "129 tools; the limit is 128"),
    ],
)
def test_strict_refuses_what_is_repaired_or_passed_on_otherwise(
    messages: list[Any], arguments: dict[str, Any], place: str
) -> None:
    render(messages, **arguments)
    for as_json in (False, True):
        with pytest.raises(TemplateError, match=place):
            normalize_chat(messages, **arguments, use_json_tooldef=as_json, strict=True)


_DEEP = '{"a":' + "[" * 500 + "]" * 500 + "}"


@pytest.mark.parametrize(
    "text", ['{"a":NaN}', '{"a":-Infinity}', '{"a":1e999}', '{"a":1,"a":2}', _DEEP, '{"a":"\\ud800"}']
)
def test_arguments_as_text_are_strict_json(text: str) -> None:
    with pytest.raises(TemplateError, match=r"messages\[1\]\.tool_calls\[0\]\.arguments must be a JSON object"):
        _message({"role": "assistant", "tool_calls": [{"name": "f", "arguments": text}]})


class _Mute:
    def __repr__(self) -> str:
        raise ValueError("no")


def test_a_budget_that_cannot_be_shown() -> None:
    with pytest.raises(TemplateError, match="thinking_budget must be a number of tokens"):
        render([_USER], thinking_budget=_Mute())
