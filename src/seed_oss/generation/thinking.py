"""A thinking budget that holds: counts while the model thinks, tells it the true numbers, and closes in trained words.

Counted is every token after `<seed:think>` up to the closing sentence, over all think blocks of the answer, reflections
included. The closing sentence and `</seed:think>` come on top, inside `max_new_tokens`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from seed_oss.chat.budget import BUDGET_SPENT, NO_BUDGET, ThinkingBudget, reflection
from seed_oss.generation.loop_guard import LoopGuard
from seed_oss.generation.row_control import Directive, RowControl
from seed_oss.generation.thinking_tokens import ThinkingTokens

__all__ = ["ThinkingControl", "ThinkingState", "ThinkingTokens"]

MAX_RESERVE = 256
_SENTENCE_ENDS = (".", "!", "?", "。", "！", "？", "…", "\n")


@dataclass(frozen=True, slots=True)
class ThinkingState:
    """Where a row stands. Values are never changed.

    Attributes:
        left: how many tokens may still come.
        reserve: how many of them are kept for the answer.
        used: tokens of thinking so far.
        is_thinking: inside a think block.
        is_reflecting: inside a reflection.
        is_closing: the closing words are being written.
        pending: tokens that must come next.
        sentence_ended: the last token of the thinking ended a sentence.
        has_thought: a think block was closed, in the prompt or since.
        needs_content: nothing but blanks has come since then.
        begun: tokens of a character of the answer that is half written, while nothing else has come.
        closed_by: what closed the last think block: "model", "budget", "length", "loop", or None.
        tail: the last tokens, as far as a loop guard wants them.
        num_new: tokens generated.
    """

    left: int
    reserve: int
    used: int = 0
    is_thinking: bool = False
    is_reflecting: bool = False
    is_closing: bool = False
    pending: tuple[int, ...] = ()
    sentence_ended: bool = True
    has_thought: bool = False
    needs_content: bool = False
    begun: tuple[int, ...] = ()
    closed_by: str | None = None
    tail: tuple[int, ...] = ()
    num_new: int = 0


@dataclass(frozen=True, slots=True)
class _Turn:
    """Where the last turn of a prompt stands.

    Attributes:
        was_closed: a think block was closed in it, and none was opened since.
        has_content: an answer has begun after that.
        inside: tokens of the think block that is open; None without one.
        reflected: tokens of the reflection that is open in that block; None without one.
    """

    was_closed: bool = False
    has_content: bool = False
    inside: Sequence[int] | None = None
    reflected: Sequence[int] | None = None


@dataclass(frozen=True)
class ThinkingControl(RowControl):
    """Holds one row to a thinking budget, and keeps it from ending without an answer.

    Args:
        tokens: ids of the vocabulary.
        budget: the budget; where it has no limit, only the reserve for the answer bounds the thinking, and the model's
            own reflections are left alone.
        guard: closes thinking that repeats itself, and stops an answer that does; None watches for nothing.
        stops_while_thinking: whether stop strings may end the row inside a think block.
    """

    tokens: ThinkingTokens
    budget: ThinkingBudget = field(default_factory=ThinkingBudget)
    guard: LoopGuard | None = None
    stops_while_thinking: bool = False

    def with_ends(self, ends: frozenset[int]) -> "ThinkingControl":
        """See RowControl."""
        known = self.tokens.ends
        return self if ends <= known else replace(self, tokens=replace(self.tokens, ends=known | ends))

    # The prompt

    def prompt_suffix(self, prompt_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """What to append to the prompt so that the answer starts without thinking, where there can be none.

        That is so for a budget of 0, and where the closing words and one token of an answer do not fit.

        Args:
            prompt_ids: the prompt without padding.
            max_new_tokens: how many tokens may come.
        """
        turn, tokens = self._scan(prompt_ids), self.tokens
        is_reflecting = turn.reflected is not None
        skips = self.budget.limit == 0 or max_new_tokens < len(self._closing) + is_reflecting + 1
        if not skips or turn.was_closed:
            return []
        words, newline = tokens.encode(NO_BUDGET), tokens.encode("\n")
        tail = [tokens.end_reflect, *newline, tokens.end_think]
        block = [*newline, tokens.reflect, *words, *tail]
        if turn.inside is None:
            return [tokens.think, *block]
        if (rest := _rest_of(block, turn.inside)) is not None:
            return rest
        if turn.reflected is None:
            return [tokens.reflect, *words, *tail]
        rest = _rest_of(words, turn.reflected)
        return [*(words if rest is None else rest), *tail]

    def start(self, prompt_ids: Sequence[int], max_new_tokens: int) -> ThinkingState:
        """See RowControl. An open think block of the prompt goes on, and what stands in it counts."""
        turn = self._scan(prompt_ids)
        inside = turn.inside or ()
        state = ThinkingState(
            left=max_new_tokens,
            reserve=max(1, min(MAX_RESERVE, max_new_tokens // 4)),
            used=len(inside),
            is_thinking=turn.inside is not None,
            is_reflecting=turn.reflected is not None,
            sentence_ended=not inside or self._ends_sentence(inside[-1]),
            has_thought=turn.was_closed,
            needs_content=turn.was_closed and not turn.has_content,
        )
        opens = turn.reflected is not None and not turn.reflected and self.budget.limit is not None
        return self._with_true_numbers(state) if opens else state

    def _scan(self, prompt_ids: Sequence[int]) -> _Turn:
        """Look at the end of the prompt, back to where its last turn began to think or answer."""
        tokens = self.tokens
        for position in range(len(prompt_ids) - 1, -1, -1):
            token = prompt_ids[position]
            if token == tokens.think:
                return self._open_turn(prompt_ids[position + 1 :])
            if token == tokens.end_think:
                return _Turn(was_closed=True, has_content=any(map(tokens.is_content, prompt_ids[position + 1 :])))
            if token in tokens.ends:
                break
        return _Turn()

    def _open_turn(self, inside: Sequence[int]) -> _Turn:
        tokens = self.tokens
        for position in range(len(inside) - 1, -1, -1):
            if inside[position] == tokens.end_reflect:
                break
            if inside[position] == tokens.reflect:
                return _Turn(inside=inside, reflected=inside[position + 1 :])
        return _Turn(inside=inside)

    # Row by row

    def directive(self, state: ThinkingState) -> Directive:
        """See RowControl."""
        planned = self._planned(state)
        if planned:
            return Directive(forced=planned[0], text_may_end=False)
        if self._is_loop(state):
            return Directive(stop="loop")
        tokens = self.tokens
        if state.is_thinking:
            return Directive(banned=tokens.ends, text_may_end=self.stops_while_thinking)
        banned = set[int]() if self._may_think(state) else {tokens.think}
        if state.has_thought or state.left <= 1:  # a second end of thinking would make the answer a part of it
            banned.add(tokens.end_think)
        withheld = frozenset[int]()  # unless a grammar asks for an empty or blank answer
        if state.needs_content:  # what stands in a reflection is none either
            withheld |= {*tokens.ends, tokens.reflect}
        if state.needs_content and state.left <= 1:
            withheld |= tokens.blanks(state.begun)
        unread = {tokens.end_think} if self.stops_while_thinking else {tokens.think, tokens.end_think}
        if state.needs_content:
            unread |= {tokens.reflect, tokens.end_reflect}
        return Directive(
            banned=withheld | banned,
            text_starts=state.needs_content,
            yielding=withheld,
            unread=frozenset(unread),
        )

    def advance(self, state: ThinkingState, token_id: int) -> ThinkingState:
        """See RowControl."""
        planned = self._planned(state)
        reason = self._reason_to_close(state) if not state.pending else None
        is_closing = state.is_closing or reason is not None
        state = replace(
            state,
            left=state.left - 1,
            num_new=state.num_new + 1,
            used=state.used + (reason is not None and state.is_reflecting),  # the end of it counts
            pending=planned[1:] if planned and planned[0] == token_id else (),
            is_closing=is_closing,
            closed_by=reason or state.closed_by,
            tail=(*state.tail, token_id)[-self.guard.window :] if self.guard else (),
        )
        return self._after_thinking(state, token_id) if state.is_thinking else self._after_answer(state, token_id)

    def _after_thinking(self, state: ThinkingState, token_id: int) -> ThinkingState:
        tokens = self.tokens
        if token_id == tokens.end_think:
            return self._after_end_of_thinking(state)
        opens, closes = token_id == tokens.reflect, token_id == tokens.end_reflect
        state = replace(
            state,
            used=state.used + (not state.is_closing),
            is_reflecting=(state.is_reflecting or opens) and not closes,
            sentence_ended=self._ends_sentence(token_id) or closes,
        )
        may_write = opens and not state.is_closing and not state.pending and self.budget.limit is not None
        return self._with_true_numbers(state) if may_write else state

    def _after_end_of_thinking(self, state: ThinkingState) -> ThinkingState:
        return replace(
            state,
            is_thinking=False,
            is_reflecting=False,
            is_closing=False,
            pending=(),
            has_thought=True,
            needs_content=True,
            closed_by=state.closed_by if state.is_closing else "model",
            tail=(),  # a loop of the thinking is none of the answer
        )

    def _with_true_numbers(self, state: ThinkingState) -> ThinkingState:
        """The model has opened a reflection: write what is true, or, where that does not fit, close."""
        limit = self.budget.limit
        assert limit is not None
        told = (*self.tokens.encode(reflection(state.used, max(limit - state.used, 0))), self.tokens.end_reflect)
        fits = state.left - len(told) > len(self._closing) + state.reserve
        if fits and state.used + len(told) <= limit:
            return replace(state, pending=told)
        # The marker just written opens the closing sentence instead, and so does not count.
        reason = "budget" if state.used + len(told) > limit else "length"
        return replace(state, used=state.used - 1, pending=self._closing[1:], is_closing=True, closed_by=reason)

    def _after_answer(self, state: ThinkingState, token_id: int) -> ThinkingState:
        if token_id == self.tokens.think:
            return replace(state, is_thinking=True, sentence_ended=True, needs_content=False)
        if token_id == self.tokens.end_think:  # of thinking whose start the model has left out
            return self._after_end_of_thinking(state)
        if not state.needs_content:
            return state
        if self.tokens.is_content(token_id, state.begun):
            return replace(state, needs_content=False, begun=())
        is_half = self.tokens.is_half(token_id, state.begun)
        return replace(state, begun=(*state.begun, token_id) if is_half else ())

    # What is decided from a state alone

    def _planned(self, state: ThinkingState) -> tuple[int, ...]:
        """The tokens that must come next, if any."""
        if state.pending:
            return state.pending
        if self._reason_to_close(state) is None:
            return ()
        return (self.tokens.end_reflect, *self._closing) if state.is_reflecting else self._closing

    def _reason_to_close(self, state: ThinkingState) -> str | None:
        if not state.is_thinking or state.is_closing:
            return None
        limit = self.budget.limit
        over = -1 if limit is None else state.used + state.is_reflecting - limit
        if over >= self.budget.grace or (over >= 0 and state.sentence_ended):
            return "budget"
        if state.left - len(self._closing) - 1 <= state.reserve:  # one: a reflection may have to be closed first
            return "length"
        return "loop" if self._is_loop(state) else None

    def _is_loop(self, state: ThinkingState) -> bool:
        guard = self.guard
        due = guard is not None and state.num_new > 0 and state.num_new % guard.every == 0
        return guard is not None and due and guard.is_loop(state.tail)

    def _may_think(self, state: ThinkingState) -> bool:
        limit = self.budget.limit
        has_budget = limit is None or state.used < limit
        return has_budget and state.left > len(self._closing) + 1

    @cached_property
    def _closing(self) -> tuple[int, ...]:
        tokens = self.tokens
        return (
            tokens.reflect,
            *tokens.encode(BUDGET_SPENT),
            tokens.end_reflect,
            *tokens.encode("\n"),
            tokens.end_think,
        )

    def _ends_sentence(self, token_id: int) -> bool:
        text = self.tokens.text_of(token_id).rstrip(" \"')*")
        return text.endswith(_SENTENCE_ENDS)


def _rest_of(whole: Sequence[int], begun: Sequence[int]) -> list[int] | None:
    """What is missing of tokens that were begun; None where these are others."""
    return list(whole[len(begun) :]) if list(whole[: len(begun)]) == list(begun) else None
