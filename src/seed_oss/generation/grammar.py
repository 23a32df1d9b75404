"""Holds a row to a grammar: think freely, then obey.

    prompt ──► thinking ──► answer, constrained from its first token on          (a form, or calls that must come)
                       └──► free text ──► call, constrained ──► free text ...    (calls as the model likes)

A blank line after `</seed:think>` is no part of the answer. Once the answer is complete, only its end may come.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from seed_oss.chat.control_tokens import BOS, END_THINK, END_TOOL_CALL, EOS, THINK, TOOL_CALL
from seed_oss.chat.output_format import OutputFormat
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.chat.tool_choice import ToolChoice, tool_functions
from seed_oss.errors import InputError, StateError
from seed_oss.generation.grammar_compiler import CompiledGrammar, GrammarCompiler
from seed_oss.generation.row_control import FREE, GRAMMAR_ERROR, Directive, RowControl

_MAX_NEWLINES = ("\n", "\n\n")
# Processor time for the masks of one row: an ambiguous grammar may want time with the cube of an answer's length.
MAX_ROW_SECONDS = 10.0
MAX_SECONDS_PER_MASK = 0.02  # on top, for each mask; usual are 0.0001 to 0.002


@dataclass(frozen=True)
class GrammarTokens:
    """Ids that a grammar's control looks at; None for those that a vocabulary lacks.

    Attributes:
        ends: ids that end an answer.
        bos: opens a turn.
        think, end_think, tool_call, end_tool_call: ids of the markers.
        newlines: ids of one or two line breaks.
    """

    ends: frozenset[int]
    bos: int | None = None
    think: int | None = None
    end_think: int | None = None
    tool_call: int | None = None
    end_tool_call: int | None = None
    newlines: frozenset[int] = frozenset()

    @classmethod
    def of(cls, tokenizer: Any, ends: Iterable[int] = ()) -> "GrammarTokens":
        """Look them up in a tokenizer.

        Args:
            tokenizer: a SeedOssTokenizer.
            ends: ids that end an answer besides the tokenizer's own eos token and `<seed:eos>`.

        Raises:
            InputError: nothing ends an answer.
        """
        added = tokenizer.get_added_vocab()
        own = (tokenizer.eos_token_id, added.get(EOS.text))
        all_ends = frozenset(ends) | {one for one in own if one is not None}
        if not all_ends:
            raise InputError("the tokenizer has no eos token, so nothing could end an answer; give eos_token_id")
        encoded = [tokenizer.encode(text, add_special_tokens=False) for text in _MAX_NEWLINES]
        markers = (BOS, THINK, END_THINK, TOOL_CALL, END_TOOL_CALL)
        return cls(
            all_ends,
            *(added.get(marker.text) for marker in markers),
            newlines=frozenset(ids[0] for ids in encoded if len(ids) == 1),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    """The last token of a constrained text, and those before it; None is the empty text."""

    token: int
    before: "_Node | None"
    length: int

    @classmethod
    def after(cls, before: "_Node | None", token: int) -> "_Node":
        return cls(token, before, 1 if before is None else before.length + 1)


class _Cursor:
    """One matcher, moved to wherever a state of its row stands: tokens are taken back down to where paths part."""

    def __init__(self, grammar: CompiledGrammar, vocab_size: int) -> None:
        self._grammar = grammar
        self._vocab_size = vocab_size
        self._matcher: Any = None
        self._prototype: Any = None
        self._was_renewed = False
        self._at: _Node | None = None
        self._last: tuple[_Node | None, Tensor | None, bool] | None = None
        self._seconds_left = MAX_ROW_SECONDS

    def look(self, node: _Node | None) -> tuple[Tensor | None, bool]:
        """What may come after a text, ends left out, and whether it may end; no mask where the text is not allowed."""
        if self._last is None or self._last[0] is not node:
            mask, may_end = self._look_in_time(node)
            if mask is None and self._renew():  # the matcher may be worn out, by this row or by others
                mask, may_end = self._look_in_time(node)
            self._last = (node, mask, may_end)
        return self._last[1], self._last[2]

    def _look_in_time(self, node: _Node | None) -> tuple[Tensor | None, bool]:
        if self._seconds_left < 0:
            return None, False
        began = time.thread_time()
        found = self._look(node)
        self._seconds_left += MAX_SECONDS_PER_MASK - (time.thread_time() - began)
        return (None, False) if self._seconds_left < 0 else found

    def _look(self, node: _Node | None) -> tuple[Tensor | None, bool]:
        if not self._move(node):
            return None, False
        may_end = bool(self._matcher.is_accepting())
        mask = self._grammar.mask(self._matcher, self._vocab_size)
        if not self._matcher.is_error():
            return mask, may_end
        self._matcher = None
        return None, False

    def _renew(self) -> bool:
        """Go on with a grammar made anew, once."""
        if self._was_renewed:
            return False
        self._was_renewed = True
        with suppress(InputError, StateError):  # not to be had now: as if it were of no use
            self._grammar.renew(self._prototype)
        self._matcher = None
        return True

    def _move(self, node: _Node | None) -> bool:
        if self._matcher is None:
            self._prototype = self._grammar.prototype
            self._matcher, self._at = self._prototype.deep_copy(), None
        ahead: list[int] = []
        here, there, num_back = self._at, node, 0
        while here is not there:
            if there is not None and (here is None or there.length >= here.length):
                ahead.append(there.token)
                there = there.before
            elif here is not None:
                num_back += 1
                here = here.before
        if num_back and not self._matcher.rollback(num_back):
            self._matcher = None
            return self._move(node)
        # One at a time: meanwhile the package does not let other threads run.
        is_taken = all(self._matcher.try_consume_tokens([token]) == 1 for token in reversed(ahead))
        if not is_taken or self._matcher.is_error():
            self._matcher = None  # where it stands is not told
            return False
        self._at = node
        return True


@dataclass(frozen=True)
class GrammarState:
    """Where a row stands. Values are never changed; the cursor is only a cache.

    Attributes:
        node: the constrained text so far.
        is_constrained: the next token belongs to it.
        is_thinking: inside a think block.
        may_think: a think block may still come.
        may_skip: a blank line may come that is no part of the answer.
        has_called: a call has been closed.
        is_over: an end has come.
    """

    cursor: _Cursor | None = field(repr=False, compare=False)
    node: _Node | None = None
    is_constrained: bool = False
    is_thinking: bool = False
    may_think: bool = True
    may_skip: bool = False
    has_called: bool = False
    is_over: bool = False

    @property
    def is_held(self) -> bool:
        """Whether what comes next takes a mask."""
        return self.is_constrained and not (self.is_thinking or self.is_over)


@dataclass(frozen=True)
class GrammarControl(RowControl):
    """Holds a row to a grammar. One control may serve any number of rows: each gets a matcher of its own in `start`.

    Make one with `grammar_control`.

    Args:
        grammar: what is allowed; None where only calls are forbidden.
        tokens: ids of the vocabulary.
        vocab_size: length of the masks, that of the model's logits.
        only_calls: the grammar is that of one call, and holds from `<seed:tool_call>` to its end; all else is free.
        several_calls: with `only_calls`, whether a second call may come.
    """

    grammar: CompiledGrammar | None
    tokens: GrammarTokens
    vocab_size: int
    only_calls: bool = False
    several_calls: bool = True

    def with_ends(self, ends: frozenset[int]) -> "GrammarControl":
        """See RowControl."""
        known = self.tokens.ends
        return self if ends <= known else replace(self, tokens=replace(self.tokens, ends=known | ends))

    def start(self, prompt_ids: Sequence[int], max_new_tokens: int) -> GrammarState:
        """See RowControl. In an open think block of the prompt everything is free until it is closed."""
        is_thinking, was_closed, is_fresh = self._scan(prompt_ids)
        return GrammarState(
            cursor=None if self.grammar is None else _Cursor(self.grammar, self.vocab_size),
            is_constrained=self._is_whole,
            is_thinking=is_thinking,
            may_think=not (is_thinking or was_closed) or not self._is_whole,
            may_skip=is_fresh,
        )

    @property
    def _is_whole(self) -> bool:
        return self.grammar is not None and not self.only_calls

    def _scan(self, prompt_ids: Sequence[int]) -> tuple[bool, bool, bool]:
        """(thinking, closed, just closed) at the end of the prompt's last turn."""
        tokens = self.tokens
        for position in range(len(prompt_ids) - 1, -1, -1):
            token = prompt_ids[position]
            if token == tokens.think:
                return True, False, False
            if token == tokens.end_think:
                return False, True, position == len(prompt_ids) - 1
            if token == tokens.bos or token in tokens.ends:
                break
        return False, False, False

    def directive(self, state: GrammarState) -> Directive:
        """See RowControl."""
        if state.is_over:  # also where the generation's own settings know no such end
            return Directive(stop="eos") if self._is_whole else FREE
        if state.is_thinking:  # an end here would leave out the answer that is wanted
            return Directive(banned=self.tokens.ends) if self._is_whole else FREE
        if not state.is_constrained:
            return self._outside(state)
        assert state.cursor is not None
        mask, may_end = state.cursor.look(state.node)
        if mask is None:
            return Directive(stop=GRAMMAR_ERROR)
        ends = self.tokens.ends if may_end and self._is_whole else frozenset[int]()
        extra = self._besides(state, ends)
        if extra:
            mask = mask.clone()
            mask[extra] = True
        elif not bool(mask.any()):
            return Directive(stop=GRAMMAR_ERROR)
        # A form that may be empty says nothing yet for an empty answer; one that may be blank, for a blank one.
        return Directive(allowed=mask, completing=frozenset[int]() if state.node is None else ends)

    def _outside(self, state: GrammarState) -> Directive:
        tokens = self.tokens
        banned = {tokens.end_tool_call}
        if self.grammar is None or (state.has_called and not self.several_calls):
            banned.add(tokens.tool_call)
        return Directive(banned=frozenset(one for one in banned if one is not None))

    def _besides(self, state: GrammarState, ends: frozenset[int]) -> list[int]:
        """What may come besides what the grammar says."""
        extra = set(ends)
        if state.node is None and state.may_think and self.tokens.think is not None:
            extra.add(self.tokens.think)
        if state.may_skip:
            extra |= self.tokens.newlines
        return [one for one in extra if one < self.vocab_size]

    def advance(self, state: GrammarState, token_id: int) -> GrammarState:
        """See RowControl."""
        tokens = self.tokens
        if state.is_thinking:
            if token_id == tokens.end_think:
                return replace(state, is_thinking=False, may_think=not self._is_whole, may_skip=True)
            return state
        if state.is_over:
            return state
        if token_id == tokens.think and state.node is None and state.may_think:
            return replace(state, is_thinking=True)
        if token_id in tokens.ends and (not state.is_constrained or self._is_whole):
            return replace(state, is_over=True)
        return self._inside(state, token_id) if state.is_constrained else self._from_outside(state, token_id)

    def _from_outside(self, state: GrammarState, token_id: int) -> GrammarState:
        if self.grammar is None or token_id != self.tokens.tool_call:
            return state
        return replace(state, is_constrained=True, node=_Node.after(None, token_id), may_skip=False)

    def _inside(self, state: GrammarState, token_id: int) -> GrammarState:
        if state.may_skip and token_id in self.tokens.newlines and state.cursor is not None:
            mask, _ = state.cursor.look(state.node)
            if mask is None or not bool(mask[token_id]):
                return replace(state, may_skip=False)
        if self.only_calls and token_id == self.tokens.end_tool_call:
            return replace(state, is_constrained=False, node=None, has_called=True)
        return replace(state, node=_Node.after(state.node, token_id), may_skip=False, may_think=not self._is_whole)


def grammar_control(
    compiler: GrammarCompiler | SeedOssTokenizer,
    *,
    response_format: Any = None,
    tools: Any = None,
    tool_choice: Any = None,
    parallel_tool_calls: bool = True,
    vocab_size: int | None = None,
    eos_token_id: int | Iterable[int] | None = None,
) -> GrammarControl | None:
    """Make the control that holds rows to a form of answer, to the tools given, or to both.

    Args:
        compiler: of the tokenizer; or the tokenizer, whose compiler is made when it is first needed, and kept: see
            `GrammarCompiler.of`.
        response_format: an OutputFormat, or what OpenAI clients send. With tools that may be called, an answer is
            either of this form or calls.
        tools: None, or OpenAI tool definitions.
        tool_choice: None, "none", "auto", "required", or a function by name: see `ToolChoice.of`.
        parallel_tool_calls: whether more than one call may come.
        vocab_size: length of the model's logits; None takes the tokenizer's.
        eos_token_id: ids that end an answer besides the tokenizer's own.

    Returns:
        None where nothing is to be held to.

    Raises:
        InputError: something of it is wrong, over the limits or cannot be enforced. The message names the place.
        MissingExtraError: the package llguidance is not installed.
        StateError: too many other grammars are being compiled.
        TokenizerError: a call is possible, and the vocabulary has no `<seed:tool_call>`.
    """
    output = OutputFormat.of(response_format)
    functions = tool_functions(tools)
    choice = ToolChoice.of(tool_choice, functions)
    tokenizer: SeedOssTokenizer = compiler.tokenizer if isinstance(compiler, GrammarCompiler) else compiler
    given = () if eos_token_id is None else (eos_token_id,) if isinstance(eos_token_id, int) else eos_token_id
    tokens = GrammarTokens.of(tokenizer, given)
    size = len(tokenizer) if vocab_size is None else vocab_size
    if output is None and (choice.mode == "none" or not functions):
        return GrammarControl(None, tokens, size) if functions else None
    if not isinstance(compiler, GrammarCompiler):
        compiler = GrammarCompiler.of(compiler)
    if choice.mode == "none":
        return GrammarControl(compiler.compile(output), tokens, size)
    if choice.mode == "auto" and output is None:
        grammar = compiler.compile(None, functions, several_calls=False)
        return GrammarControl(grammar, tokens, size, only_calls=True, several_calls=parallel_tool_calls)
    callable_ones = [one for one in functions if choice.mode != "named" or one.name == choice.name]
    form = output if choice.mode == "auto" else None
    return GrammarControl(compiler.compile(form, callable_ones, several_calls=parallel_tool_calls), tokens, size)
