"""Stop strings at blank edges, against a plain oracle: the text up to the first occurrence that counts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_oss.chat.control_tokens import END_THINK, THINK, Piece, join
from seed_oss.engine.messages import Ended
from seed_oss.engine.stops import StopCutter
from seed_oss.generation.stop_strings import StopMatcher
from tests.server.api_calls import chat, engine, joined, streamed
from tests.server.fake_engine import Script

STOPS = st.lists(st.text("\n {a", min_size=1, max_size=3), min_size=1, max_size=3)
TOKENS = st.lists(st.text("\n {a", min_size=1, max_size=4), max_size=6)


def shown(tokens: list[list[Piece]], stops: list[str], reason: str, start: list[Piece]) -> str:
    """What a cutter lets through, one token after the other."""
    cutter = StopCutter(stops, start=start)
    pieces = [one for token in tokens for one in cutter.feed(token)]
    return join([*pieces, *cutter.finish([], Ended("1", 0, reason))])


def expected(answer: list[str], stops: list[str], *, skips_blanks: bool) -> tuple[int, str, str]:
    """Tokens up to the end, the text to be shown of them, and the reason: by the text alone."""
    text = "".join(answer)
    first = len(text) - len(text.lstrip()) if skips_blanks else 0
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop, first)) >= 0]
    if not found:
        return len(answer), text, "eos"
    end, at = min(found)
    sizes = [len("".join(answer[: num + 1])) for num in range(len(answer))]
    return next(num for num, size in enumerate(sizes) if size >= end) + 1, text[:at], "stop_string"


@given(TOKENS, TOKENS, STOPS, st.sampled_from(["prompt", "answer", "none"]))
def test_a_chat(thoughts: list[str], answer: list[str], stops: list[str], closed_in: str) -> None:
    num, text, reason = expected(answer, stops, skips_blanks=closed_in != "none")
    before: list[list[Piece]] = [[THINK], *([one] for one in thoughts), [END_THINK]] if closed_in == "answer" else []
    start: list[Piece] = [THINK, *thoughts, END_THINK] if closed_in == "prompt" else ["assistant\n"]
    tokens = [*before, *([one] for one in answer[:num])]
    assert shown(tokens, stops, reason, start) == join([one for token in before for one in token]) + text


@given(TOKENS, STOPS)
def test_the_oracle_ends_where_the_engine_does(answer: list[str], stops: list[str]) -> None:
    matcher, text = StopMatcher(stops), "".join(answer).lstrip()
    _, end = matcher.search(matcher.start, text)
    assert end == min((at + len(stop) for stop in stops if (at := text.find(stop)) >= 0), default=None)


def test_blanks_count_where_nothing_was_thought() -> None:
    assert shown([["\n{\n"]], ["\n"], "stop_string", [THINK, "x", END_THINK]) == "\n{"
    assert shown([["\n{\n"]], ["\n"], "stop_string", ["assistant\n"]) == ""


@pytest.mark.parametrize("names_it", [True, False])
@pytest.mark.parametrize("pieces", [["\n{\n"], ["\n", "{", "\n"], ["\n{", "\n"], ["\n", "{\n"]])
def test_a_blank_stop_string(pieces: list[str], names_it: bool) -> None:
    script = Script(["<seed:think>Up.\n", "</seed:think>", *pieces], "stop_string", stop="\n" if names_it else None)
    fields: dict[str, Any] = {"stop": "\n"}
    assert chat(engine(script), **fields).body["choices"][0]["message"]["content"] == "{"
    assert joined(streamed(engine(script), **fields))["content"] == "{"
