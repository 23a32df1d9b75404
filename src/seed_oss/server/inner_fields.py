"""Fields of the objects inside a body, by what they stand in. The rule is the same as for the fields at the top.

Not known: refused by its name. Of a wrong type: refused. Null: the same as left out. Those that are known and mean
nothing here stand in docs/server-api.md.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from seed_oss.server.bodies import shown_name
from seed_oss.server.errors import ApiError

Fields = Mapping[str, type | tuple[type, ...]]
_ANY = object  # it is checked where it is read
_FUNCTION: Fields = {"name": _ANY, "description": str, "parameters": _ANY, "strict": bool}
_TOOL: Fields = {"type": str, "function": dict, "cache_control": dict}
_CALLED: Fields = {"name": _ANY, "arguments": _ANY, "parsed_arguments": _ANY}
_CALL: Fields = {"id": str, "type": str, "index": int, "function": dict}
_PART: Fields = {"type": str, "text": _ANY, "cache_control": dict, "prompt_cache_breakpoint": dict}
_FORMAT: Fields = {"type": str, "json_schema": dict}
_SCHEMA: Fields = {"name": str, "description": str, "schema": _ANY, "strict": bool}
_CHOICE: Fields = {"type": str, "name": str, "function": dict}
_CHOSEN: Fields = {"name": str}
_SPELLED: Mapping[str, Fields] = {
    "thinking": {"type": _ANY, "budget_tokens": _ANY, "display": str},
    "reasoning": {
        **{"max_tokens": _ANY, "effort": _ANY, "enabled": _ANY},
        **{"summary": str, "generate_summary": str},
    },
}
_NESTED = ("chat_template_kwargs", "extra_body")
_NUMBERS = (
    ("thinking_budget",),
    ("thinking_token_budget",),
    ("thinking", "budget_tokens"),
    ("reasoning", "max_tokens"),
)
_WORDS: Mapping[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    dict: "an object",
    list: "a list",
}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_fields(value: Any, place: str, known: Fields) -> None:
    """Refuse what is not known in an object, and what has a wrong type; what is no object is left to its reader.

    Args:
        value: the object.
        place: what it is called in messages.
        known: its fields and their types.

    Raises:
        ApiError: such a field; `param` names it.
    """
    if not isinstance(value, Mapping):
        return
    for name, inner in cast("Mapping[str, Any]", value).items():
        if inner is None:
            continue
        param = f"{place}.{shown_name(name)}"
        if name not in known:
            raise ApiError("invalid", f"{param} is not a parameter of this endpoint; leave it out", param=param)
        _check_type(inner, param, known[name])


def _check_type(value: Any, param: str, kind: type | tuple[type, ...]) -> None:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, kinds) and not (isinstance(value, bool) and not {bool, object} & set(kinds)):
        return
    raise ApiError("invalid", f"{param} must be {' or '.join(_WORDS[one] for one in kinds)}", param=param)


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse fields of parts and calls, and thinking that is given twice and differs.

    Args:
        messages: of a chat, as the template takes them.

    Raises:
        ApiError: see `check_fields`.
    """
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        for at, part in enumerate(_items(message.get("content"))):
            _check_kind(part, f"{place}.content[{at}]", "text", _PART)
        for at, call in enumerate(_items(message.get("tool_calls"))):
            _check_call(call, f"{place}.tool_calls[{at}]")
        _check_thoughts(message, place)


def _check_call(call: Any, place: str) -> None:
    _check_inner(call, place, _CALL, _CALLED)
    if isinstance(call, Mapping) and cast("Mapping[str, Any]", call).get("type") not in (None, "function"):
        raise ApiError("invalid", f"{place}.type must be 'function'", param=f"{place}.type")


def _check_thoughts(message: Mapping[str, Any], place: str) -> None:
    one, other = (str(message.get(name) or "").strip() for name in ("reasoning_content", "reasoning"))
    if one and other and one != other:
        raise ApiError(
            "invalid",
            f"{place}.reasoning_content and {place}.reasoning differ; give one of them",
            param=f"{place}.reasoning",
        )


def check_tools(tools: Any, choice: Any = None) -> None:
    """Refuse fields of tools and of the choice among them.

    Args:
        tools: as chat completions take them, or None.
        choice: `tool_choice`.

    Raises:
        ApiError: see `check_fields`.
    """
    for index, tool in enumerate(_items(tools)):
        _check_inner(tool, f"tools[{index}]", _TOOL, _FUNCTION)
    _check_inner(choice, "tool_choice", _CHOICE, _CHOSEN)


def check_format(response_format: Any) -> None:
    """Refuse fields of `response_format`, and a name that is none.

    Args:
        response_format: as chat completions take it, or None.

    Raises:
        ApiError: see `check_fields`.
    """
    check_fields(response_format, "response_format", _FORMAT)
    inner = cast("Mapping[str, Any]", response_format or {}).get("json_schema")
    check_schema_fields(inner, "response_format.json_schema")


def check_schema_fields(value: Any, place: str, more: Fields | None = None) -> None:
    """Refuse fields beside a schema, and a name that is none.

    Args:
        value: the object that has the schema.
        place: what it is called in messages.
        more: further fields.

    Raises:
        ApiError: see `check_fields`.
    """
    check_fields(value, place, {**_SCHEMA, **(more or {})})
    name = cast("Mapping[str, Any]", value).get("name") if isinstance(value, Mapping) else None
    if name is not None and not _NAME.fullmatch(name):
        param = f"{place}.name"
        raise ApiError("invalid", f"{param} must have 1 to 64 letters, digits, '_' and '-'", param=param)


def check_thinking(fields: Mapping[str, Any], prefix: str = "", depth: int = 0) -> None:
    """Refuse fields in the objects that spell a budget, and budgets that are no whole numbers.

    Args:
        fields: of the request.
        prefix: where they stand.
        depth: how far inside.

    Raises:
        ApiError: see `check_fields`.
    """
    for name, known in _SPELLED.items():
        check_fields(fields.get(name), prefix + name, known)
    for path in _NUMBERS:
        if isinstance(_at(fields, path), float):
            param = prefix + ".".join(path)
            raise ApiError("invalid", f"{param} must be a whole number, without a point", param=param)
    for name in _NESTED if depth < len(_NESTED) else ():
        nested = fields.get(name)
        if isinstance(nested, Mapping):
            check_thinking(cast("Mapping[str, Any]", nested), f"{prefix}{name}.", depth + 1)


def _check_inner(value: Any, place: str, outer: Fields, inner: Fields) -> None:
    """An object with a `function`, or with its fields beside the others."""
    if not isinstance(value, Mapping):
        return
    fields = cast("Mapping[str, Any]", value)
    is_nested = fields.get("function") is not None
    _check_kind(fields, place, "function", outer if is_nested else {**outer, **inner})
    check_fields(fields.get("function"), f"{place}.function", inner)


def _check_kind(value: Any, place: str, kind: str, known: Fields) -> None:
    """One of another kind is refused where it is read, in better words."""
    if isinstance(value, Mapping) and cast("Mapping[str, Any]", value).get("type", kind) == kind:
        check_fields(value, place, known)


def _items(value: Any) -> Iterable[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else ()


def _at(fields: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = fields
    for name in path:
        value = cast("Mapping[str, Any]", value).get(name) if isinstance(value, Mapping) else None
    return value
