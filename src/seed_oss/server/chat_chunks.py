"""The JSON of chat completions."""

from collections.abc import Iterable
from typing import Any

from seed_oss.engine.messages import Ended
from seed_oss.server.parts import Answer, ArgumentsPart, Call, CallPart, ContentPart, Part, ReasoningPart
from seed_oss.server.turn import AnswerReader


def reasoning_fields(text: str) -> dict[str, str]:
    """Thinking under both names that clients know."""
    return {"reasoning_content": text, "reasoning": text}


def deltas(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """What a stream says of some parts."""
    return [delta for part in parts if (delta := _delta(part))]


def _delta(part: Part) -> dict[str, Any]:
    if isinstance(part, ContentPart):
        return {"content": part.text}
    if isinstance(part, ReasoningPart):
        return reasoning_fields(part.text)
    if isinstance(part, CallPart):
        function = {"name": part.name, "arguments": ""}
        return {"tool_calls": [{"index": part.index, "id": part.id, "type": "function", "function": function}]}
    if isinstance(part, ArgumentsPart):
        return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}
    return {}


def chunk(head: dict[str, Any], choices: list[dict[str, Any]], *usage: dict[str, Any] | None) -> dict[str, Any]:
    """A chunk of a stream.

    Args:
        head: id, created and model.
        choices: what there is of them.
        *usage: where it was asked for: None, or in the last chunk the numbers.
    """
    made = {**head, "object": "chat.completion.chunk", "choices": choices, "system_fingerprint": None}
    return made if not usage else {**made, "usage": usage[0]}


def choice_chunk(index: int, delta: dict[str, Any], reader: AnswerReader, ended: Ended | None) -> dict[str, Any]:
    """One choice of a chunk.

    Args:
        index: of the choice.
        delta: what is new.
        reader: of the choice.
        ended: its last event, in its last chunk.
    """
    if ended is None:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    reason = reader.finish_reason(ended.reason)
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason, **ending(reader, ended)}


def whole_choice(
    index: int, answer: Answer, reader: AnswerReader, ended: Ended, logprobs: dict[str, Any] | None
) -> dict[str, Any]:
    """One choice of a whole answer."""
    return {
        "index": index,
        "message": message(answer),
        "logprobs": logprobs,
        "finish_reason": reader.finish_reason(ended.reason),
        **ending(reader, ended),
    }


def message(answer: Answer) -> dict[str, Any]:
    """The assistant's message."""
    calls = answer.tool_calls
    made: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
    if answer.reasoning:
        made |= reasoning_fields(answer.reasoning)
    if calls:
        made |= {"content": answer.content or None, "tool_calls": [_call(call) for call in calls]}
    return made


def ending(reader: AnswerReader, ended: Ended) -> dict[str, Any]:
    """How an answer ended, in more words than OpenAI has: fields of our own."""
    return {"stop_reason": reader.stop_of(ended), "ended_by": ended.reason, "truncated": reader.truncated}


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
