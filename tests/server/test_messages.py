"""/v1/messages, with Anthropic's own client as the judge of what is sent."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

import anthropic
import httpx2
import pytest

from seed_oss.chat.budget import ThinkingBudget
from seed_oss.server.messages import _input, _without_open_key
from seed_oss.server.messages_request import MessagesRequest
from seed_oss.server.parts import Call
from seed_oss.server.served import ApiSettings
from tests.server.api_calls import MODEL, app, engine, events, post, run
from tests.server.fake_engine import FakeEngine, Script
from tests.server.test_chat import ARGUMENTS, CALL, PARAMETERS, THOUGHT
from tests.stopwatch import Stopwatch

PATH = "/v1/messages"
ASK: list[Any] = [{"role": "user", "content": "What is 2 + 2?"}]
BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": ASK}
BROKEN = {"type": "tool_use", "id": "1", "name": "f", "input": 3}
TOOLS: list[Any] = [{"name": "fly", "description": "Fly up.", "input_schema": PARAMETERS}]


def with_client(fake: FakeEngine, work: Callable[[anthropic.AsyncAnthropic], Coroutine[Any, Any, Any]]) -> Any:
    async def inner() -> Any:
        caller = httpx2.AsyncClient(transport=httpx2.ASGITransport(app(fake)))
        async with anthropic.AsyncAnthropic(
            api_key="none", base_url="http://test", http_client=caller, max_retries=0
        ) as client:
            return await work(client)

    return run(inner())


def test_a_message() -> None:
    fake = engine(Script(THOUGHT, num_cached=5))
    got = with_client(fake, lambda client: client.messages.create(**BODY, system="Be brief."))
    type(got).model_validate(got.model_dump(), strict=True)
    assert [block.type for block in got.content] == ["thinking", "text"]
    assert (got.content[0].thinking, got.content[1].text) == ("Two and two.", "Four.")
    assert (got.stop_reason, got.stop_sequence) == ("end_turn", None)
    assert got.usage.cache_read_input_tokens == 5
    assert got.usage.input_tokens == len(fake.submits[0].prompt_ids) - 5
    assert fake.tokenizer.decode(fake.submits[0].prompt_ids).startswith("<seed:bos>system\nBe brief.<seed:eos>")
    assert fake.submits[0].params.max_tokens == 64


@pytest.mark.parametrize("num_together", [1, 100])
def test_a_stream_amounts_to_the_message(num_together: int) -> None:
    script = Script(f"<seed:think>Up.</seed:think>Ok.{CALL}{CALL}<seed:eos>", num_together=num_together)

    async def work(client: anthropic.AsyncAnthropic) -> Any:
        async with client.messages.stream(**BODY, tools=TOOLS) as stream:
            return await stream.get_final_message()

    got = with_client(engine(script), work)
    assert [block.type for block in got.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert got.content[0].thinking == "Up."
    assert got.content[1].text == "Ok."
    assert got.content[2].input == json.loads(ARGUMENTS)
    assert got.stop_reason == "tool_use"
    whole = with_client(engine(script), lambda client: client.messages.create(**BODY, tools=TOOLS))
    assert [block.type for block in whole.content] == [block.type for block in got.content]
    assert whole.content[3].input == got.content[3].input
    assert whole.usage.output_tokens == got.usage.output_tokens


def test_the_order_of_events() -> None:
    got = events(engine(THOUGHT), PATH, {**BODY, "stream": True})
    kinds = [event["type"] for event in got]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    starts = [event["index"] for event in got if event["type"] == "content_block_start"]
    stops = [event["index"] for event in got if event["type"] == "content_block_stop"]
    assert starts == stops == [0, 1]


def test_a_conversation_with_tools() -> None:
    fake = engine(f"<seed:think>Up.</seed:think>{CALL}<seed:eos>", "Done.<seed:eos>")

    async def work(client: anthropic.AsyncAnthropic) -> None:
        first = await client.messages.create(**BODY, tools=TOOLS, tool_choice={"type": "any"})
        result = {
            "type": "tool_result",
            "tool_use_id": first.content[-1].id,
            "content": [{"type": "text", "text": "ok"}],
        }
        history: list[Any] = [
            *ASK,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
        ]
        await client.messages.create(model=MODEL, max_tokens=9, messages=history, tools=TOOLS)

    with_client(fake, work)
    assert fake.submits[0].form is not None
    assert fake.submits[0].form.tool_choice == "required"
    text = fake.tokenizer.decode(fake.submits[1].prompt_ids)
    assert "<seed:think>Up.</seed:think>" in text
    assert text.index("<function=fly>") < text.index("<seed:bos>tool\nok") < text.index("And now?")


def test_choices_of_tools() -> None:
    fake = engine()
    for choice in ({"type": "auto"}, {"type": "auto", "disable_parallel_tool_use": True}, {"type": "none"}):
        assert post(fake, PATH, {**BODY, "tools": TOOLS, "tool_choice": choice}).status == 200
    named = {"type": "tool", "name": "fly"}
    assert post(fake, PATH, {**BODY, "tools": TOOLS, "tool_choice": named}).status == 200
    forms = [(submit.form.tool_choice, submit.form.parallel_tool_calls) for submit in fake.submits if submit.form]
    assert forms == [
        (None, True),
        ("auto", False),
        ("none", True),
        ({"type": "function", "function": {"name": "fly"}}, True),
    ]


@pytest.mark.parametrize(
    ("thinking", "budget"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, ThinkingBudget(2048)),
        ({"type": "disabled"}, ThinkingBudget(0)),
        ({"type": "adaptive"}, ThinkingBudget()),
    ],
)
def test_thinking(thinking: dict[str, Any], budget: ThinkingBudget) -> None:
    fake = engine()
    assert post(fake, PATH, {**BODY, "thinking": thinking}).status == 200
    assert fake.submits[0].form is not None
    assert fake.submits[0].form.thinking_budget == budget.tokens


def test_a_begun_answer_goes_on() -> None:
    fake = engine("by flapping.<seed:eos>")
    begun = [*ASK, {"role": "assistant", "content": "Birds fly"}]
    got = with_client(fake, lambda client: client.messages.create(**{**BODY, "messages": begun}))
    assert got.content[0].text == "by flapping."
    assert fake.tokenizer.decode(fake.submits[0].prompt_ids).endswith("Birds fly")


def test_reasons_of_an_end() -> None:
    got = post(engine(Script("One. END", "stop_string", stop="END")), PATH, {**BODY, "stop_sequences": ["END"]}).body
    assert (got["stop_reason"], got["stop_sequence"], got["content"][0]["text"]) == ("stop_sequence", "END", "One.")
    assert post(engine(Script("One", "length")), PATH, BODY).body["stop_reason"] == "max_tokens"


def test_a_form() -> None:
    fake = engine('{"a": 1}<seed:eos>')
    form = {"type": "json_schema", "schema": {"type": "object"}}
    assert post(fake, PATH, {**BODY, "output_config": {"format": form}}).status == 200
    assert fake.submits[0].form is not None
    assert fake.submits[0].form.response_format["json_schema"]["schema"] == {"type": "object"}


def test_tokens_are_counted() -> None:
    fake = engine()
    count = with_client(
        fake, lambda client: client.messages.count_tokens(model=MODEL, messages=ASK, tools=TOOLS, system="Be brief.")
    )
    post(fake, PATH, {**BODY, "tools": TOOLS, "system": [{"type": "text", "text": "Be brief."}]})
    assert count.input_tokens == len(fake.submits[0].prompt_ids)


def test_broken_calls_are_text() -> None:
    text = "Well.<seed:tool_call>\n<function=fly>\n<parameter=height>3"
    got = post(engine(Script(f"{text}<seed:eos>")), PATH, {**BODY, "tools": TOOLS}).body
    assert got["content"] == [{"type": "text", "text": text}]


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ("", {}),
        ("<parameter=height>3", {}),
        ("<parameter=height>3</parameter>\n<parameter=", {"height": 3}),
        ("<parameter=height>3</parameter>\n<parameter=place>3", {"height": 3}),
        ('<parameter=place>the "r": ', {"place": 'the "r": '}),
    ],
)
def test_a_call_that_is_cut_off(written: str, given: dict[str, Any]) -> None:
    script = Script(f"Well.<seed:tool_call>\n<function=fly>\n{written}", "length")
    got = post(engine(script), PATH, {**BODY, "tools": TOOLS}).body
    assert got["stop_reason"] == "max_tokens"
    assert [block["type"] for block in got["content"]] == ["text", "tool_use"]
    assert got["content"][1]["input"].items() >= given.items()


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ("", ""),
        ('{"a": 1', '{"a": 1'),
        ('{"a": ', "{"),
        ('{"a": 1, "b": ', '{"a": 1'),
        ('{"a": 1, "b\\"c": ', '{"a": 1'),
        ('{"a": "b\\": ', '{"a": "b\\": '),
        ('{"a": "b, \\"c\\": ', '{"a": "b, \\"c\\": '),
        ('{"a": "b\\\\", "c": ', '{"a": "b\\\\"'),
    ],
)
def test_a_name_whose_value_has_not_come_is_left_out(arguments: str, left: str) -> None:
    assert _without_open_key(arguments) == left


@pytest.mark.parametrize("end", ['"}', "", ": ", '\\": '])
def test_arguments_full_of_quotes_take_no_longer_than_others(end: str) -> None:
    with Stopwatch() as spent:
        text = json.dumps({"a": '"' * 300_000})[:-2] + end
        assert _input(Call("1", "f", text, is_whole=end == '"}', is_cut=end != '"}'))["a"].startswith('"' * 1000)
    assert spent.seconds < 10


def test_a_message_of_many_blocks_takes_no_longer_than_one_of_few() -> None:
    blocks = [{"type": "text", "text": "x" * 40}] * 100_000
    body = {**BODY, "messages": [{"role": "user", "content": blocks}]}
    with Stopwatch() as spent:
        (message,) = MessagesRequest.model_validate(body).conversation(body, ApiSettings()).messages
        assert message["content"] == "x" * 4_000_000
    assert spent.seconds < 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [*ASK, {"role": "assistant", "content": [BROKEN]}, *ASK], "system": "x"}, "messages"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"output_format": {"type": "json_schema", "schema": {"type": "cat"}}}, "output_format"),
        ({"messages": [{"role": "user", "content": [3]}]}, "messages[0].content[0]"),
        ({"stop_sequences": ["x" * 257]}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "tool", "name": "swim"}, "tools": TOOLS}, "tool_choice"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"container": "x"}, "container"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    answer = post(engine(), PATH, {**BODY, **fields})
    assert answer.status == 400
    assert answer.body["type"] == "error"
    assert (answer.body["error"]["type"], answer.body["error"]["param"]) == ("invalid_request_error", param)


def test_errors_are_the_clients_own() -> None:
    async def work(client: anthropic.AsyncAnthropic) -> None:
        with pytest.raises(anthropic.NotFoundError, match="no such model"):
            await client.messages.create(model="nobody", max_tokens=1, messages=ASK)

    with_client(engine(), work)


def test_an_engine_that_fails_in_a_stream() -> None:
    script = Script("One", "error", message="the engine was restarted; try again", kind="unavailable")

    async def work(client: anthropic.AsyncAnthropic) -> None:
        async with client.messages.stream(**BODY) as stream:
            await stream.get_final_message()

    with pytest.raises(anthropic.APIStatusError, match="the engine was restarted"):
        with_client(engine(script), work)
    assert post(engine(script), PATH, BODY).body["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({"output_config": {"effort": "low"}}, 1024),
        ({"output_config": {"effort": "max"}}, None),
        ({"output_config": {"effort": "medium"}, "thinking": {"type": "adaptive"}}, 4096),
        ({"output_config": {"effort": "low"}, "thinking": {"type": "enabled", "budget_tokens": 2000}}, 2000),
        ({"output_config": {"effort": "low"}, "thinking": {"type": "disabled"}}, 0),
        ({"output_config": {}}, None),
    ],
)
def test_an_effort_is_a_budget(fields: dict[str, Any], budget: int | None) -> None:
    fake = engine()
    assert post(fake, PATH, {**BODY, **fields}).status == 200
    form = fake.submits[0].form
    assert form is not None
    assert form.thinking_budget == budget


def test_an_effort_that_is_none() -> None:
    answer = post(engine(), PATH, {**BODY, "output_config": {"effort": "huge"}})
    assert (answer.status, answer.body["error"]["param"]) == (400, "output_config.effort")
    agree = {"output_config": {"effort": "low"}, "reasoning_effort": "high"}
    answer = post(engine(), PATH, {**BODY, **agree})
    assert (answer.status, "output_config.effort" in answer.body["error"]["message"]) == (400, True)
