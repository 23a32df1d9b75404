"""The stream parser on random and hostile text: same events for any cut, no text lost, never raises, linear time.

`SEED_OSS_TRUST_TEXTS` is the number of texts, 2,000 unless set; `make trust` sets 1,000,000. A failure names its case:
`SEED_OSS_TRUST_FIRST=<case> SEED_OSS_TRUST_TEXTS=1` runs it alone.
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable

import pytest

from seed_oss.chat import AssistantMessage, StreamParser, parse
from seed_oss.chat.control_tokens import join
from seed_oss.chat.events import Event, Finished, ToolCallDelta, ToolCallFinished, merged
from tests.chat.answer_texts import (
    STARTS,
    TOOLS,
    as_pieces,
    characters,
    cut,
    events_of,
    hostile_text,
    parsed,
    random_message,
)

TEXTS = int(os.environ.get("SEED_OSS_TRUST_TEXTS", "2000"))
MESSAGES = max(TEXTS // 10, min(TEXTS, 2000))
FIRST = int(os.environ.get("SEED_OSS_TRUST_FIRST", "0"))
CHUNKS = 8
MAX_SECONDS = 2.0


def run_case(case: int) -> list[Event]:
    """Parse one hostile text in several cuts, with markers spelled out or as control tokens."""
    rng = random.Random(case)
    text = hostile_text(rng)
    arguments = {"tools": rng.choice((None, TOOLS)), "start": rng.choice(STARTS), "text_is_plain": rng.random() < 0.5}
    pieces = as_pieces(text) if arguments["text_is_plain"] and rng.random() < 0.8 else [text]
    begin = time.process_time()
    whole = merged(events_of(pieces, **arguments))
    assert merged(events_of(characters(pieces), **arguments)) == whole
    assert merged(events_of(cut(rng, pieces), **arguments)) == whole
    assert "".join(event.raw for event in whole) == join(pieces) == text
    check_events(whole)
    assert time.process_time() - begin < MAX_SECONDS
    return whole


def check_events(events: list[Event]) -> None:
    """What holds for all events of an answer, whatever its text."""
    assert [event for event in events if isinstance(event, Finished)] == events[-1:]
    for index in [event.index for event in events if isinstance(event, ToolCallFinished)]:
        deltas = [event for event in events if isinstance(event, ToolCallDelta)]
        parsed("".join(event.arguments for event in deltas if event.index == index))
    message = AssistantMessage.from_events(events)
    json.dumps(message.to_openai())
    assert message.reasoning == message.reasoning.strip()
    assert message.content == message.content.strip()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_hostile_text_gives_the_same_events_for_any_cut(chunk: int, counted: Callable[..., None]) -> None:
    seen: Counter[str] = Counter()
    numbers = range(FIRST + TEXTS * chunk // CHUNKS, FIRST + TEXTS * (chunk + 1) // CHUNKS)
    for case in numbers:
        try:
            seen.update({event.kind for event in run_case(case)})
        except Exception as error:
            raise AssertionError(f"case {case}: {type(error).__name__}: {error}") from error
    counted(texts=len(numbers))
    if len(numbers) >= 200:
        assert len(seen) == 17, f"some kinds of event never come: {seen}"
        assert min(seen.values()) > len(numbers) // 150, f"some kinds of event are too rare: {seen}"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_messages_are_read_as_they_were_meant(chunk: int) -> None:
    numbers = range(FIRST + MESSAGES * chunk // CHUNKS, FIRST + MESSAGES * (chunk + 1) // CHUNKS)
    for case in numbers:
        rng = random.Random(case)
        wanted = random_message(rng)
        message = parse(cut(rng, as_pieces(wanted.text)), tools=TOOLS)
        assert message == parse(wanted.text, tools=TOOLS), f"case {case}"
        assert (message.reasoning, message.content) == (wanted.reasoning, wanted.content), f"case {case}"
        assert [(call.name, parsed(call.arguments)) for call in message.tool_calls] == wanted.calls, f"case {case}"
        assert [reflection.used for reflection in message.reflections] == wanted.used, f"case {case}"
        assert message.ended == wanted.text.endswith("<seed:eos>"), f"case {case}"


_CALL = "<seed:tool_call>\n<function=get_weather>\n"
HOSTILE = {
    "marker fragments": "<seed:",
    "closing fragments": "</seed:think" * 4,
    "open angles": "<",
    "reflections left open": "<seed:cot_budget_reflect>x",
    "reflections left open, far": "<seed:cot_budget_reflect>" + "x" * 1500,
    "reflections never opened": "</seed:cot_budget_reflect>I have used 1",
    "think tags": "<seed:think>a</seed:think>",
    "calls": _CALL + "<parameter=city>a</parameter>\n</function>\n</seed:tool_call>",
    "nested parameters": _CALL + "<parameter=city>" * 9,
    "parameters of one name": "</parameter><parameter=city>",
    "new parameters": "</parameter>\n<parameter=k{}>v",
    "closing tags": "</parameter>\n",
    "functions that end and do not": "</function> ",
    "whitespace": " \n",
    "quotes": "\\\"'",
    "names without an end": "<function=" + "n" * 300,
}


@pytest.mark.parametrize("inside", ["", "<seed:think>", f"{_CALL}<parameter=city>", f"{_CALL}<parameter=tags>["])
@pytest.mark.parametrize("name", HOSTILE)
def test_time_doubles_when_length_doubles(name: str, inside: str) -> None:
    short, long = (inside + _repeated(HOSTILE[name], length) for length in (8_000, 32_000))
    for size in (7, 10**9):
        seconds = [min(_seconds(text, size) for _ in range(2)) for text in (short, long)]
        assert seconds[1] < 10 * seconds[0] + 0.02, (
            f"4 times the text takes {seconds[1] / seconds[0]:.1f} times as long"
        )


def _repeated(unit: str, length: int) -> str:
    return "".join(unit.replace("{}", str(number)) for number in range(length // len(unit) + 1))


def _seconds(text: str, size: int) -> float:
    begin = time.process_time()
    parser = StreamParser(TOOLS)
    events = [event for place in range(0, len(text), size) for event in parser.feed(text[place : place + size])]
    AssistantMessage.from_events([*events, *parser.finish()])
    return time.process_time() - begin


def test_a_parser_that_cuts_differently_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "seed_oss.chat.marker_scanner.MarkerScanner._certain_until", lambda self, text, place: len(text)
    )
    with pytest.raises(AssertionError):
        [run_case(case) for case in range(50)]
