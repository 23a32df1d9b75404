"""What Anthropic's /v1/messages takes."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import FailFast, Field

from seed_oss.chat.budget import ThinkingBudget
from seed_oss.config.sampling import SamplingParams
from seed_oss.server.bodies import Body
from seed_oss.server.chat_request import ThinkingFields
from seed_oss.server.errors import ApiError
from seed_oss.server.inner_fields import Fields, check_fields
from seed_oss.server.limits import MAX_MESSAGES
from seed_oss.server.sampling_fields import MAX_TOKENS
from seed_oss.server.served import ApiSettings
from seed_oss.server.turn import Conversation

_FORMAT: Fields = {"type": object, "schema": object}
_BLOCKS: Mapping[str, Fields] = {
    "text": {"text": str, "citations": list},
    "thinking": {"thinking": str, "signature": str},
    "redacted_thinking": {"data": str},
    "tool_use": {"id": str, "name": str, "input": object, "caller": dict},
    "tool_result": {"tool_use_id": str, "content": object, "is_error": bool},
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class AnthropicMessage(Body):
    """A message: text, or a list of blocks."""

    role: Literal["user", "assistant", "system"]
    content: Any = None


class AnthropicTool(Body):
    """A tool that the client runs."""

    name: Annotated[str, Field(max_length=128)]
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    cache_control: dict[str, Any] | None = None
    strict: bool | None = None
    eager_input_streaming: bool | None = None


class AnthropicChoice(Body):
    """Whether tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: Annotated[str | None, Field(max_length=128)] = None
    disable_parallel_tool_use: bool | None = None


class OutputOptions(Body):
    """The form of the answer."""

    format: dict[str, Any] | None = None
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class CountRequest(ThinkingFields):
    """A body of /v1/messages/count_tokens."""

    refused: ClassVar[dict[str, str]] = {
        "container": "tools run at the client's",
        "mcp_servers": "tools run at the client's",
        "n": "a message is one answer; send several requests",
        "stop": "give stop_sequences",
    }

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[AnthropicMessage], Field(min_length=1, max_length=MAX_MESSAGES), FailFast()]
    system: Any = None
    tools: Annotated[list[AnthropicTool] | None, Field(max_length=128), FailFast()] = None
    tool_choice: AnthropicChoice | None = None
    output_config: OutputOptions | None = None
    output_format: dict[str, Any] | None = None
    # Ignored, like those of `Ignored`.
    metadata: dict[str, Any] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    cache_control: dict[str, Any] | None = None
    context_management: dict[str, Any] | None = None

    def conversation(self, body: Mapping[str, Any], settings: ApiSettings) -> Conversation:
        """What is to be answered.

        Args:
            body: the request as it came.
            settings: for what it does not say.

        Raises:
            ApiError: a block that the model cannot read, a budget or a form that is not allowed.
        """
        system = _text(self.system, "system") if self.system is not None else ""
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        for index, message in enumerate(self.messages):
            messages += _messages(message, f"messages[{index}].content")
        choice = self.tool_choice
        return Conversation(
            messages=messages,
            tools=[_tool(tool) for tool in self.tools or ()] or None,
            tool_choice=None if choice is None else _choice(choice),
            response_format=self._format(),
            form_param=self._format_param,
            messages_param="messages",
            parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
            **self.turns(body, settings),
            loop_guard=settings.loop_guard if self.loop_guard is None else self.loop_guard,
            variables=self.variables(),
            goes_on=self.messages[-1].role == "assistant",
        )

    def turns(self, body: Mapping[str, Any], settings: ApiSettings) -> dict[str, Any]:
        """See `ThinkingFields`. An effort is no wish to think where thinking is switched off."""
        rest = {name: value for name, value in body.items() if name != "output_config"}
        said = super().turns(rest, settings)
        is_off = said["budget"].tokens == 0 and ThinkingBudget.from_request(rest) is not None
        return said if is_off else super().turns(body, settings)

    @property
    def _format_param(self) -> str:
        return "output_format" if self.output_format else "output_config.format"

    def _format(self) -> dict[str, Any] | None:
        given = self.output_format or (self.output_config.format if self.output_config is not None else None)
        check_fields(given, self._format_param, _FORMAT)
        if given is None or given.get("type") != "json_schema":
            return given
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": given.get("schema")}}


class MessagesRequest(CountRequest):
    """A body of /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)]
    stop_sequences: Annotated[list[str] | None, Field(max_length=16)] = None
    stream: bool | None = None

    def params(self, vocab_size: int) -> SamplingParams:
        """How the answer is continued.

        Raises:
            ApiError: a value that is not allowed.
        """
        if self.stop_sequences and not all(0 < len(stop) <= 256 for stop in self.stop_sequences):
            raise ApiError("invalid", "stop_sequences must have 1 to 256 characters each", param="stop_sequences")
        return self.model_copy(update={"stop": self.stop_sequences}).sampling(vocab_size, max_tokens=self.max_tokens)


def _tool(tool: AnthropicTool) -> dict[str, Any]:
    described = {} if tool.description is None else {"description": tool.description}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": tool.input_schema}}


def _choice(choice: AnthropicChoice) -> Any:
    """The choice as chat completions have it; None for the usual one."""
    if choice.type == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return None if choice.type == "auto" and not choice.disable_parallel_tool_use else _CHOICES[choice.type]


def _messages(message: AnthropicMessage, place: str) -> list[dict[str, Any]]:
    """A message as chat completions have it; results of tools are messages of their own."""
    content: Any = message.content
    if not isinstance(content, list):
        return [{"role": message.role, "content": _text(content, place)}]
    made = _Made(message.role)
    results: list[dict[str, Any]] = []
    for index, given in enumerate(cast("list[Any]", content)):
        block = _block(given, f"{place}[{index}]")
        if block.get("type") == "tool_result":
            said = _text(block.get("content") or "", f"{place}[{index}].content")
            results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": said})
        else:
            made.put(block, f"{place}[{index}]")
    whole = made.message()
    is_empty = message.role != "assistant" and not whole["content"]
    return [*results, *([] if is_empty and results else [whole])]


class _Made:
    """A message that is put together from blocks."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []

    def put(self, block: dict[str, Any], place: str) -> None:
        """Add a block."""
        kind, is_answer = block.get("type"), self._role == "assistant"
        if kind == "text":
            self._texts.append(_text_of(block, "text", place))
        elif kind == "thinking" and is_answer:
            self._thoughts.append(_text_of(block, "thinking", place))
        elif kind == "tool_use" and is_answer:
            self._calls.append({"id": block.get("id"), "name": block.get("name"), "arguments": block.get("input")})
        elif kind != "redacted_thinking":
            raise ApiError(
                "invalid",
                f"{place}.type is of a kind that the model cannot read here; it reads text, thinking, tool_use and "
                "tool_result",
                param=f"{place}.type",
            )

    def message(self) -> dict[str, Any]:
        """As chat completions have it."""
        thoughts = {"reasoning_content": "".join(self._thoughts)} if self._thoughts else {}
        calls = {"tool_calls": self._calls} if self._calls else {}
        return {"role": self._role, "content": "".join(self._texts), **thoughts, **calls}


def _text(content: Any, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError("invalid", f"{place} must be a text, or a list of blocks", param=place)
    blocks = [_block(one, f"{place}[{index}]") for index, one in enumerate(cast("list[Any]", content))]
    return "".join(_text_of(block, "text", f"{place}[{index}]") for index, block in enumerate(blocks))


def _block(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ApiError("invalid", f"{place} must be a block, with a type", param=place)
    block = cast("dict[str, Any]", value)
    kind = block.get("type")
    if isinstance(kind, str) and kind in _BLOCKS:
        check_fields(block, place, {"type": str, "cache_control": dict, **_BLOCKS[kind]})
    return block


def _text_of(block: dict[str, Any], kind: str, place: str) -> str:
    text = block.get(kind)
    if block.get("type") != kind or not isinstance(text, str):
        raise ApiError("invalid", f"{place} must be a block of {kind}; the model reads nothing else here", param=place)
    return text
