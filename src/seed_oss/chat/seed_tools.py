"""How the Seed templates show tools and values: as Python, or as JSON."""

import json
from typing import Any, cast

from seed_oss.errors import TemplateError

JSON_HEADER = (
    "\nTool List:\nYou are authorized to use the following tools (described in JSON Schema format). Before performing "
    "any task, you must decide how to call them based on the descriptions and parameters of these tools.\n"
)
_PYTHON_TYPES = {"string": "str", "number": "int", "integer": "int", "boolean": "bool", "array": "list"}
_ABSENT: Any = object()


def printed(value: Any, place: str) -> str:
    """A value as Python prints it; one that is not there as nothing.

    Raises:
        TemplateError: It is nested too deeply, or a whole number with too many digits.
    """
    if value is _ABSENT:
        return ""
    try:
        return str(value)
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"{place} cannot be written as text: {error!s:.100}") from None


def tools_as_json(tools: list[dict[str, Any]]) -> str:
    """Tools as one line of JSON.

    Raises:
        TemplateError: JSON cannot hold them.
    """
    try:
        return JSON_HEADER + json.dumps(tools, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateError(f"tools cannot be written as JSON: {error!s:.100}") from None


def function_as_python(function: dict[str, Any], place: str) -> str:
    """A function as the head of a Python function with its documentation.

    Args:
        function: Name, description, parameters with properties, and returns.
        place: Where it stands, for messages.

    Raises:
        TemplateError: What it returns is not described by a mapping, or a value cannot be written.
    """
    parameters = function["parameters"]
    properties: dict[str, Any] = parameters["properties"]
    inner = f"{place}.parameters.properties"
    names = ",".join(f"{printed(name, inner)}: {_type_of(spec)}" for name, spec in properties.items())
    head = f"\n\nFunction:\ndef {printed(function.get('name', _ABSENT), f'{place}.name')}({names}):\n"
    description = printed(function.get("description", _ABSENT), f"{place}.description").strip()
    arguments = "    Args:" + _arguments(properties, parameters["required"], inner) if properties else ""
    return f'{head}    """\n    {description}\n\n{arguments}{_returns(function, place)}\n    """'


def _arguments(properties: dict[str, Any], required: Any, place: str) -> str:
    marks = _names_in(required) if isinstance(required, list | tuple) else required
    lines: list[str] = []
    for name, spec in properties.items():
        mark = "必填" if _is_in(name, marks) else "选填"
        lines.append(f"\n    - {printed(name, place)} ({_type_of(spec)}) [{mark}]: {_description(spec, place)}")
    return "".join(lines)


def _returns(function: dict[str, Any], place: str) -> str:
    """The last section; its absence is an empty line."""
    returns = function.get("returns")
    properties: Any = cast("dict[str, Any]", returns).get("properties") if isinstance(returns, dict) else None
    if not properties:
        return "\n"
    inner = f"{place}.returns.properties"
    if not isinstance(properties, dict):
        raise TemplateError(f"{inner} must be a mapping, got {type(properties).__name__}")
    items = cast("dict[str, Any]", properties).items()
    return "\n    Returns:" + "".join(
        f"\n    - {printed(name, inner)} ({_type_of(spec)}): {_description(spec, inner)}" for name, spec in items
    )


def _type_of(spec: Any) -> str:
    kind: Any = cast("dict[str, Any]", spec).get("type") if isinstance(spec, dict) else None
    return _PYTHON_TYPES.get(kind, "Any") if isinstance(kind, str) else "Any"


def _description(spec: Any, place: str) -> str:
    text: Any = cast("dict[str, Any]", spec).get("description") if isinstance(spec, dict) else None
    return printed(text, f"{place}.description") if text else ""


def _names_in(values: Any) -> set[Any]:
    """The scalars of a list, for looking up: names are no lists or mappings."""
    return {value for value in values if value is None or isinstance(value, str | int | float)}


def _is_in(name: Any, names: Any) -> bool:
    if isinstance(names, str):  # a template looks for a part of the text then
        return isinstance(name, str) and name in names
    return name in names
