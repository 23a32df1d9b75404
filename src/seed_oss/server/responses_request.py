"""What /v1/responses takes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field

from seed_oss.config.sampling import SamplingParams
from seed_oss.server.bodies import Body
from seed_oss.server.chat_request import StreamOptions, ThinkingFields
from seed_oss.server.errors import ApiError
from seed_oss.server.inner_fields import Fields, check_fields, check_schema_fields, check_tools
from seed_oss.server.limits import MAX_MESSAGES
from seed_oss.server.sampling_fields import Count
from seed_oss.server.served import ApiSettings
from seed_oss.server.turn import Conversation

_TEXT_PARTS = ("input_text", "output_text", "text")
_PART: Fields = {
    **{"type": str, "text": str, "refusal": str},
    **{"annotations": list, "logprobs": list, "prompt_cache_breakpoint": dict},
}
_COMMON: Fields = {"type": str, "id": str, "status": str}
_ITEMS: Mapping[str, Fields] = {
    "message": {"role": str, "content": (str, list), "phase": str},
    "reasoning": {"summary": list, "content": list, "encrypted_content": str},
    "function_call": {"call_id": str, "name": str, "arguments": str},
    "function_call_output": {"call_id": str, "output": (str, list), "name": str},
}
_FUNCTION: Fields = {"type": str, "name": str, "description": str, "parameters": object, "strict": bool}


class TextOptions(Body):
    """The form of the answer."""

    format: dict[str, Any] | None = None
    verbosity: Annotated[str | None, Field(max_length=64)] = None


class ResponsesRequest(ThinkingFields):
    """A body of /v1/responses."""

    refused: ClassVar[dict[str, str]] = {
        "conversation": "give previous_response_id",
        "prompt": "give instructions and input",
        "messages": "give input, or use /v1/chat/completions",
        "max_tokens": "give max_output_tokens",
        "n": "a response is one answer; send several requests",
    }

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    previous_response_id: Annotated[str | None, Field(min_length=1, max_length=128)] = None
    max_output_tokens: Count = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[dict[str, Any]] | None, Field(max_length=128)] = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    # Ignored, like those of `Ignored`.
    include: list[str] | None = None
    max_tool_calls: int | None = None
    top_logprobs: Literal[0] | None = None

    def check(self) -> None:
        """Refuse fields that do not go together.

        Raises:
            ApiError: they do not.
        """
        if self.stream_options is not None and not self.stream:
            raise ApiError("invalid", "stream_options is given without stream; set stream", param="stream_options")

    def params(self, vocab_size: int) -> SamplingParams:
        """How the answer is continued.

        Raises:
            ApiError: a value that is not allowed.
        """
        return self.sampling(vocab_size, max_tokens=self.max_output_tokens)

    @property
    def effort(self) -> Any:
        """Of thinking, as the request names it; None where it names none."""
        given: Any = self.reasoning
        nested = cast("Mapping[str, Any]", given).get("effort") if isinstance(given, Mapping) else None
        return self.reasoning_effort if nested is None else nested

    def messages(self) -> list[dict[str, Any]]:
        """The input as messages of a chat.

        Raises:
            ApiError: an item that the model cannot read.
        """
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        builder = _Messages()
        for index, item in enumerate(self.input):
            builder.add(item, f"input[{index}]")
        return builder.messages

    def conversation(
        self, messages: Sequence[Mapping[str, Any]], body: Mapping[str, Any], settings: ApiSettings
    ) -> Conversation:
        """What is to be answered.

        Args:
            messages: earlier ones, and those of the input.
            body: the request as it came.
            settings: for what it does not say.

        Raises:
            ApiError: a budget or a form that is not allowed.
        """
        system = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(self.tools or ())] or None
        check_tools(tools, self.tool_choice)
        return Conversation(
            messages=[*system, *messages],
            tools=tools,
            tool_choice=self.tool_choice,
            response_format=self._format(),
            form_param="text.format",
            messages_param="input",
            parallel_tool_calls=self.parallel_tool_calls is not False,
            **self.turns(body, settings),
            loop_guard=settings.loop_guard if self.loop_guard is None else self.loop_guard,
            variables=self.variables(),
        )

    def _format(self) -> dict[str, Any] | None:
        """The form as chat completions have it."""
        given = None if self.text is None else self.text.format
        if given is None or given.get("type") != "json_schema":
            check_fields(given, "text.format", {"type": object})
            return given
        check_schema_fields(given, "text.format", {"type": str})
        return {"type": "json_schema", "json_schema": {name: value for name, value in given.items() if name != "type"}}


def _tool(tool: dict[str, Any], place: str) -> dict[str, Any]:
    """A tool as chat completions have it; one of another kind is refused where tools are checked."""
    if tool.get("type") != "function" or "function" in tool:
        return tool
    check_fields(tool, place, _FUNCTION)
    names = ("name", "description", "parameters")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


class _Messages:
    """Puts items together: thinking, text and calls of one answer are one message."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._is_open = False  # the last message is an assistant's that may go on

    def add(self, item: dict[str, Any], place: str) -> None:
        """Take the next item."""
        kind = item.get("type", "message")
        check_fields(item, place, {**_COMMON, **_ITEMS[kind]} if kind in _ITEMS else dict.fromkeys(item, object))
        if kind == "message":
            self._add_message(item, place)
        elif kind == "reasoning":
            self._assistant(is_new=True)["reasoning_content"] = _reasoning(item, place)
        elif kind == "function_call":
            call = {"id": item.get("call_id"), "name": item.get("name"), "arguments": item.get("arguments")}
            self._assistant().setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            said = _text(item.get("output"), f"{place}.output")
            self._append({"role": "tool", "tool_call_id": item.get("call_id"), "content": said})
        else:
            raise ApiError(
                "invalid",
                f"{place}.type is of a kind that the model cannot read; it reads message, reasoning, function_call and "
                "function_call_output",
                param=f"{place}.type",
            )

    def _add_message(self, item: dict[str, Any], place: str) -> None:
        role, content = item.get("role"), _text(item.get("content"), f"{place}.content")
        if role == "assistant":
            last = self.messages[-1] if self._is_open else {}
            self._assistant(is_new="tool_calls" in last or bool(last.get("content")))["content"] = content
        elif role in ("user", "system", "developer"):
            self._append({"role": "system" if role == "developer" else role, "content": content})
        else:
            raise ApiError(
                "invalid", f"{place}.role must be user, assistant, system or developer", param=f"{place}.role"
            )

    def _append(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._is_open = False

    def _assistant(self, *, is_new: bool = False) -> dict[str, Any]:
        if is_new or not self._is_open:
            self.messages.append({"role": "assistant", "content": ""})
            self._is_open = True
        return self.messages[-1]


def _text(content: Any, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError("invalid", f"{place} must be a text, or a list of parts", param=place)
    return "".join(_part(part, f"{place}[{index}]") for index, part in enumerate(cast("list[Any]", content)))


def _part(part: Any, place: str) -> str:
    fields = cast("dict[str, Any]", part if isinstance(part, dict) else {})
    if fields.get("type") in (*_TEXT_PARTS, "refusal"):
        check_fields(fields, place, _PART)
    text = fields.get("refusal") if fields.get("type") == "refusal" else fields.get("text")
    if fields.get("type") not in (*_TEXT_PARTS, "refusal") or not isinstance(text, str):
        raise ApiError("invalid", f"{place} must be a part with text; the model reads nothing else", param=place)
    return text


def _reasoning(item: dict[str, Any], place: str) -> str:
    """The thinking of an item, as far as it is there."""
    texts: list[str] = []
    for name in ("content", "summary"):
        for index, part in enumerate(cast("list[Any]", item.get(name) or [])):
            if not isinstance(part, dict) or not isinstance(cast("dict[str, Any]", part).get("text"), str):
                at = f"{place}.{name}[{index}]"
                raise ApiError("invalid", f"{at} must be a part with text", param=at)
            check_fields(part, f"{place}.{name}[{index}]", {"type": str, "text": str})
            texts.append(str(cast("dict[str, Any]", part)["text"]))
    return "".join(texts)
