"""Type hints as JSON schemas, and whether values are of them."""

import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, cast, get_args, get_origin

from seed_oss.errors import InputError

_NAMES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
}
ALLOWED = "str, int, float, bool, list[...], dict[str, ...], Literal[...] and Optional of these can"


def type_schema(hint: Any, place: str) -> dict[str, Any]:
    """The JSON schema of a type hint.

    Args:
        hint: str, int, float, bool, list, dict, Literal, an Optional of one of these, or a list or dict of them.
        place: what the hint belongs to, for messages.

    Raises:
        InputError: a hint of another kind.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _optional_schema(arguments, hint, place)
    if origin is Literal:
        return _choice_schema(arguments, place)
    if origin is list:
        return {"type": "array", "items": type_schema(arguments[0], place)}
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": type_schema(arguments[1], place)}
    if isinstance(hint, type) and hint in _NAMES:
        return {"type": _NAMES[hint]}
    raise InputError(f"{place} is of type {_spelled(hint)}, which cannot be described to a model; {ALLOWED}")


def _optional_schema(arguments: tuple[Any, ...], hint: Any, place: str) -> dict[str, Any]:
    others = [argument for argument in arguments if argument is not types.NoneType]
    if len(others) != 1 or len(others) == len(arguments):
        raise InputError(f"{place} is of type {_spelled(hint)}, a union, which no model is told; {ALLOWED}")
    schema = type_schema(others[0], place)
    if "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    kinds = schema["type"]
    kinds = cast("list[str]", kinds) if isinstance(kinds, list) else [kinds]
    return {**schema, "type": [*kinds, *(["null"] if "null" not in kinds else [])]}


def _choice_schema(choices: tuple[Any, ...], place: str) -> dict[str, Any]:
    for choice in choices:
        if choice is not None and type(choice) not in (str, int, bool):
            raise InputError(f"{place} allows {choice!r:.60}; the values of a Literal must be str, int, bool or None")
    kinds = list(dict.fromkeys("null" if choice is None else _NAMES[type(choice)] for choice in choices))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(choices)}


def _spelled(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def mismatch(value: Any, schema: Mapping[str, Any], place: str) -> str | None:
    """Why a JSON value is not of a type from `type_schema`.

    Args:
        value: plain data.
        schema: the type.
        place: what the value is called.

    Returns:
        A sentence with the place and what is allowed, or None for a value that fits.
    """
    kinds: Any = schema["type"]
    kinds = cast("list[str]", kinds) if isinstance(kinds, list) else [kinds]
    if "enum" in schema:
        choices = cast("list[Any]", schema["enum"])
        if any(type(value) is type(choice) and value == choice for choice in choices):
            return None
        return f"{place} is {value!r:.60}; allowed: {', '.join(map(repr, choices))}"
    if not any(_CHECKS[kind](value) for kind in kinds):
        return f"{place} is {value!r:.60}; it must be of type {' or '.join(kinds)}"
    if isinstance(value, list) and "items" in schema:
        parts = enumerate(cast("list[Any]", value))
        return _first(mismatch(part, schema["items"], f"{place}[{index}]") for index, part in parts)
    if isinstance(value, dict) and "additionalProperties" in schema:
        fields = cast("dict[str, Any]", value).items()
        return _first(mismatch(part, schema["additionalProperties"], f"{place}.{name}") for name, part in fields)
    return None


def _first(problems: Any) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _instance_check(kind: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "string": _instance_check(str),
    "integer": _is_integer,
    "number": _is_number,
    "boolean": _instance_check(bool),
    "array": _instance_check(list),
    "object": _instance_check(dict),
    "null": _instance_check(types.NoneType),
}
