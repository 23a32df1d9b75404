"""Answers to parse: tools, texts made to hurt, and random messages with the text that a model would write for them."""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from seed_oss.chat import StreamParser
from seed_oss.chat.control_tokens import SEED_CONTROL_TOKENS, ControlToken, Piece
from seed_oss.chat.events import Event
from tests.chat.random_text import random_text

PROPERTIES: dict[str, Any] = {
    "city": {"type": "string"},
    "zip": {"type": "string", "enum": ["02134", "10001"]},
    "days": {"type": "integer"},
    "size": {"type": "number"},
    "force": {"type": "boolean"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "options": {"type": "object"},
    "nothing": {"type": "null"},
    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "limit": {"oneOf": [{"type": "integer"}, {"type": "boolean"}, {"type": "null"}]},
    "point": {"$ref": "#/$defs/Point"},
    "level": {"enum": [1, "high", None, 2.5]},
    "free": {"description": "of no type"},
}
PARAMETERS = {
    "type": "object",
    "properties": PROPERTIES,
    "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "number"}}}},
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "now"}},
]
STARTS = (None, "absent", "thinking", "reflecting", "closed")
_MARKERS = tuple(token.text for token in SEED_CONTROL_TOKENS)
_OFTEN = tuple(marker for marker in _MARKERS if marker not in ("<seed:bos>", "<seed:pad>", "<seed:eos>"))
_COUNTS = "I have used 129 tokens, and there are 383 tokens remaining for use."
_TAGS = ("<function=", "</function>", "<parameter=", "</parameter>")
_CALL = "<seed:tool_call>\n<function=get_weather>\n<parameter=city>"
_BITS = (
    *(*_TAGS, *_TAGS, "<function=get_weather>", "<function=nope>", "<function=now>\n", "<parameter=a>b>"),
    *("</parameter>\n", "</parameter>\n</function>\n</seed:tool_call>", "</function>\n</seed:tool_call>", _CALL, _CALL),
    *(f"<parameter={key}>" for key in PROPERTIES),
    *("<parameter=days>3</parameter>\n", "<parameter=tags>[1, 'a', None]</parameter>", "<function=now>"),
    *("<seed:", "</seed", "<", "</", "<seed:think", ">", "\n", " ", "\n\n", "\t", "　", "\x00", "null", "None"),
    *(_COUNTS, f"<seed:cot_budget_reflect>{_COUNTS}</seed:cot_budget_reflect>", "nul", "True", "12", "-0.5", "1e999"),
    *("[", "]", "{", "}", '{"a": ', "'", '"', "\\", ",", "[" * 70, "{'a':" * 70, "9" * 80, " " * 40),
    *("<seed:eos>", "\ud800", "\U0001f642", "é", "words and words"),
)  # fmt: skip


def hostile_text(rng: random.Random, max_bits: int = 20) -> str:
    """Markers, halves of markers, tags in the wrong places, values of the wrong type, odd characters."""
    bits = [_bit(rng) for _ in range(rng.randint(0, max_bits))]
    return "".join(bits)


def _bit(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(_MARKERS if rng.random() < 0.1 else _OFTEN)
    if kind < 0.90:
        return rng.choice(_BITS)
    if kind < 0.95:
        bit = rng.choice((*_MARKERS, *_BITS))
        return bit[: rng.randint(0, len(bit))]
    return random_text(rng)[:40] if rng.random() < 0.9 else "x" * rng.choice((255, 256, 257, 1023, 1024, 1025))


def as_pieces(text: str) -> list[Piece]:
    """The text with its markers as control tokens."""
    pieces: list[Piece] = [text]
    for marker in _MARKERS:
        pieces = [part for piece in pieces for part in (_split(piece, marker) if isinstance(piece, str) else [piece])]
    return [piece for piece in pieces if piece != ""]


def _split(text: str, marker: str) -> list[Piece]:
    first, *others = text.split(marker)
    return [first, *(part for other in others for part in (ControlToken(marker), other))]


def cut(rng: random.Random, pieces: Iterable[Piece]) -> list[Piece]:
    """The same pieces with their texts cut at random places."""
    done: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, ControlToken):
            done.append(piece)
            continue
        places = sorted(rng.randint(0, len(piece)) for _ in range(rng.randint(0, 6)))
        done += [piece[begin:end] for begin, end in zip([0, *places], [*places, len(piece)], strict=True)]
    return done


def characters(pieces: Iterable[Piece]) -> list[Piece]:
    """The same pieces, one character each."""
    return [part for piece in pieces for part in (piece if isinstance(piece, str) else [piece])]


def events_of(pieces: Iterable[Piece], **arguments: Any) -> list[Event]:
    """All events that a parser gives for these pieces."""
    parser = StreamParser(**arguments)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [*events, *parser.finish()]


@dataclass(frozen=True)
class Wanted:
    """A message, and the text that a model writes for it."""

    text: str
    reasoning: str
    content: str
    calls: list[tuple[str, dict[str, Any]]]
    used: list[int]


def random_message(rng: random.Random) -> Wanted:
    """A message as a well-behaved model writes it."""
    reasoning, used = _random_reasoning(rng)
    content = _plain(rng)
    calls = [_random_call(rng) for _ in range(rng.choice((0, 0, 1, 1, 2, 3)))]
    text = f"<seed:think>{reasoning}</seed:think>" if reasoning or rng.random() < 0.5 else ""
    text += f"\n{content}\n" if content else ""
    text += "".join(_written(name, arguments) for name, arguments in calls)
    return Wanted(text + rng.choice(("", "<seed:eos>")), reasoning.strip(), content.strip(), calls, used)


def _random_reasoning(rng: random.Random) -> tuple[str, list[int]]:
    text, used = _plain(rng), []
    for count in range(rng.choice((0, 0, 1, 3))):
        used.append(128 * (count + 1) + rng.randint(0, 9))
        said = f"I have used {used[-1]} tokens, and there are {9999 - used[-1]} tokens remaining for use."
        text += f"<seed:cot_budget_reflect>{said}</seed:cot_budget_reflect>{_plain(rng)}"
    return text + rng.choice(("", "<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>")), used


def _plain(rng: random.Random) -> str:
    """Text without markers, tags included."""
    return random_text(rng, (*_TAGS, "<seed:", "</parameter>\nx")) if rng.random() < 0.7 else ""


def _random_call(rng: random.Random) -> tuple[str, dict[str, Any]]:
    if rng.random() < 0.2:
        return "now", {}
    keys = rng.sample(sorted(PROPERTIES), rng.randint(0, len(PROPERTIES)))
    return "get_weather", {key: _random_value(rng, key) for key in keys}


def _random_value(rng: random.Random, key: str) -> Any:
    text = random_text(rng, ("<parameter", "</function", "</parameter>x", "</parameter> </")) + "."
    values: dict[str, tuple[Any, ...]] = {
        "city": (text, "", "null", "02134", "\n  padded\n", text + "</parameter>\nno end"),
        "zip": ("02134", "10001"),
        "days": (0, -7, 10**18),
        "size": (0, 2.5, -1e-07, 1e22),
        "force": (True, False),
        "tags": ([], ["a", text], [text, [None, True, -0.5]]),
        "options": ({}, {text: [{"k": 'it\'s "so"'}]}, {"a": None}),
        "nothing": (None,),
        "note": (None, text, "", "Nonesuch", "nul"),
        "limit": (None, True, 12),
        "point": ({"x": 1.5},),
        "level": (1, "high", None, 2.5),
        "free": (text, "[1, 2]", "false"),
    }
    return rng.choice(values[key])


def _written(name: str, arguments: dict[str, Any]) -> str:
    """As the template writes a call: strings as they are, other values in Python's form."""
    lines = [f"<parameter={key}>{value}</parameter>\n" for key, value in arguments.items()]
    return f"\n<seed:tool_call>\n<function={name}>\n{''.join(lines)}</function>\n</seed:tool_call>"


def parsed(arguments: str) -> dict[str, Any]:
    """JSON text as values; two equal keys, NaN or anything but an object fail."""
    value = json.loads(arguments, object_pairs_hook=_unique, parse_constant=_refuse)
    assert isinstance(value, dict)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a key stands twice"
    return dict(pairs)


def _refuse(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")
