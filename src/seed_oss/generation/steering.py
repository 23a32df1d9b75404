"""The row controls of a batch: what each says of the next token, and what that does to scores and choice."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.generation.row_control import FREE, GRAMMAR_ERROR, Directive, RowControl, combine
from seed_oss.generation.sampling import NO_TOKEN

RowControls = tuple[RowControl, ...]


@dataclass
class _Row:
    """The controls of one row and their states."""

    controls: RowControls
    states: list[Any]

    def directive(self) -> Directive:
        return combine([one.directive(state) for one, state in zip(self.controls, self.states, strict=True)])

    def advance(self, token_id: int) -> None:
        pairs = zip(self.controls, self.states, strict=True)
        self.states = [one.advance(state, token_id) for one, state in pairs]

    def forced_run(self, limit: int) -> list[int]:
        """Tokens that will be forced from here on, tried without being taken."""
        ahead = _Row(self.controls, list(self.states))
        run: list[int] = []
        while len(run) < limit:
            token = ahead.directive().forced
            if token is None:
                break
            run.append(token)
            ahead.advance(token)
        return run


class Steering:
    """Applies row controls step by step. Without any it does nothing and looks at nothing.

    Args:
        controls: the controls of each row, none for a row that runs freely.
        prompts: each row's prompt without padding.
        max_new: most new tokens.
    """

    def __init__(self, controls: Sequence[RowControls], prompts: Sequence[Sequence[int]], max_new: int) -> None:
        self._rows: dict[int, _Row] = {}
        for index, (row, prompt) in enumerate(zip(controls, prompts, strict=True)):
            if row:
                self._rows[index] = _Row(row, [one.start(prompt, max_new) for one in row])
        self._num_rows = len(controls)
        self._directives: dict[int, Directive] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def look(self, done: Sequence[bool]) -> None:
        """Ask the controls of the rows that are not done what may come next."""
        self._directives = {index: row.directive() for index, row in self._rows.items() if not done[index]}

    def directive(self, row: int) -> Directive:
        """What was said of the row's next token."""
        return self._directives.get(row, FREE)

    def stops(self) -> dict[int, str]:
        """The rows that end without another token, and why."""
        return {index: one.stop for index, one in self._directives.items() if one.stop is not None}

    def states(self) -> list[tuple[Any, ...]]:
        """Per row, the state of each of its controls."""
        return [tuple(self._rows[row].states) if row in self._rows else () for row in range(self._num_rows)]

    def forced(self) -> list[bool]:
        """Per row, whether the next token is forced."""
        return [self.directive(row).forced is not None for row in range(self._num_rows)]

    def advance(self, row: int, token_id: int) -> None:
        """Take notice of the token that a row got."""
        if row in self._rows:
            self._rows[row].advance(token_id)

    def forced_run(self, row: int, limit: int) -> list[int]:
        """Tokens that will be forced from here on, `limit` at most."""
        return self._rows[row].forced_run(limit) if row in self._rows else []

    def restrict(self, logits: Tensor) -> Tensor:
        """Give what may not come no chance.

        Args:
            logits: float32 `[batch, vocab]`; not written to.

        Returns:
            float32 `[batch, vocab]`.
        """
        limited = {index: one for index, one in self._directives.items() if _is_limit(one)}
        if not limited:
            return logits
        logits = logits.clone()
        for index, directive in limited.items():
            if directive.allowed is not None:
                _forbid_others(logits[index], directive.allowed)
            if directive.banned:
                logits[index, _inside(directive.banned, logits)] = -math.inf
        return logits

    def uphold(self, tokens: Tensor, scores: Tensor, logits: Tensor) -> Tensor:
        """Take back what logits processors have forced upon a row whose controls forbid it, as at the longest length.

        Args:
            tokens: int64 `[batch]`, as chosen.
            scores: float32 `[batch, vocab]` that they were chosen by; not written to.
            logits: float32 `[batch, vocab]`, as `restrict` got them.

        Returns:
            float32 `[batch, vocab]` to choose by anew; `scores` itself where that need not be.
        """
        limited = {index: one for index, one in self._directives.items() if one.forced is None and _is_limit(one)}
        chosen = tokens.tolist() if limited else []
        overruled = [index for index, one in limited.items() if not _lets_come(one, chosen[index])]
        if not overruled:
            return scores
        held, scores = self.restrict(logits), scores.clone()
        for index in overruled:
            scores[index].masked_fill_(held[index] == -math.inf, -math.inf)
            if bool((scores[index] == -math.inf).all()):
                scores[index] = held[index]
        return scores

    def left_without(self, tokens: Tensor, scores: Tensor) -> dict[int, str]:
        """The rows that end because the logits processors forbid all that their controls allow, and why.

        Args:
            tokens: int64 `[batch]`, as chosen.
            scores: float32 `[batch, vocab]` that they were chosen by.
        """
        limited = [index for index, one in self._directives.items() if one.forced is None and _is_limit(one)]
        if not limited:
            return {}
        chosen = tokens.tolist()
        lost = [index for index in limited if chosen[index] == NO_TOKEN]
        return {index: GRAMMAR_ERROR for index in lost if bool((scores[index] == -math.inf).all())}  # and no NaN

    def force(self, tokens: Tensor, vocab_size: int) -> Tensor:
        """Put forced tokens in place of the chosen ones, int64 `[batch]`.

        Raises:
            InputError: a control forces a token that the vocabulary does not have.
        """
        forced = {index: one.forced for index, one in self._directives.items() if one.forced is not None}
        if not forced:
            return tokens
        wrong = next((token for token in forced.values() if not 0 <= token < vocab_size), None)
        if wrong is not None:
            raise InputError(f"a row control forces token {wrong}; allowed are 0 to {vocab_size - 1}")
        rows = torch.tensor(list(forced), device=tokens.device)
        return tokens.index_put((rows,), torch.tensor(list(forced.values()), device=tokens.device))


def _is_limit(directive: Directive) -> bool:
    return bool(directive.banned) or directive.allowed is not None


def _lets_come(directive: Directive, token: int) -> bool:
    """Whether a token may come; none that was chosen is nobody's fault here."""
    allowed = directive.allowed
    inside = allowed is None or (token < allowed.shape[0] and bool(allowed[token]))
    return token == NO_TOKEN or (inside and token not in directive.banned)


def _forbid_others(row: Tensor, allowed: Tensor) -> None:
    """In place; entries beyond the mask are not allowed."""
    length = min(allowed.shape[0], row.shape[0])
    row[:length].masked_fill_(~allowed[:length].to(row.device), -math.inf)
    row[length:] = -math.inf


def _inside(banned: Iterable[int], logits: Tensor) -> Tensor:
    """Banned ids as a tensor; those outside the vocabulary cannot come anyway."""
    inside = [token for token in banned if 0 <= token < logits.shape[1]]
    return torch.tensor(inside, dtype=torch.int64, device=logits.device)


def controls_per_row(given: Any, num_prompts: int, repeats: int) -> list[RowControls]:
    """The argument `row_controls` of `generate`, one entry per row.

    Args:
        given: None; a RowControl for all rows; or a list with a RowControl, None, or a list of RowControl per prompt.
        num_prompts: how many prompts there are.
        repeats: `num_return_sequences`.

    Raises:
        InputError: something else, or a list of another length.
    """
    if given is None:
        return [()] * (num_prompts * repeats)
    if isinstance(given, RowControl):
        return [(given,)] * (num_prompts * repeats)
    if not isinstance(given, list | tuple):
        raise InputError(
            f"row_controls is a {type(given).__name__}; it must be a RowControl, or a list with one per prompt"
        )
    if len(given) != num_prompts:
        raise InputError(
            f"row_controls has {len(given)} entries for {num_prompts} prompts; give one (or None) per prompt, and not "
            "one per num_return_sequences"
        )
    rows = [_row_controls(f"row_controls[{index}]", one) for index, one in enumerate(given)]
    return [row for row in rows for _ in range(repeats)]


def _row_controls(place: str, given: Any) -> RowControls:
    many: Any = () if given is None else (given,) if isinstance(given, RowControl) else given
    if not isinstance(many, list | tuple):
        raise InputError(f"{place} is a {type(many).__name__}; it must be a RowControl, None, or a list of RowControl")
    controls = cast("Sequence[Any]", many)
    for index, one in enumerate(controls):
        if not isinstance(one, RowControl):
            raise InputError(f"{place}[{index}] is a {type(one).__name__}; it must be a RowControl")
    return tuple(controls)
