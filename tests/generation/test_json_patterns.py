"""Patterns of JSON schemas: what comes of them fits them, by jsonschema and character by character."""

import json
import re
from typing import Any

import jsonschema
import pytest

from seed_oss.chat.output_format import OutputFormat
from seed_oss.errors import InputError
from tests.generation.grammar_runs import BOS, END_THINK, EOS, THINK, compiler, control, ids_of, random_wishes, run
from tests.generation.test_tool_grammar import tool

CHARACTERS = [*map(chr, range(128)), *"\x80\x85\xa0éʇ٣²ª\u0301\u200b\u2028\ufeff中\U0001f642"]
CLASSES = [
    *('[^"a]', r"[^\\]", r"[^\x00]", r"[^\n]", r'[^"\n]', r"[^\w]", r"[^\W]", r"[^\d\s]", r"[^\S]", r"[^\D]", "[^]a]"),
    *(r"[\x00-\x20]", r"[\x00-\x7f]", r"[\n-\r]", r"[\W]", r"[\Wa]", r"[\D\n]", r"[\S]", r"[\s]", r"[\w-]", "[a-]"),
    *(r"\W", r"\D", r"\S", r"\s", r"\w", r"\d", ".", "[+--]", r"[\b\t]", r"[\[\]]", "[[a]", "[&a~]", r"[\-a]", "[]a]"),
    *(r"[\u0041-\u005a]", r"[\x41\]]", r"\"", r"\\", r"[ -~]", r'[^"\\]', r"(?:[^\\]|x)", r"[!-\/]"),
]
RUNS = ['^[^"a]{2}$', r"^[^\\]{3}$", r"^[\x00-\x20]{2}$", r"^\W{2}$", r"^[^\d]{2}$", r"^\S+$", r"^[^\\\"]+x?$"]


def is_allowed(schema: Any, text: str) -> bool:
    matcher = compiler().compile(OutputFormat.json_schema(schema)).prototype.deep_copy()
    ids = ids_of(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@pytest.mark.parametrize("pattern", CLASSES)
def test_a_class_lets_through_what_it_says(pattern: str) -> None:
    schema = {"type": "string", "pattern": f"^{pattern}$"}
    for char in CHARACTERS:
        if is_allowed(schema, json.dumps(char, ensure_ascii=False)):
            assert re.search(schema["pattern"], char), repr(char)
        elif 0x20 <= ord(char) < 0x7F or char in "\n\r\t\f\b":
            assert not re.fullmatch(pattern, char), repr(char)


@pytest.mark.parametrize("pattern", RUNS)
@pytest.mark.parametrize("is_key", [False, True], ids=["value", "key"])
def test_what_comes_of_a_pattern_is_valid(pattern: str, is_key: bool) -> None:
    schema: dict[str, Any] = {"type": "string", "pattern": pattern}
    if is_key:
        schema = {"type": "object", "patternProperties": {pattern: {"type": "null"}}, "additionalProperties": False}
    held, num_done = control(response_format=OutputFormat.json_schema(schema)), 0
    backslash = ids_of("\\")[0]
    for seed in range(20):
        wishes = ([*wish[:backslash], wish[backslash] + 0.3, *wish[backslash + 1 :]] for wish in random_wishes(seed))
        done = run(held, wishes, prompt=[BOS, THINK, END_THINK], max_new=80)
        if done.ids[-1] == EOS:
            num_done += 1
            jsonschema.validate(json.loads(done.text), schema, cls=jsonschema.Draft202012Validator)
    assert num_done >= 3


def test_a_pattern_inside_a_tools_parameter_is_held_to_as_well() -> None:
    items = {"type": "array", "items": {"type": "string", "pattern": '^[^"]$'}, "minItems": 1, "maxItems": 1}
    held = control(tools=[tool("f", {"a": items}, required=["a"])], tool_choice="required")
    assert held.grammar is not None
    matcher = held.grammar.prototype.deep_copy()
    assert matcher.try_consume_tokens([*ids_of("<seed:tool_call>"), *ids_of("\n<function=f>\n<parameter=a>[")])
    assert matcher.try_consume_tokens(ids_of('"\\""')) < len(ids_of('"\\""'))


@pytest.mark.parametrize("pattern", [r"^\w$", r"^\W$", r"^[\w.]$", r"^[^\w]$", r"^\d$", r"^\D$", r"^\S$", r"^[^\s]$"])
def test_a_text_parameter_fits_its_pattern(pattern: str) -> None:
    """Written as it is, not as JSON: there sets of characters mean more to the grammar than to a validator."""
    text = {"type": "string", "pattern": pattern}
    held = control(tools=[tool("f", {"a": text}, required=["a"])], tool_choice="required")
    assert held.grammar is not None
    begun = held.grammar.prototype.deep_copy()
    assert begun.try_consume_tokens([*ids_of("<seed:tool_call>"), *ids_of("\n<function=f>\n<parameter=a>")])
    taken = 0
    for char in "aZ_09.-\u0301\u00b2\u00bd\u2460\u0663\u00e9\u4e00\u2028 \u00a0\ufeff":
        ids = ids_of(f"{char}</parameter>")
        if begun.deep_copy().try_consume_tokens(ids) == len(ids):
            taken += 1
            assert re.search(pattern, char), f"U+{ord(char):04X}"
    assert taken


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"const": "a\x01b"}, r"schema\.const holds the control character U\+0001"),
        ({"const": "a\x7fb"}, r"schema\.const holds the control character U\+007F"),
        ({"const": {"k\x01": 1}}, r"schema\.const holds the control character U\+0001"),
        ({"enum": ["b", ["a\x00b"]]}, r"schema\.enum\[1\] holds the control character U\+0000"),
        ({"pattern": "^a\x01b$"}, r"schema\.pattern asks for the control character U\+0001"),
        ({"items": {"pattern": r"^a\x01b$"}}, r"schema\.items\.pattern asks for the control character U\+0001"),
        ({"pattern": r"\v"}, r"schema\.pattern asks for the control character U\+000B"),
        ({"pattern": r"[\x01-\x02]"}, r"schema\.pattern has a class of control characters only"),
        ({"patternProperties": {r"^\u0001$": {}}}, r"schema\.patternProperties \(number 0\) asks for the control"),
        ({"pattern": "[[:alpha:]]"}, r"schema\.pattern has '\[:' inside a class"),
        ({"pattern": "[a&&b]"}, r"schema\.pattern has '&&' inside a class"),
        ({"pattern": "[z-a]"}, r"schema\.pattern has a class with a range"),
        ({"pattern": "[a"}, r"schema\.pattern lacks a \]"),
        ({"pattern": "a\\"}, r"schema\.pattern ends in a single backslash"),
        ({"x-a": {"b": {"pattern": '[^"]'}}, "$ref": "#/x-a/b"}, r"schema\.\$ref is '#/x-a/b', where no schema stands"),
    ],
)
def test_control_characters_and_doubtful_classes_are_refused(schema: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        control(response_format=OutputFormat.json_schema(schema))


@pytest.mark.parametrize("schema", [{"const": "a\nb\tc\r\b\f"}, {"enum": ["\u2028é\ud7ff\U0010ffff\x85"]}])
def test_other_characters_of_a_literal_are_kept(schema: Any) -> None:
    text = schema.get("const") or schema["enum"][0]
    assert is_allowed(schema, json.dumps(text, ensure_ascii=False))


@pytest.mark.parametrize("pattern", [r"^[^\x{FFFFFFFF}]$", r"^[^\U00110000]$", r"^[^a-\x{110000}]$"])
def test_characters_beyond_the_last_one_are_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="beyond the last character"):
        control(response_format=OutputFormat.json_schema({"type": "string", "pattern": pattern}))


def test_two_spellings_of_one_name_are_refused() -> None:
    names = {r"^[\x41]$": {"type": "string", "maxLength": 2}, "^[A]$": {"type": ["string", "null"]}}
    with pytest.raises(InputError, match="the same as a name before it"):
        control(response_format=OutputFormat.json_schema({"type": "object", "patternProperties": names}))
