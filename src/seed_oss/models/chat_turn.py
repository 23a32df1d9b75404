"""A conversation made ready to be answered: prompt, thinking budget and what else steers the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seed_oss.chat.budget import ThinkingBudget
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.errors import InputError, TokenizerError
from seed_oss.generation.grammar import grammar_control
from seed_oss.generation.loop_guard import LoopGuard
from seed_oss.generation.row_control import RowControl
from seed_oss.generation.thinking import ThinkingControl, ThinkingTokens
from seed_oss.models.chat_arguments import check_guard, checked_controls, checked_messages, checked_variables

DEFAULT_MAX_NEW_TOKENS = 4096


@dataclass(frozen=True)
class ChatTurn:
    """A prompt that is ready to be answered.

    Args:
        input_ids: int64 `[1, length]`, up to where the answer begins.
        max_new_tokens: most tokens of the answer.
        tools: the tools in the prompt.
        thinking: holds the answer to its thinking budget; None for a model that does not think.
        controls: what else steers the answer.
    """

    input_ids: Tensor
    max_new_tokens: int
    tools: Sequence[Mapping[str, Any]] | None = None
    thinking: ThinkingControl | None = None
    controls: tuple[RowControl, ...] = ()

    @property
    def row_controls(self) -> list[RowControl]:
        """All that steers the answer; the budget first, since it may force tokens."""
        return [*([self.thinking] if self.thinking is not None else []), *self.controls]

    def reasoning_tokens(self, new_ids: Sequence[int]) -> int:
        """How many tokens of an answer were thinking."""
        return ReasoningMeter(self).count(new_ids)


class ReasoningMeter:
    """Counts the thinking of an answer while it comes.

    Args:
        turn: the prompt.
    """

    def __init__(self, turn: ChatTurn) -> None:
        self._control = turn.thinking
        self._num_seen = self._late = 0
        if self._control is not None:
            self._state = self._control.start(turn.input_ids[0].tolist(), turn.max_new_tokens)
            self._before = self._state.used

    def count(self, new_ids: Sequence[int]) -> int:
        """How many tokens were thinking.

        Args:
            new_ids: all tokens of the answer so far.
        """
        control = self._control
        if control is None:
            return 0
        for token_id in new_ids[self._num_seen :]:
            is_open = self._state.is_thinking or self._state.has_thought
            if token_id == control.tokens.end_think and not is_open:
                self._late = self._num_seen  # the model has left out the start: all before was thinking
            self._state = control.advance(self._state, token_id)
            self._num_seen += 1
        return self._state.used - self._before + self._late


@dataclass(frozen=True, slots=True)
class ChatUsage:
    """How many tokens a turn took.

    Args:
        prompt_tokens: of the prompt, what a budget appended to it included.
        completion_tokens: of the answer.
        reasoning_tokens: of these, thinking, reflections included.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int


def prepare_turn(
    tokenizer: SeedOssTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: Any = None,
    response_format: Any = None,
    parallel_tool_calls: bool = True,
    thinking_budget: Any = None,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    vocab_size: int | None = None,
    end_token_ids: Sequence[int] = (),
    loop_guard: LoopGuard | None = None,
    controls: Sequence[RowControl] = (),
    template_variables: Mapping[str, Any] | None = None,
) -> ChatTurn:
    """Render and encode a conversation, and set up what its budget needs.

    Args:
        tokenizer: with a chat template.
        messages: the conversation so far.
        tools: tools as JSON schemas.
        tool_choice, response_format, parallel_tool_calls: see `SeedOssForCausalLM.chat`.
        thinking_budget: a number, None for no limit, a ThinkingBudget, or fields of a request.
        max_new_tokens: most tokens of the answer.
        vocab_size: length of the model's logits, for an answer that is held to a form; None takes the tokenizer's.
        end_token_ids: ids that end an answer besides the tokenizer's own.
        loop_guard: ends thinking or an answer that repeats itself.
        controls: further controls of the answer.
        template_variables: for the checkpoint's template.

    Raises:
        InputError: an argument of a wrong type or out of range, or the answer cannot be held to its form.
        MissingExtraError: a form, and the package that holds answers to it is not installed.
        TemplateError: the messages cannot be rendered.
        TokenizerError: a budget for a vocabulary without the markers of thinking, or calls for one without theirs.
    """
    budget = ThinkingBudget.of(thinking_budget)
    variables = checked_variables(template_variables)
    check_guard(loop_guard)
    controls = checked_controls(controls)
    if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens!r}; it must be an integer >= 1")
    wanted = {
        "tool_choice": tool_choice,
        "response_format": response_format,
        "parallel_tool_calls": parallel_tool_calls,
    }
    form = _form_control(tokenizer, tools, wanted, vocab_size, end_token_ids)
    if budget.template_value != -1:
        variables["thinking_budget"] = budget.template_value
    ids: list[int] = tokenizer.apply_chat_template(
        checked_messages(messages), tools=tools, add_generation_prompt=True, return_dict=False, **variables
    )
    thinking = _thinking_control(tokenizer, budget, end_token_ids, loop_guard)
    return _turn(ids, max_new_tokens, tools, thinking, (*form, *controls))


def steered_turn(
    tokenizer: SeedOssTokenizer,
    prompt_ids: Sequence[int],
    budget: ThinkingBudget,
    *,
    tools: Any = None,
    tool_choice: Any = None,
    response_format: Any = None,
    parallel_tool_calls: bool = True,
    max_new_tokens: int,
    vocab_size: int,
    end_token_ids: Sequence[int] = (),
    loop_guard: LoopGuard | None = None,
) -> ChatTurn:
    """The same as `prepare_turn` for a conversation that somebody else has rendered and encoded.

    Args:
        tokenizer: that it was encoded with.
        prompt_ids: the prompt.
        budget: of thinking; that it stands in the prompt, too, was the other's to do.
        tools, tool_choice, response_format, parallel_tool_calls: see `SeedOssForCausalLM.chat`.
        max_new_tokens: most tokens of the answer.
        vocab_size: length of the model's logits.
        end_token_ids: ids that end an answer besides the tokenizer's own.
        loop_guard: ends thinking or an answer that repeats itself.

    Raises:
        InputError, MissingExtraError, StateError, TokenizerError: see `prepare_turn` and `grammar_control`.
    """
    wanted = {
        "tool_choice": tool_choice,
        "response_format": response_format,
        "parallel_tool_calls": parallel_tool_calls,
    }
    form = _form_control(tokenizer, tools, wanted, vocab_size, end_token_ids)
    thinking = _thinking_control(tokenizer, budget, end_token_ids, loop_guard)
    return _turn(prompt_ids, max_new_tokens, tools, thinking, form)


def _turn(
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    tools: Any,
    thinking: ThinkingControl | None,
    controls: tuple[RowControl, ...],
) -> ChatTurn:
    """The turn, its prompt going on to where the answer begins."""
    suffix = [] if thinking is None else thinking.prompt_suffix(prompt_ids, max_new_tokens)
    return ChatTurn(torch.tensor([[*prompt_ids, *suffix]]), max_new_tokens, tools, thinking, controls)


def _form_control(
    tokenizer: SeedOssTokenizer, tools: Any, wanted: Mapping[str, Any], vocab_size: int | None, ends: Sequence[int]
) -> tuple[RowControl, ...]:
    """What holds the answer to a form or to its tools; nothing where nothing is asked for, tools or not."""
    parallel = wanted["parallel_tool_calls"]
    if not isinstance(parallel, bool):
        raise InputError(f"parallel_tool_calls is {parallel!r:.80}; it must be True or False")
    if parallel and wanted["tool_choice"] is None and wanted["response_format"] is None:
        return ()
    control = grammar_control(tokenizer, tools=tools, vocab_size=vocab_size, eos_token_id=ends, **wanted)
    return () if control is None else (control,)


def _thinking_control(
    tokenizer: SeedOssTokenizer, budget: ThinkingBudget, ends: Sequence[int], guard: LoopGuard | None
) -> ThinkingControl | None:
    try:
        tokens = ThinkingTokens.of(tokenizer, ends)
    except TokenizerError:
        if budget.tokens:  # None and 0 hold by themselves where nothing thinks
            raise
        return None
    return ThinkingControl(tokens, budget, guard)
