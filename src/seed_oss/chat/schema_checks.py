"""What a JSON schema may say for output to be held to it. What could not be enforced is refused, with its place."""

import json
from dataclasses import dataclass, field
from typing import Any, cast

from seed_oss.chat.json_patterns import (
    SCHEMA_KEYWORDS,
    SCHEMA_LISTS,
    SCHEMA_MAPS,
    is_unwritable,
    json_pattern,
)
from seed_oss.errors import CheckpointError, InputError
from seed_oss.files import parse_json
from seed_oss.files.strict_json import MAX_DEPTH

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_REFERENCE_DEPTH = 500  # levels of all that $ref leads to, together; the compiler recurses through them
MAX_PATTERN_LEN = 2048
MAX_TEXT_LEN = 2**31 - 1  # of minLength and maxLength
MAX_COUNT = 2**53  # of the other counts
TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
NUMBER_FORMATS = ("int32", "int64", "float", "double")  # of OpenAPI; they say nothing that a validator would check
DEFINITIONS = ("$defs", "definitions")

_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "example", "$comment", "$schema", "deprecated", "readOnly")
    + ("writeOnly", "discriminator")
)
_COUNTS = frozenset(("minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength"))
_NUMBERS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
_OTHERS = frozenset(("type", "enum", "const", "required", "pattern", "format", "$ref"))
_KNOWN = SCHEMA_KEYWORDS | SCHEMA_LISTS | SCHEMA_MAPS | _COUNTS | _NUMBERS | _OTHERS
_INSTEAD = {
    "nullable": 'list the types instead: "type": ["string", "null"]',
    "dependencies": "spell the cases out with anyOf",
    "additionalItems": "use prefixItems and items",
}


def is_annotation(keyword: str) -> bool:
    """Whether a keyword allows every value."""
    return keyword in _ANNOTATIONS or (keyword.startswith("x-") and keyword != "x-guidance")


@dataclass
class CheckedSchema:
    """A schema within the limits.

    Attributes:
        schema: its data.
        place: what it is called in messages.
        first_places: where each keyword stands first.
        patterns: where each pattern stands, as it is handed on.
    """

    schema: Any
    place: str
    first_places: dict[str, str] = field(default_factory=dict[str, str])
    patterns: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def text(self) -> str:
        """The schema as JSON, without its own name and that of its dialect."""
        data = self.schema
        if isinstance(data, dict):
            members = cast("dict[str, Any]", data)
            data = {key: value for key, value in members.items() if key not in ("$schema", "$id")}
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def plain_json(value: Any, place: str, *, max_bytes: int = MAX_SCHEMA_BYTES) -> Any:
    """Copy data that JSON can hold.

    Args:
        value: the data.
        place: what it is called in messages.
        max_bytes: how long its JSON text may be.

    Raises:
        InputError: it is too large, or not JSON.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise InputError(
            f"{place} is nested too deeply, or contains itself; at most {MAX_SCHEMA_DEPTH} levels"
        ) from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{place} is not JSON: {error}") from None
    if len(text) > max_bytes:
        raise InputError(f"{place} has {len(text)} bytes of JSON; at most {max_bytes} are allowed")
    try:
        return parse_json(text, source=place)
    except CheckpointError as error:
        if "deeper" in str(error):
            raise InputError(
                f"{place} is nested too deeply; at most {MAX_SCHEMA_DEPTH} levels of schemas, and {MAX_DEPTH} of JSON"
            ) from None
        raise InputError(str(error)) from None


def check_schema(schema: Any, place: str, max_depth: int = MAX_SCHEMA_DEPTH) -> CheckedSchema:
    """Check that every keyword of a schema is one that output can be held to.

    Args:
        schema: a JSON schema (draft 2020-12): a dict, or a bool.
        place: what it is called in messages.
        max_depth: most levels of it, 32 at most.

    Raises:
        InputError: over 64 KiB or `max_depth` levels, a keyword or format that is not supported, a value of the wrong
            kind, or a `$ref` that leads nowhere. The message names keyword and place.
    """
    data = plain_json(schema, place)
    checked = CheckedSchema(data, place)
    checker = _Checker(checked, max_depth)
    checker.schema(data, place, 1, is_root=True)
    checker.follow_references(data, place)
    return checked


class _Checker:
    def __init__(self, checked: CheckedSchema, max_depth: int) -> None:
        self._max_depth = max_depth
        self._first_places, self._patterns = checked.first_places, checked.patterns
        self._references: dict[str, str] = {}  # target -> place of the first $ref to it
        self._schemas: set[int] = set()  # by identity, those that stand where schemas do

    def schema(self, schema: Any, place: str, level: int, *, is_root: bool = False) -> int:
        """Check one schema and those in it; returns how many levels it has."""
        if level > self._max_depth:
            raise InputError(f"{place} is nested deeper than {self._max_depth} levels, the limit")
        if isinstance(schema, bool):
            return 1
        if not isinstance(schema, dict):
            raise InputError(f"{place} is {_shown(schema)}; a schema is an object, true or false")
        levels = 0
        self._schemas.add(id(cast("object", schema)))
        for keyword, value in cast("dict[str, Any]", schema).items():
            here = f"{place}.{keyword}"
            self._first_places.setdefault(keyword, here)
            if is_annotation(keyword) or (is_root and keyword == "$id"):
                continue
            if keyword not in _KNOWN:
                instead = _INSTEAD.get(keyword, "leave it out, or say the same with keywords that are")
                raise InputError(f"{here}: the keyword {keyword[:40]!r} is not supported; {instead}")
            levels = max(levels, self._keyword(keyword, value, here, level))
        self._check_sizes(cast("dict[str, Any]", schema), place)
        return levels + 1

    def _keyword(self, keyword: str, value: Any, place: str, level: int) -> int:
        if keyword in SCHEMA_KEYWORDS:
            return self.schema(value, place, level + 1)
        if keyword in SCHEMA_LISTS:
            items = _list_of(value, place)
            return max([self.schema(one, f"{place}[{index}]", level + 1) for index, one in enumerate(items)])
        if keyword in SCHEMA_MAPS:
            members = _object(value, place)
            if keyword == "patternProperties":
                for index, pattern in enumerate(members):
                    self._check_pattern(pattern, f"{place} (number {index})")
            return max([self.schema(one, f"{place}.{name}", level + 1) for name, one in members.items()], default=0)
        self._check_value(keyword, value, place, level)
        return 0

    def _check_value(self, keyword: str, value: Any, place: str, level: int) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if keyword in _COUNTS:
            most = MAX_TEXT_LEN if keyword in ("minLength", "maxLength") else MAX_COUNT
            if not is_number or value != int(value) or value < 0:
                raise InputError(f"{place} is {_shown(value)}; it must be a whole number, 0 or more")
            if value > most:
                raise InputError(f"{place} is {_shown(value)}; at most {most} is supported, or leave it out")
        elif keyword in _NUMBERS:
            if not is_number or (keyword == "multipleOf" and value <= 0):
                above = " above 0" if keyword == "multipleOf" else ""
                raise InputError(f"{place} is {_shown(value)}; it must be a number{above}")
        elif keyword == "type":
            _check_types(value, place)
        elif keyword == "enum":
            for index, one in enumerate(_list_of(value, place)):
                _check_literal(one, f"{place}[{index}]", level, self._max_depth)
        elif keyword == "const":
            _check_literal(value, place, level, self._max_depth)
        elif keyword == "required":
            if not isinstance(value, list):
                raise InputError(f"{place} is {_shown(value)}; it must be a list of names")
            for index, one in enumerate(cast("list[Any]", value)):
                if not isinstance(one, str):
                    raise InputError(f"{place}[{index}] is {_shown(one)}; it must be a name, as text")
        else:
            self._check_text(keyword, value, place)

    def _check_text(self, keyword: str, value: Any, place: str) -> None:
        if not isinstance(value, str):
            raise InputError(f"{place} is {_shown(value)}; it must be text")
        if keyword == "$ref":
            if value != "#" and not value.startswith("#/"):
                raise InputError(
                    f"{place} is {_shown(value)}; only references into the same schema (#/...) are followed"
                )
            self._references.setdefault(value, place)
        elif keyword == "format":
            if value not in FORMATS + NUMBER_FORMATS:
                raise InputError(
                    f"{place}: the format {_shown(value)} is not supported; there are {', '.join(FORMATS)}"
                )
        else:
            self._check_pattern(value, place)

    def _check_pattern(self, pattern: str, place: str) -> None:
        if len(pattern) > MAX_PATTERN_LEN:
            raise InputError(f"{place} has {len(pattern)} characters; a pattern may have {MAX_PATTERN_LEN}")
        self._patterns.setdefault(json_pattern(pattern, place), place)

    def _check_sizes(self, schema: dict[str, Any], place: str) -> None:
        # Names that stand in no "properties" may come twice in the text, and count once when it is read.
        least, sure = schema.get("minProperties", 0), len(set(schema.get("required", ()))) + 1
        if least > sure:
            raise InputError(
                f"{place}.minProperties is {least}; at most one more than what is required ({sure}) can be enforced"
            )

    def follow_references(self, root: Any, place: str) -> None:
        """Check what `$ref` leads to: that it is there, and how deep it is all together."""
        total, todo = 0, list(self._references)
        seen: set[str] = set()
        while todo:
            target = todo.pop()
            if target in seen:
                continue
            seen.add(target)
            found = resolve(root, target, self._references[target])
            if not isinstance(found, bool) and id(found) not in self._schemas:
                raise InputError(
                    f"{self._references[target]} is {_shown(target)}, where no schema stands; put it into $defs"
                )
            total += self.schema(found, f"{place}{target[1:].replace('/', '.')}", 1)
            if total > MAX_REFERENCE_DEPTH:
                raise InputError(
                    f"{place}: what its $ref lead to has more than {MAX_REFERENCE_DEPTH} levels together, the limit"
                )
            todo = [one for one in self._references if one not in seen]


def resolve(root: Any, target: str, place: str) -> Any:
    """The schema that a `$ref` of the form `#/a/b` means.

    Raises:
        InputError: there is none.
    """
    found = root
    for part in target.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = cast("dict[str, Any]", found)[name]
        elif isinstance(found, list) and name.isdecimal() and len(name) < 6:
            found = cast("list[Any]", found)[int(name)] if int(name) < len(cast("list[Any]", found)) else None
        else:
            raise InputError(f"{place} is {_shown(target)}, which leads nowhere in this schema")
    if not isinstance(found, dict | bool):
        raise InputError(f"{place} is {_shown(target)}, which leads to no schema")
    return cast("dict[str, Any] | bool", found)


def _check_types(value: Any, place: str) -> None:
    types = cast("list[Any]", value) if isinstance(value, list) else [value]
    wrong = [one for one in types if one not in TYPES]
    if wrong or not types:
        raise InputError(f"{place} is {_shown(wrong[0] if wrong else value)}; types are {', '.join(TYPES)}")


def _check_literal(value: Any, place: str, level: int, max_depth: int) -> None:
    todo: list[tuple[Any, int]] = [(value, level)]
    while todo:
        item, depth = todo.pop()
        if depth > max_depth:
            raise InputError(f"{place} is nested deeper than {max_depth} levels, the limit")
        if isinstance(item, str):
            _check_characters(item, place)
        elif isinstance(item, dict):
            for key, one in cast("dict[str, Any]", item).items():
                _check_characters(key, place)
                todo.append((one, depth + 1))
        elif isinstance(item, list):
            todo += [(one, depth + 1) for one in cast("list[Any]", item)]


def _check_characters(text: str, place: str) -> None:
    wrong = next((char for char in text if is_unwritable(ord(char))), None)
    if wrong is not None:
        raise InputError(
            f"{place} holds the control character U+{ord(wrong):04X}, which is never written; leave it out"
        )


def _list_of(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        shown = "an empty list" if value == [] else _shown(cast("Any", value))
        raise InputError(f"{place} is {shown}; it must be a list with at least one entry")
    return cast("list[Any]", value)


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{place} is {_shown(value)}; it must be an object")
    return cast("dict[str, Any]", value)


def _shown(value: Any) -> str:
    return f"{value!r:.60}" if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
