"""Messages put together: as OpenAI's client types take them, and as the template writes them again."""

import json
import random
from typing import Any

import pytest
from openai.types.chat import ChatCompletionAssistantMessageParam, ChatCompletionChunk, ChatCompletionMessage
from pydantic import TypeAdapter

from seed_oss.chat import AssistantMessage, parse, render
from seed_oss.chat.events import Event, ToolCallDelta, ToolCallStarted, merged
from tests.chat.answer_texts import TOOLS, as_pieces, characters, events_of, hostile_text, random_message

PARAMETER = TypeAdapter[Any](ChatCompletionAssistantMessageParam)
TEXT = (
    "<seed:think> Rome, then. </seed:think>\nLet me see.\n\n<seed:tool_call>\n<function=get_weather>\n"
    "<parameter=city>Rome</parameter>\n<parameter=days>3</parameter>\n</function>\n</seed:tool_call><seed:eos>"
)


def check_openai(message: AssistantMessage) -> None:
    """The client's strict types take the message, as an answer and as a part of the next request."""
    shown = message.to_openai()
    answer = ChatCompletionMessage.model_validate(shown, strict=True)
    assert json.loads(answer.model_dump_json(exclude_unset=True)) == shown
    PARAMETER.validate_python(shown, strict=True)
    for call in shown.get("tool_calls", []):
        assert isinstance(json.loads(call["function"]["arguments"]), dict)


def test_a_message_with_everything() -> None:
    message = parse(TEXT, tools=TOOLS, id_prefix="call_")
    assert message.to_openai() == {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning_content": "Rome, then.",
        "reasoning": "Rome, then.",
        "tool_calls": [
            {
                "id": "call_0",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Rome", "days": 3}'},
            }
        ],
    }
    assert (message.finish_reason, message.ended, message.truncated) == ("tool_calls", True, None)
    check_openai(message)


def test_messages_with_less() -> None:
    assert parse("Yes.").to_openai() == {"role": "assistant", "content": "Yes."}
    assert parse("").to_openai() == {"role": "assistant", "content": ""}
    only_calls = parse(TEXT.split("\n\n")[1], tools=TOOLS).to_openai()
    assert only_calls["content"] is None
    assert parse("Yes.").finish_reason == "stop"


def test_openais_types_take_every_message() -> None:
    rng = random.Random(3)
    for _ in range(300):
        check_openai(parse(random_message(rng).text, tools=TOOLS))
        check_openai(parse(hostile_text(rng).replace("\ud800", "?"), tools=TOOLS))


def test_a_message_does_not_depend_on_cuts() -> None:
    rng = random.Random(4)
    for _ in range(100):
        text = hostile_text(rng)
        events = events_of(characters(as_pieces(text)), tools=TOOLS)
        assert AssistantMessage.from_events(events) == AssistantMessage.from_events(merged(events))
        assert AssistantMessage.from_events(events) == parse(as_pieces(text), tools=TOOLS)


def test_events_become_chunks_that_the_client_puts_together() -> None:
    arguments = ""
    for event in events_of(characters([TEXT]), tools=TOOLS):
        for call in _delta(event):
            arguments += call.function.arguments or "" if call.function else ""
    assert arguments == parse(TEXT, tools=TOOLS).tool_calls[0].arguments


def _delta(event: Event) -> list[Any]:
    """The call deltas of an OpenAI chunk made from an event, as the client's types read them."""
    function: dict[str, Any] = {}
    if isinstance(event, ToolCallStarted):
        function = {"index": event.index, "id": event.id, "type": "function", "function": {"name": event.name}}
    elif isinstance(event, ToolCallDelta):
        function = {"index": event.index, "function": {"arguments": event.arguments}}
    choice = {"index": 0, "delta": {"tool_calls": [function] if function else []}}
    data = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    return ChatCompletionChunk.model_validate(data, strict=True).choices[0].delta.tool_calls or []


@pytest.mark.parametrize("text", ["<seed:think>a", "<seed:tool_call>\n<function=now>"])
def test_broken_ones_are_no_calls(text: str) -> None:
    message = parse(text)
    assert (message.finish_reason, message.tool_calls) == ("length", ())
    check_openai(message)


def test_a_message_rendered_again_is_the_text_it_was_read_from() -> None:
    """Values in Python's form, reflections with their tags, calls and content: byte for byte."""
    rng = random.Random(8)
    for _ in range(200):
        before = parse(random_message(rng).text, tools=TOOLS)
        text = render([{"role": "user", "content": "q"}, before.to_openai()]).split("<seed:bos>assistant", 1)[1]
        again = parse(text, tools=TOOLS)
        assert (again.reasoning, again.content, again.tool_calls) == (
            before.reasoning,
            before.content,
            before.tool_calls,
        )
        assert render([{"role": "user", "content": "q"}, again.to_openai()]).endswith(text)


@pytest.mark.parametrize("variant", ["current", "initial"])
def test_the_start_comes_from_the_prompt_of_a_budget_of_zero(variant: Any) -> None:
    said = "The current thinking budget is 0, so I will directly start answering the question."
    messages = [{"role": "user", "content": "q"}]
    prompt = render(messages, thinking_budget=0, add_generation_prompt=True, variant=variant)
    answer = "" if variant == "current" else f"{said}</seed:cot_budget_reflect>\n</seed:think>"
    call = TEXT.split("\n\n")[1]
    message = parse(answer + call, tools=TOOLS, prompt=prompt)
    assert (message.content, len(message.tool_calls), message.late_think_end) == ("", 1, False)
