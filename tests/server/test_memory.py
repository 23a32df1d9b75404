"""Answers that come back in a history are what was generated, to the token."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from seed_oss.chat.control_vocabulary import ControlVocabulary
from seed_oss.config.sampling import SamplingParams
from seed_oss.engine import conversation_memory
from seed_oss.engine.conversation_memory import ConversationMemory, WrittenAnswer
from seed_oss.server.texts import Texts
from seed_oss.server.turn import Conversation, num_renderings, prepare
from seed_oss.server.work import WorkPool
from tests.seed_tokenizer import seed_tokenizer
from tests.server.api_calls import ASK, MODEL, app, engine, run
from tests.server.fake_engine import FakeEngine, Script
from tests.server.raw_call import RawCall
from tests.server.test_chat import CALL, TOOLS

THOUGHT = "<seed:think> Two and  two. </seed:think>\n\n Four.<seed:eos>"  # blanks that no rendering would write
CHAT = "/v1/chat/completions"


def bodies(client: FakeEngine, *requests: tuple[str, dict[str, Any], str], **settings: Any) -> list[Any]:
    """The answers to requests, one after the other; each is a path, a body and a namespace."""

    async def work() -> list[Any]:
        application = app(client, num_threads=1, **settings)
        found = []
        for path, body, namespace in requests:
            call = RawCall(application, path, body, {"namespace": namespace})
            await call.task
            assert call.status == 200, call.sent
            sent = b"".join(call.sent)
            found.append(None if body.get("stream") else json.loads(sent))
        return found

    return run(work())


def history(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [*ASK, {"role": "assistant", **message}, {"role": "user", "content": "And 3 + 3?"}]


def followed(client: FakeEngine, *, is_known: bool) -> None:
    """Whether the second prompt goes on from the tokens of the first answer."""
    first, second = (submit.prompt_ids for submit in client.submits)
    answered = (*first, *client.encode(THOUGHT))
    assert (second[: len(answered)] == answered) is is_known


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("message", "reuse", "missed"),
    [
        ({"content": "Four.", "reasoning_content": "Two and  two."}, False, None),
        ({"content": "Four."}, True, None),
        ({"content": "Four."}, False, "reasoning_not_returned"),
        ({"content": "Five."}, True, "content_changed"),
        ({"content": "Four.", "reasoning": "Something else."}, True, "reasoning_changed"),
    ],
)
def test_an_answer_in_a_history(message: dict[str, Any], reuse: bool, missed: str | None, stream: bool) -> None:
    client = engine(THOUGHT, "Six.<seed:eos>")
    body = {"model": MODEL, "messages": ASK, "stream": stream}
    again = {"model": MODEL, "messages": history(message), "reuse_reasoning": reuse}
    _, second = bodies(client, (CHAT, body, "me"), (CHAT, again, "me"))
    followed(client, is_known=missed is None)
    assert second["usage"]["prompt_tokens_details"]["turns"] == [{"message": 1, "missed": missed}]


def test_others_answers_are_unknown() -> None:
    client = engine(THOUGHT, "Six.<seed:eos>")
    body = {"model": MODEL, "messages": ASK}
    again = {"model": MODEL, "messages": history({"content": "Four."}), "reuse_reasoning": True}
    _, second = bodies(client, (CHAT, body, "me"), (CHAT, again, "you"))
    followed(client, is_known=False)
    assert second["usage"]["prompt_tokens_details"]["turns"] == [{"message": 1, "missed": "unknown"}]


@pytest.mark.parametrize(
    ("first", "second", "missed"),
    [(MODEL, "other-name", None), ("a", "a", None), ("a", "b", "unknown"), (MODEL, "a", "unknown")],
)
def test_each_adapter_has_its_own_answers(first: str, second: str, missed: str | None) -> None:
    client = engine(THOUGHT, "Six.<seed:eos>", adapters=("a", "b"))
    again = {"model": second, "messages": history({"content": "Four."}), "reuse_reasoning": True}
    _, answer = bodies(client, (CHAT, {"model": first, "messages": ASK}, "me"), (CHAT, again, "me"))
    followed(client, is_known=missed is None)
    assert answer["usage"]["prompt_tokens_details"]["turns"] == [{"message": 1, "missed": missed}]


def test_nothing_is_remembered_where_that_is_switched_off() -> None:
    client = engine(THOUGHT, "Six.<seed:eos>")
    body = {"model": MODEL, "messages": ASK}
    again = {"model": MODEL, "messages": history({"content": "Four."}), "reuse_reasoning": True}
    bodies(client, (CHAT, body, ""), (CHAT, again, ""), max_remembered_tokens=0)
    followed(client, is_known=False)


@pytest.mark.parametrize(
    ("first", "second", "settings", "missed"),
    [
        ({}, {"cache_turns": "off"}, {}, "off"),
        ({"cache_turns": "off"}, {}, {}, "unknown"),
        ({}, {}, {"cache_turns": False}, "off"),
        ({"cache_turns": "on"}, {"cache_turns": "on"}, {"cache_turns": False}, None),
    ],
)
def test_turns_can_be_switched_off(first: Any, second: Any, settings: dict[str, Any], missed: str | None) -> None:
    client = engine(THOUGHT, "Six.<seed:eos>")
    message = {"content": "Four.", "reasoning_content": "Two and  two."}
    body = {"model": MODEL, "messages": ASK, **first}
    again = {"model": MODEL, "messages": history(message), **second}
    _, answer = bodies(client, (CHAT, body, ""), (CHAT, again, ""), **settings)
    followed(client, is_known=missed is None)
    assert answer["usage"]["prompt_tokens_details"]["turns"] == [{"message": 1, "missed": missed}]


@pytest.mark.parametrize(
    ("said", "reason", "message", "missed"),
    [
        ("<seed:think>Two.</seed:think> Four  and ", "length", {"content": "Four  and", "reasoning": "Two."}, None),
        ("<seed:think>Two.</seed:think> Four  and ", "length", {"content": "Four"}, "content_changed"),
        ("<seed:think>Two.</seed:think> Four  and ", "length", {"content": "Four  and"}, "reasoning_not_returned"),
        ("<seed:think>Two and", "length", {"content": "", "reasoning": "Two and"}, "unfinished"),
        ("<seed:think>Two.</seed:think>Four", "stop_string", {"content": "Four", "reasoning": "Two."}, "unfinished"),
    ],
)
def test_an_answer_that_was_cut_off(said: str, reason: Any, message: dict[str, Any], missed: str | None) -> None:
    client = engine(Script(said, reason=reason), "Six.<seed:eos>")
    again = {"model": MODEL, "messages": history(message)}
    _, answer = bodies(client, (CHAT, {"model": MODEL, "messages": ASK}, ""), (CHAT, again, ""))
    assert answer["usage"]["prompt_tokens_details"]["turns"] == [{"message": 1, "missed": missed}]
    first, second = (submit.prompt_ids for submit in client.submits)
    answered = (*first, *client.encode(f"{said}<seed:eos><seed:bos>user"))
    assert (second[: len(answered)] == answered) is (missed is None)


def test_nobody_waits_while_another_conversation_is_rendered() -> None:
    """The first prompt is stopped in its rendering; the second one comes before it goes on."""
    client = engine()
    memory = ConversationMemory(client.tokenizer, None, 1000)
    memory.remember("me", WrittenAnswer((1, 2), (), (3,), None, ()))
    begun, go_on = threading.Event(), threading.Event()

    def slow(messages: Any, is_answered: bool) -> list[int]:
        begun.set()
        assert go_on.wait(20)
        return [9] * len(messages)

    def quick(messages: Any, is_answered: bool) -> list[int]:
        return [8] * len(messages)

    def ask(render: Any) -> Any:
        return memory.prompt("me", history({"content": "Four."}), render)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask, slow)
        assert begun.wait(20)
        second = threads.submit(ask, quick)
        try:
            assert second.result(10).ids[0] == 8
        finally:
            go_on.set()
        assert first.result(20).ids[0] == 9


def test_an_answer_that_nobody_had_time_to_read_is_read_by_the_next_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkPool, "later", lambda *_: None)
    client = engine(THOUGHT, "Six.<seed:eos>")
    again = {"model": MODEL, "messages": history({"content": "Four.", "reasoning_content": "Two and  two."})}
    bodies(client, (CHAT, {"model": MODEL, "messages": ASK}, "me"), (CHAT, again, "me"))
    followed(client, is_known=True)


def test_a_prompt_waits_for_an_answer_that_is_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    client = engine()
    memory = ConversationMemory(client.tokenizer, None, 1000)
    prompt, answer = client.encode("ask"), client.encode("Four.<seed:eos>")
    begun, go_on = threading.Event(), threading.Event()
    parse = conversation_memory.parse

    def slow(*args: Any, **more: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return parse(*args, **more)

    def render(messages: Any, is_answered: bool) -> list[int]:
        return [*prompt, *(answer if len(messages) > 1 else ()), *((9,) if len(messages) > 2 else ())]

    monkeypatch.setattr(conversation_memory, "parse", slow)
    memory.take("me", WrittenAnswer(tuple(prompt), (), tuple(answer), None, ()))
    with ThreadPoolExecutor(2) as threads:
        reading = threads.submit(memory.read_pending, "me")
        assert begun.wait(20)
        asking = threads.submit(lambda: memory.prompt("me", history({"content": "Four."}), render))
        memory.prompt("you", history({"content": "Four."}), render)  # has nothing to wait for
        go_on.set()
        assert [turn.missed for turn in asking.result(20).turns] == [None]
        reading.result(20)


def test_an_answer_that_cannot_be_read_costs_no_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **more: Any) -> Any:
        raise ValueError("a prompt that nobody may read")

    monkeypatch.setattr(conversation_memory, "parse", broken)
    client = engine(THOUGHT, "Six.<seed:eos>")
    again = {"model": MODEL, "messages": history({"content": "Four."})}
    bodies(client, (CHAT, {"model": MODEL, "messages": ASK}, "me"), (CHAT, again, "me"))
    assert "could not be remembered: ValueError" in caplog.text
    assert "nobody may read" not in caplog.text


def test_a_long_history_counts_as_often_as_it_is_rendered() -> None:
    said = [*ASK, {"role": "assistant", "content": "a"}] * 10
    assert num_renderings(Conversation(said)) == 6
    assert num_renderings(Conversation(said * 100)) == 33
    assert num_renderings(Conversation(said, takes_turns=False)) == num_renderings(Conversation(ASK)) == 1


def test_each_text_of_a_history_is_encoded_once(monkeypatch: Any) -> None:
    encoded: list[str] = []
    encode_all = ControlVocabulary._encode_all

    def counted(self: ControlVocabulary, texts: list[str]) -> Any:
        encoded.extend(texts)
        return encode_all(self, texts)

    def ask(*, takes_turns: bool) -> tuple[int, ...]:
        wanted = Conversation(messages, takes_turns=takes_turns)
        return prepare(texts, memory, "me", wanted, SamplingParams()).prompt_ids

    texts = Texts(seed_tokenizer())
    messages = [one for turn in "abcdef" for one in history({"content": f"It is {turn}."})]
    memory = ConversationMemory(texts.tokenizer, None, 10**6)
    memory.remember("me", WrittenAnswer((1,), (), (2,), None, ()))
    monkeypatch.setattr(ControlVocabulary, "_encode_all", counted)
    ids = ask(takes_turns=True)
    assert len(encoded) == len(set(encoded))
    assert ids == ask(takes_turns=False)
    assert encoded.count("user\nAnd 3 + 3?") == 1 + 6  # nothing is kept for the next prompt


def test_calls_are_compared_as_values() -> None:
    client = engine(f"<seed:think>Up, then.</seed:think>{CALL}<seed:eos>", "Done.<seed:eos>")
    call = {"id": "1", "type": "function", "function": {"name": "fly", "arguments": '{"note": "a\\nb", "height": 3}'}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    messages = [*ASK, said, {"role": "tool", "tool_call_id": "1", "content": "ok"}]
    body = {"model": MODEL, "messages": ASK, "tools": TOOLS}
    bodies(client, (CHAT, body, ""), (CHAT, {**body, "messages": messages, "reuse_reasoning": True}, ""))
    assert "<seed:think>Up, then.</seed:think>" in client.tokenizer.decode(client.submits[1].prompt_ids)


def test_responses_go_on_from_what_was_generated() -> None:
    client = engine(THOUGHT, "Six.<seed:eos>")

    async def work() -> Any:
        application = app(client, num_threads=1)
        first = RawCall(application, "/v1/responses", {"model": MODEL, "input": "2 + 2?"})
        await first.task
        name = json.loads(b"".join(first.sent))["id"]
        body = {"model": MODEL, "input": "3 + 3?", "previous_response_id": name}
        second = RawCall(application, "/v1/responses", body)
        await second.task
        return json.loads(b"".join(second.sent))

    answer = run(work())
    followed(client, is_known=True)
    assert answer["usage"]["input_tokens_details"]["turns"] == [{"message": 1, "missed": None}]


@pytest.mark.parametrize("missed", [None, "content_changed"])
@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_messages_go_on_from_what_was_generated(stream: bool, missed: str | None) -> None:
    client = engine(THOUGHT, "Six.<seed:eos>")
    body = {"model": MODEL, "max_tokens": 9, "messages": ASK, "system": "Count."}
    text = "Five." if missed else "Four."
    said = [{"type": "thinking", "thinking": "Two and  two.", "signature": ""}, {"type": "text", "text": text}]
    again = {**body, "messages": history({"content": said}), "stream": stream}

    async def work() -> str:
        application = app(client, num_threads=1)
        for one in (body, again):
            call = RawCall(application, "/v1/messages", one)
            await call.task
        return b"".join(call.sent).decode()

    turns = json.dumps([{"message": 2, "missed": missed}], separators=(",", ":"))
    assert f'"turns":{turns}' in run(work())
    followed(client, is_known=missed is None)
