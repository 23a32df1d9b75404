"""What clients send, brought into the form that the Seed templates read."""

import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from seed_oss.chat.plain_data import MAX_VALUES, plain_data
from seed_oss.errors import CheckpointError, TemplateError
from seed_oss.files import parse_json

ROLES = ("system", "user", "assistant", "tool")
MAX_TOOLS = 128
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class NormalizedChat:
    """A conversation as the Seed templates read it, in plain data of its own.

    Args:
        messages: Each has a `role`; `content` is text, or absent from the first system message and from assistant
            turns; `reasoning_content` is text where there is any; `tool_calls` are flat, `arguments` a mapping.
        tools: Functions have `parameters` with `properties`; with `use_json_tooldef` they stay as they were given.
        thinking_budget: Tokens; -1 stands for none.
        use_json_tooldef: Whether tools are shown as JSON.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    thinking_budget: int | float = -1
    use_json_tooldef: bool = False


def normalize_chat(
    messages: Sequence[Any],
    tools: Sequence[Any] | None = None,
    thinking_budget: Any = None,
    *,
    use_json_tooldef: bool = False,
    strict: bool = False,
) -> NormalizedChat:
    """Bring a conversation into the form that the Seed templates read.

    Content given as parts becomes text, null content becomes empty, reasoning may come under `reasoning` or `thinking`
    too, tool calls may be flat or nested with `arguments` as a mapping or as JSON, and tools need no `parameters`.

    Args:
        messages: Mappings, dataclasses or pydantic models with `role` and `content`.
        tools: Tools as JSON schemas, flat or nested under `function`.
        thinking_budget: A number of tokens, an object with such a number (or None) as `template_value`, or None.
        use_json_tooldef: Leave tools as they are, to be shown as JSON.
        strict: Refuse what would be shown to the model although it never saw the like: unknown roles, null content
            that is no assistant's, tool results that answer no call, a budget that is not a whole number of at least
            -1, more than 128 tools, and tools with names other than 1 to 64 letters, digits, `_` and `-`.

    Raises:
        TemplateError: The conversation cannot be shown to the model; the message names the place.
    """
    chat = NormalizedChat(
        _messages(messages, strict),
        _tools(tools, use_json_tooldef),
        template_budget(thinking_budget),
        bool(use_json_tooldef),
    )
    if strict:
        _check_results(chat.messages)
        _check_tools(chat.tools)
        if isinstance(chat.thinking_budget, float) or chat.thinking_budget < -1:
            raise TemplateError(
                f"thinking_budget must be a whole number of at least -1 (no budget), got {chat.thinking_budget!r}"
            )
    return chat


def _messages(messages: Any, strict: bool) -> list[dict[str, Any]]:
    if not isinstance(messages, list | tuple) or not messages:
        kind = type(cast("object", messages)).__name__
        raise TemplateError(f"messages must be a list of at least one message, got {kind}{' of none' * (not messages)}")
    return [_message(item, index, strict) for index, item in enumerate(cast("Sequence[Any]", messages))]


def _message(item: Any, index: int, strict: bool) -> dict[str, Any]:
    place = f"messages[{index}]"
    given: Any = plain_data(item, place)
    if not isinstance(given, dict):
        raise TemplateError(f"{place} must be a mapping with a role and content, got {type(given).__name__}")
    message = cast("dict[str, Any]", given)
    role = message.get("role")
    if not isinstance(role, str):
        raise TemplateError(f"{place}.role must be text such as {', '.join(ROLES)}, got {kind_of(role)}")
    if strict and role not in ROLES:
        raise TemplateError(f"{place}.role must be one of {', '.join(ROLES)}, got {role[:60]!r}")
    if strict and role != "assistant" and message.get("content") is None:
        raise TemplateError(f"{place}.content must be text, got {kind_of(message.get('content'))}")
    normal = {name: message[name] for name in ("name", "tool_call_id") if name in message}
    normal["role"] = role
    if "content" in message or not (index == 0 and role == "system"):
        normal["content"] = text_of(message.get("content"), f"{place}.content")
    if role == "assistant":
        normal.update(_reasoning(message, place))
        calls = _calls(message.get("tool_calls"), f"{place}.tool_calls")
        if calls:
            normal["tool_calls"] = calls
    return normal


def text_of(content: Any, place: str) -> str:
    """Text given as text, as null, or as a list of text parts.

    Raises:
        TemplateError: it is none of these, or there is a part that the model cannot read.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise TemplateError(f"{place} must be text or a list of text parts, got {kind_of(content)}")
    return "".join(text_of_part(part, f"{place}[{i}]") for i, part in enumerate(cast("Sequence[Any]", content)))


def text_of_part(part: Any, place: str) -> str:
    """The text of one part; see `text_of`."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise TemplateError(f"{place} must be a mapping with type and text, got {kind_of(part)}")
    fields = cast("dict[str, Any]", part)
    kind = fields.get("type", "text")
    if kind != "text":
        raise TemplateError(f"{place} is a part of type {kind!r:.60}; the model reads parts of type 'text' only")
    if not isinstance(fields.get("text"), str):
        raise TemplateError(f"{place}.text must be text, got {kind_of(fields.get('text'))}")
    return fields["text"]


def _reasoning(message: dict[str, Any], place: str) -> dict[str, str]:
    """The reasoning under the template's own name, whichever name it was given under."""
    own = message.get("reasoning_content")
    if own is not None and not isinstance(own, str | list | tuple):
        raise TemplateError(f"{place}.reasoning_content must be text, got {kind_of(own)}")
    texts = {
        name: text_of(message[name], f"{place}.{name}")
        for name in REASONING_FIELDS
        if isinstance(message.get(name), str) or (name == "reasoning_content" and own is not None)
    }
    chosen = next((text for text in texts.values() if text.strip()), next(iter(texts.values()), None))
    return {} if chosen is None else {"reasoning_content": chosen}


def _calls(calls: Any, place: str) -> list[dict[str, Any]]:
    if calls is None:
        return []
    if not isinstance(calls, list | tuple):
        raise TemplateError(f"{place} must be a list of tool calls, got {kind_of(calls)}")
    return [_call(call, f"{place}[{index}]") for index, call in enumerate(cast("Sequence[Any]", calls))]


def _call(call: Any, place: str) -> dict[str, Any]:
    outer = mapping_at(call, place)
    inner = outer
    if outer.get("function") is not None:
        place = f"{place}.function"
        inner = mapping_at(outer["function"], place)
    if not isinstance(inner.get("name"), str):
        raise TemplateError(f"{place}.name must be the name of a function, got {kind_of(inner.get('name'))}")
    arguments = call_arguments(inner.get("arguments"), f"{place}.arguments")
    identity = {"id": outer["id"]} if "id" in outer else {}
    return {**identity, "name": inner["name"], "arguments": arguments}


def call_arguments(arguments: Any, place: str) -> dict[str, Any]:
    """Arguments of a call, given as a mapping, as JSON text, or not at all.

    Raises:
        TemplateError: they are no JSON object.
    """
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments, source="it", max_values=MAX_VALUES) if arguments.strip() else None
        except CheckpointError as error:
            raise TemplateError(f"{place} must be a JSON object, got text that is no JSON: {error!s:.160}") from None
    if arguments is None:
        return {}
    values = mapping_at(arguments, place)
    for name in values:
        if not isinstance(cast("object", name), str):
            raise TemplateError(f"{place} has the name {name!r:.60}; names of arguments are text")
    return values


def _tools(tools: Any, use_json_tooldef: bool) -> list[dict[str, Any]]:
    if tools is None:
        return []
    if not isinstance(tools, list | tuple):
        raise TemplateError(f"tools must be a list of JSON schemas, got {kind_of(tools)}")
    plain = [_plain_tool(tool, index) for index, tool in enumerate(cast("Sequence[Any]", tools))]
    return plain if use_json_tooldef else [_tool(tool, f"tools[{index}]") for index, tool in enumerate(plain)]


def _plain_tool(tool: object, index: int) -> dict[str, Any]:
    place = f"tools[{index}]"
    if callable(tool):
        raise TemplateError(f"{place} must be a JSON schema as a mapping, got a {type(tool).__name__}")
    return mapping_at(plain_data(tool, place), place)


def _tool(tool: dict[str, Any], place: str) -> dict[str, Any]:
    """A function with everything that the template reads; tools of other kinds as they are: the template skips them."""
    if tool.get("type") != "function":
        return tool
    function = tool if tool.get("function") is None and "name" in tool else tool.get("function")
    fields = dict(mapping_at(function, f"{place}.function"))
    parameters = dict(mapping_at(fields.get("parameters") or {}, f"{place}.function.parameters"))
    inner = f"{place}.function.parameters"
    parameters["properties"] = mapping_at(parameters.get("properties") or {}, f"{inner}.properties")
    parameters["required"] = _required(parameters.get("required"), f"{inner}.required")
    return {"type": "function", "function": {**fields, "parameters": parameters}}


def _required(required: Any, place: str) -> Any:
    if required is None:
        return []
    if not isinstance(required, str | list | tuple | dict):
        raise TemplateError(f"{place} must be a list of names, got {kind_of(required)}")
    return cast("Any", required)


def template_budget(budget: Any) -> int | float:
    """The budget as the templates take it; -1 for none.

    Raises:
        TemplateError: it is no number.
    """
    value = getattr(budget, "template_value", budget) if not isinstance(budget, int | float | str) else budget
    if value is None:
        return -1
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise TemplateError(
            "thinking_budget must be a number of tokens, 0 for no thinking, -1 for no budget; got "
            f"{reprlib.repr(value):.60}"
        )
    return float(value) if isinstance(value, float) else int(value)


def _check_results(messages: list[dict[str, Any]]) -> None:
    """Every tool result answers a call of the assistant's turn before it."""
    calls: list[dict[str, Any]] | None = None
    for index, message in enumerate(messages):
        if message["role"] != "tool":
            calls = message.get("tool_calls")
            continue
        if not calls:
            raise TemplateError(f"messages[{index}] is a tool result, and no assistant's tool_calls stand before it")
        known = {str(call["id"]) for call in calls if call.get("id") is not None}
        answered = message.get("tool_call_id")
        if answered is not None and known and str(answered) not in known:
            raise TemplateError(
                f"messages[{index}].tool_call_id is {answered!r:.60}; it must be the id of one of the {len(known)} "
                "calls in the assistant's turn before it"
            )


def _check_tools(tools: list[dict[str, Any]]) -> None:
    if len(tools) > MAX_TOOLS:
        raise TemplateError(f"tools has {len(tools)} tools; the limit is {MAX_TOOLS}")
    for index, tool in enumerate(tools):
        if tool.get("type") != "function":
            raise TemplateError(f"tools[{index}].type must be 'function', got {tool.get('type')!r:.60}")
        name = mapping_at(tool.get("function"), f"tools[{index}].function").get("name")
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            raise TemplateError(
                f"tools[{index}].function.name must be 1 to 64 letters, digits, '_' or '-', got {name!r:.80}"
            )


def mapping_at(value: Any, place: str) -> dict[str, Any]:
    """The value, which must be a mapping."""
    if not isinstance(value, dict):
        raise TemplateError(f"{place} must be a mapping, got {kind_of(value)}")
    return cast("dict[str, Any]", value)


def kind_of(value: object) -> str:
    """What kind of value it is, for messages."""
    return "nothing" if value is None else type(value).__name__
