"""Tool calls held to their definitions: what comes of random wishes is read back as a call that fits."""

from typing import Any

import jsonschema
import pytest
import torch

from seed_oss import SeedOssForCausalLM
from seed_oss.chat import parse
from seed_oss.chat.budget import ThinkingBudget
from seed_oss.chat.output_format import OutputFormat
from seed_oss.chat.tool_choice import ToolChoice, tool_functions
from seed_oss.errors import InputError, TokenizerError
from seed_oss.generation import generate
from seed_oss.generation.grammar import grammar_control
from seed_oss.generation.grammar_compiler import GrammarCompiler
from seed_oss.generation.row_control import FREE
from seed_oss.generation.thinking import ThinkingControl, ThinkingTokens
from tests.factory import tiny_model
from tests.generation.grammar_runs import (
    BOS,
    END_THINK,
    END_TOOL_CALL,
    EOS,
    THINK,
    TOOL_CALL,
    Run,
    allowed_by,
    compiler,
    control,
    ids_of,
    plain_ids_of,
    random_wishes,
    run,
    scripted,
    text_of,
    tokenizer,
)


def tool(name: str, properties: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties or {}, **others}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


NOW = {"type": "function", "function": {"name": "now", "description": "The time."}}
WEATHER = tool(
    "get_weather",
    {
        "city": {"type": "string", "description": "where"},
        "days": {"type": "integer"},
        "exact": {"type": "boolean", "default": False},
        "unit": {"type": "string", "enum": ["C", "F", "Celsius"]},
    },
    required=["city", "unit"],
)
MANY = tool(
    "many",
    {
        "list": {"type": "array", "items": {"type": "integer", "maximum": 9, "minimum": 0}, "maxItems": 3},
        "where": {"$ref": "#/$defs/place"},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "code": {"type": "string", "pattern": "^[A-Z]{2,4}$"},
        "part": {"type": "string", "pattern": "x/y", "maxLength": 6},
        "short": {"type": "string", "minLength": 1, "maxLength": 3},
        "day": {"type": "string", "format": "date"},
        "level": {"enum": [1, 2, None, "high"]},
        "ratio": {"type": "number"},
        "limited": {"type": "number", "minimum": 0, "maximum": 1},
        "kind": {"oneOf": [{"const": "a"}, {"type": "boolean"}]},
        "any": {},
        "tree": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
    },
    required=["where", "level"],
    **{
        "$defs": {
            "place": {"type": "object", "properties": {"lat": {"type": "integer"}}, "required": ["lat"]},
            "tree": {"type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}}, "additionalProperties": False},
        }
    },
)
TOOLS = [NOW, WEATHER, MANY]
AFTER_THINKING = [BOS, THINK, END_THINK]


def check(done: Run, tools: list[Any]) -> list[str]:
    """The names of the calls, each of which fits its tool."""
    message = parse(done.text, tools=tools)
    schemas = {one["function"]["name"]: one["function"].get("parameters", {}) for one in tools}
    assert not message.broken_calls
    for call in message.tool_calls:
        assert not call.unknown
        assert not call.problems
        jsonschema.validate(call.parsed_arguments(), schemas[call.name], cls=jsonschema.Draft202012Validator)
    return [call.name for call in message.tool_calls]


@pytest.mark.parametrize("tools", [[NOW], [WEATHER], [MANY], TOOLS], ids=["none", "weather", "many", "all"])
def test_required_calls_fit_their_tools(tools: list[Any]) -> None:
    held, num_done = control(tools=tools, tool_choice="required"), 0
    for seed in range(5):
        done = run(held, random_wishes(seed, closing=0.5), prompt=AFTER_THINKING, max_new=500)
        if done.ids[-1] == EOS:
            num_done += 1
            assert check(done, tools)
            assert done.text.lstrip("\n").startswith("<seed:tool_call>\n<function=")
    assert num_done >= 2


def test_parameters_come_in_any_order_and_each_once() -> None:
    held = control(tools=[WEATHER], tool_choice="required")
    call = "\n<function=get_weather>\n<parameter=unit>Celsius</parameter>\n<parameter=days>3</parameter>\n"
    rest = "<parameter=city>a<b>\n</param</parameter>\n</function>\n"
    done = run(held, scripted(TOOL_CALL, call + rest, END_TOOL_CALL), prompt=AFTER_THINKING)
    assert done.text == f"<seed:tool_call>{call}{rest}</seed:tool_call>"
    assert parse(done.text, tools=[WEATHER]).tool_calls[0].parsed_arguments() == {
        "unit": "Celsius",
        "days": 3,
        "city": "a<b>\n</param",
    }
    twice = run(held, scripted(TOOL_CALL, call + "<parameter=unit>F"), prompt=AFTER_THINKING, max_new=70)
    assert "<parameter=unit>F" not in twice.text
    too_early = run(held, scripted(TOOL_CALL, call + "</function>"), prompt=AFTER_THINKING, max_new=70)
    assert "</function>" not in too_early.text


def test_more_parameters_than_bits_come_in_order() -> None:
    wide = tool("wide", {f"p{k}": {"type": "integer"} for k in range(70)}, required=["p3", "p68"])
    held = control(tools=[wide], tool_choice="required")
    body = "<parameter=p3>1</parameter>\n<parameter=p68>2</parameter>\n"
    call = f"\n<function=wide>\n{body}</function>\n"
    done = run(held, scripted(TOOL_CALL, call, END_TOOL_CALL), prompt=AFTER_THINKING)
    assert done.text == f"<seed:tool_call>{call}</seed:tool_call>"
    assert check(done, [wide]) == ["wide"]
    without = run(held, scripted(TOOL_CALL, call.replace("p3>1", "p4>1")), prompt=AFTER_THINKING, max_new=60)
    assert "p4" not in without.text


def test_a_named_function_and_no_other() -> None:
    held = control(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "get_weather"}})
    wish = "\n<function=now>\n</function>\n"
    done = run(held, scripted(TOOL_CALL, wish, END_TOOL_CALL), prompt=AFTER_THINKING, max_new=40)
    assert text_of(done.ids).startswith("<seed:tool_call>\n<function=get_weather>")


def test_one_call_only_where_several_are_not_wanted() -> None:
    call = (TOOL_CALL, "\n<function=now>\n</function>\n", END_TOOL_CALL)
    for choice in ("required", "auto"):
        for parallel, wanted in ((True, 2), (False, 1)):
            held = control(tools=[NOW], tool_choice=choice, parallel_tool_calls=parallel)
            done = run(held, scripted(*call, "\n", *call), prompt=AFTER_THINKING, max_new=60)
            assert len(check(done, [NOW])) == wanted, (choice, parallel)


def test_auto_is_free_until_a_call_is_opened_and_after_it_is_closed() -> None:
    held = control(tools=TOOLS)
    script = scripted("Let me see.\n\n", TOOL_CALL, "no\n<function=now>\n</function>\n", END_TOOL_CALL, "Done {")
    done = run(held, script, prompt=[BOS], max_new=200)
    assert done.text.startswith("Let me see.\n\n<seed:tool_call>\n<function=")
    text_only = run(held, scripted("Hello", END_TOOL_CALL, " you"), prompt=[BOS])
    assert END_TOOL_CALL not in text_only.ids
    assert text_only.text.startswith("Hello")


@pytest.mark.parametrize("seed", range(6))
def test_auto_calls_fit_their_tools(seed: int) -> None:
    done = run(control(tools=[NOW, WEATHER]), random_wishes(seed, openers=0.2), prompt=[BOS], max_new=300)
    if TOOL_CALL in done.ids and done.ids[-1] == EOS:
        assert check(done, [NOW, WEATHER])


def test_a_call_inside_thinking_is_no_call() -> None:
    held = control(tools=[NOW])
    state = held.start([BOS, THINK], 9)
    for token in (TOOL_CALL, *ids_of("any"), END_TOOL_CALL):
        assert held.directive(state) is FREE
        state = held.advance(state, token)
    state = held.advance(held.advance(state, END_THINK), TOOL_CALL)
    assert held.directive(state).allowed is not None


def test_no_call_where_none_is_wanted() -> None:
    held = control(tools=[NOW], tool_choice="none")
    done = run(held, scripted("Hi", TOOL_CALL, " there"), prompt=[BOS])
    assert TOOL_CALL not in done.ids
    assert text_of(done.ids[-3:]).endswith("there<seed:eos>")
    assert grammar_control(compiler(), tool_choice="none") is None


@pytest.mark.parametrize(
    "form", [OutputFormat.json_object(), OutputFormat.regex("[0-9]+"), OutputFormat.lark('start: "{" /[a-z]+/ "}"')]
)
def test_with_a_form_the_answer_is_of_it_or_a_call(form: OutputFormat) -> None:
    held = control(tools=[NOW], response_format=form)
    mask = allowed_by(held.directive(held.start(AFTER_THINKING, 9)), 448)
    opener = "7" if form.kind == "regex" else "{"
    assert mask[TOOL_CALL]
    assert mask[ids_of(opener)[0]]
    assert not mask[ids_of("N")[0]]
    done = run(held, scripted(TOOL_CALL, "\n<function=now>\n</function>\n", END_TOOL_CALL), prompt=AFTER_THINKING)
    assert check(done, [NOW]) == ["now"]
    script = {"json_schema": '{"a": 1}', "regex": "42", "lark": "{abc}"}[form.kind]
    assert run(held, scripted(script), prompt=AFTER_THINKING).text == script


# Errors


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("always", "tool_choice is 'always'"),
        ({"type": "function"}, "tool_choice is"),
        ({"type": "function", "function": {"name": "later"}}, "names the function 'later'; there are now"),
        (3, "tool_choice is 3"),
    ],
)
def test_wrong_choices(choice: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ToolChoice.of(choice, tool_functions([NOW]))


def test_choices_in_every_spelling() -> None:
    functions = tool_functions([NOW])
    assert ToolChoice.of(None).mode == "none"
    assert ToolChoice.of(None, functions).mode == "auto"
    named = ToolChoice.of({"type": "function", "name": "now"}, functions)
    assert (named.mode, named.name) == ("named", "now")
    assert ToolChoice.of(named, functions) is named
    with pytest.raises(InputError, match="there are no tools"):
        ToolChoice.of("required")


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ({}, "tools is a dict"),
        ([3], r"tools\[0\] is a int"),
        ([NOW, {"type": "web_search"}], r"tools\[1\]\.type is 'web_search'"),
        ([NOW, NOW], r"tools\[1\] has the name 'now' of an earlier one"),
        ([tool("a b")], r"tools\[0\]\.function\.name is 'a b'"),
        ([tool("n" * 65)], r"tools\[0\]\.function\.name"),
        ([tool("f", {"a": {"not": {}}})], r"tools\[0\]\.function\.parameters\.properties\.a\.not"),
        ([tool("f", minProperties=1)], r"tools\[0\]\.function\.parameters\.minProperties: .*as a whole"),
        ([tool("f", {"a>b": {}})], r"a parameter's name"),
        ([tool("f", {"a": {"enum": ["</parameter>"]}})], r"properties\.a allows a text with '</parameter>'"),
        ([tool("f", {"a": {"type": "string", "format": "uri"}})], r"properties\.a\.format: 'uri'"),
        ([tool("f", {"a": {"type": "string", "pattern": "^a|b"}})], r"properties\.a\.pattern has an anchor"),
        ([tool("f", {"a": {"type": "string", "pattern": "^(a$"}})], r"properties\.a\.pattern: unclosed group"),
        ([tool("f", {"a": {"$ref": "#/properties/a"}})], "leads back to itself"),
        ([tool("f", {"a": {"type": "array", "items": {"$ref": "#"}}})], r"must lead to #/\$defs"),
        ([tool("f", {"a": {"type": ["string", "object"], "maxLength": 3}})], "cannot be told apart"),
        ([tool("f", {"a": {"allOf": [{"minLength": 1}, {"maxLength": 3}]}})], "state them in one"),
        ([tool("f", {"a": False}, required=["a"])], "allows no value at all"),
        ([tool("f", required=["a"], additionalProperties=False)], "allows no value at all"),
        ([tool("f", {"a": {"type": "object", "maxProperties": 3, "properties": {"b": {}}}})], r"maxProperties"),
    ],
)
def test_tools_that_are_refused(tools: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        control(tools=tools)


def test_128_tools_and_not_129() -> None:
    tools = [tool(f"{'n' * 60}{k:04}", {"a": {"type": "string"}, "b": {"type": "integer"}}) for k in range(129)]
    assert control(tools=tools[:128], tool_choice="required")
    with pytest.raises(InputError, match="129 tools; at most 128"):
        tool_functions(tools)


def test_unions_that_fan_out_are_refused_at_once() -> None:
    definitions = {f"d{k}": {"anyOf": [{"$ref": f"#/$defs/d{k + 1}"}] * 2} for k in range(40)}
    fan = tool("f", {"a": {"$ref": "#/$defs/d0"}}, **{"$defs": {**definitions, "d40": {"type": "string"}}})
    with pytest.raises(InputError, match="members together"):
        control(tools=[fan])


def test_a_vocabulary_without_the_markers_cannot_call() -> None:
    class Bare:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def get_added_vocab(self) -> dict[str, int]:
            return {"<seed:eos>": EOS}

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __len__(self) -> int:
            return len(self._inner)

    with pytest.raises(TokenizerError, match="cannot call tools"):
        grammar_control(GrammarCompiler(Bare(tokenizer())), tools=[NOW])


def test_names_and_choices_of_any_script() -> None:
    held = control(tools=[tool("f", {'grüße "🙂"': {"enum": ["é\n🙂", 'a"b\\']}})], tool_choice="required")
    for value in ("é\n🙂", 'a"b\\'):
        call = f'\n<function=f>\n<parameter=grüße "🙂">{value}</parameter>\n</function>\n'
        done = run(held, scripted(TOOL_CALL, call, END_TOOL_CALL), prompt=AFTER_THINKING)
        assert done.text == f"<seed:tool_call>{call}</seed:tool_call>"


@pytest.mark.parametrize("schema", [{"enum": ["use </seed:tool_call>"]}, {"pattern": "^use </seed:tool_call>$"}])
def test_a_marker_that_a_tool_spells_is_text(schema: dict[str, Any]) -> None:
    held = control(tools=[tool("f", {"at": {"type": "string", **schema}}, required=["at"])], tool_choice="required")
    call = "\n<function=f>\n<parameter=at>use </seed:tool_call></parameter>\n</function>\n"
    ids = plain_ids_of(call)
    done = run(held, scripted(TOOL_CALL, *ids, END_TOOL_CALL), prompt=AFTER_THINKING)
    assert done.ids == [TOOL_CALL, *ids, END_TOOL_CALL, EOS]


# In generate


def test_each_row_of_a_batch_is_held_to_its_own() -> None:
    model = tiny_model(SeedOssForCausalLM, vocab_size=512)
    controls = [
        control(tools=[NOW], tool_choice="required", parallel_tool_calls=False, vocab_size=512),
        control(response_format=OutputFormat.regex("[0-9]{3}"), vocab_size=512),
        None,
    ]
    ids = torch.tensor([[BOS, 20, THINK, END_THINK]] * 3)
    result = generate(
        model, ids, row_controls=controls, max_new_tokens=80, do_sample=True, seed=3, eos_token_id=EOS, pad_token_id=1
    )
    assert isinstance(result, torch.Tensor)
    rows = [row[4:].tolist() for row in result]
    called = text_of(rows[0][: rows[0].index(EOS)])
    assert parse(called, tools=[NOW]).tool_calls[0].name == "now"
    assert text_of(rows[1][: rows[1].index(EOS)]).strip().isdecimal()


@pytest.mark.parametrize("guesses", [{}, {"prompt_lookup_num_tokens": 3}])
def test_with_a_thinking_budget(guesses: dict[str, int]) -> None:
    model = tiny_model(SeedOssForCausalLM, vocab_size=512)
    thinking = ThinkingControl(ThinkingTokens.of(tokenizer()), ThinkingBudget(8))
    held = control(response_format=OutputFormat.regex("[0-9]{3}"), vocab_size=512)
    ids = torch.tensor([[BOS, *ids_of("assistant\n"), THINK]])
    result = generate(
        model, ids, row_controls=[[thinking, held]], max_new_tokens=120, do_sample=False, eos_token_id=EOS, **guesses
    )
    assert isinstance(result, torch.Tensor)
    answer = text_of(result[0].tolist()).rpartition("</seed:think>")[2]
    assert answer.removesuffix("<seed:eos>").strip().isdecimal()
    assert answer.endswith("<seed:eos>")


def test_text_with_conditions_ends_at_the_first_end() -> None:
    held = control(tools=[tool("f", {"a": {"type": "string", "maxLength": 40}})], tool_choice="required")
    value = "\n<function=f>\n<parameter=a>x</parameter>"
    done = run(held, scripted(TOOL_CALL, value, "y"), prompt=AFTER_THINKING, max_new=len(ids_of(value)) + 2)
    assert text_of(done.ids) == f"<seed:tool_call>{value}\n"
