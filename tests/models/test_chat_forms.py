"""model.chat held to forms of answers and to tools."""

import json
import random
from typing import Any

import jsonschema
import pytest

from seed_oss import SeedOssForCausalLM, SeedOssTokenizer
from seed_oss.chat.budget import BUDGET_SPENT
from seed_oss.chat.output_format import OutputFormat
from seed_oss.errors import InputError, MissingExtraError, TokenizerError
from seed_oss.generation import GrammarCompiler
from seed_oss.models.chat import chat, prepare_turn
from tests.chat.tokenizer_factory import metaspace_backend
from tests.factory import tiny_model
from tests.scripted_model import ScriptedModel
from tests.seed_tokenizer import seed_tokenizer

ASK = [{"role": "user", "content": "What is 2 + 2?"}]
TOKENIZER = seed_tokenizer()
FOUR = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "four", "schema": FOUR}}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": "x", "parameters": parameters}}


TOOLS = [tool("add", a={"type": "integer", "minimum": 0, "maximum": 99}), tool("now")]
ADD = "<seed:tool_call>\n<function=add>\n<parameter=a>7</parameter>\n</function>\n</seed:tool_call>"
NOW = "<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>"
WRONG = "<seed:tool_call>\n<function=sub>\n<parameter=a>x</parameter>\n</function>\n</seed:tool_call>"


def says(text: str) -> Any:
    """A model that wants to say a text in which markers are control tokens."""
    return ScriptedModel(TOKENIZER(text, add_special_tokens=False)["input_ids"], len(TOKENIZER))


def ask(text: str, **arguments: Any) -> Any:
    return chat(says(text), TOKENIZER, ASK, **{"max_new_tokens": 2000, **arguments})


def test_json_after_thinking() -> None:
    message = ask('<seed:think>Two {and} two.</seed:think>\nIt is {"n": 4}<seed:eos>', response_format=FORMAT)
    assert message.reasoning == "Two {and} two."
    assert json.loads(message.content) == {"n": 4}
    assert (message.ended, message.finish_reason, message.truncated) == (True, "stop", None)


def test_json_after_a_budget_was_spent() -> None:
    text = "<seed:think>" + "so on " * 400 + '</seed:think>\n{"n": 4}<seed:eos>'
    message = ask(text, response_format=FORMAT, thinking_budget=64)
    assert BUDGET_SPENT in message.reasoning
    jsonschema.validate(json.loads(message.content), FOUR)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_off_says_so(stream: bool) -> None:
    answer = ask(
        '\n{"n": 4444444<seed:eos>', response_format=FORMAT, thinking_budget=0, max_new_tokens=7, stream=stream
    )
    if stream:
        list(answer)
        assert answer.finish_reason == "length"
        answer = answer.message
    assert answer.content.startswith('{"n"')
    assert (answer.truncated, answer.finish_reason, answer.ended) == ("content", "length", False)


def test_an_answer_without_a_form_that_is_cut_off_says_so_too() -> None:
    message = ask("</seed:think>\nOne two three four", thinking_budget=0, max_new_tokens=3)
    assert (message.truncated, message.finish_reason) == ("content", "length")
    message = ask("<seed:think>One two three four five", max_new_tokens=3)
    assert message.finish_reason == "length"


def test_without_a_choice_nothing_is_held_to_and_nothing_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    message = ask(f"<seed:think>So.</seed:think>\n{WRONG}<seed:eos>", tools=TOOLS)
    assert message.tool_calls[0].unknown
    assert prepare_turn(TOKENIZER, ASK, tools=TOOLS).controls == ()
    assert prepare_turn(TOKENIZER, ASK, response_format={"type": "text"}).controls == ()
    assert prepare_turn(TOKENIZER, ASK, tools=[], tool_choice="auto").controls == ()
    message = ask(f"<seed:think>So.</seed:think>\n{ADD} Four.<seed:eos>", tools=TOOLS, tool_choice="none")
    assert message.tool_calls == message.broken_calls == ()


@pytest.mark.parametrize(
    "arguments",
    [
        {"response_format": {"type": "json_object"}},
        {"tools": TOOLS, "tool_choice": "auto"},
        {"tools": TOOLS, "parallel_tool_calls": False},
    ],
)
def test_a_missing_package_is_named(arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = SeedOssTokenizer(TOKENIZER.backend_tokenizer, chat_template=TOKENIZER.chat_template, eos_token="<seed:eos>")
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'seed-oss\[grammar\]'"):
        chat(says("a"), fresh, ASK, **arguments)


def test_auto_holds_what_is_called_to_its_schema() -> None:
    message = ask(f"<seed:think>So.</seed:think>\nFree {{text.\n{WRONG}<seed:eos>", tools=TOOLS, tool_choice="auto")
    assert message.content.startswith("Free {text.")
    assert all(not call.unknown and not call.problems for call in message.tool_calls)
    (call,) = ask(f"\nFree.\n{ADD}<seed:eos>", tools=TOOLS, tool_choice="auto").tool_calls
    assert (call.name, call.parsed_arguments()) == ("add", {"a": 7})


@pytest.mark.parametrize(
    ("choice", "names"), [("required", ["add", "now"]), ({"type": "function", "function": {"name": "now"}}, ["now"])]
)
def test_calls_that_must_come(choice: Any, names: list[str]) -> None:
    said = f"<seed:think>So.</seed:think>\nNo, thanks.{ADD}\n{NOW}<seed:eos>"
    message = ask(said, tools=TOOLS, tool_choice=choice)
    assert [call.name for call in message.tool_calls] == names
    assert (message.content, message.finish_reason) == ("", "tool_calls")
    message = ask(said, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    assert [call.name for call in message.tool_calls] == names[:1]


def test_none_leaves_the_tools_in_the_prompt_and_lets_none_be_called() -> None:
    turn = prepare_turn(TOKENIZER, ASK, tools=TOOLS, tool_choice="none")
    assert "def add(" in TOKENIZER.decode(turn.input_ids[0])
    message = ask(f"</seed:think>\n{ADD}<seed:eos>", tools=TOOLS, tool_choice="none", thinking_budget=0)
    assert message.tool_calls == message.broken_calls == ()
    message = ask(
        f'</seed:think>\n{ADD}{{"n": 4}}<seed:eos>',
        tools=TOOLS,
        tool_choice="none",
        response_format=FORMAT,
        thinking_budget=0,
    )
    assert json.loads(message.content) == {"n": 4}


@pytest.mark.parametrize("choice", [None, "auto"])
@pytest.mark.parametrize("budget", [None, 0])
def test_with_a_form_an_answer_is_of_it_or_calls(choice: Any, budget: int | None) -> None:
    how = {"tools": TOOLS, "tool_choice": choice, "response_format": FORMAT, "thinking_budget": budget}
    opening = "<seed:think>So.</seed:think>" if budget is None else ""
    assert ask(f"{opening}\nno {ADD}<seed:eos>", **how).tool_calls[0].parsed_arguments() == {"a": 7}
    message = ask(f'{opening}\nno {{"n": 4}}<seed:eos>', **how)
    assert (json.loads(message.content), message.tool_calls) == ({"n": 4}, ())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tool_choice": "required"}, "tool_choice is 'required', but there are no tools"),
        ({"tools": TOOLS, "tool_choice": "now"}, "tool_choice is 'now'; it must be 'none', 'auto', 'required' or"),
        ({"tools": TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls is 1; it must be True or False"),
        ({"response_format": FOUR}, "response_format.type is 'object'.*OutputFormat.json_schema"),
        ({"tools": [tool("f", a={"not": {}})], "tool_choice": "auto"}, r"tools\[0\].*the keyword 'not'"),
    ],
)
def test_wrong_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask("a", **arguments)


def test_a_model_without_a_format_of_calls() -> None:
    tokenizer = SeedOssTokenizer(
        metaspace_backend(), chat_template="{{ messages[0].content }}{% if tools %}{% endif %}", eos_token="</s>"
    )
    model = ScriptedModel([5], len(tokenizer))
    with pytest.raises(TokenizerError, match="cannot call tools in the Seed format; leave tool_choice"):
        chat(model, tokenizer, ASK, tools=TOOLS, tool_choice="auto")
    chat(model, tokenizer, ASK, tools=TOOLS, max_new_tokens=2)
    chat(model, tokenizer, ASK, tools=TOOLS, tool_choice="none", max_new_tokens=2)


def test_one_compiler_for_all_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    ask('\n{"n": 4}<seed:eos>', response_format=FORMAT)

    def fails(self: Any, tokenizer: Any) -> None:
        raise AssertionError("made twice")

    monkeypatch.setattr(GrammarCompiler, "__init__", fails)
    ask('\n{"n": 5}<seed:eos>', response_format=FORMAT)


def test_the_end_tokens_of_the_call_end_the_form() -> None:
    (point,) = TOKENIZER.encode(".", add_special_tokens=False)
    text = '\n{"n":4}'
    stream = ask(text + ".", response_format=FORMAT, thinking_budget=0, eos_token_id=[point], stream=True)
    list(stream)
    assert stream.new_ids[-1] == point
    assert stream.finish_reason == "eos"


# Random schemas


def random_schema(source: random.Random, depth: int = 2) -> Any:
    """A schema whose values are short."""
    leaves: list[Any] = [
        {"type": "integer", "minimum": source.randint(-9, 0), "maximum": source.randint(0, 99)},
        {"type": "string", "maxLength": source.randint(0, 4)},
        {"type": "boolean"},
        {"enum": source.sample(["a", "bc", 1, 2.5, None, True, [1]], 3)},
        {"type": "string", "pattern": f"^[a-d]{{1,{source.randint(1, 3)}}}$"},
        {"type": ["null", "boolean"]},
        {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25},
    ]
    if depth == 0 or source.random() < 0.3:
        return source.choice(leaves)
    if source.random() < 0.3:
        low = source.randint(0, 2)
        return {"type": "array", "items": random_schema(source, depth - 1), "minItems": low, "maxItems": low + 1}
    if source.random() < 0.2:
        return {"anyOf": [random_schema(source, depth - 1) for _ in range(2)]}
    names = source.sample(["a", "b", "name", "ü", "x y"], source.randint(1, 3))
    return {
        "type": "object",
        "properties": {name: random_schema(source, depth - 1) for name in names},
        "required": names[: source.randint(0, len(names))],
        "additionalProperties": False,
    }


@pytest.mark.parametrize("block", range(4))
def test_random_schemas(block: int) -> None:
    model = tiny_model(SeedOssForCausalLM, vocab_size=512, max_position_embeddings=4096)
    num_whole = 0
    for number in range(25 * block, 25 * block + 25):
        schema = random_schema(random.Random(number))
        message = model.chat(
            TOKENIZER,
            ASK,
            response_format=OutputFormat.json_schema(schema),
            thinking_budget=(None, 0, 4)[number % 3] if number % 2 else 0,
            max_new_tokens=110,
            do_sample=True,
            temperature=0.8,
            seed=number,
        )
        assert message.finish_reason == ("stop" if message.ended else "length")
        if message.ended:
            num_whole += 1
            jsonschema.validate(json.loads(message.content), schema, cls=jsonschema.Draft202012Validator)
    assert num_whole >= 15
