"""OpenAI's own client takes every answer: its types are the judge of what is sent."""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from seed_oss.engine.messages import Computed
from tests.server.api_calls import ASK, MODEL, engine, openai_client, run
from tests.server.fake_engine import FakeEngine, Script
from tests.server.test_chat import ARGUMENTS, CALL, THOUGHT, TOOLS


class Weather(BaseModel):
    """What an answer is read as."""

    city: str
    degrees: int


def test_a_whole_answer() -> None:
    async def work() -> Any:
        async with openai_client(engine(THOUGHT)) as client:
            return await client.chat.completions.create(model=MODEL, messages=ASK, logprobs=True, top_logprobs=1)

    got = run(work())
    assert got.choices[0].message.content == "Four."
    assert got.choices[0].message.reasoning_content == "Two and two."
    assert got.choices[0].logprobs.content[0].top_logprobs[0].token == "F"
    assert got.usage.prompt_tokens_details.cached_tokens == 0
    type(got).model_validate(got.model_dump(), strict=True)


def test_a_stream() -> None:
    async def work() -> list[Any]:
        async with openai_client(engine(THOUGHT)) as client:
            stream = await client.chat.completions.create(
                model=MODEL, messages=ASK, stream=True, stream_options={"include_usage": True}, logprobs=True
            )
            return [chunk async for chunk in stream]

    chunks = run(work())
    for chunk in chunks:
        type(chunk).model_validate(chunk.model_dump(), strict=True)
    assert "".join(one.choices[0].delta.content or "" for one in chunks[:-1]) == "Four."
    assert chunks[-1].usage.total_tokens > 0


def test_streamed_tool_calls_are_put_together() -> None:
    async def work() -> Any:
        async with (
            openai_client(engine(f"Ok.{CALL}{CALL}<seed:eos>")) as client,
            client.chat.completions.stream(model=MODEL, messages=ASK, tools=TOOLS) as stream,
        ):
            async for _ in stream:
                pass
            return await stream.get_final_completion()

    message = run(work()).choices[0].message
    assert [call.function.arguments for call in message.tool_calls] == [ARGUMENTS, ARGUMENTS]
    assert message.content == "Ok."


def test_an_answer_goes_back_as_history() -> None:
    async def work() -> FakeEngine:
        fake = engine(f"<seed:think>Up.</seed:think>{CALL}<seed:eos>", "Done.<seed:eos>")
        async with openai_client(fake) as client:
            first = await client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS)
            message = first.choices[0].message
            result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "ok"}
            history: list[Any] = [*ASK, message, result]
            await client.chat.completions.create(model=MODEL, messages=history, tools=TOOLS)
        return fake

    fake = run(work())
    text = fake.tokenizer.decode(fake.submits[1].prompt_ids)
    assert "<seed:think>Up.</seed:think>" in text
    assert "<parameter=height>3</parameter>" in text


def test_parse_with_a_model() -> None:
    async def work() -> Any:
        async with openai_client(engine('{"city": "Paris", "degrees": 20}<seed:eos>')) as client:
            return await client.chat.completions.parse(model=MODEL, messages=ASK, response_format=Weather)

    assert run(work()).choices[0].message.parsed == Weather(city="Paris", degrees=20)


def test_extra_body_and_budgets() -> None:
    async def work() -> FakeEngine:
        fake = engine(THOUGHT)
        async with openai_client(fake) as client:
            await client.chat.completions.create(model=MODEL, messages=ASK, extra_body={"thinking_budget": 64})
            await client.chat.completions.create(model=MODEL, messages=ASK, reasoning_effort="low")
        return fake

    assert [submit.form.thinking_budget for submit in run(work()).submits if submit.form] == [64, 1024]


@pytest.mark.parametrize("stream", [False, True])
def test_completions(stream: bool) -> None:
    async def work() -> list[Any]:
        async with openai_client(engine()) as client:
            if stream:
                chunks = await client.completions.create(model=MODEL, prompt=["a", "b"], logprobs=1, stream=True)
                return [chunk async for chunk in chunks]
            return [await client.completions.create(model=MODEL, prompt=["a", "b"], logprobs=1)]

    got = run(work())
    for one in [] if stream else got:  # a stream's finish_reason is null up to its end, which the types leave out
        type(one).model_validate(one.model_dump(), strict=True)
    texts = ["".join(one.text for chunk in got for one in chunk.choices if one.index == at) for at in range(2)]
    assert texts == ["Four.", "Four."]


def test_embeddings_in_both_forms() -> None:
    async def work() -> list[Any]:
        fake = engine(computed=lambda submit: Computed(submit.request_id, values=((3.0, 4.0, 12.0),)))
        async with openai_client(fake) as client:
            plain = await client.embeddings.create(model=MODEL, input=["a", "b"], encoding_format="float")
            usual = await client.embeddings.create(model=MODEL, input="a")  # base64, which the client decodes
            short = await client.embeddings.create(model=MODEL, input=[[20, 21]], dimensions=2)
            return [plain.data[1].embedding, usual.data[0].embedding, short.data[0].embedding]

    plain, usual, short = run(work())
    assert plain == [3 / 13, 4 / 13, 12 / 13]
    assert usual == pytest.approx(plain, rel=1e-6)
    assert short == pytest.approx([0.6, 0.8], rel=1e-6)


def test_models() -> None:
    async def work() -> list[str]:
        async with openai_client(engine()) as client:
            return [one.id async for one in client.models.list()] + [(await client.models.retrieve(MODEL)).id]

    assert run(work()) == [MODEL, "other-name", MODEL]


@pytest.mark.parametrize(
    ("fields", "error"),
    [({"temperature": 3}, openai.BadRequestError), ({"model": "nobody"}, openai.NotFoundError)],
)
def test_errors_are_its_own(fields: dict[str, Any], error: type[openai.APIStatusError]) -> None:
    async def work() -> None:
        async with openai_client(engine()) as client:
            await client.chat.completions.create(**{"model": MODEL, "messages": ASK, **fields})

    with pytest.raises(error) as raised:
        run(work())
    assert raised.value.body["param"] == next(iter(fields))  # type: ignore[index]


def test_an_error_in_a_stream_is_raised() -> None:
    async def work() -> list[str]:
        script = Script("One two", "error", message="the engine was restarted; try again", kind="unavailable")
        async with openai_client(engine(script)) as client:
            stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
            return [json.dumps(chunk.model_dump()) async for chunk in stream]

    with pytest.raises(openai.APIError, match="the engine was restarted"):
        run(work())
