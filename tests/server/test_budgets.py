"""The thinking budget in every spelling that clients use."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from seed_oss.chat import SeedOssTokenizer
from seed_oss.chat.budget import ThinkingBudget
from seed_oss.engine.messages import AnswerForm
from tests.seed_tokenizer import seed_tokenizer
from tests.server.api_calls import ASK, MODEL, chat, engine, post
from tests.server.fake_engine import FakeEngine, Script

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"

SPELLINGS: list[tuple[dict[str, Any], int | None]] = [
    ({}, None),
    ({"thinking_budget": 512}, 512),
    ({"thinking_budget": -1}, None),
    ({"thinking_budget": 0}, 0),
    ({"thinking_token_budget": 600}, 600),
    ({"thinking": {"type": "disabled"}}, 0),
    ({"thinking": {"type": "enabled", "budget_tokens": 700}}, 700),
    ({"thinking": True}, None),
    ({"enable_thinking": False}, 0),
    ({"reasoning_effort": "low"}, 1024),
    ({"reasoning_effort": "none"}, 0),
    ({"reasoning": {"max_tokens": 800}}, 800),
    ({"reasoning": {"effort": "high"}}, 16384),
    ({"reasoning": {"enabled": False}}, 0),
    ({"chat_template_kwargs": {"thinking_budget": 900}}, 900),
    ({"chat_template_kwargs": {"enable_thinking": False}}, 0),
    ({"extra_body": {"thinking_budget": 1000}}, 1000),
    ({"extra_body": {"chat_template_kwargs": {"thinking_budget": 1100}}}, 1100),
    ({"extra_body": {"thinking": {"type": "disabled"}}}, 0),
    ({"thinking_budget": 512, "extra_body": {"thinking_budget": 512}}, 512),
    ({"thinking_budget": 512, "reasoning_effort": "low"}, 512),
]


@pytest.mark.parametrize(("fields", "tokens"), SPELLINGS)
def test_a_spelling(fields: dict[str, Any], tokens: int | None) -> None:
    client = engine()
    answer = chat(client, **fields)
    assert answer.status == 200, answer.body
    (submit,) = client.submits
    assert submit.form == AnswerForm(thinking_budget=tokens)
    text = client.tokenizer.decode(submit.prompt_ids)
    assert (f"{tokens}" in text) == (tokens is not None)
    if tokens == 0:
        assert text.endswith("</seed:think>")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking_budget": 512, "extra_body": {"thinking_budget": 513}}, "thinking_budget"),
        ({"thinking_budget": -2}, "thinking_budget"),
        ({"thinking_budget": 2**31}, "thinking_budget"),
        ({"thinking_budget": True}, "thinking_budget"),
        ({"thinking_budget": "512"}, "thinking_budget"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"thinking": 3}, "thinking"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning": {"max_tokens": "x"}}, "reasoning.max_tokens"),
        ({"enable_thinking": 1}, "enable_thinking"),
        ({"chat_template_kwargs": {"thinking_budget": "x"}}, "chat_template_kwargs.thinking_budget"),
    ],
)
def test_a_budget_that_is_none(fields: dict[str, Any], param: str) -> None:
    answer = chat(engine(), **fields)
    assert answer.status == 400
    if "different" not in answer.error["message"]:
        assert answer.error["param"] == param


def no_thinker() -> FakeEngine:
    """An engine whose vocabulary has no markers of thinking."""
    backend = json.loads(seed_tokenizer().backend_tokenizer.to_str())
    for token in backend["added_tokens"]:
        token["content"] = token["content"].replace("think", "other")
    backend["model"]["vocab"] = {
        name.replace("seed:think", "seed:other"): index for name, index in backend["model"]["vocab"].items()
    }
    return FakeEngine(SeedOssTokenizer(Tokenizer.from_str(json.dumps(backend)), chat_template=PLAIN), [Script("Four.")])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"enable_thinking": True}, "enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs.enable_thinking"),
        ({"thinking": {"type": "enabled", "budget_tokens": 700}}, "thinking.type"),
        ({"thinking": True}, "thinking"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"reasoning_effort": "max"}, "reasoning_effort"),
        ({"reasoning": {"enabled": True}}, "reasoning.enabled"),
        ({"thinking_budget": 512, "budget_mode": "soft"}, "thinking_budget"),
    ],
)
def test_a_model_that_cannot_think_refuses_a_wish_by_its_name(fields: dict[str, Any], param: str) -> None:
    answer = chat(no_thinker(), **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"enable_thinking": False},
        {"thinking_budget": 0},
        {"thinking_budget": -1},
        {"thinking": {"type": "disabled"}},
        {"thinking": {"type": "adaptive"}},
        {"reasoning_effort": "none"},
    ],
)
def test_a_model_that_cannot_think_takes_what_asks_for_none(fields: dict[str, Any]) -> None:
    assert chat(no_thinker(), **fields).status == 200


@pytest.mark.parametrize(("mode", "is_said"), [("both", True), ("soft", True), ("hard", False)])
def test_modes(mode: str, is_said: bool) -> None:
    client = engine()
    chat(client, thinking_budget=512, budget_mode=mode)
    form = client.submits[0].form
    assert form is not None
    assert (form.thinking_budget, form.budget_mode) == (512, mode)
    assert ("512" in client.tokenizer.decode(client.submits[0].prompt_ids)) is is_said


def test_the_servers_own_budget() -> None:
    client = engine()
    body = {"model": MODEL, "messages": ASK}
    post(client, "/v1/chat/completions", body, thinking_budget=ThinkingBudget(512, "hard"))
    post(client, "/v1/chat/completions", {**body, "thinking_budget": 64}, thinking_budget=ThinkingBudget(512, "hard"))
    post(client, "/v1/chat/completions", body, loop_guard=True)
    forms = [submit.form for submit in client.submits]
    assert forms == [
        AnswerForm(thinking_budget=512, budget_mode="hard"),
        AnswerForm(thinking_budget=64, budget_mode="hard"),
        AnswerForm(loop_guard=True),
    ]


def test_other_fields_in_a_literal_extra_body() -> None:
    client = engine()
    assert chat(client, extra_body={"top_k": 5, "repetition_penalty": 1.1}).status == 200
    assert client.submits[0].params.top_k == 5
    assert chat(client, extra_body={"nonsense": 5}).error["param"] == "nonsense"
