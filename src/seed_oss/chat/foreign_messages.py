"""What clients send, in the form that templates other than Seed's read.

These follow the convention of transformers: content is text, calls are nested under `function` as in OpenAI's API, and
their arguments are a mapping. Some read parts of content themselves, or want arguments as JSON text: their source shows
it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from seed_oss.chat.normalize import REASONING_FIELDS, call_arguments, kind_of, mapping_at, text_of, text_of_part
from seed_oss.chat.plain_data import plain_data
from seed_oss.errors import TemplateError

_LOOPS_OVER_CONTENT = re.compile(r"\{%-?\s*for\s+\w+\s+in\s+[^%]*\bcontent\b")
_ARGUMENTS = r"[\w.\[\]'\"]*\barguments\b['\"]?\]?"
_WANTS_TEXT = re.compile(rf"[+~]\s*{_ARGUMENTS}(?!['\"\s]*[:|(.])|{_ARGUMENTS}\s*[+~]")
_TAKES_TEXT = re.compile(r"arguments['\"]?\]?\s+is\s+(not\s+)?(string|mapping)")
_TESTS_FOR_NONE = re.compile(r"content['\"]?\]?\s+is\s+(not\s+)?none\b")
_READS_DATA = re.compile(r"content['\"]?\]?\s*(\|\s*tojson|is\s+(not\s+)?mapping)")
_READS_FUNCTION = re.compile(r"\.function\b|['\"]function['\"]")


@dataclass(frozen=True, slots=True)
class TemplateHabits:
    """How a template reads messages, as far as its source shows.

    Args:
        reads_parts: it goes through content part by part.
        wants_text: it puts arguments of calls together with other text, as text.
        takes_text: it looks whether arguments are text already.
        reads_function: it reads what is nested under `function`.
        reads_data: it writes content that is no text as JSON, or looks whether it is a mapping.
        tests_for_none: it tells content that is null from content that is empty.
    """

    reads_parts: bool
    wants_text: bool
    takes_text: bool
    reads_function: bool
    reads_data: bool
    tests_for_none: bool

    @classmethod
    def of(cls, template: str) -> "TemplateHabits":
        """The habits of a template's text."""
        patterns = (_LOOPS_OVER_CONTENT, _WANTS_TEXT, _TAKES_TEXT, _READS_FUNCTION, _READS_DATA, _TESTS_FOR_NONE)
        return cls(*(pattern.search(template) is not None for pattern in patterns))


def foreign_message(message: Any, place: str, habits: TemplateHabits) -> dict[str, Any]:
    """A message; fields that are None are left out, but for content, which is empty then.

    Raises:
        TemplateError: it cannot be shown to the model; the error names the place.
    """
    given = plain_data(message, place)
    if not isinstance(given, dict):
        raise TemplateError(f"{place} must be a mapping with a role and content, got {kind_of(given)}")
    values = cast("dict[str, Any]", given)
    fields = {name: item for name, item in values.items() if item is not None and (name != "tool_calls" or item != [])}
    if not isinstance(fields.get("role"), str):
        raise TemplateError(f"{place}.role must be text, got {kind_of(fields.get('role'))}")
    if "content" in values or fields.get("role") == "assistant":
        fields["content"] = _content(fields.get("content"), f"{place}.content", habits, fields.get("role"))
    if "tool_calls" in fields:
        fields["tool_calls"] = _calls(fields["tool_calls"], f"{place}.tool_calls", habits)
    if not fields.get("content") and "tool_calls" in fields and habits.tests_for_none:
        fields["content"] = None
    name = next((name for name in REASONING_FIELDS if name in fields), None)
    if name is None:
        return fields
    reasoning = text_of(fields[name], f"{place}.{name}")
    return {"thinking": reasoning, **fields, name: reasoning, "reasoning_content": reasoning}


def _content(content: Any, place: str, habits: TemplateHabits, role: Any) -> Any:
    is_result = role not in ("system", "user", "assistant")  # data of a tool, which templates may write as JSON
    if is_result and content is not None and not isinstance(content, str) and not _is_in_parts(content):
        return content if habits.reads_data else json.dumps(content, ensure_ascii=False)
    if not habits.reads_parts or not _is_in_parts(content):
        return text_of(content, place)
    parts = enumerate(cast("list[Any]", content))
    return [{"type": "text", "text": text_of_part(part, f"{place}[{index}]")} for index, part in parts]


def _is_in_parts(content: Any) -> bool:
    if not isinstance(content, list | tuple):
        return False
    return all(isinstance(part, dict) and "type" in part for part in cast("list[Any]", content))


def _calls(calls: Any, place: str, habits: TemplateHabits) -> list[dict[str, Any]]:
    if not isinstance(calls, list | tuple):
        raise TemplateError(f"{place} must be a list of tool calls, got {kind_of(calls)}")
    return [_call(call, f"{place}[{index}]", habits) for index, call in enumerate(cast("list[Any]", calls))]


def _call(call: Any, place: str, habits: TemplateHabits) -> dict[str, Any]:
    outer = mapping_at(call, place)
    if outer.get("function") is not None:
        inner = mapping_at(outer["function"], f"{place}.function")
        return {**outer, "function": _with_arguments(inner, f"{place}.function", habits)}
    flat = _with_arguments(outer, place, habits)
    if not habits.reads_function or "name" not in flat:
        return flat
    nested = {name: flat.pop(name) for name in ("name", "arguments") if name in flat}
    return {"type": "function", **flat, "function": nested}


def _with_arguments(function: dict[str, Any], place: str, habits: TemplateHabits) -> dict[str, Any]:
    given = function.get("arguments")
    values = call_arguments(given, f"{place}.arguments")
    if isinstance(given, str) and given.strip() and (habits.takes_text or habits.wants_text):
        return function
    return {**function, "arguments": json.dumps(values, ensure_ascii=False) if habits.wants_text else values}


def foreign_tools(tools: Any) -> list[Any] | None:
    """Tools as JSON schemas: functions nested under `function`, with parameters.

    Raises:
        TemplateError: they are none; the error names the place.
    """
    if tools is None:
        return None
    if not isinstance(tools, list | tuple):
        raise TemplateError(f"tools must be a list of JSON schemas, got {kind_of(tools)}")
    return [_tool(tool, f"tools[{index}]") for index, tool in enumerate(cast("list[Any]", tools))]


def _tool(tool: Any, place: str) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise TemplateError(f"{place} must be a JSON schema as a mapping, got {kind_of(cast('object', tool))}")
    fields: dict[str, Any] = plain_data(tool, place)
    if fields.get("type") != "function":
        return fields
    is_flat = fields.get("function") is None and "name" in fields
    flat = {name: value for name, value in fields.items() if name not in ("type", "function")}
    function = flat if is_flat else dict(mapping_at(fields.get("function"), f"{place}.function"))
    if function.get("parameters") is None:
        function["parameters"] = {"type": "object", "properties": {}}
    return {"type": "function", "function": function} if is_flat else {**fields, "function": function}


def foreign_documents(documents: Any) -> Any:
    """Documents as mappings.

    Raises:
        TemplateError: they are no list.
    """
    if documents is not None and not isinstance(documents, list | tuple):
        raise TemplateError(f"documents must be a list of mappings, got {kind_of(documents)}")
    return plain_data(documents, "documents")
