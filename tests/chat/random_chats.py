"""Random conversations with everything in them that the Seed templates render."""

import random
from typing import Any

from tests.chat.random_text import random_text

MARKERS = (
    "<seed:bos>",
    "<seed:eos>",
    "<seed:pad>",
    "<seed:think>",
    "</seed:think>",
    "<seed:cot_budget_reflect>",
    "</seed:cot_budget_reflect>",
    "<seed:tool_call>",
    "</seed:tool_call>",
    "<function=x>",
    "</function>",
    "<parameter=",
    "{{ x }}",
    "{% if",
)
BUDGETS = (None, -2, -1, 0, 1, 511, 512, 513, 1024, 1025, 4096, 4097, 8193, 16384, 16385, 10**9, 512.5)
_ROLES = ("user", "user", "user", "tool", "system", "critic", "")
_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null", ["string", "null"], None, {"a": 1}, 3)


def random_chat(rng: random.Random) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Messages, and the arguments to render them with."""
    messages = [_message(rng) for _ in range(rng.randint(1, 6))]
    if rng.random() < 0.4:
        messages.insert(0, {"role": "system", "content": text(rng)})
    arguments: dict[str, Any] = {}
    if rng.random() < 0.5:
        arguments["tools"] = [_tool(rng) for _ in range(rng.randint(0, 3))]
    if (budget := rng.choice(BUDGETS)) is not None:
        arguments["thinking_budget"] = budget
    if rng.random() < 0.3:
        arguments["use_json_tooldef"] = rng.random() < 0.8
    if rng.random() < 0.5:
        arguments["add_generation_prompt"] = True
    return messages, arguments


def text(rng: random.Random) -> str:
    """Mostly short, often blank at its ends."""
    if rng.random() < 0.1:
        return rng.choice(("", " ", "\n\n", "\x1f \x85\u3000", "\u200b"))
    return random_text(rng, MARKERS)[: rng.choice((5, 40, 200))]


def _message(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {"role": rng.choice(_ROLES), "content": text(rng)}
    message: dict[str, Any] = {"role": "assistant", "content": text(rng)}
    if rng.random() < 0.4:
        message["reasoning_content"] = text(rng)
    if rng.random() < 0.5:
        message["tool_calls"] = [_call(rng) for _ in range(rng.randint(0, 3))]
    return message


def _call(rng: random.Random) -> dict[str, Any]:
    call: dict[str, Any] = {"name": text(rng)}
    if rng.random() < 0.9:
        call["arguments"] = {text(rng): _value(rng) for _ in range(rng.randint(0, 3))}
    return call if rng.random() < 0.4 else {"type": "function", "id": "call_0", "function": call}


def _value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(10 if depth < 2 else 7)
    if kind < 3:
        return text(rng)
    if kind < 7:
        return (rng.randint(-9, 10**20), rng.uniform(-1e18, 1e18), rng.random() < 0.5, None)[kind - 3]
    if kind == 7:
        return {text(rng): _value(rng, depth + 1) for _ in range(rng.randint(0, 2))}
    return [_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]


def _tool(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.15:
        return {"type": rng.choice(("search", None, 3)), "search": {"name": text(rng)}}
    parameters: dict[str, Any] = {"type": "object", "properties": _properties(rng)}
    if rng.random() < 0.7:
        parameters["required"] = [name for name in parameters["properties"] if rng.random() < 0.5] + [text(rng)]
    function: dict[str, Any] = {"name": text(rng), "parameters": parameters}
    if rng.random() < 0.8:
        function["description"] = rng.choice((text(rng), None, 3, [1]))
    if rng.random() < 0.4:
        function["returns"] = rng.choice(({"properties": _properties(rng)}, {}, None, "text"))
    return {"type": "function", "function": function}


def _properties(rng: random.Random) -> dict[str, Any]:
    return {text(rng): _spec(rng) for _ in range(rng.randint(0, 4))}


def _spec(rng: random.Random) -> Any:
    if rng.random() < 0.05:
        return rng.choice((None, True, "text", []))
    spec: dict[str, Any] = {}
    if rng.random() < 0.9:
        spec["type"] = rng.choice(_TYPES)
    if rng.random() < 0.7:
        spec["description"] = rng.choice((text(rng), text(rng), None, "", 0, 7, ["a"]))
    return spec
