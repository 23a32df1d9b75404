"""Values of tool-call arguments, converted by the tool's JSON schema and by nothing else.

The model writes every value as bare text. The schema says what it is; where it says nothing, or the text is not of the
type it says, the text is kept as a string. So `02134` for a string stays one, and `false` for a boolean is False.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from seed_oss.chat.literals import NotALiteralError, read_literal, read_number

MAX_SCHEMAS = 256  # subschemas looked at for one parameter: references and unions may fan out

_KINDS = frozenset({"string", "number", "integer", "boolean", "array", "object", "null"})
_TEXT_OR_NULL = frozenset({"string", "null"})
_NULLS = ("null", "None")
_MISSING = object()


@dataclass(frozen=True, slots=True)
class ValueType:
    """What a parameter may be.

    Args:
        kinds: JSON schema's type names; empty where the schema says nothing.
        choices: The values of `enum` and `const`; empty where there are none.
    """

    kinds: frozenset[str] = frozenset()
    choices: tuple[Any, ...] = ()

    @property
    def is_text(self) -> bool:
        """Every text is a value as it stands, so it can be passed on while it grows."""
        return self.kinds <= {"string"} and all(isinstance(choice, str) for choice in self.choices)

    @property
    def is_nullable_text(self) -> bool:
        """As `is_text`, but for the null."""
        plain = all(choice is None or isinstance(choice, str) for choice in self.choices)
        return self.kinds == _TEXT_OR_NULL and plain

    def convert(self, text: str) -> tuple[Any, bool]:
        """Read a value.

        Args:
            text: What the model wrote.

        Returns:
            The value, and whether the text is of this type; if not, the value is the text.
        """
        if self.is_text:
            return text, True
        stripped = text.strip()
        value = _choice(self.choices, text, stripped)
        for kind in _ORDER if value is _MISSING else ():
            if kind in self.kinds and value is _MISSING:
                value = _READERS[kind](stripped)
        if value is not _MISSING:
            return value, True
        return text, "string" in self.kinds


class ToolTypes:
    """The parameters' types of some tools.

    Args:
        tools: As OpenAI's API takes them, nested (`{"function": {"name", "parameters"}}`) or flat. What is no tool is
            passed over.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]] | None) -> None:
        self.given = tools is not None
        self._parameters: dict[str, Mapping[str, Any]] = {}
        self._known: dict[tuple[str, str], ValueType] = {}
        for tool in tools or ():
            function = _mapping(_mapping(tool).get("function", tool))
            name = function.get("name")
            if isinstance(name, str):
                self._parameters[name] = _mapping(function.get("parameters"))

    def has(self, name: str) -> bool:
        """Whether a tool has this name."""
        return name in self._parameters

    def has_parameter(self, name: str, key: str) -> bool:
        """Whether the tool lists this parameter."""
        return key in _mapping(self._parameters.get(name, {}).get("properties"))

    def of(self, name: str, key: str) -> ValueType:
        """The type of a parameter; one that says nothing for an unknown tool or parameter."""
        if name not in self._parameters:
            return ValueType()
        if not self.has_parameter(name, key):
            key = ""  # all others have one type, so that a model's inventions cannot fill the memory
        known = self._known.get((name, key))
        if known is None:
            known = self._known[name, key] = _parameter_type(self._parameters[name], key)
        return known


def _parameter_type(parameters: Mapping[str, Any], key: str) -> ValueType:
    properties = _mapping(parameters.get("properties"))
    schema = properties[key] if key in properties else parameters.get("additionalProperties")
    kinds: set[str] = set()
    choices: list[Any] = []
    for part in _parts(_mapping(schema), parameters):
        kinds |= _kinds_of(part)
        enum = part.get("enum")
        choices += cast("list[Any]", enum) if isinstance(enum, list) else []
        choices += [part["const"]] if "const" in part else []
    return ValueType(frozenset(kinds), tuple(choices))


def _parts(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schema and what it is made of: references followed, unions opened, each part once."""
    todo, seen = [schema], set[int]()
    while todo and len(seen) < MAX_SCHEMAS:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        todo.append(_referenced(part.get("$ref"), root))
        for name in ("anyOf", "oneOf", "allOf"):
            members = part.get(name)
            todo += map(_mapping, cast("list[Any]", members)[:MAX_SCHEMAS]) if isinstance(members, list) else []


def _referenced(reference: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `#/$defs/Name` and the like lead to; nothing for a reference that leads elsewhere."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return {}
    found: Any = root
    for step in reference[2:].split("/", maxsplit=32):
        found = _mapping(found).get(step.replace("~1", "/").replace("~0", "~"))
    return _mapping(found)


def _kinds_of(part: Mapping[str, Any]) -> set[str]:
    stated = part.get("type")
    if stated is None:
        return {kind for kind, sign in (("object", "properties"), ("array", "items")) if sign in part}
    names = cast("list[Any]", stated) if isinstance(stated, list) else [stated]
    return {name for name in names if isinstance(name, str) and name in _KINDS}


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _choice(choices: tuple[Any, ...], text: str, stripped: str) -> Any:
    for choice in choices:
        if isinstance(choice, str) and choice == text:
            return choice
    for choice in choices:
        if not isinstance(choice, str) and stripped in (str(choice), json.dumps(choice)):
            return choice
    return _MISSING


def _null(text: str) -> Any:
    return None if text in _NULLS else _MISSING


def _boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text.lower(), _MISSING) if len(text) <= 5 else _MISSING


def _integer(text: str) -> Any:
    """An integer may be written as 3.0: to JSON schema that is one."""
    number = _number(text.removesuffix(".0"))
    return number if isinstance(number, int) else _MISSING


def _number(text: str) -> Any:
    try:
        return read_number(text)
    except NotALiteralError:
        return _MISSING


def _container(text: str, kind: type, opening: str) -> Any:
    if not text.startswith(opening):
        return _MISSING
    try:
        value = read_literal(text)
    except NotALiteralError:
        return _MISSING
    return value if isinstance(value, kind) else _MISSING


def _array(text: str) -> Any:
    return _container(text, list, "[")


def _object(text: str) -> Any:
    return _container(text, dict, "{")


# Where several types fit, the narrower one is meant: the model writes the number 7 and the string "7" alike.
_READERS = {
    "null": _null,
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "array": _array,
    "object": _object,
}
_ORDER = tuple(_READERS)
