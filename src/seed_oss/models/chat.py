"""Answering a conversation: prompt, thinking budget, generation and parser put together."""

from collections.abc import Mapping, Sequence
from typing import Any

from seed_oss.chat.assistant_message import AssistantMessage
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.generation.loop_guard import LoopGuard
from seed_oss.generation.row_control import RowControl
from seed_oss.models.chat_arguments import checked_settings
from seed_oss.models.chat_stream import ChatStream
from seed_oss.models.chat_turn import DEFAULT_MAX_NEW_TOKENS, ChatTurn, ChatUsage, ReasoningMeter, prepare_turn

__all__ = ["DEFAULT_MAX_NEW_TOKENS", "ChatStream", "ChatTurn", "ChatUsage", "ReasoningMeter", "chat", "prepare_turn"]


def chat(
    model: Any,
    tokenizer: SeedOssTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: Any = None,
    response_format: Any = None,
    parallel_tool_calls: bool = True,
    thinking_budget: Any = None,
    stream: bool = False,
    max_new_tokens: int | None = None,
    loop_guard: LoopGuard | None = None,
    row_controls: Sequence[RowControl] = (),
    template_variables: Mapping[str, Any] | None = None,
    **settings: Any,
) -> "ChatStream | AssistantMessage":
    """Answer a conversation; see `SeedOssForCausalLM.chat`."""
    settings = checked_settings(settings)
    config = model.generation_config
    ends = settings.get("eos_token_id", config.eos_token_id if config is not None else None)
    turn = prepare_turn(
        tokenizer,
        messages,
        tools=tools,
        tool_choice=tool_choice,
        response_format=response_format,
        parallel_tool_calls=parallel_tool_calls,
        vocab_size=model.config.vocab_size,
        thinking_budget=thinking_budget,
        max_new_tokens=_max_new_tokens(config) if max_new_tokens is None else max_new_tokens,
        end_token_ids=[ends] if isinstance(ends, int) else list(ends or ()),
        loop_guard=loop_guard,
        controls=row_controls,
        template_variables=template_variables,
    )
    answer = ChatStream(model, tokenizer, turn, settings)
    if stream:
        return answer
    with answer:
        for _ in answer:
            pass
    return answer.message


def _max_new_tokens(config: Any) -> int:
    advised = None if config is None else config.max_new_tokens
    return DEFAULT_MAX_NEW_TOKENS if advised is None else advised
