"""Whatever a model writes: a stream and a whole answer say the same, however tokens come, and nothing fails."""

import json
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from seed_oss.chat import parse
from seed_oss.engine.messages import AnswerForm, Ended, Tokens
from seed_oss.server.parts import AllThinkingPart, Answer, Part
from seed_oss.server.texts import Texts
from seed_oss.server.turn import AnswerReader, Turn
from tests.seed_tokenizer import seed_tokenizer
from tests.server.api_calls import chat, engine, joined, streamed
from tests.server.fake_engine import Script
from tests.server.test_chat import CALL, TOOLS

CASES = int(os.environ.get("SEED_OSS_TRUST_CASES", "300"))
FRAGMENTS = (
    "<seed:think>",
    "</seed:think>",
    "<seed:cot_budget_reflect>I have used 5 tokens</seed:cot_budget_reflect>",
    "</seed:cot_budget_reflect>",
    "<seed:tool_call>",
    "</seed:tool_call>",
    "<seed:eos>",
    "<seed:bos>",
    CALL,
    "<function=fly>",
    "<function=",
    "<parameter=height>",
    "</parameter>",
    "</function>",
    "3",
    "text",
    " ",
    "\n",
    "END",
    "EN",
    "🙂",
    "é\u2028",
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)


def read(text: str, cuts: list[int], tools: Any) -> list[Part]:
    """The parts of an answer whose tokens come in groups of these sizes."""
    tokenizer = seed_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    reader = AnswerReader(Texts(tokenizer), Turn((0,), AnswerForm(), tools, ()), ["END"])
    parts: list[Part] = []
    while ids:
        size = cuts[len(parts) % len(cuts)]
        parts += reader.feed(Tokens("1", 0, tuple(ids[:size]))).parts
        ids = ids[size:]
    return [*parts, *reader.finish(Ended("1", 0, "eos")).parts]


@settings(max_examples=CASES, deadline=None)
@given(TEXTS, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([None, TOOLS]))
def test_the_groups_of_tokens_do_not_matter(text: str, cuts: list[int], tools: Any) -> None:
    one, other = Answer.of(read(text, cuts, tools)), Answer.of(read(text, [10_000], tools))
    for answer in (one, other):
        for call in answer.calls.values():
            call.id = ""
    assert one == other
    for call in one.tool_calls:
        assert isinstance(json.loads(call.arguments), dict)


@settings(max_examples=CASES, deadline=None)
@given(TEXTS)
def test_it_is_what_the_library_reads(text: str) -> None:
    tokenizer = seed_tokenizer()
    detokenizer = tokenizer.detokenizer(skip_special_tokens=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [*detokenizer.put_pieces(ids), *detokenizer.finish_pieces()]
    message, answer = parse(pieces, tools=TOOLS), Answer.of(read(text, [1], TOOLS))
    assert answer.reasoning == message.reasoning
    assert [(one.name, one.arguments) for one in answer.tool_calls] == [
        (one.name, one.arguments) for one in message.tool_calls
    ]
    if not message.broken_calls and "tool_call" not in text:
        assert answer.content == message.content


@settings(max_examples=CASES // 5, deadline=None)
@given(TEXTS, st.integers(1, 5), st.sampled_from([None, TOOLS]), st.sampled_from(["eos", "length"]))
def test_a_stream_says_what_a_whole_answer_says(text: str, num_together: int, tools: Any, reason: str) -> None:
    script = Script(text, reason, num_together=num_together)
    (choice,) = chat(engine(script), tools=tools).body["choices"]
    said, message = joined(streamed(engine(script), tools=tools)), choice["message"]
    assert said["finish"] == choice["finish_reason"]
    if any(isinstance(part, AllThinkingPart) for part in read(text, [1], tools)):
        return  # a stream has shown the thinking as content before it knew
    assert (said["content"], said["reasoning"]) == (message["content"] or "", message.get("reasoning", ""))
    whole = [call["function"] for call in message.get("tool_calls", ())]
    assert [call for call in said["calls"].values() if call in whole] == whole
    if reason == "length" and choice["truncated"] == "tool_call" and message.get("tool_calls"):
        assert list(said["calls"].values())[-1] == whole[-1]
