"""The thinking budget: how many tokens the model may think before it answers, in every spelling that clients use.

A budget works in two ways. Soft: a sentence in the prompt, which the model was trained to follow (`template_value`).
Hard: decoding counts, and closes the thinking in the trained words when the budget is spent (`limit`).
"""

import itertools
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from seed_oss.errors import InputError

Mode = Literal["both", "soft", "hard"]
MODES: tuple[Mode, ...] = get_args(Mode)
UNLIMITED = -1
MAX_BUDGET = 2**31 - 1
EFFORTS: dict[str, int] = {
    "none": 0,
    "minimal": 512,
    "low": 1024,
    "medium": 4096,
    "high": 16384,
    "xhigh": UNLIMITED,
    "max": UNLIMITED,
}
_ALLOWED = f"allowed: an integer from 0 to {MAX_BUDGET}, -1 or None for no limit"

BUDGET_SPENT = "I have exhausted my token budget, and now I will start answering the question."
NO_BUDGET = "The current thinking budget is 0, so I will directly start answering the question."


class _Shown(reprlib.Repr):
    """repr() that stays short, and cannot fail on what is huge or deep."""

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 128 else f"<integer of {x.bit_length()} bits>"


_SHOWN = _Shown()


def reflection(used: int, remaining: int) -> str:
    """What the model was trained to say of its budget while it thinks."""
    return f"I have used {used} tokens, and there are {remaining} tokens remaining for use."


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """How many tokens of thinking are allowed, and how that is brought about.

    Args:
        tokens: the budget in tokens, 0 for an answer without thinking, None for no limit. The model was trained on
            512, 1024, 2048, 4096, 8192 and 16384.
        mode: "soft" asks in the prompt, "hard" counts while decoding and leaves the prompt alone (and so the prefix
            cache), "both" does both.

    Raises:
        InputError: a budget that is no integer in range, or an unknown mode.
    """

    tokens: int | None = None
    mode: Mode = "both"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _number("thinking_budget", self.tokens))
        if self.mode not in MODES:
            raise InputError(
                f"the mode of the thinking budget is {_SHOWN.repr(self.mode)}; allowed: {', '.join(MODES)}"
            )

    @classmethod
    def of(cls, value: Any, mode: Mode = "both") -> "ThinkingBudget":
        """The budget that an argument stands for: None, a number, a ThinkingBudget, or fields of a request."""
        if isinstance(value, ThinkingBudget):
            return value
        if isinstance(value, Mapping):
            found = cls.from_request(cast("Mapping[str, Any]", value), mode)
            if found is None:
                raise InputError(
                    f"{_SHOWN.repr(list(cast('Mapping[str, Any]', value)))} names no thinking budget; {SPELLINGS}"
                )
            return found
        return cls(_number("thinking_budget", value), mode)

    @classmethod
    def from_request(cls, fields: Mapping[str, Any], mode: Mode = "both") -> "ThinkingBudget | None":
        """The budget that a request asks for, in whichever spelling.

        Args:
            fields: the request's fields; others than those of a budget are passed over. `chat_template_kwargs` and a
                literal `extra_body` are looked into as well.
            mode: of the result.

        Returns:
            The budget, or None where none is named.

        Raises:
            InputError: a value that is not allowed, or two spellings that disagree; the message names the field.
        """
        found = _spelled(fields, "")
        if not found:
            return None
        _check_agreement(found)
        # A number says more than an effort, and an effort more than a switch.
        return cls(min(found, key=lambda one: one.rank).tokens, mode)

    @staticmethod
    def wish(fields: Mapping[str, Any]) -> str | None:
        """The field by which a request asks for thinking; None where it leaves that to the model, or wants none.

        Raises:
            InputError: a value that is not allowed.
        """
        return next((one.place for one in _spelled(fields, "") if one.is_wish), None)

    @property
    def template_value(self) -> int:
        """The number for the prompt; -1 for no sentence about a budget."""
        return UNLIMITED if self.tokens is None or self.mode == "hard" else self.tokens

    @property
    def limit(self) -> int | None:
        """The number of tokens that decoding holds to; None where it does not count."""
        return None if self.mode == "soft" else self.tokens

    @property
    def grace(self) -> int:
        """How many tokens beyond the limit may be spent on ending a sentence."""
        return 0 if self.limit is None else min(32, self.limit // 8)


def _number(place: str, value: Any) -> int | None:
    """A budget in tokens, None for no limit."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{place} is {_SHOWN.repr(value)}, a {type(value).__name__}; {_ALLOWED}")
    if not UNLIMITED <= value <= MAX_BUDGET:
        raise InputError(f"{place} is {_SHOWN.repr(value)}; {_ALLOWED}")
    return None if value == UNLIMITED else int(value)


@dataclass(frozen=True, slots=True)
class _Found:
    """A budget named in a request; rank 0 for a number, 1 for an effort, 2 for thinking merely switched on.

    `is_wish`: it wants thinking, so that it means nothing to a model that does not think.
    """

    place: str
    tokens: int | None
    rank: int = 0
    is_wish: bool = True

    def __str__(self) -> str:
        return f"{self.place}: {'no limit' if self.tokens is None else self.tokens}"


def _check_agreement(found: list[_Found]) -> None:
    """Refuse two different numbers or efforts, and thinking switched on in one place and off in another."""
    for one, other in itertools.combinations(found, 2):
        differ = one.tokens != other.tokens and (one.rank == other.rank or 0 in (one.tokens, other.tokens))
        if differ:
            raise InputError(f"the request names different thinking budgets ({one}; {other}); give one of them")


def _count(place: str, value: Any) -> list[_Found]:
    tokens = _number(place, value)
    return [_Found(place, tokens, is_wish=tokens not in (None, 0))]


def _effort(place: str, value: Any) -> list[_Found]:
    if not isinstance(value, str) or value not in EFFORTS:
        raise InputError(f"{place} is {_SHOWN.repr(value)}; allowed: {', '.join(EFFORTS)}")
    return [_Found(place, _number(place, EFFORTS[value]), rank=1, is_wish=EFFORTS[value] != 0)]


def _switch(place: str, value: Any) -> list[_Found]:
    if not isinstance(value, bool):
        raise InputError(f"{place} is {_SHOWN.repr(value)}; allowed: true, false")
    return [_Found(place, None, rank=2) if value else _Found(place, 0, is_wish=False)]


def _mapping(place: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{place} is {_SHOWN.repr(value)}; it must be an object")
    return cast("Mapping[str, Any]", value)


def _thinking(place: str, value: Any) -> list[_Found]:
    """`thinking`: {type: enabled or adaptive, budget_tokens} or {type: disabled}; or a bare switch."""
    if isinstance(value, bool):
        return _switch(place, value)
    fields = _mapping(place, value)
    kind, tokens = fields.get("type"), fields.get("budget_tokens")
    if kind not in (None, "enabled", "adaptive", "disabled"):
        raise InputError(f"{place}.type is {_SHOWN.repr(kind)}; allowed: enabled, adaptive, disabled")
    counted = [] if tokens is None else _count(f"{place}.budget_tokens", tokens)
    if kind == "disabled":  # a number left over from when it was enabled says nothing
        return _switch(place, False)
    if kind == "adaptive":  # the model decides
        return [_Found(f"{place}.type", None, rank=2, is_wish=False), *counted]
    return counted if counted and kind is None else [*_switch(f"{place}.type", True), *counted]


def _read(fields: Mapping[str, Any], readers: "Mapping[str, _Reader]", prefix: str) -> list[_Found]:
    """What each reader finds in the field of its name, where that is there and not null."""
    present = [name for name in readers if fields.get(name) is not None]
    return [found for name in present for found in readers[name](f"{prefix}{name}", fields[name])]


def _reasoning(place: str, value: Any) -> list[_Found]:
    """`reasoning`: {max_tokens}, {effort}, {enabled}, or several of these."""
    return _read(_mapping(place, value), {"max_tokens": _count, "effort": _effort, "enabled": _switch}, f"{place}.")


def _output_config(place: str, value: Any) -> list[_Found]:
    """`output_config`: {effort}, as Anthropic's clients send it."""
    return _read(_mapping(place, value), {"effort": _effort}, f"{place}.")


_Reader = Callable[[str, Any], list[_Found]]
_READERS: dict[str, _Reader] = {
    "thinking_budget": _count,
    "thinking_token_budget": _count,
    "thinking": _thinking,
    "enable_thinking": _switch,
    "reasoning_effort": _effort,
    "reasoning": _reasoning,
    "output_config": _output_config,
}
_NESTED = ("chat_template_kwargs", "extra_body")
_NO_ARGUMENTS = ("thinking_budget", "output_config")
SPELLED = tuple(name for name in (*_READERS, *_NESTED) if name not in _NO_ARGUMENTS)  # fields with other names
_MAX_NESTING = 2  # chat_template_kwargs within extra_body
SPELLINGS = f"allowed: {', '.join(_READERS)}, at top level or in {' or '.join(_NESTED)}"


def _spelled(fields: Mapping[str, Any], prefix: str, depth: int = 0) -> list[_Found]:
    """Every budget that is named and not null."""
    found = _read(fields, _READERS, prefix)
    for name in _NESTED if depth < _MAX_NESTING else ():
        if fields.get(name) is not None:
            place = f"{prefix}{name}"
            found += _spelled(_mapping(place, fields[name]), f"{place}.", depth + 1)
    return found
