"""/v1/responses, with OpenAI's own client as the judge of what is sent."""

from collections.abc import Callable, Coroutine
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.server.api_calls import MODEL, app, engine, events, openai_client, post, run
from tests.server.fake_engine import FakeEngine, Script
from tests.server.raw_call import RawCall
from tests.server.test_chat import ARGUMENTS, CALL, PARAMETERS, THOUGHT

PATH = "/v1/responses"
TOOLS: list[Any] = [{"type": "function", "name": "fly", "parameters": PARAMETERS, "strict": True}]
BODY: dict[str, Any] = {"model": MODEL, "input": "What is 2 + 2?"}


class Weather(BaseModel):
    """What an answer is read as."""

    city: str


def with_client(fake: FakeEngine, work: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, Any]], **more: Any) -> Any:
    async def inner() -> Any:
        async with openai_client(fake, **more) as client:
            return await work(client)

    return run(inner())


def test_a_response() -> None:
    fake = engine(Script(THOUGHT, num_reasoning=4, num_cached=2))
    got = with_client(fake, lambda client: client.responses.create(**BODY, instructions="Be brief."))
    type(got).model_validate(got.model_dump(), strict=True)
    assert got.output_text == "Four."
    assert [item.type for item in got.output] == ["reasoning", "message"]
    assert got.output[0].content[0].text == "Two and two."
    assert got.status == "completed"
    assert got.usage.input_tokens == len(fake.submits[0].prompt_ids)
    assert got.usage.output_tokens_details.reasoning_tokens == 4
    assert got.usage.input_tokens_details.cached_tokens == 2
    text = fake.tokenizer.decode(fake.submits[0].prompt_ids)
    assert text.startswith("<seed:bos>system\nBe brief.<seed:eos>")


@pytest.mark.parametrize("fields", [{"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}, {}])
def test_the_effort_is_told(fields: dict[str, Any]) -> None:
    body = post(engine(), PATH, {**BODY, **fields}).body
    assert body["reasoning"]["effort"] == ("low" if fields else None)


def test_a_stream_amounts_to_the_response() -> None:
    text = f"<seed:think>Up.</seed:think>Ok.{CALL}{CALL}<seed:eos>"

    async def work(client: openai.AsyncOpenAI) -> list[Any]:
        stream = await client.responses.create(**BODY, tools=TOOLS, stream=True)
        return [event async for event in stream]

    got = with_client(engine(text), work)
    assert [event.sequence_number for event in got] == list(range(len(got)))
    assert [event.type for event in got[:2]] == ["response.created", "response.in_progress"]
    assert got[-1].type == "response.completed"
    output = got[-1].response.output
    assert [item.type for item in output] == ["reasoning", "message", "function_call", "function_call"]
    added = [event for event in got if event.type == "response.output_item.added"]
    done = [event for event in got if event.type == "response.output_item.done"]
    assert [event.output_index for event in added] == [event.output_index for event in done] == [0, 1, 2, 3]
    assert [event.item.id for event in done] == [item.id for item in output]
    deltas = {item.id: "" for item in output}
    for event in got:
        if event.type.endswith(".delta"):
            deltas[event.item_id] += event.delta
    assert list(deltas.values()) == ["Up.", "Ok.", ARGUMENTS, ARGUMENTS]


def test_the_clients_own_stream_helper() -> None:
    async def work(client: openai.AsyncOpenAI) -> Any:
        async with client.responses.stream(**BODY, tools=TOOLS) as stream:
            async for _ in stream:
                pass
            return await stream.get_final_response()

    got = with_client(engine(f"Ok.{CALL}<seed:eos>"), work)
    assert got.output_text == "Ok."
    assert got.output[1].arguments == ARGUMENTS


def test_parse_with_a_model() -> None:
    fake = engine('{"city": "Paris"}<seed:eos>')
    got = with_client(fake, lambda client: client.responses.parse(**BODY, text_format=Weather))
    assert got.output_parsed == Weather(city="Paris")
    form = fake.submits[0].form
    assert form is not None
    assert form.response_format["json_schema"]["schema"]["properties"]["city"]["type"] == "string"


def test_a_conversation_goes_on_from_a_stored_response() -> None:
    fake = engine(f"<seed:think>Up.</seed:think>{CALL}<seed:eos>", "Done.<seed:eos>")

    async def work(client: openai.AsyncOpenAI) -> Any:
        first = await client.responses.create(**BODY, tools=TOOLS, instructions="Be brief.")
        assert (await client.responses.retrieve(first.id)).output == first.output
        result: Any = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "ok"}
        await client.responses.create(model=MODEL, input=[result], previous_response_id=first.id, tools=TOOLS)
        await client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)

    with_client(fake, work)
    text = fake.tokenizer.decode(fake.submits[1].prompt_ids)
    assert "What is 2 + 2?" in text
    assert "<seed:think>Up.</seed:think>" in text
    assert "<parameter=height>3</parameter>" in text
    assert "<seed:bos>tool\nok" in text
    assert "Be brief." not in text


def test_a_conversation_as_items() -> None:
    fake = engine()
    items: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go."}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Up."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Well."}]},
        {"type": "function_call", "call_id": "1", "name": "fly", "arguments": '{"height": 3}'},
        {"type": "function_call_output", "call_id": "1", "output": "ok"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Again."},
    ]
    assert post(fake, PATH, {**BODY, "input": items, "tools": TOOLS}).status == 200
    text = fake.tokenizer.decode(fake.submits[0].prompt_ids)
    assert text.count("<seed:bos>assistant") == 3
    assert "<seed:think>Up.</seed:think>" in text
    assert text.index("Well.") < text.index("<function=fly>") < text.index("<seed:bos>tool\nok") < text.index("Done.")


def test_an_incomplete_response() -> None:
    got = post(engine(Script("Two and", "length")), PATH, {**BODY, "max_output_tokens": 2}).body
    assert (got["status"], got["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert got["output"][0]["status"] == "incomplete"
    last = events(engine(Script("Two and", "length")), PATH, {**BODY, "stream": True})[-1]
    assert last["type"] == "response.incomplete"


def test_a_broken_call_is_text() -> None:
    text = "Well.<seed:tool_call>\n<function=fly>\n<parameter=height>3"
    for body in (
        post(engine(f"{text}<seed:eos>"), PATH, {**BODY, "tools": TOOLS}).body,
        events(engine(f"{text}<seed:eos>"), PATH, {**BODY, "tools": TOOLS, "stream": True})[-1]["response"],
    ):
        assert {item["type"] for item in body["output"]} == {"message"}
        assert "".join(item["content"][0]["text"] for item in body["output"]) == text


def test_a_call_that_is_cut_off() -> None:
    script = Script("Well.<seed:tool_call>\n<function=fly>\n<parameter=height>3</parameter>\n<parameter=", "length")
    for body in (
        post(engine(script), PATH, {**BODY, "tools": TOOLS}).body,
        events(engine(script), PATH, {**BODY, "tools": TOOLS, "stream": True})[-1]["response"],
    ):
        said, call = body["output"]
        assert (said["content"][0]["text"], body["status"]) == ("Well.", "incomplete")
        assert (call["type"], call["status"], call["arguments"]) == ("function_call", "incomplete", '{"height": 3')


def test_a_start_of_thinking_that_is_missing() -> None:
    body = post(engine("Two.</seed:think>Four.<seed:eos>"), PATH, BODY).body
    assert [item["content"][0]["text"] for item in body["output"]] == ["Two.", "Four."]


def test_an_engine_that_fails() -> None:
    script = Script("One", "error", message="the engine was restarted; try again", kind="unavailable")
    assert post(engine(script), PATH, BODY).status == 503
    got = events(engine(script), PATH, {**BODY, "stream": True})
    assert [event["type"] for event in got[-2:]] == ["error", "response.failed"]
    assert got[-1]["response"]["error"]["message"] == "the engine was restarted; try again"
    assert [event["sequence_number"] for event in got] == list(range(len(got)))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 3}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "alien", "content": "x"}]}, "input[0].role"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"conversation": "x"}, "conversation"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "cat"}}}}, "text.format"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{"}]}, "input"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"nonsense": 1}, "nonsense"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"stream": True, "stream_options": {"foo": 1}}, "stream_options.foo"),
        ({"stream": True, "stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    answer = post(engine(), PATH, {**BODY, **fields})
    assert answer.status in (400, 404)
    assert answer.error["param"] == param


def _ids(stored: list[dict[str, Any]], **settings: Any) -> list[int]:
    """The statuses of retrieving some responses, made one after the other."""

    async def work() -> list[int]:
        fake = engine()
        application = app(fake, **settings)
        names = []
        for state in stored:
            call = RawCall(application, PATH, BODY, dict(state))
            await call.task
            names.append(b"".join(call.sent).partition(b'"id":"')[2].partition(b'"')[0].decode())
        found = []
        for name in names:
            fields = {**BODY, "previous_response_id": name}
            again = RawCall(application, PATH, fields, {"namespace": "me"})
            await again.task
            found.append(again.status or 0)
        return found

    return run(work())


def test_stored_responses_are_bounded_and_ones_own() -> None:
    me, you = {"namespace": "me"}, {"namespace": "you"}
    assert _ids([me, you, me]) == [200, 404, 200]
    assert _ids([me, me, me], max_stored_responses=2) == [404, 200, 200]
    assert _ids([me], max_stored_bytes=10) == [404]


def test_what_is_not_to_be_stored() -> None:
    def work(client: openai.AsyncOpenAI) -> Coroutine[Any, Any, Any]:
        async def inner() -> None:
            made = await client.responses.create(**BODY, store=False)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(made.id)

        return inner()

    with_client(engine(), work)


def test_a_client_that_goes_aborts() -> None:
    async def work() -> FakeEngine:
        fake = engine("One two three.<seed:eos>", hold_after=2)
        made = RawCall(app(fake, keep_alive_seconds=0.01), PATH, {**BODY, "stream": True})
        await made.until(b": keep-alive\n\n")
        made.disconnect()
        await made.task
        return fake

    fake = run(work())
    assert fake.closed == [fake.submits[0].request_id]
