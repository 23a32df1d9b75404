"""Running a model over guesses: one forward for several tokens, as many of which count as were guessed right.

The loop around it is the plain one: it asks for the scores of one token after the other, and what it chose is compared
with the guess. As long as they agree, the scores of the next token are there already. So every token is chosen from
the same scores, by the same processors, controls and noise as without guesses, and the distribution is kept exactly:
a guess is accepted with the probability with which it would have been drawn.

The rows of a batch stay in step. A forward counts for as many tokens as were guessed right in every row that has not
ended; rows that were guessed right further on have their tokens verified again.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from seed_oss.cache import Cache
from seed_oss.generation.columns import Columns
from seed_oss.generation.drafting import Drafter
from seed_oss.generation.runner import ModelRunner, Runner
from seed_oss.generation.steering import Steering


class SpeculativeRunner(Runner):
    """See Runner.

    Args:
        runner: runs the model.
        drafter: guesses.
        steering: the row controls; tokens that they force are no guess, and come first.
        max_length: columns of ids at the end, beyond which nothing is guessed.
    """

    def __init__(self, runner: ModelRunner, drafter: Drafter, steering: Steering, max_length: int) -> None:
        self._runner, self._drafter, self._steering, self._max_length = runner, drafter, steering, max_length
        self._guesses: list[list[int]] = []  # per row, of the last forward
        self._num_guessed = 0
        self._num_right = 0
        self._logits: Tensor | None = None  # [batch, 1 + guessed, vocab]

    @property
    def cache(self) -> Cache | None:
        """See Runner.cache."""
        return self._runner.cache

    def prefill(self) -> Any:
        """See Runner.prefill."""
        return self._runner.prefill()

    def repeat(self, times: int) -> None:
        """See Runner.repeat."""
        self._runner.repeat(times)

    def step(self, tokens: Tensor, ids: Columns, done: Sequence[bool]) -> Any:
        """See Runner.step."""
        if self._is_guessed(tokens, done):
            self._num_right += 1
        else:
            self._settle()
            self._guess(ids, done)
            guesses = torch.tensor(self._guesses, dtype=torch.int64, device=tokens.device)
            self._logits = self._runner.run(torch.cat((tokens[:, None], guesses), dim=1)).logits
        assert self._logits is not None
        return SimpleNamespace(logits=self._logits[:, self._num_right : self._num_right + 1])

    def finish(self) -> None:
        """Leave no wrong guess in the cache."""
        self._settle()

    def _is_guessed(self, tokens: Tensor, done: Sequence[bool]) -> bool:
        at = self._num_right
        if at == self._num_guessed:
            return False
        rows = zip(self._guesses, tokens.tolist(), done, strict=True)
        return all(ended or guesses[at] == token for guesses, token, ended in rows)

    def _settle(self) -> None:
        """Take back what was guessed wrong."""
        if self._num_guessed:
            self._runner.take_back(self._num_guessed - self._num_right)
            self._drafter.judge(self._num_right, self._num_guessed)
        self._num_guessed = self._num_right = 0

    def _guess(self, ids: Columns, done: Sequence[bool]) -> None:
        limit = min(self._drafter.num_tokens, self._max_length - len(ids) - 1)  # the last token is never run
        rows = self._drafter.propose(ids, limit, done) if limit > 0 else [[] for _ in done]
        rows = [self._steering.forced_run(row, limit) or guesses for row, guesses in enumerate(rows)]
        self._num_guessed = min(len(guesses) for guesses, ended in zip(rows, done, strict=True) if not ended)
        filler = [0] * self._num_guessed
        self._guesses = [
            filler if ended else guesses[: self._num_guessed] for guesses, ended in zip(rows, done, strict=True)
        ]
