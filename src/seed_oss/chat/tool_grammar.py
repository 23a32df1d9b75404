"""Tool definitions as a grammar of the calls that fit them, in llguidance's variant of Lark.

A call is `<seed:tool_call>`, `<function=NAME>`, `<parameter=KEY>VALUE</parameter>` lines in any order, `</function>`,
`</seed:tool_call>`. Strings stand verbatim and cannot hold `</parameter>`; all else stands as JSON.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from seed_oss.chat.json_patterns import text_pattern, with_json_patterns
from seed_oss.chat.schema_checks import DEFINITIONS, TYPES, CheckedSchema, is_annotation, resolve
from seed_oss.chat.tool_choice import ToolFunction
from seed_oss.errors import InputError

# How JSON is written: one blank or one line break with its indentation, so that no model writes blanks for ever; no \u
# escapes, so that a key cannot be spelled in two ways.
JSON_WRITING = {"whitespace_pattern": r"[ \t]|\r?\n[ \t]{0,128}", "json_allowed_escapes": 'nrbtf\\"'}

_ORDERED_FROM = 60  # parameters; a rule's own number has 64 bits, one for each that may come in any order
_MAX_VISITS = 20_000
_END = "</parameter>"
_FREE_TEXT = "free_text"
_RULES = f"""{_FREE_TEXT}[lazy]: /(?s:.*)<\\/parameter>/
NO_END: /(?s:.*)/ & ~/(?s:.*)<\\/parameter>(?s:.*)/
"""
_SCALARS = {
    "integer": "-?(0|[1-9][0-9]{0,17})",
    "number": "-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?",
    "boolean": "true|false",
    "null": "null",
}
_DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"  # the days that every month has
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "ipv4": f"{_BYTE}(\\.{_BYTE}){{3}}",
    "email": f"[A-Za-z0-9_+-]{{1,32}}(\\.[A-Za-z0-9_+-]{{1,32}}){{0,3}}@{_LABEL}(\\.{_LABEL}){{1,3}}",
    "hostname": f"{_LABEL}(\\.{_LABEL}){{0,3}}",
}
_STRING_KEYWORDS = frozenset(("pattern", "minLength", "maxLength", "format"))
_IMPLIED_TYPES = {
    "properties": "object",
    "patternProperties": "object",
    "additionalProperties": "object",
    "items": "array",
    "prefixItems": "array",
}


def call_rules(functions: Sequence[ToolFunction], open_id: int, close_id: int) -> str:
    """The rules of a call: `call`, one of a tool of the list.

    Args:
        functions: the tools, one at least.
        open_id: id of `<seed:tool_call>`.
        close_id: id of `</seed:tool_call>`.

    Raises:
        InputError: the arguments of a tool cannot be held to its schema. The message names the place.
    """
    parts = [_RULES]
    for index, function in enumerate(functions):
        parts.append(_Function(f"f{index}", function).rules())
    names = " | ".join(f"f{index}" for index in range(len(functions)))
    parts.append(f'call: <[{open_id}]> "\\n" ({names}) "</function>\\n" <[{close_id}]>\n')
    return "".join(parts)


def json_rule(schema: dict[str, Any], place: str) -> str:
    """JSON of a checked schema, as it stands in a grammar.

    Raises:
        InputError: a pattern cannot be held to; see `json_pattern`.
    """
    return "%json " + json.dumps({"x-guidance": JSON_WRITING, **with_json_patterns(schema, place)})


def regex_literal(pattern: str) -> str:
    """A regular expression as it stands in a grammar, between slashes."""
    out: list[str] = []
    is_escaped = False
    for char in pattern:
        if char in "/\n\r" and not is_escaped:
            out.append("\\")
        out.append({"\n": "n", "\r": "r"}.get(char, char))
        is_escaped = char == "\\" and not is_escaped
    return f"/{''.join(out)}/"


@dataclass
class _Values:
    """What a value may be.

    Attributes:
        is_free: any text.
        texts: regular expressions and quoted literals, as terminals of the grammar.
        schemas: JSON schemas of what stands as JSON and is not simple.
    """

    is_free: bool = False
    texts: list[str] | None = None
    schemas: list[Any] | None = None

    def add(self, other: "_Values") -> None:
        self.is_free |= other.is_free
        self.texts = [*(self.texts or ()), *(other.texts or ())]
        self.schemas = [*(self.schemas or ()), *(other.schemas or ())]


class _Function:
    """The rules of one function, all of whose names start with `name`."""

    def __init__(self, name: str, function: ToolFunction) -> None:
        self._name = name
        self._title = function.name
        self._parameters: CheckedSchema = function.parameters
        self._root = cast("dict[str, Any]", function.parameters.schema)
        self._place = function.parameters.place
        self._num_visits = 0
        self._check_root()

    def _check_root(self) -> None:
        known = {"type", "properties", "required", "additionalProperties", *DEFINITIONS}
        for keyword in self._root:
            if keyword not in known and not is_annotation(keyword):
                raise InputError(
                    f"{self._place}.{keyword}: the keyword {keyword!r} is not supported for the parameters as a whole; "
                    "put it into a single parameter, or leave it out"
                )
        if self._root.get("type", "object") != "object":
            raise InputError(f"{self._place}.type is {self._root['type']!r:.60}; parameters are an object")

    def rules(self) -> str:
        """Rule `name`: the function's tag and its parameters, up to `</function>`."""
        properties = cast("dict[str, Any]", self._root.get("properties", {}))
        required = list(dict.fromkeys(cast("list[str]", self._root.get("required", []))))
        absent = self._root.get("additionalProperties", True)
        schemas = {key: properties.get(key, absent) for key in required} | {
            key: schema for key, schema in properties.items() if schema is not False or key in required
        }
        lines = [self._parameter(index, key, schema) for index, (key, schema) in enumerate(schemas.items())]
        head = f"{self._name}: {_quoted(f'<function={self._title}>')} {_quoted(chr(10))} "
        in_order = len(schemas) > _ORDERED_FROM
        tail = (
            self._one_by_one(len(schemas), len(required)) if in_order else self._any_order(len(schemas), len(required))
        )
        return head + tail + "".join(lines)

    def _any_order(self, num: int, num_required: int) -> str:
        """Bit k of the rule's own number says that parameter k has come; the required ones are the first."""
        if not num:
            return "\n"
        rule = f"{self._name}_all"
        done = f" %if is_ones([0:{num_required}])" if num_required else ""
        each = "".join(f'  | {self._name}_{k} "\\n" {rule}::set_bit({k}) %if bit_clear({k})\n' for k in range(num))
        return f'{rule}::0x0\n{rule}::_: ""{done}\n{each}'

    def _one_by_one(self, num: int, num_required: int) -> str:
        each = [f'({self._name}_{k} "\\n"){"" if k < num_required else "?"}' for k in range(num)]
        return " ".join(each) + "\n"

    def _parameter(self, index: int, key: str, schema: Any) -> str:
        place = f"{self._place}.properties.{key}"
        if not key or not key.isprintable() or ">" in key or len(key) > 256:
            raise InputError(f"{place[:200]}: a parameter's name must be 1 to 256 printable characters without '>'")
        values = self._values(schema, place, frozenset())
        rule = f"{self._name}_{index}"
        head = f"{rule}: {_quoted(f'<parameter={key}>')} "
        if values.is_free:
            return f"{head}{_FREE_TEXT}\n"
        if values.texts and values.schemas:
            raise InputError(
                f"{place}: text with conditions and JSON with conditions cannot be told apart in one parameter; "
                "allow one of them, or any text"
            )
        if values.texts:
            # With its end in one terminal: the longest match would otherwise take the end for text.
            terminal = f"{rule.upper()}_TEXT"
            return f"{head}{terminal}\n{terminal}: ({' | '.join(values.texts)}) {_quoted(_END)}\n"
        if not values.schemas:
            raise InputError(f"{place} allows no value at all; leave the parameter out")
        return f"{head}{self._json(values.schemas, place)} {_quoted(_END)}\n"

    def _json(self, schemas: list[Any], place: str) -> str:
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        if any(not target.startswith(tuple(f"#/{name}/" for name in DEFINITIONS)) for target in references(schema)):
            raise InputError(f"{place}: a $ref of a parameter must lead to #/$defs/... of its tool's parameters")
        return json_rule({**schema, **self._definitions(schema)}, place)

    def _definitions(self, schema: Any) -> dict[str, Any]:
        """The definitions that a schema needs, those of their own included."""
        needed: dict[str, dict[str, Any]] = {}
        todo = list(references(schema))
        while todo:
            group, name = todo.pop().split("/")[1:3]
            name = name.replace("~1", "/").replace("~0", "~")
            if name not in needed.setdefault(group, {}):
                found = cast("dict[str, Any]", self._root[group])[name]
                needed[group][name] = found
                todo += references(found)
        return needed

    # What a value may be

    def _values(self, schema: Any, place: str, seen: frozenset[str]) -> _Values:
        self._visit()
        if schema is True:
            return _Values(is_free=True)
        if schema is False:
            return _Values()
        given = {key: value for key, value in cast("dict[str, Any]", schema).items() if not is_annotation(key)}
        target = given.get("$ref")
        if target is not None and len(given) == 1:
            if target in seen:
                raise InputError(f"{place}: the $ref {target[:60]!r} leads back to itself")
            return self._values(resolve(self._root, target, place), place, seen | {target})
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in given and (len(given) == 1 or set(given) <= {keyword, "type"}):
                return self._union(keyword, given, place, seen)
        if target is not None or "anyOf" in given or "oneOf" in given or "allOf" in given:
            return self._only_json(given, place)
        return self._plain(given, place)

    def _visit(self) -> None:
        """Unions of references to unions may fan out without end."""
        self._num_visits += 1
        if self._num_visits > _MAX_VISITS:
            raise InputError(f"{self._place}: its unions and references have more than {_MAX_VISITS} members together")

    def _union(self, keyword: str, given: dict[str, Any], place: str, seen: frozenset[str]) -> _Values:
        members = cast("list[Any]", given[keyword])
        if "string" not in self._types(given, frozenset()):
            return _Values(schemas=[given])
        if "type" in given or (keyword == "allOf" and len(members) > 1):
            return self._only_json(given, place)
        admitting = [one for one in members if "string" in self._types(one, frozenset())]
        if keyword == "oneOf" and len(admitting) > 1:
            raise InputError(f"{place}.oneOf has {len(admitting)} alternatives that are text; use anyOf")
        if not admitting:
            return _Values(schemas=[{keyword: members}])
        values = _Values()
        for index, one in enumerate(members):
            values.add(self._values(one, f"{place}.{keyword}[{index}]", seen))
        return values

    def _only_json(self, given: dict[str, Any], place: str) -> _Values:
        if "string" in self._types(given, frozenset()):
            raise InputError(
                f"{place}: conditions on text that several schemas state together are not supported; state them in one"
            )
        return _Values(schemas=[given])

    def _plain(self, given: dict[str, Any], place: str) -> _Values:
        types = self._types(given, frozenset())
        if "enum" in given or "const" in given:
            if set(given) - {"enum", "const", "type"}:
                raise InputError(f"{place} has enum or const beside other conditions; leave those out")
            return _choices(given, types, place)
        values = _Values(texts=[], schemas=[])
        if "string" in types:
            conditions = {key: given[key] for key in given if key in _STRING_KEYWORDS}
            if not conditions:
                return _Values(is_free=True)
            values.add(_Values(texts=[_text(conditions, place)]))
        others = sorted(types - {"string"})
        about_others = {key: value for key, value in given.items() if key not in _STRING_KEYWORDS | {"type"}}
        if others and not about_others and all(one in _SCALARS for one in others):
            values.add(_Values(texts=[f"/{_SCALARS[one]}/" for one in others]))
        elif others:
            values.add(_Values(schemas=[{**about_others, "type": others}]))
        return values

    def _types(self, schema: Any, seen: frozenset[str]) -> frozenset[str]:
        """The types that a schema may allow, or more."""
        self._visit()
        if not isinstance(schema, dict):
            return frozenset(TYPES)
        given = cast("dict[str, Any]", schema)
        stated: Any = given.get("type")
        types = frozenset([stated] if isinstance(stated, str) else stated or TYPES)
        if stated is None:
            types &= _implied(given)
        target = given.get("$ref")
        if target is not None and target not in seen:
            types &= self._types(resolve(self._root, target, self._place), seen | {target})
        for keyword in ("anyOf", "oneOf"):
            if keyword in given:
                members = cast("list[Any]", given[keyword])
                types &= frozenset[str]().union(*(self._types(one, seen) for one in members))
        for one in cast("list[Any]", given.get("allOf", [])):
            types &= self._types(one, seen)
        return types


def references(schema: Any) -> list[str]:
    """What every `$ref` of a schema leads to."""
    found: list[str] = []
    todo = [schema]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            members = cast("dict[str, Any]", item)
            target = members.get("$ref")
            found += [target] if isinstance(target, str) else []
            todo += members.values()
        elif isinstance(item, list):
            todo += cast("list[Any]", item)
    return found


def _implied(given: Mapping[str, Any]) -> frozenset[str]:
    """Without "type": what the keywords and choices speak of."""
    if "enum" in given or "const" in given:
        choices = cast("list[Any]", given["enum"]) if "enum" in given else [given["const"]]
        return frozenset("string" if isinstance(one, str) else "null" for one in choices)
    if not _STRING_KEYWORDS.isdisjoint(given):
        return frozenset(("string",))
    implied = {_IMPLIED_TYPES[key] for key in given if key in _IMPLIED_TYPES}
    return frozenset(implied or TYPES)


def _choices(given: Mapping[str, Any], types: Iterable[str], place: str) -> _Values:
    allowed = cast("list[Any]", given["enum"]) if "enum" in given else [given["const"]]
    if "const" in given:
        allowed = [one for one in allowed if one == given["const"]]
    stated = "type" in given
    texts: list[str] = []
    for one in allowed:
        if isinstance(one, str):
            if _END in one:
                raise InputError(f"{place} allows a text with {_END!r} in it, which would end it; choose another")
            texts += [_quoted(one)] if "string" in types else []
        elif isinstance(one, dict | list):
            raise InputError(f"{place} allows a list or an object by enum or const; describe it by type instead")
        elif not stated or _kind(one) in types or (isinstance(one, int) and "number" in types):
            texts.append(_quoted(json.dumps(one)))
    return _Values(texts=texts)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return "boolean" if isinstance(value, bool) else "integer" if isinstance(value, int) else "number"


def _text(conditions: Mapping[str, Any], place: str) -> str:
    """A terminal for text with conditions; `NO_END` is any text without the end tag."""
    parts = ["NO_END"]
    if "minLength" in conditions or "maxLength" in conditions:
        least, most = int(conditions.get("minLength", 0)), conditions.get("maxLength")
        parts.append(f"/(?s:.){{{least},{'' if most is None else int(most)}}}/")
    if "pattern" in conditions:
        parts.append(_pattern(conditions["pattern"], f"{place}.pattern"))
    if "format" in conditions:
        if conditions["format"] not in _FORMATS:
            raise InputError(
                f"{place}.format: {conditions['format']!r} is not supported for text in a call; there are "
                f"{', '.join(_FORMATS)}"
            )
        parts.append(f"/{_FORMATS[conditions['format']]}/")
    return f"({' & '.join(parts)})"


def _pattern(pattern: str, place: str) -> str:
    """A schema's pattern, which matches anywhere unless it is anchored, as one that matches from start to end."""
    starts, ends = pattern.startswith("^"), pattern.endswith("$") and not _is_escaped(pattern, len(pattern) - 1)
    body = pattern[1 if starts else 0 : len(pattern) - 1 if ends else len(pattern)]
    if (starts or ends) and _has_bare_bar(body):
        raise InputError(f"{place} has an anchor beside |; put the alternatives in parentheses: ^(?:a|b)$")
    any_text, body = "(?s:.*)", text_pattern(body, place)
    return regex_literal(f"{'' if starts else any_text}(?:{body}){'' if ends else any_text}")


def _is_escaped(text: str, position: int) -> bool:
    before = text[:position]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _has_bare_bar(pattern: str) -> bool:
    """Whether a | stands outside parentheses and classes."""
    depth, in_class, skip = 0, False, False
    for char in pattern:
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif char in "[]":
            in_class = char == "["
        elif not in_class and char in "()":
            depth += 1 if char == "(" else -1
        elif char == "|" and not in_class and depth == 0:
            return True
    return False


def _quoted(text: str) -> str:
    return json.dumps(text)
