"""`reuse_reasoning`: thinking that clients do not send back."""

from typing import Any

import pytest

from seed_oss.server.parts import Answer, Call
from seed_oss.server.recall import Recall
from tests.server.api_calls import ASK, MODEL, app, chat, engine, events, run
from tests.server.raw_call import RawCall
from tests.server.test_chat import CALL, TOOLS


def answer(reasoning: str = "why", content: str = "so") -> Answer:
    return Answer(reasoning, content, {0: Call("1", "fly", '{"height": 3}', is_whole=True)})


def message(content: Any = "so", arguments: Any = '{"height":3}') -> dict[str, Any]:
    calls = [{"id": "other", "type": "function", "function": {"name": "fly", "arguments": arguments}}]
    return {"role": "assistant", "content": content, "tool_calls": calls}


@pytest.mark.parametrize("content", ["so", " so\n", [{"type": "text", "text": "so"}]])
@pytest.mark.parametrize("arguments", ['{"height":3}', {"height": 3}])
def test_an_answer_is_known_again(content: Any, arguments: Any) -> None:
    recall = Recall(1000)
    recall.keep("me", answer())
    (filled,) = recall.filled("me", [message(content, arguments)])
    assert filled["reasoning_content"] == "why"


def test_others_are_not() -> None:
    recall = Recall(1000)
    recall.keep("me", answer())
    for other in (message("no"), message(arguments='{"height":4}'), message(arguments="{"), {"role": "user"}):
        assert recall.filled("me", [other]) == [other]
    assert recall.filled("you", [message()]) == [message()]
    own = {**message(), "reasoning": "mine"}
    assert recall.filled("me", [own]) == [own]


def test_memory_is_bounded() -> None:
    recall = Recall(4 * 10)
    for content in ("a", "b", "c"):
        recall.keep("", answer("x" * 4, content))
    found = [recall.filled("", [message(content)])[0].get("reasoning_content") for content in ("a", "b", "c")]
    assert found == [None, "xxxx", "xxxx"]
    recall.keep("", answer("x" * 11, "d"))
    assert "reasoning_content" not in recall.filled("", [message("d")])[0]


@pytest.mark.parametrize("stream", [False, True])
def test_in_a_conversation(stream: bool) -> None:
    async def work() -> list[str]:
        client = engine(f"<seed:think>Up, then.</seed:think>{CALL}<seed:eos>", "Done.<seed:eos>")
        application = app(client)
        body: dict[str, Any] = {"model": MODEL, "messages": ASK, "tools": TOOLS, "reuse_reasoning": True}
        await RawCall(application, "/v1/chat/completions", {**body, "stream": stream}).task
        said = {"role": "assistant", "tool_calls": [_call()]}
        history = [*ASK, said, {"role": "tool", "tool_call_id": "1", "content": "ok"}]
        for reuse in (True, False):
            made = RawCall(application, "/v1/chat/completions", {**body, "messages": history, "reuse_reasoning": reuse})
            await made.task
        return [client.tokenizer.decode(submit.prompt_ids) for submit in client.submits]

    _, reused, bare = run(work())
    assert "<seed:think>Up, then.</seed:think>" in reused
    assert "Up, then." not in bare


def _call() -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "fly", "arguments": '{"note": "a\\nb", "height": 3}'}}


def test_without_being_asked_nothing_changes() -> None:
    assert chat(engine("<seed:think>a</seed:think>b<seed:eos>"), reuse_reasoning=False).status == 200
    body = {"model": MODEL, "messages": ASK, "stream": True}
    assert events(engine(), "/v1/chat/completions", body)[-1] == "[DONE]"
