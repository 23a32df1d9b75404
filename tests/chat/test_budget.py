"""Thinking budgets: every spelling, and what is refused."""

from typing import Any

import pytest

from seed_oss.chat.budget import EFFORTS, ThinkingBudget, reflection
from seed_oss.errors import InputError


@pytest.mark.parametrize(
    ("value", "tokens"),
    [(None, None), (-1, None), (0, 0), (512, 512), (512.0, 512), (ThinkingBudget(7), 7), ({"thinking_budget": 3}, 3)],
)
def test_of(value: Any, tokens: int | None) -> None:
    assert ThinkingBudget.of(value).tokens == tokens


@pytest.mark.parametrize(
    "value", ["512", True, -2, 2**31, 10**400, 1.5, float("nan"), float("inf"), [512], {}, {"budget": 3}, object()]
)
def test_what_is_no_budget(value: Any) -> None:
    with pytest.raises(InputError, match="budget"):
        ThinkingBudget.of(value)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"thinking_budget": 512}, 512),
        ({"thinking_token_budget": 512}, 512),
        ({"chat_template_kwargs": {"thinking_budget": 0}}, 0),
        ({"extra_body": {"chat_template_kwargs": {"thinking_budget": 64}}}, 64),
        ({"extra_body": {"thinking_budget": 64}}, 64),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, 2048),
        ({"thinking": {"budget_tokens": 2048}}, 2048),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, 0),
        ({"thinking": {"type": "disabled", "budget_tokens": 2048}}, 0),
        ({"thinking": False}, 0),
        ({"thinking": True}, None),
        ({"enable_thinking": False}, 0),
        ({"chat_template_kwargs": {"enable_thinking": False}}, 0),
        ({"enable_thinking": True}, None),
        ({"reasoning_effort": "none"}, 0),
        ({"reasoning_effort": "high"}, 16384),
        ({"reasoning_effort": "max"}, None),
        ({"reasoning": {"max_tokens": 99}}, 99),
        ({"reasoning": {"effort": "low"}}, 1024),
        ({"reasoning": {"enabled": False}}, 0),
        ({"output_config": {"effort": "low", "format": {}}}, 1024),
        ({"reasoning": {"enabled": True, "max_tokens": 5}}, 5),
        ({"thinking_budget": -1}, None),
        # one says more than the other
        ({"enable_thinking": True, "thinking_budget": 512}, 512),
        ({"reasoning_effort": "low", "thinking_budget": 512}, 512),
        ({"reasoning_effort": "low", "enable_thinking": True}, 1024),
        ({"thinking_budget": 512, "chat_template_kwargs": {"thinking_budget": 512}}, 512),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, None),
        ({"thinking": {"type": "adaptive", "budget_tokens": 9}, "enable_thinking": True}, 9),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "low"}, 1024),
        ({"enable_thinking": False, "thinking": {"type": "disabled"}}, 0),
    ],
)
def test_spellings(fields: dict[str, Any], tokens: int | None) -> None:
    budget = ThinkingBudget.from_request({"model": "m", "temperature": 1.1, **fields})
    assert budget is not None
    assert budget.tokens == tokens


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "m"},
        {"thinking_budget": None, "reasoning": {}},
        {"extra_body": {}},
        {"reasoning": {"exclude": True}},
    ],
)
def test_no_budget_named(fields: dict[str, Any]) -> None:
    assert ThinkingBudget.from_request(fields) is None


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"thinking_budget": "512"}, "thinking_budget is '512', a str; allowed: an integer"),
        ({"chat_template_kwargs": {"thinking_budget": -2}}, r"chat_template_kwargs\.thinking_budget is -2"),
        ({"thinking": {"type": "off"}}, r"thinking\.type is 'off'; allowed: enabled, adaptive, disabled"),
        ({"thinking": "disabled"}, "thinking is 'disabled'; it must be an object"),
        ({"enable_thinking": "false"}, "enable_thinking is 'false'; allowed: true, false"),
        ({"reasoning_effort": "huge"}, "reasoning_effort is 'huge'; allowed: none, minimal"),
        ({"reasoning": {"max_tokens": True}}, r"reasoning\.max_tokens is True"),
        ({"extra_body": 7}, "extra_body is 7; it must be an object"),
        ({"extra_body": "{}"}, "extra_body is '{}'; it must be an object"),
        ({"chat_template_kwargs": [1]}, r"chat_template_kwargs is \[1\]; it must be an object"),
        ({"thinking": {"type": "disabled", "budget_tokens": "many"}}, r"thinking\.budget_tokens is 'many'"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 0}},
            r"thinking\.type: no limit; thinking\.budget_tokens: 0",
        ),
        ({"thinking": {"type": "enabled"}, "thinking_budget": 0}, r"thinking_budget: 0; thinking\.type: no limit"),
        ({"thinking": {"type": ["disabled"]}}, r"thinking\.type is \['disabled'\]; allowed: enabled"),
        ({"reasoning_effort": ["low"]}, "reasoning_effort is .'low'.; allowed: none"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, r"reasoning\.effort: 16384"),
        ({"thinking_budget": float("nan")}, "thinking_budget is nan, a float; allowed: an integer"),
        ({"thinking_budget": 1e300}, "thinking_budget is <integer of 997 bits>; allowed: an integer"),
        ({"enable_thinking": 1}, "enable_thinking is 1; allowed: true, false"),
        ({"thinking_budget": 512, "thinking_token_budget": 1024}, "thinking_budget: 512; thinking_token_budget: 1024"),
        ({"thinking_budget": 512, "enable_thinking": False}, "enable_thinking: 0"),
        ({"thinking_budget": 0, "enable_thinking": True}, "enable_thinking: no limit"),
        ({"reasoning_effort": "none", "thinking_budget": 512}, "reasoning_effort: 0"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        ThinkingBudget.from_request(fields)


_DEEP: list[Any] = []
for _ in range(100_000):
    _DEEP = [_DEEP]
_WRONG: dict[str, Any] = {
    "huge": 10**5000,
    "huge below zero": -(10**5000),
    "huge in a list": [10**5000],
    "deep": _DEEP,
    "long": "x" * 10**6,
    "bytes": b"1",
    "object": object(),
    "empty": (),
}
_PLACES: list[Any] = [
    lambda value: {"thinking_budget": value},
    lambda value: {"thinking_token_budget": value},
    lambda value: {"thinking": value},
    lambda value: {"thinking": {"type": value}},
    lambda value: {"thinking": {"budget_tokens": value}},
    lambda value: {"enable_thinking": value},
    lambda value: {"reasoning_effort": value},
    lambda value: {"reasoning": value},
    lambda value: {"reasoning": {"max_tokens": value}},
    lambda value: {"reasoning": {"effort": value}},
    lambda value: {"reasoning": {"enabled": value}},
    lambda value: {"chat_template_kwargs": value},
    lambda value: {"extra_body": {"chat_template_kwargs": value}},
]


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("value", _WRONG)
def test_whatever_is_refused_is_refused_by_its_name(place: Any, value: str) -> None:
    with pytest.raises(InputError, match=r"^[a-z_.]+ is .{1,200}; (allowed|it must be)") as caught:
        ThinkingBudget.from_request(place(_WRONG[value]))
    assert len(str(caught.value)) < 300


def test_unknown_modes() -> None:
    for mode in ("", "Hard", None, *_WRONG.values()):
        with pytest.raises(InputError, match="allowed: both, soft, hard"):
            ThinkingBudget(512, mode)


def test_nesting_is_followed_only_so_far() -> None:
    fields: dict[str, Any] = {"thinking_budget": 1}
    for _ in range(10_000):
        fields = {"extra_body": fields}
    assert ThinkingBudget.from_request(fields) is None


def test_modes() -> None:
    both, soft, hard = ThinkingBudget(512), ThinkingBudget(512, "soft"), ThinkingBudget(512, "hard")
    assert [one.template_value for one in (both, soft, hard)] == [512, 512, -1]
    assert [one.limit for one in (both, soft, hard)] == [512, None, 512]
    assert [one.grace for one in (both, soft, ThinkingBudget(17), ThinkingBudget(7))] == [32, 0, 2, 0]
    assert ThinkingBudget().template_value == -1
    assert ThinkingBudget().limit is None
    with pytest.raises(InputError, match="mode"):
        ThinkingBudget(512, "firm")  # type: ignore[arg-type]


def test_efforts_are_trained_budgets() -> None:
    assert set(EFFORTS.values()) <= {-1, 0, 512, 1024, 2048, 4096, 8192, 16384}


def test_words() -> None:
    assert reflection(129, 383) == "I have used 129 tokens, and there are 383 tokens remaining for use."
