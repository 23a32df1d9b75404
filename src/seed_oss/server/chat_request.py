"""What /v1/chat/completions takes."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import FailFast, Field

from seed_oss.chat.budget import Mode, ThinkingBudget
from seed_oss.config.sampling import MAX_LOGPROBS, SamplingParams
from seed_oss.server.bodies import Body
from seed_oss.server.errors import ApiError, refusing
from seed_oss.server.inner_fields import check_format, check_messages, check_thinking, check_tools
from seed_oss.server.limits import MAX_MESSAGES
from seed_oss.server.sampling_fields import Count, SamplingFields
from seed_oss.server.served import ApiSettings
from seed_oss.server.turn import Conversation

_ROLES = {"developer": "system"}  # OpenAI's newer name


class Message(Body):
    """A message. Its content, thinking and calls are checked when it is brought into the template's form."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Any = None
    name: Annotated[str | None, Field(max_length=256)] = None
    tool_call_id: Annotated[str | None, Field(max_length=256)] = None
    tool_calls: Annotated[list[Any] | None, Field(max_length=1024)] = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    # What answers bring along, and means nothing in a history.
    refusal: str | None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None
    reasoning_details: Any = None
    parsed: Any = None

    def for_template(self) -> dict[str, Any]:
        """The message as the template takes it."""
        names = ("name", "tool_call_id", "tool_calls", "reasoning_content", "reasoning")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {"role": _ROLES.get(self.role, self.role), "content": self.content, **given}


class StreamOptions(Body):
    """What a stream brings along."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatStreamOptions(StreamOptions):
    """Those of a chat: its chunks can say how many tokens there are so far."""

    continuous_usage_stats: bool | None = None


class TemplateVariables(Body):
    """`chat_template_kwargs`: variables of the template that a request may set. Budgets are read by ThinkingBudget."""

    thinking_budget: Any = None
    thinking_token_budget: Any = None
    thinking: Any = None
    enable_thinking: Any = None
    reasoning_effort: Any = None
    reasoning: Any = None
    use_json_tooldef: bool | None = None


class ThinkingFields(SamplingFields):
    """The thinking budget in every spelling; the values are checked by ThinkingBudget.from_request."""

    thinking_budget: Any = None
    thinking_token_budget: Any = None
    thinking: Any = None
    enable_thinking: Any = None
    reasoning_effort: Any = None
    reasoning: Any = None
    chat_template_kwargs: TemplateVariables | None = None
    budget_mode: Mode | None = None
    loop_guard: bool | None = None
    reuse_reasoning: bool | None = None
    cache_turns: Literal["on", "off"] | None = None

    def budget(self, body: Mapping[str, Any], settings: ApiSettings) -> ThinkingBudget:
        """The budget that a request asks for.

        Args:
            body: the request as it came.
            settings: for what it does not say.

        Raises:
            ApiError: a value that is not allowed, or two that disagree.
        """
        default = settings.thinking_budget
        mode: Mode = self.budget_mode or default.mode
        check_thinking(body)
        with refusing(otherwise="thinking_budget"):
            found = ThinkingBudget.from_request(body, mode)
        return ThinkingBudget(default.tokens, mode) if found is None else found

    def turns(self, body: Mapping[str, Any], settings: ApiSettings) -> dict[str, Any]:
        """What a request says of answers in its history and of thinking, as fields of a Conversation.

        Raises:
            ApiError: see `budget`.
        """
        return {
            "budget": self.budget(body, settings),
            "thinking_wish": ThinkingBudget.wish(body),
            "reuse_reasoning": bool(self.reuse_reasoning),
            "takes_turns": settings.cache_turns if self.cache_turns is None else self.cache_turns == "on",
        }

    def variables(self) -> dict[str, Any]:
        """Variables of the template."""
        given = self.chat_template_kwargs
        return {"use_json_tooldef": True} if given is not None and given.use_json_tooldef else {}


class ChatRequest(ThinkingFields):
    """A body of /v1/chat/completions."""

    refused: ClassVar[dict[str, str]] = {
        "functions": "give the functions as tools",
        "function_call": "give tool_choice",
        "audio": "answers are text",
        "best_of": "give n",
        "web_search_options": "give a tool that searches",
        "echo": "use /v1/completions",
        "add_generation_prompt": "to go on with the last message give continue_final_message",
    }

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES), FailFast()]
    max_tokens: Count = None
    max_completion_tokens: Count = None
    stream: bool | None = None
    stream_options: ChatStreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None
    tools: Annotated[list[Any] | None, Field(max_length=128)] = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    # Ignored, like those of `Ignored`.
    modalities: list[Literal["text"]] | None = None
    prediction: dict[str, Any] | None = None
    verbosity: Annotated[str | None, Field(max_length=64)] = None

    @property
    def num_top(self) -> int | None:
        """How many probable tokens are shown beside each; None shows no probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def wants_counts(self) -> bool:
        """Whether each chunk says how many tokens there are so far."""
        return self.wants_usage and self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

    def check(self) -> None:
        """Refuse fields that do not go together.

        Raises:
            ApiError: they do not.
        """
        if self.stream_options is not None and not self.stream:
            raise ApiError("invalid", "stream_options is given without stream; set stream", param="stream_options")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError("invalid", "top_logprobs is given without logprobs; set logprobs", param="top_logprobs")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ApiError(
                "invalid", "max_tokens and max_completion_tokens differ; give one of them", param="max_tokens"
            )

    def params(self, vocab_size: int) -> SamplingParams:
        """How the answer is continued.

        Raises:
            ApiError: a value that is not allowed.
        """
        limit = self.max_completion_tokens if self.max_tokens is None else self.max_tokens
        return self.sampling(vocab_size, max_tokens=limit, logprobs=self.num_top)

    def conversation(self, body: Mapping[str, Any], settings: ApiSettings) -> Conversation:
        """What is to be answered.

        Args:
            body: the request as it came.
            settings: for what it does not say.

        Raises:
            ApiError: see `budget`.
        """
        messages = [message.for_template() for message in self.messages]
        check_messages(messages)
        check_tools(self.tools, self.tool_choice)
        check_format(self.response_format)
        return Conversation(
            messages=messages,
            tools=self.tools,
            tool_choice=self.tool_choice,
            response_format=self.response_format,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            **self.turns(body, settings),
            loop_guard=settings.loop_guard if self.loop_guard is None else self.loop_guard,
            variables=self.variables(),
            goes_on=bool(self.continue_final_message),
        )
