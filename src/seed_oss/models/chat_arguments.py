"""What `chat` is given, checked before anything is computed."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

from seed_oss.chat.budget import SPELLED, ThinkingBudget
from seed_oss.chat.chat_calls import ChatCalls
from seed_oss.errors import InputError
from seed_oss.generation.loop_guard import LoopGuard
from seed_oss.generation.row_control import RowControl

_FROM_MESSAGES = "the prompt is made of the messages; leave it out"
_REFUSED = {
    "inputs": _FROM_MESSAGES,
    "input_ids": _FROM_MESSAGES,
    "inputs_embeds": _FROM_MESSAGES,
    "attention_mask": _FROM_MESSAGES,
    "position_ids": _FROM_MESSAGES,
    "streamer": "give stream=True, and take the events as they come",
    "return_dict_in_generate": "give stream=True: the stream has the tokens, their number and the reason of the end",
}
_ONE = ("num_return_sequences", "num_beams")
_VARIABLES = ("documents", "use_json_tooldef")  # arguments of apply_chat_template that only the template reads


def checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for `generate`, without those that `chat` gives itself and that are None or False here.

    Raises:
        InputError: one that a single answer, as events, has no room for; or another spelling of the budget.
    """
    for name, value in settings.items():
        if name in _REFUSED and value is not None and value is not False:
            raise InputError(f"chat() got {name}: {_REFUSED[name]}")
        if name in SPELLED and value is not None:
            tokens = ThinkingBudget.of({name: value}).tokens
            raise InputError(f"chat() got {name}; the same as an argument of chat() is thinking_budget={tokens}")
    config = settings.get("generation_config")
    for name in _ONE:
        value = settings.get(name)
        value = getattr(config, name, None) if value is None else value
        if value is not None and (isinstance(value, bool) or value != 1):
            raise InputError(f"{name} is {value!r:.80}; chat() gives one answer, token by token: leave it out")
    return {name: value for name, value in settings.items() if name not in _REFUSED and name not in SPELLED}


def checked_messages(messages: Any) -> Any:
    """One conversation as a list; what is none is left to `apply_chat_template`, which says so.

    Raises:
        InputError: it is a batch.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        return messages
    conversation = list(cast("Sequence[Any]", messages))
    if conversation and isinstance(conversation[0], list | tuple):
        raise InputError("messages is a batch of conversations; chat() answers one: call it for each")
    return conversation


def checked_variables(variables: Any) -> dict[str, Any]:
    """Variables of the template by name.

    Raises:
        InputError: no mapping with names, or an argument of `apply_chat_template` that is no variable.
    """
    if variables is None:
        return {}
    if not isinstance(variables, Mapping):
        raise InputError(f"template_variables is {variables!r:.80}; it must be a mapping from names to values")
    named = dict(cast("Mapping[Any, Any]", variables))
    taken = {"messages", *inspect.signature(ChatCalls.apply_chat_template).parameters} - {*_VARIABLES}
    for name in named:
        if not isinstance(name, str):
            raise InputError(f"template_variables has the name {name!r:.80}; names of variables are text")
        if name in SPELLED:
            tokens = ThinkingBudget.of({name: named[name]}).tokens
            raise InputError(f"template_variables has {name!r}; say it to chat() itself: thinking_budget={tokens}")
        if name in taken:
            raise InputError(
                f"template_variables has {name!r}, which is no variable of the template; the messages, tools and "
                "thinking_budget are arguments of chat(), the rest it settles itself"
            )
    return named


def check_guard(guard: Any) -> None:
    """Refuse what is no loop guard.

    Raises:
        InputError: it is none.
    """
    if guard is not None and not isinstance(guard, LoopGuard):
        raise InputError(f"loop_guard is {guard!r:.80}; it must be a LoopGuard, such as LoopGuard()")


def checked_controls(controls: Any) -> tuple[RowControl, ...]:
    """Controls of the one row.

    Raises:
        InputError: they are none.
    """
    if controls is None:
        return ()
    given = tuple(cast("Sequence[Any]", controls)) if isinstance(controls, list | tuple) else (controls,)
    for control in given:
        if not isinstance(control, RowControl):
            raise InputError(f"row_controls holds {control!r:.80}; it must be a list of RowControl")
    return given
