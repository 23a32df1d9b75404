"""What clients send, through templates other than the released two."""

import json
from typing import Any

import pytest

from seed_oss.errors import TemplateError
from tests.chat.template_texts import TEMPLATES
from tests.seed_tokenizer import seed_tokenizer

CALLS = """{% for m in messages %}[{{ m.role }}]{{ m.content }}
{%- for c in m.tool_calls or [] %}{% set c = c.function or c %}{{ c.name }}{{ c.arguments | tojson }}{% endfor %}
{%- endfor %}
{%- for t in tools or [] %}{{ t.function.name }}/{{ t.function.parameters.properties | length }}{% endfor %}"""
CONCATENATES = """{% for m in messages %}{% for c in m.tool_calls or [] %}
{{- c['function']['name'] + ' ' + c['function']['arguments'] + '.' }}{% endfor %}{% endfor %}"""
LOOKS = """{% for m in messages %}{% for c in m.tool_calls or [] %}{% set a = c.function.arguments %}
{{- c.function.arguments if c.function.arguments is string else a | tojson }}{% endfor %}{% endfor %}"""
LOOPS = (
    """{% for m in messages %}{% for part in m.content %}<{{ part.type }}:{{ part.text }}>{% endfor %}{% endfor %}"""
)
NAMES = "{% for c in messages[0].tool_calls %}{{ c.name }}{{ c.arguments | tojson }}{% endfor %}"


def shown(template: str, *messages: dict[str, Any], **arguments: Any) -> str:
    return seed_tokenizer().apply_chat_template(list(messages), chat_template=template, tokenize=False, **arguments)


def calling(call: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [call]}


NESTED = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
FLAT = {"name": "f", "arguments": {"a": 1}}


def test_text_in_parts() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert shown(CALLS, {"role": "user", "content": parts}) == "[user]one two"
    assert shown(CALLS, {"role": "tool", "content": parts}) == "[tool]one two"
    assert shown(LOOPS, {"role": "user", "content": parts}) == "<text:one ><text:two>"
    whole = {"role": "user", "content": "one two"}
    assert shown(TEMPLATES["chatml"], {"role": "user", "content": parts}) == shown(TEMPLATES["chatml"], whole)


@pytest.mark.parametrize("template", [CALLS, LOOPS])
def test_parts_that_the_model_cannot_read(template: str) -> None:
    with pytest.raises(TemplateError, match=r"messages\[0\]\.content\[0\] is a part of type 'image_url'"):
        shown(template, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]})


def test_no_content() -> None:
    assert shown(CALLS, {"role": "user", "content": None}) == "[user]"
    assert shown(TEMPLATES["chatml"], {"role": "user", "content": "x"}, {"role": "assistant"}).endswith(
        "<|im_start|>assistant\n<|im_end|>\n"
    )


@pytest.mark.parametrize("call", [NESTED, FLAT])
def test_calls_in_every_form(call: dict[str, Any]) -> None:
    assert shown(CALLS, calling(call)) == '[assistant]f{"a": 1}'
    assert shown(CONCATENATES, calling(call)) == 'f {"a": 1}.'
    assert shown(LOOKS, calling(call)) == '{"a": 1}'


def test_flat_calls_stay_flat_where_nothing_nested_is_read() -> None:
    assert shown(NAMES, calling(FLAT)) == 'f{"a": 1}'


def test_arguments_that_are_no_json() -> None:
    with pytest.raises(TemplateError, match=r"messages\[0\].tool_calls\[0\].function.arguments must be a JSON object"):
        shown(CALLS, calling({"function": {"name": "f", "arguments": '{"a": NaN}'}}))


def test_data_of_tools_is_left_to_the_template() -> None:
    template = "{{ messages[0].content | tojson }}"
    assert json.loads(shown(template, {"role": "tool", "content": {"degrees": 3}})) == {"degrees": 3}


@pytest.mark.parametrize(
    "tool", [{"type": "function", "function": {"name": "f"}}, {"type": "function", "name": "f", "parameters": None}]
)
def test_tools_without_parameters(tool: dict[str, Any]) -> None:
    assert shown(CALLS, {"role": "user", "content": "x"}, tools=[tool]) == "[user]xf/0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thinking_budget": "x"}, "thinking_budget must be a number"),
        ({"thinking_budget": True}, "thinking_budget must be a number"),
        ({"tools": 5}, "tools must be a list of JSON schemas, got int"),
        ({"tools": "ab"}, "tools must be a list of JSON schemas, got str"),
        ({"tools": {"a": {}}}, "tools must be a list of JSON schemas, got dict"),
        ({"documents": 5}, "documents must be a list of mappings, got int"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        shown(CALLS, {"role": "user", "content": "x"}, **arguments)


@pytest.mark.parametrize("template", [5, []])
def test_templates_that_are_none(template: Any) -> None:
    with pytest.raises(TemplateError, match="chat_template must be the text or the name of a template"):
        shown(template, {"role": "user", "content": "x"})


TELLS_NULL = """{% for m in messages %}[{{ m.role }}]{% if m['content'] is none %}
{{- m.tool_calls[0].function.name }}{% else %}{{ m.content }}{% endif %}{% endfor %}"""


def test_null_content_stays_null_where_that_is_looked_at() -> None:
    assert shown(TELLS_NULL, calling(NESTED)) == "[assistant]f"
    assert shown(TELLS_NULL, {"role": "assistant", "content": None}) == "[assistant]"


def test_no_calls_are_no_list_of_calls() -> None:
    template = "{% for m in messages %}{{ 'calls' if m.tool_calls is defined else m.content }}{% endfor %}"
    assert shown(template, {"role": "assistant", "content": "hi", "tool_calls": []}) == "hi"


def test_reasoning_in_parts() -> None:
    parts = [{"type": "text", "text": "so"}]
    template = "{% for m in messages %}{{ m.reasoning_content + m.thinking }}{% endfor %}"
    assert shown(template, {"role": "assistant", "content": "", "reasoning_content": parts}) == "soso"


@pytest.mark.parametrize("role", [None, 5])
def test_a_message_has_a_role(role: Any) -> None:
    with pytest.raises(TemplateError, match=r"messages\[0\]\.role must be text"):
        shown(CALLS, {"role": role, "content": "x"})


def test_text_arguments_are_checked_where_they_stay_text_too() -> None:
    with pytest.raises(TemplateError, match="arguments must be a JSON object"):
        shown(LOOKS, calling({"function": {"name": "f", "arguments": '{"a": '}}))
    assert shown(LOOKS, calling({"function": {"name": "f", "arguments": " "}})) == "{}"


def test_data_of_tools_is_json_where_the_template_wants_text() -> None:
    for data in ({"degrees": 3}, [1, 2], 5):
        said = shown("{{ 'x' + messages[0].content }}", {"role": "tool", "content": data})
        assert json.loads(said[1:]) == data
