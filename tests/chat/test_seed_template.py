"""The Seed renderer beside the released templates: golden renderings; random conversations where they are present."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from seed_oss.chat import render
from seed_oss.chat.control_tokens import ControlToken
from seed_oss.chat.normalize import normalize_chat
from seed_oss.chat.seed_template import reflection_interval, render_pieces
from seed_oss.chat.template_worker import make_environment
from seed_oss.errors import TemplateError
from tests.chat.random_chats import random_chat
from tests.seed_tokenizer import INITIAL_SEED_TEMPLATE, SEED_TEMPLATE

_GOLDEN = Path(__file__).parents[1] / "golden" / "chat_template.jsonl"
_RELEASED = Path(__file__).parents[3] / "shared" / "golden" / "templates"
_USER = {"role": "user", "content": "q"}


def golden_lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in _GOLDEN.read_text(encoding="utf-8").splitlines()]


def test_golden_renderings() -> None:
    lines = golden_lines()
    wrong = [
        index
        for index, line in enumerate(lines)
        if render(line["messages"], variant=line["variant"], **line["kwargs"]) != line["expected"]
    ]
    assert len(lines) == 250
    assert wrong == []


def test_random_conversations_as_the_released_templates() -> None:
    if not _RELEASED.is_dir():
        pytest.skip("the released templates are not here; they are not part of the project")
    templates = {path.stem: path.read_text(encoding="utf-8") for path in _RELEASED.glob("*.jinja")}
    assert sorted(templates) == ["current", "initial"]
    _compare(templates, num_cases=2000, seed=1)


def test_random_conversations_as_the_template_of_the_tests() -> None:
    _compare({"current": SEED_TEMPLATE, "initial": INITIAL_SEED_TEMPLATE}, num_cases=300, seed=2)


def _compare(templates: dict[str, str], *, num_cases: int, seed: int) -> None:
    environment = make_environment()
    compiled = {name: environment.from_string(text) for name, text in templates.items()}
    for case in range(num_cases):
        messages, arguments = random_chat(random.Random(f"{seed} {case}"))
        variant: Any = ("current", "initial")[case % 2]
        expected = compiled[variant].render(messages=messages, **arguments)
        assert render(messages, variant=variant, **arguments) == expected, f"case {case}"


def test_pieces_are_control_tokens_and_runs() -> None:
    chat = normalize_chat([{"role": "user", "content": "<seed:eos>"}, {"role": "assistant", "content": "a"}])
    rendered = render_pieces(chat)
    assert [str(piece) if isinstance(piece, ControlToken) else [piece] for piece in rendered.pieces] == [
        "<seed:bos>", ["user\n<seed:eos>"], "<seed:eos>", "<seed:bos>", ["assistant\na"], "<seed:eos>"
    ]  # fmt: skip
    for messages, arguments in (random_chat(random.Random(f"pieces {case}")) for case in range(200)):
        opened = arguments.pop("add_generation_prompt", False)
        rendered = render_pieces(normalize_chat(messages, **arguments), add_generation_prompt=opened)
        kinds = [isinstance(piece, str) for piece in rendered.pieces]
        assert not any(one and other for one, other in itertools.pairwise(kinds))
        assert "" not in rendered.pieces
        assert rendered.text == render(messages, add_generation_prompt=opened, **arguments)


def test_what_the_assistant_wrote() -> None:
    calls = [{"name": "f", "arguments": {"x": 1}}, {"name": "g"}]
    messages = [
        {"role": "system", "content": "s"},
        _USER,
        {"role": "assistant", "content": " a ", "reasoning_content": " r "},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "b", "tool_calls": calls},
        {"role": "assistant", "content": None, "tool_calls": calls[1:]},
        {"role": "tool", "content": "t"},
    ]
    chat = normalize_chat(messages, thinking_budget=0)
    rendered = render_pieces(chat, add_generation_prompt=True)
    assert [rendered.text[start:end] for start, end in rendered.assistant_spans] == [
        "<seed:think>r</seed:think>\na<seed:eos>",
        "b\n\n<seed:tool_call>\n<function=f>\n<parameter=x>1</parameter>\n</function>\n</seed:tool_call>\n"
        "<seed:tool_call>\n<function=g>\n</function>\n</seed:tool_call><seed:eos>",
        "<seed:tool_call>\n<function=g>\n</function>\n</seed:tool_call><seed:eos>",
    ]


def test_variants_differ_in_the_opened_turn_without_thinking() -> None:
    current, initial = (
        render([_USER], thinking_budget=0, add_generation_prompt=True, variant=variant)
        for variant in ("current", "initial")
    )
    assert initial.endswith("<seed:bos>assistant\n<seed:think><seed:cot_budget_reflect>")
    assert current.endswith(
        "<seed:think>\n<seed:cot_budget_reflect>The current thinking budget is 0, so I will directly start answering "
        "the question.</seed:cot_budget_reflect>\n</seed:think>"
    )


@pytest.mark.parametrize(
    ("budget", "interval"),
    [(-2, 0), (0, 0), (1, 128), (512, 128), (513, 256), (1025, 512), (4096, 512), (4097, 1024), (10**9, 1024)],
)
def test_reflection_interval(budget: int, interval: int) -> None:
    assert reflection_interval(budget) == interval
    if budget:
        assert f"every {interval} tokens" in render([_USER], thinking_budget=budget)


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        ({"type": "function"}, r"tools\[0\]\.function must be a mapping"),
        ({"type": "function", "function": {"parameters": 3}}, r"tools\[0\]\.function\.parameters must be a mapping"),
        (
            {"type": "function", "function": {"parameters": {"properties": [1]}}},
            r"tools\[0\]\.function\.parameters\.properties must be",
        ),
        (
            {"type": "function", "function": {"parameters": {"required": 3}}},
            r"tools\[0\]\.function\.parameters\.required must be a list",
        ),
        (
            {"type": "function", "function": {"returns": {"properties": [1]}}},
            r"tools\[0\]\.function\.returns\.properties must be",
        ),
        (print, r"tools\[0\] must be a JSON schema"),
        ("f", r"tools\[0\] must be a mapping"),
    ],
)
def test_bad_tools_are_named(tool: Any, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        render([_USER], tools=[tool])


def test_values_that_cannot_be_written_are_named() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    huge = 10**5000
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"x": huge}}]}
    with pytest.raises(TemplateError, match=r"messages\[0\]\.tool_calls\[0\]\.arguments\['x'\] cannot be written"):
        render([call])
    with pytest.raises(TemplateError, match="thinking_budget cannot be written"):
        render([_USER], thinking_budget=huge)
    with pytest.raises(TemplateError, match="tools cannot be written as JSON"):
        render([_USER], tools=[{"x": huge}], use_json_tooldef=True)
    assert str(deep) in render([{**call, "tool_calls": [{"name": "f", "arguments": {"x": deep}}]}])


def test_unknown_variant() -> None:
    variant: Any = "newest"
    with pytest.raises(TemplateError, match="'newest'"):
        render([_USER], variant=variant)
