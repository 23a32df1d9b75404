"""Guesses of a smaller model with the same vocabulary."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seed_oss.generation.columns import Columns
from seed_oss.generation.drafting import Drafter
from seed_oss.generation.processors import LogitsProcessorList
from seed_oss.generation.runner import ModelRunner
from seed_oss.generation.sampling import Chooser


class DraftModel(Drafter):
    """Runs the smaller model ahead of the large one.

    It chooses as the large model does: with the same logits processors and, when sampling, with the same noise for the
    same row and token index. So both come to the same token about as often as their distributions overlap.

    Args:
        runner: runs the draft model, with the prompt that the large model has.
        repeats: how often to repeat each row once the prompt has run.
        num_prompt_columns: length of the padded prompts.
        choose: picks tokens, by (seed, row, token index) alone.
        processors: change the scores; they are called on guesses as well, and must not remember.
        num_tokens: most tokens to guess.
        threshold: stop guessing once a guessed token had less than this probability.
    """

    def __init__(
        self,
        runner: ModelRunner,
        repeats: int,
        num_prompt_columns: int,
        choose: Chooser,
        processors: LogitsProcessorList,
        num_tokens: int,
        threshold: float,
    ) -> None:
        self._runner, self._repeats, self._num_prompt = runner, repeats, num_prompt_columns
        self._choose, self._processors = choose, processors
        self._num_tokens, self._threshold = num_tokens, threshold
        self._guessed: Tensor | None = None  # int64 `[batch, n]`: what was run beyond what was known then
        self._num_known = 0  # columns of ids that were run before those

    @property
    def num_tokens(self) -> int:
        """See Drafter.num_tokens."""
        return self._num_tokens

    def propose(self, ids: Columns, limit: int, done: Sequence[bool]) -> list[list[int]]:
        """See Drafter.propose."""
        logits = self._catch_up(ids.view(), done)
        text, guesses = ids.view(), list[Tensor]()
        while True:
            scores = self._processors(text, logits) if self._processors else logits
            tokens = self._choose(scores, text.shape[1] - self._num_prompt).clamp(min=0)
            guesses.append(tokens)
            if len(guesses) == limit or self._is_unsure(scores, tokens, done):
                break
            text = torch.cat((text, tokens[:, None]), dim=1) if self._processors else _longer(text)
            logits = _last(self._runner.run(tokens[:, None]))
        self._num_known, self._guessed = len(ids), torch.stack(guesses[:-1], dim=1) if guesses[:-1] else None
        return torch.stack(guesses, dim=1).tolist()

    def _catch_up(self, ids: Tensor, done: Sequence[bool]) -> Tensor:
        """Run what has become known; `[batch, vocab]` logits of what follows."""
        if not self._num_known:
            self._runner.prefill()
            if self._repeats > 1:
                self._runner.repeat(self._repeats)
            self._num_known = self._num_prompt
        start = self._num_known
        if self._guessed is not None:
            num_right = _num_equal(ids[:, start:-1], self._guessed, done)
            self._runner.take_back(self._guessed.shape[1] - num_right)
            start += num_right
        return _last(self._runner.run(ids[:, start:]))

    def _is_unsure(self, scores: Tensor, tokens: Tensor, done: Sequence[bool]) -> bool:
        if self._threshold <= 0.0:
            return False
        probs = scores.softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1).tolist()
        return any(prob < self._threshold for prob, ended in zip(probs, done, strict=True) if not ended)


def _last(output: object) -> Tensor:
    logits: Tensor = output.logits  # type: ignore[attr-defined]
    return logits[:, -1].float()


def _longer(text: Tensor) -> Tensor:
    """One column more, where nobody looks at what is in them."""
    return text.new_empty(()).expand(text.shape[0], text.shape[1] + 1)


def _num_equal(known: Tensor, guessed: Tensor, done: Sequence[bool]) -> int:
    """Leading columns in which all rows that have not ended agree."""
    length = min(known.shape[1], guessed.shape[1])
    ended = torch.tensor(done, device=known.device)
    equal = ((known[:, :length] == guessed[:, :length]) | ended[:, None]).all(dim=0)
    return int(equal.long().cumprod(dim=0).sum())
