"""Answers held to a JSON schema, a regular expression or a grammar: what comes of random wishes is always valid."""

import copy
import json
import random
import re
from typing import Any

import jsonschema
import pytest
import torch

from seed_oss.chat.output_format import OutputFormat
from seed_oss.errors import InputError, MissingExtraError
from seed_oss.generation import grammar_package
from seed_oss.generation.grammar import GRAMMAR_ERROR, GrammarControl
from seed_oss.generation.grammar_compiler import GrammarLimits
from seed_oss.generation.row_control import combine
from tests.generation.grammar_runs import (
    BOS,
    END_THINK,
    EOS,
    REFLECT,
    THINK,
    TOOL_CALL,
    allowed_by,
    compiler,
    control,
    ids_of,
    plain_ids_of,
    random_wishes,
    run,
    scripted,
    text_of,
)

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMAS: list[Any] = [
    PERSON,
    {"type": "object"},
    True,
    {"type": ["integer", "null"], "minimum": -3, "exclusiveMaximum": 9},
    {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 40},
    {"enum": ["a", 1, 1.5, None, True, {"b": [1]}]},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^[A-Z]{2,4}-\\d+$", "maxLength": 9},
    {"type": "string", "pattern": "^a|b$", "maxLength": 6},
    {"type": "string", "format": "date"},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"const": "x"}], "items": False, "minItems": 2},
    {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "integer"}},
    {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "null"}}, "additionalProperties": False},
    {"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "boolean"}},
    {"anyOf": [PERSON, {"type": "array", "items": {"type": "null"}, "maxItems": 2}]},
    {"oneOf": [{"type": "integer", "maximum": 99}, {"type": "string", "maxLength": 3}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tree",
        "$defs": {"tree": {"type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}, "v": {"type": "null"}}}},
        "$ref": "#/$defs/tree",
    },
]


def valid(text: str, schema: Any) -> None:
    jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("index", range(len(SCHEMAS)))
def test_json_is_valid_by_its_schema(index: int) -> None:
    held, num_done = control(response_format=OutputFormat.json_schema(SCHEMAS[index])), 0
    for seed in range(12):
        done = run(held, random_wishes(seed + 100 * index), prompt=[BOS, THINK, END_THINK], max_new=150)
        assert done.stop is None
        if done.ids[-1] == EOS:
            num_done += 1
            valid(done.text, SCHEMAS[index])
    assert num_done >= 3


def test_openai_response_formats() -> None:
    assert control(response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}})
    done = run(control(response_format={"type": "json_object"}), random_wishes(3), prompt=[END_THINK])
    assert isinstance(json.loads(done.text), dict)
    assert OutputFormat.of({"type": "text"}) is None


@pytest.mark.parametrize("pattern", ["(ab|c){1,3}d?", "[0-9]{3}-[a-z/]{2}", "\\n*x", "(yes|no)"])
def test_a_regular_expression_is_matched_from_start_to_end(pattern: str) -> None:
    held = control(response_format=OutputFormat.regex(pattern))
    for seed in range(8):
        done = run(held, random_wishes(seed), prompt=[BOS, THINK, END_THINK], max_new=60)
        if done.ids[-1] == EOS:
            assert re.fullmatch(f"\n{{0,2}}(?:{pattern})", done.text)


def test_lark() -> None:
    held = control(response_format=OutputFormat.lark('start: "(" start ")" | NUM\nNUM: /[0-9]{1,3}/'))
    for seed in range(12):
        done = run(held, random_wishes(seed, closing=0.8), prompt=[END_THINK], max_new=300)
        if done.ids[-1] == EOS:
            assert re.fullmatch(r"\n{0,2}\(*[0-9]{1,3}\)*", done.text)
            assert done.text.count("(") == done.text.count(")")


# Thinking


def test_it_thinks_freely_and_then_obeys() -> None:
    held = control(response_format=OutputFormat.json_schema(PERSON))
    done = run(held, scripted(THINK, "any {text", REFLECT, END_THINK, "\n", "no", '{"name":"x","age":4}'))
    assert text_of(done.ids).startswith("<seed:think>any {text<seed:cot_budget_reflect></seed:think>\n{")
    thinking = allowed_by(held.directive(held.advance(held.start([BOS], 9), THINK)), 448)
    assert (~thinking).nonzero().flatten().tolist() == [EOS]


@pytest.mark.parametrize("prompt", [[BOS], [BOS, THINK, END_THINK], [BOS, THINK, 20], [THINK, EOS, BOS]])
def test_where_it_starts_comes_from_the_prompt(prompt: list[int]) -> None:
    held = control(response_format=OutputFormat.json_schema(PERSON))
    state = held.start(prompt, 9)
    mask = allowed_by(held.directive(state), 448)
    is_open = prompt == [BOS, THINK, 20]
    assert bool(mask[THINK]) == (is_open or THINK not in prompt or prompt[-1] == BOS)
    assert bool(mask[ids_of("\n")[0]]) == (is_open or prompt[-1] == END_THINK)
    assert bool(mask[ids_of("z")[0]]) == is_open
    assert not bool(mask[EOS])


def test_only_one_blank_line_after_thinking() -> None:
    held = control(response_format=OutputFormat.regex("[a-z]+"))
    state = held.advance(held.start([END_THINK], 9), ids_of("\n")[0])
    mask = allowed_by(held.directive(state), 448)
    assert not bool(mask[ids_of("\n")[0]])
    assert bool(mask[ids_of("q")[0]])


def test_when_the_answer_is_complete_only_the_end_may_come() -> None:
    held = control(response_format=OutputFormat.regex("ab"), eos_token_id=[77])
    state = held.start([END_THINK], 9)
    for char in "ab":
        state = held.advance(state, ids_of(char)[0])
    assert allowed_by(held.directive(state), 448).nonzero().flatten().tolist() == [EOS, 77]
    assert held.directive(held.advance(state, EOS)).stop == "eos"


def test_a_token_that_the_grammar_forbids_ends_the_row_and_spoils_no_other_state() -> None:
    held = control(response_format=OutputFormat.regex("ab"))
    start = held.start([END_THINK], 9)
    wrong = held.advance(held.advance(start, ids_of("a")[0]), ids_of("z")[0])
    assert held.directive(wrong).stop == GRAMMAR_ERROR
    assert held.directive(held.advance(wrong, ids_of("b")[0])).stop == GRAMMAR_ERROR
    good = held.directive(held.advance(start, ids_of("a")[0]))
    assert good.allowed is not None
    assert bool(good.allowed[ids_of("b")[0]])


def test_tokens_beyond_the_tokenizer_are_not_allowed() -> None:
    held = control(response_format=OutputFormat.regex("(?s:.*)"), vocab_size=512)
    allowed = held.directive(held.start([END_THINK], 9)).allowed
    assert allowed is not None
    assert (allowed.shape, allowed.dtype) == ((512,), torch.bool)
    assert not allowed[448:].any()
    assert not allowed[[BOS, THINK, TOOL_CALL]].any()
    assert allowed[EOS]


def test_with_another_control_both_hold() -> None:
    held = control(response_format=OutputFormat.regex("a?b"))
    ours = held.directive(held.start([END_THINK], 9))
    both = combine([ours, held.directive(held.start([BOS, THINK], 9))])
    assert both.allowed is ours.allowed


# Markers that a form spells

MARKERS = ["<seed:eos>", "</seed:think>", "<seed:tool_call>", "</seed:tool_call>", "<seed:cot_budget_reflect>"]


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("kind", ["const", "enum", "pattern", "key", "regex", "lark"])
@pytest.mark.parametrize("tools", [False, True], ids=["alone", "or calls"])
def test_a_marker_that_a_form_spells_is_text(marker: str, kind: str, tools: bool) -> None:
    text = f"see {marker} there"
    form, answer = {
        "const": (OutputFormat.json_schema({"const": text}), json.dumps(text)),
        "enum": (OutputFormat.json_schema({"enum": [text, marker]}), json.dumps(text)),
        "pattern": (OutputFormat.json_schema({"type": "string", "pattern": f"^{text}$"}), json.dumps(text)),
        "key": (OutputFormat.json_schema({"type": "object", "required": [text]}), json.dumps({text: None})),
        "regex": (OutputFormat.regex(text), text),
        "lark": (OutputFormat.lark(f"start: {json.dumps(text)}"), text),
    }[kind]
    called = {"tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "auto"} if tools else {}
    ids = plain_ids_of(answer)
    held = control(response_format=form, **called)
    done = run(held, scripted(*ids), prompt=[BOS, THINK, END_THINK])
    assert done.ids == [*ids, EOS]
    for mask in done.masks[1:-1]:
        assert not mask[:9].any()


@pytest.mark.parametrize("pattern", ["a\\\nb", "a\nb", "a\rb", "a\\\rb"])
def test_line_ends_in_an_expression_mean_themselves(pattern: str) -> None:
    done = run(control(response_format=OutputFormat.regex(pattern)), scripted(pattern.replace("\\", "")), prompt=[BOS])
    assert done.text == pattern.replace("\\", "")


# States are values


def masks_alone(held: GrammarControl, ids: list[int]) -> list[torch.Tensor]:
    """The masks along a path, each from a run of its own."""
    masks = []
    for length in range(len(ids)):
        state = held.start([END_THINK], 500)
        for token in ids[:length]:
            state = held.advance(state, token)
        masks.append(allowed_by(held.directive(state), 448))
    return masks


def test_tokens_taken_back_leave_no_trace() -> None:
    held = control(response_format=OutputFormat.json_schema(SCHEMAS[15]))
    done = run(held, random_wishes(8), prompt=[END_THINK], max_new=60)
    fresh = masks_alone(held, done.ids)
    source = random.Random(0)
    for _ in range(200):  # jumps between the states of one run, with tokens tried out in between
        index = source.randrange(len(fresh))
        state = done.states[index]
        if source.random() < 0.5:
            held.directive(held.advance(state, int(fresh[index].nonzero().flatten()[0])))
        assert torch.equal(allowed_by(held.directive(state), 448), fresh[index])


def test_two_rows_have_nothing_in_common() -> None:
    held = control(response_format=OutputFormat.regex("[a-c]+x|[d-f]+y"))
    first, second = held.start([BOS], 9), held.start([BOS], 9)
    assert first.cursor is not second.cursor
    first = held.advance(first, ids_of("a")[0])
    second = held.advance(second, ids_of("d")[0])
    for state, wanted in ((first, "abcx"), (second, "defy")):
        allowed = allowed_by(held.directive(state), 448)
        single = {text_of([token]) for token in allowed.nonzero().flatten().tolist()}
        assert {one for one in single if len(one) == 1} == set(wanted)


# Bounds and errors


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "object", "properties": {"a": {"not": {}}}}, r"schema\.properties\.a\.not: the keyword 'not'"),
        ({"items": {"uniqueItems": True}}, r"schema\.items\.uniqueItems"),
        ({"if": {}, "then": {}}, r"schema\.if"),
        ({"foo": 1}, r"schema\.foo: the keyword 'foo'"),
        ({"x-guidance": {"lenient": True}}, r"schema\.x-guidance"),
        ({"$id": "a", "items": {"$id": "b"}}, r"schema\.items\.\$id"),
        ({"type": "string", "nullable": True}, r"schema\.nullable.*null"),
        ({"type": "text"}, r"schema\.type is 'text'; types are"),
        ({"format": "phone"}, r"schema\.format: the format 'phone'"),
        ({"minLength": -1}, r"schema\.minLength is -1"),
        ({"maximum": "3"}, r"schema\.maximum is '3'"),
        ({"anyOf": []}, r"schema\.anyOf"),
        ({"properties": []}, r"schema\.properties"),
        ({"items": [{}]}, r"schema\.items is a list; a schema is"),
        ({"$ref": "#/$defs/a"}, r"schema\.\$ref is '#/\$defs/a', which leads nowhere"),
        ({"$ref": "https://a.b/c"}, r"schema\.\$ref"),
        (
            {"allOf": [{"type": "integer", "oneOf": [{"minimum": 1}, {"maximum": 9}]}]},
            r"schema\.allOf\[0\]\.oneOf: oneOf",
        ),
        ({"type": "string", "pattern": "(?=a)b"}, r"schema\.pattern: .*look-around"),
        ({"type": "object", "minProperties": 2}, r"schema\.minProperties is 2"),
        (False, "schema: .*[Uu]nsatisfiable"),
        ({"$ref": "#"}, "schema: it allows no text at all"),
        ({"type": "string", "const": 3}, "schema: .*[Uu]nsatisfiable"),
        ({"maximum": float("nan")}, "schema is not JSON"),
        ({"const": {1, 2}}, "schema is not JSON"),
        (3, "schema is 3"),
        ({"multipleOf": 0}, r"schema\.multipleOf is 0; it must be a number above 0"),
        ({"enum": []}, r"schema\.enum is an empty list; it must be a list with at least one entry"),
        ({"required": ["a", 1]}, r"schema\.required\[1\] is 1; it must be a name"),
        ({"type": "string", "maxLength": 10**12}, r"schema\.maxLength is 1000000000000; at most 2147483647"),
        ({"type": "array", "maxItems": 10**30}, r"schema\.maxItems is 1"),
        (
            {"type": "object", "patternProperties": {"a": {}, "(a": {}}},
            r"patternProperties \(number 1\): unclosed group",
        ),
        ({"items": {"pattern": "a"}, "prefixItems": [{"pattern": "^(a$"}]}, r"prefixItems\[0\]\.pattern: unclosed"),
        ({"default": "x" * 65_509, "type": "null"}, r"schema has 65537 bytes of JSON; at most 65536"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_its_place(schema: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        control(response_format=OutputFormat.json_schema(schema))


def nested(levels: int) -> Any:
    schema: Any = {"type": "null"}
    for _ in range(levels - 1):
        schema = {"type": "array", "items": schema}
    return schema


def test_32_levels_and_not_33() -> None:
    assert control(response_format=OutputFormat.json_schema(nested(32)))
    with pytest.raises(InputError, match="deeper than 32 levels"):
        OutputFormat.json_schema(nested(33))
    objects: Any = {"type": "null"}
    for _ in range(33):
        objects = {"type": "object", "properties": {"a": objects}}
    with pytest.raises(InputError, match="at most 32 levels of schemas"):
        OutputFormat.json_schema(objects)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OutputFormat.regex("("), "regex: "),
        (lambda: OutputFormat.regex("a" * 2049), "regex has 2049 bytes"),
        (lambda: OutputFormat.regex(""), "allowed are 1 to"),
        (lambda: OutputFormat.lark("start: missing"), "grammar: "),
        (lambda: OutputFormat.lark("start: %json {}"), "%json"),
        (lambda: OutputFormat.lark('%llguidance {"no_forcing": false}\nstart: "a"'), "%llguidance"),
        (lambda: OutputFormat.lark("a:" * 1001), "1001 colons"),
        (lambda: OutputFormat.of({"type": "xml"}), r"response_format\.type is 'xml'"),
        (lambda: OutputFormat.of({"type": "json_schema"}), r"response_format\.json_schema has no schema"),
        (lambda: OutputFormat.of(3), r"response_format\.type is 3"),
    ],
)
def test_other_forms_that_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        control(response_format=make())


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'seed-oss\[grammar\]'"):
        grammar_package.require_llguidance()


def test_compiled_grammars_are_kept_within_bounds() -> None:
    mine = copy.copy(compiler())
    mine._cache, mine._cached_bytes = type(mine._cache)(), 0
    first = mine.compile(OutputFormat.regex("first"))
    assert mine.compile(OutputFormat.regex("first")) is first
    mine.limits = GrammarLimits(cache_bytes=2 * 128 * 1024 + 30_000)
    for text in ("second", "third"):
        mine.compile(OutputFormat.regex(text))
    assert mine._cached_bytes <= 2 * 128 * 1024 + 30_000
    assert len(mine._cache) == 2
    assert mine.compile(OutputFormat.regex("first")) is not first


def test_a_key_cannot_be_spelled_in_two_ways() -> None:
    done = run(control(response_format=OutputFormat.json_schema(SCHEMAS[12])), scripted('{"\\u0061":1}'), max_new=6)
    assert "\\u" not in done.text
