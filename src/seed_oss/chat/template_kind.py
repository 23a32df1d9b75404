"""Which chat template is one of the two released ones: by its hash, else by what it renders."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

from seed_oss.chat.normalize import normalize_chat
from seed_oss.chat.seed_template import Variant, render_pieces
from seed_oss.chat.template_process import SHARED, RenderLimits
from seed_oss.errors import TemplateError

_HASHES: dict[str, Variant] = {
    "3f9e0dc4adeb8032287d0129dc75b6298fee8698a52ab41e863dbc89929330d3": "current",
    "39a23a1a28f68acd747373fa688bea630021ec4db2bc8dec2fd3962240fb0418": "initial",
}
_MARKER = "<seed:bos>"


@dataclass(frozen=True, slots=True)
class SeedKind:
    """A template that renders as a released one does.

    Args:
        variant: Which one.
        exact: Whether it is that very text. A copy may read variables that no probe sets.
    """

    variant: Variant
    exact: bool


def hashed_kind(template: str) -> SeedKind | None:
    """The kind of a template that is a released one to the byte."""
    variant = _HASHES.get(hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest())
    return None if variant is None else SeedKind(variant, exact=True)


@lru_cache(maxsize=64)
def seed_kind(template: str) -> SeedKind | None:
    """Recognise a template as one of the two released ones.

    A template of another hash renders the probes in the sandbox; what equals a released template on all of them is a
    copy of it. The answer is kept for each text.

    Returns:
        What it is; None for any other template.
    """
    known = hashed_kind(template)
    if known is not None or _MARKER not in template:
        return known
    candidates: list[Variant] = list(get_args(Variant))
    for messages, arguments in probes():
        text = _sandboxed(template, messages, arguments)
        candidates = [variant for variant in candidates if text == _native(variant, messages, arguments)]
        if not candidates:
            return None
    return SeedKind(candidates[0], exact=False)


def _sandboxed(template: str, messages: list[dict[str, Any]], arguments: dict[str, Any]) -> str | None:
    variables = {"messages": messages, "tools": None, "add_generation_prompt": False, **arguments}
    try:
        return SHARED.render(template, variables, RenderLimits())
    except TemplateError:
        return None


def _native(variant: Variant, messages: list[dict[str, Any]], arguments: dict[str, Any]) -> str:
    arguments = dict(arguments)
    opened = arguments.pop("add_generation_prompt", False)
    return render_pieces(normalize_chat(messages, **arguments), add_generation_prompt=opened, variant=variant).text


def probes() -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Conversations, with the arguments to render them with, that lead through every branch of the templates.

    The one that tells the two apart comes first.
    """
    user: dict[str, Any] = {"role": "user", "content": " How far is it?\n"}
    system: dict[str, Any] = {"role": "system", "content": " Be brief. "}
    yield [user], {"thinking_budget": 0, "add_generation_prompt": True}
    yield [user], {}
    yield [system, user], {"add_generation_prompt": True}
    for budget in (-2, -1, 1, 512, 513, 1024, 1025, 2048, 4096, 4097, 8192, 8193, 16384, 16385, 10**6):
        yield [system, user], {"thinking_budget": budget, "add_generation_prompt": budget % 2 == 0}
    yield [system, user], {"thinking_budget": 0}
    for tools in (_TOOLS, _TOOLS[:1], _TOOLS[1:2], _TOOLS[3:4], []):
        for start in ([user], [system, user]):
            for as_json in (False, True):
                yield start, {"tools": tools, "use_json_tooldef": as_json, "thinking_budget": 600}
    yield _HISTORY, {"tools": _TOOLS, "add_generation_prompt": True}
    yield _HISTORY[1:], {"thinking_budget": 0, "add_generation_prompt": True}


_VALUES: dict[str, Any] = {
    "text": "Barcelona,\nSpain ",
    "whole": 3,
    "real": -2.5,
    "yes": True,
    "none": None,
    "list": [1, "a", None, {"k": "v"}],
    "map": {"a": [True, "é 距離"]},
}
_PROPERTIES: dict[str, Any] = {
    "place": {"type": "string", "description": " Where? <b>\n "},
    "days": {"type": "integer", "description": None},
    "share": {"type": "number", "description": "0 to 1"},
    "exact": {"type": "boolean"},
    "names": {"type": "array", "items": {"type": "string"}, "description": "距離"},
    "rest": {"type": "object"},
    "any": {"type": ["string", "null"], "description": "one of many"},
    "free": {},
}
_TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "distance",
            "description": "  How far.\n Two lines. ",
            "parameters": {"type": "object", "properties": _PROPERTIES, "required": ["place", "free"]},
            "returns": {"type": "object", "properties": _PROPERTIES},
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
    {"type": "search", "search": {"name": "web"}},
    {
        "type": "function",
        "function": {
            "name": "clock",
            "description": "Time.",
            "parameters": {"properties": {}},
            "returns": {"properties": {"t": {"type": "integer", "description": "s"}}},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "echo",
            "description": None,
            "parameters": {"properties": {"x": {"type": "string"}}},
            "returns": {"properties": {}},
        },
    },
]
_CALLS: list[dict[str, Any]] = [
    {"type": "function", "id": "call_0", "function": {"name": "distance", "arguments": _VALUES}},
    {"name": "now", "arguments": {}},
    {"type": "function", "function": {"name": "clock"}},
]
_HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": ""},
    {"role": "user", "content": " one \n"},
    {"role": "assistant", "content": " two \n"},
    {"role": "assistant", "content": "three", "reasoning_content": " hm\n"},
    {"role": "assistant", "content": " \n", "reasoning_content": "only this"},
    {"role": "assistant", "content": "", "reasoning_content": " "},
    {"role": "assistant", "content": "", "tool_calls": []},
    {"role": "assistant", "content": " Let me see. ", "reasoning_content": "think", "tool_calls": _CALLS},
    {"role": "tool", "tool_call_id": "call_0", "name": "distance", "content": '{"km": 20}'},
    {"role": "tool", "content": " 12:00\n"},
    {"role": "assistant", "content": None, "tool_calls": _CALLS[1:2]},
    {"role": "system", "content": "later"},
    {"role": "critic", "content": " hm "},
    {"role": "user", "content": "", "tool_calls": _CALLS},
]
