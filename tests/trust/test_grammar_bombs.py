"""Schemas, expressions and grammars made to take long or much: each is refused in time, or harmless in use."""

import time
from typing import Any

import pytest

from seed_oss.chat.output_format import OutputFormat
from seed_oss.errors import InputError
from seed_oss.generation.grammar_compiler import GrammarLimits
from seed_oss.generation.row_control import GRAMMAR_ERROR
from tests.generation.grammar_runs import BOS, END_THINK, THINK, compiler, control, random_wishes, run, scripted

LONGEST = 4.0  # seconds: 1 s to compile, the rest for a busy machine


def chain(num: int, link: Any, last: Any) -> dict[str, Any]:
    """Definitions, each of which refers to the next."""
    return {"$defs": {**{str(k): link(k) for k in range(num)}, str(num): last}, "$ref": "#/$defs/0"}


def to(k: int) -> dict[str, str]:
    return {"$ref": f"#/$defs/{k + 1}"}


SCHEMAS: dict[str, Any] = {
    "all of any": {"allOf": [{"anyOf": [{"properties": {f"p{i}_{j}": {}}} for j in range(10)]} for i in range(10)]},
    "all of twice": chain(40, lambda k: {"allOf": [to(k), to(k)]}, {"type": "object"}),
    "any of twice": chain(40, lambda k: {"anyOf": [to(k), to(k)]}, {"type": "object"}),
    "long chain": chain(1500, to, {"type": "string"}),
    "chain of all of": chain(1000, lambda k: {"allOf": [to(k)]}, {"type": "string"}),
    "chain of items": chain(900, lambda k: {"type": "array", "items": to(k)}, {"type": "string"}),
    "circle": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "circle of two": {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}
    | {"$ref": "#/$defs/a"},
    "many strings": {"enum": [f"v{k}" for k in range(6000)]},
    "many properties": {"type": "object", "properties": {f"p{k}": {"type": "string"} for k in range(2000)}},
    "huge lengths": {"type": "array", "minItems": 10**9, "items": {"type": "string", "minLength": 10**6}},
    "powers": {"type": "string", "pattern": "^((a{1000}){1000}){1000}$"},
    "backtracking": {"type": "string", "pattern": "^(.*a.{20}){20}$"},
    "multiples": {"allOf": [{"type": "integer", "multipleOf": 999983}, {"multipleOf": 999979}]},
    "large multiple": {"type": "integer", "multipleOf": 999999937, "maximum": 10**18},
    "huge range": {"type": "number", "minimum": -1.7e308, "maximum": 1.7e308},
    "long pattern": {"type": "string", "pattern": "a?" * 1024},
    "many patterns": {"type": "array", "prefixItems": [{"type": "string", "pattern": "a?" * 1000} for _ in range(25)]},
}
REGEXES = {
    "powers": "((a{1000}){1000}){1000}",
    "deep": "(" * 1000 + "a" + ")" * 1000,
    "exponential": "(a|b)*a(a|b){30}c",
    "unicode": "(\\w+\\d*\\s?){200}",
    "optional": "a?" * 1024,
}
GRAMMARS = {
    "deep": "start: " + "(" * 5000 + '"a"' + ")" * 5000,
    "chain": "start: r0\n" + "".join(f"r{k}: r{k + 1}\n" for k in range(990)) + 'r990: "b"',
    "chain of terminals": "start: R0\n" + "".join(f"R{k}: R{k + 1}\n" for k in range(990)) + 'R990: "b"',
    "doubling": "start: r0\n" + "".join(f"r{k}: r{k + 1} r{k + 1}\n" for k in range(60)) + 'r60: "b"',
    "doubling terminals": "start: R0\n" + "".join(f"R{k}: R{k + 1} R{k + 1}\n" for k in range(60)) + 'R60: "b"',
    "powers": 'start: (("a" "b"){100000}){100000}',
    "negations": "start: T\nT: ~(/(.*a.{15})/ & ~/(b.*){10}x/) & ~/.*c.{14}/",
    "ambiguous": 'start: s\ns: s s s | s s | "a"',
    "optional": "start: " + '"a"? ' * 3000,
}


def try_out(make: Any) -> None:
    """Compile it, and take some steps in what compiles."""
    compiler()
    began = time.monotonic()
    try:
        held = control(response_format=make())
    except InputError:
        return
    finally:
        assert time.monotonic() - began < LONGEST
    run(held, random_wishes(0), prompt=[END_THINK], max_new=20)
    assert time.monotonic() - began < 2 * LONGEST


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas(name: str) -> None:
    try_out(lambda: OutputFormat.json_schema(SCHEMAS[name]))


@pytest.mark.parametrize("name", REGEXES)
def test_regular_expressions(name: str) -> None:
    try_out(lambda: OutputFormat.regex(REGEXES[name]))


@pytest.mark.parametrize("name", GRAMMARS)
def test_grammars(name: str) -> None:
    try_out(lambda: OutputFormat.lark(GRAMMARS[name]))


def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler(), "limits", GrammarLimits(compile_s=0.001))
    with pytest.raises(InputError, match=r"schema took longer than 0\.001 s to compile"):
        control(response_format=OutputFormat.json_schema({**SCHEMAS["many properties"], "title": "late"}))


def test_a_row_whose_masks_take_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seed_oss.generation.grammar.MAX_ROW_SECONDS", 0.5)
    monkeypatch.setattr("seed_oss.generation.grammar.MAX_SECONDS_PER_MASK", 0.001)
    held = control(response_format=OutputFormat.lark("start: x\nx: x x x | /[a-z]/"))
    began = time.thread_time()
    done = run(held, scripted("a" * 1000), prompt=[BOS, THINK, END_THINK], max_new=1000)
    assert time.thread_time() - began < 10
    assert done.stop == GRAMMAR_ERROR
    plain = control(response_format=OutputFormat.lark("start: /[a-z]/ start | /[a-z]/"))
    done = run(plain, scripted("a" * 300), prompt=[BOS, THINK, END_THINK], max_new=300)
    assert len(done.ids) == 300
