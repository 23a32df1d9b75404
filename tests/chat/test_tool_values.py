"""Values by schema: the narrowest type that fits, else the text; nothing is evaluated."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_oss.chat.literals import MAX_DEPTH, MAX_LITERAL_LEN, NotALiteralError, read_literal, read_number
from seed_oss.chat.tool_values import MAX_SCHEMAS, ToolTypes, ValueType

NULLABLE = {"anyOf": [{"type": "string"}, {"type": "null"}]}


def convert(schema: Any, text: str, **parameters: Any) -> tuple[Any, bool]:
    """The value that a parameter of this schema gets from a text, and whether it fits."""
    tools = [{"function": {"name": "f", "parameters": {"properties": {"k": schema}, **parameters}}}]
    return ToolTypes(tools).of("f", "k").convert(text)


CASES: list[tuple[Any, str, Any]] = [
    ({"type": "string"}, "02134", "02134"),
    ({"type": "string"}, " null ", " null "),
    ({"type": "string", "enum": ["a", "b"]}, "c", "c"),
    ({"type": "integer"}, "7", 7),
    ({"type": "integer"}, " -7\n", -7),
    ({"type": "integer"}, "3.0", 3),
    ({"type": "number"}, "2.5", 2.5),
    ({"type": "number"}, "7", 7),
    ({"type": "number"}, "1e-07", 1e-07),
    ({"type": "boolean"}, "false", False),
    ({"type": "boolean"}, "False", False),
    ({"type": "boolean"}, " TRUE ", True),
    ({"type": "null"}, "None", None),
    ({"type": "null"}, "null", None),
    ({"type": "array"}, "[1, 'a', None]", [1, "a", None]),
    ({"type": "array"}, '[1, "a", null]', [1, "a", None]),
    ({"type": "object"}, "{'a': {'b': True}}", {"a": {"b": True}}),
    ({"type": "object"}, '\n{"a": [1.5]}\n', {"a": [1.5]}),
    ({"properties": {}}, "{}", {}),
    ({"items": {}}, "[]", []),
    ({"type": ["integer", "null"]}, "None", None),
    ({"type": ["integer", "null"]}, "3", 3),
    (NULLABLE, "null", None),
    (NULLABLE, "nullable", "nullable"),
    ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "7", 7),
    ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "02134", "02134"),
    ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, " x ", " x "),
    ({"oneOf": [{"type": "boolean"}, {"type": "array"}]}, "[true]", [True]),
    ({"allOf": [{"type": "integer"}]}, "7", 7),
    ({"enum": [1, 2]}, "2", 2),
    ({"enum": ["1", 1]}, "1", "1"),
    ({"enum": [True, None, 2.5]}, "None", None),
    ({"enum": [True, None, 2.5]}, "true", True),
    ({"const": 3}, "3", 3),
    ({"enum": ["a", None]}, "a", "a"),
    ({}, "[1]", "[1]"),
    ({"description": "no type"}, "7", "7"),
    (True, "7", "7"),
    ({"type": "date"}, "7", "7"),
    ({"type": 3}, "7", "7"),
]


@pytest.mark.parametrize(("schema", "text", "value"), CASES)
def test_values_by_schema(schema: Any, text: str, value: Any) -> None:
    found, fits = convert(schema, text)
    assert (found, type(found), fits) == (value, type(value), True)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        *(({"type": "integer"}, text) for text in ("02134", "2.5", "1e3", "seven", "", "1_000", "0x10", "７", "true")),
        *(({"type": "number"}, text) for text in ("NaN", "inf", "1e999", ".5", "5.", "1,5", "9" * 65, "--1")),
        *(({"type": "boolean"}, text) for text in ("1", "0", "yes", "", "ﬁ", "truetrue")),
        *(({"type": "array"}, text) for text in ("1", "{}", "[1", "[x]", "(1, 2)", "__import__('os')", "[1][0]", "")),
        *(({"type": "object"}, text) for text in ("[]", "{1: 2}", "{'a': 1, 'a': 2}", '{"a": 1, "a": 2}', "{'a'}")),
        ({"type": "null"}, "nil"),
        ({"enum": [1, 2]}, "3"),
        ({"const": 3}, "4"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_kept_as_text(schema: Any, text: str) -> None:
    assert convert(schema, text) == (text, False)


class TestReferences:
    def test_followed(self) -> None:
        defs = {"Kind": {"anyOf": [{"$ref": "#/$defs/Other"}, {"type": "null"}]}, "Other": {"type": "integer"}}
        assert convert({"$ref": "#/$defs/Kind"}, "7", **{"$defs": defs}) == (7, True)
        assert convert({"$ref": "#/$defs/Kind"}, "null", **{"$defs": defs}) == (None, True)

    def test_with_escapes(self) -> None:
        assert convert({"$ref": "#/definitions/a~1b~0c"}, "7", definitions={"a/b~c": {"type": "integer"}}) == (7, True)

    @pytest.mark.parametrize("target", ["#/$defs/None", "other.json#/a", "#", "#/properties/k", 3, "#/a" + "/b" * 500])
    def test_that_lead_nowhere_say_nothing(self, target: Any) -> None:
        assert convert({"$ref": target}, "7") == ("7", True)

    def test_in_circles_and_fans(self) -> None:
        defs: dict[str, Any] = {
            str(level): {"anyOf": [{"$ref": f"#/$defs/{level + 1}"}, {"$ref": f"#/$defs/{level + 1}"}]}
            for level in range(100)
        }
        defs["100"] = {"anyOf": [{"$ref": "#/$defs/0"}, {"type": "integer"}]}
        assert convert({"$ref": "#/$defs/0"}, "7", **{"$defs": defs})[0] in (7, "7")

    def test_bounded(self) -> None:
        many: Any = {"anyOf": [{"type": "integer"}, *({"anyOf": []} for _ in range(2 * MAX_SCHEMAS))]}
        assert convert(many, "7") == ("7", True)


class TestTools:
    def test_nested_and_flat(self) -> None:
        parameters = {"properties": {"k": {"type": "integer"}}}
        flat = {"name": "f", "parameters": parameters}
        for tool in ({"type": "function", "function": flat}, flat):
            assert ToolTypes([tool]).of("f", "k").convert("7") == (7, True)

    def test_other_parameters(self) -> None:
        types = ToolTypes([{"name": "f", "parameters": {"additionalProperties": {"type": "integer"}}}])
        assert [types.of("f", key).convert("7") for key in ("a", "b")] == [(7, True)] * 2
        assert len(types._known) == 1, "a model that invents names fills no memory"

    @pytest.mark.parametrize(
        "tool",
        [
            None, 3, "f", {}, {"function": None}, {"function": {"name": 3}}, {"name": "f"},
            {"name": "f", "parameters": []},
            {"name": "f", "parameters": {"properties": []}}, {"name": "f", "parameters": {"properties": {"k": None}}},
            {"name": "f", "parameters": {"properties": {"k": {"anyOf": 3, "type": ["x", 3], "enum": "ab"}}}},
        ],
    )  # fmt: skip
    def test_what_is_no_tool_says_nothing(self, tool: Any) -> None:
        assert ToolTypes([tool]).of("f", "k") == ValueType()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


class TestLiterals:
    @settings(max_examples=300, deadline=None)
    @given(json_values)
    def test_what_json_and_python_write_is_read(self, value: Any) -> None:
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1), repr(value)):
            found = read_literal(text)
            assert (found, repr(found)) == (value, repr(value)), text

    @pytest.mark.parametrize(
        "text",
        [
            "", " ", "1 2", "[1,,2]", "[,]", "[", "]", "{'a'}", "{'a':}", "{a: 1}", "{1: 2}", "'a", "'a\n'", r"'\q'",
            r"'\x4'", r"'\ud800'", r"'\U00110000'", r"'\x+1'", "nan", "Infinity", "1e999", "01", "(1,)", "1+1", "f()",
            "[x for x in y]", "a.b", "'a' 'b'", "b'a'", "Truee", "１", "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
            "{'a':" * 5000, " " * MAX_LITERAL_LEN + "1", "\ud800", "'\\",
        ],
    )  # fmt: skip
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(NotALiteralError):
            read_literal(text)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("[1, 2,]", [1, 2]),
            ("{'a': true, \"b\": None,}", {"a": True, "b": None}),
            (r"'it\'s \x41B\U0001F642\n'", "it's AB\U0001f642\n"),
            ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
            ("{'a':" * (MAX_DEPTH - 1) + "1" + "}" * (MAX_DEPTH - 1), None),
        ],
    )
    def test_lenient_forms_and_depth(self, text: str, value: Any) -> None:
        assert value is None or read_literal(text) == value
        assert json.loads(json.dumps(read_literal(text))) == read_literal(text)

    def test_numbers(self) -> None:
        assert [read_number(text) for text in ("0", "-0", "12", "1.50", "-2E+2")] == [0, 0, 12, 1.5, -200.0]

    def test_random_text_is_read_or_refused(self) -> None:
        rng = random.Random(7)
        bits = (
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            "'",
            '"',
            "\\",
            "u0041",
            "x4",
            "1",
            "-",
            ".",
            "e",
            "True",
            "null",
            " ",
            "a",
            "é",
        )
        for _ in range(3000):
            text = "".join(rng.choices(bits, k=rng.randint(1, 14)))
            try:
                json.dumps(read_literal(text), allow_nan=False)
            except NotALiteralError:
                continue
