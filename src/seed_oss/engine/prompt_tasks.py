"""What is wanted of a prompt's own tokens, taken up chunk by chunk; how the prompt is cut changes no bit of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from seed_oss.engine.messages import (
    MAX_FLOAT_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_TOKEN_ID_BYTES,
    Computed,
    LogProbs,
    Submit,
)
from seed_oss.errors import InputError, NumericalError
from seed_oss.generation.token_log_probs import token_log_probs

Logits = Callable[[Tensor], Tensor]
"""From hidden states `[n, hidden_size]` to float32 logits `[n, vocab]`."""

_FRAME_BYTES = 1024  # of a result, beside what it says of each token
ROWS_AT_ONCE = 64  # of logits: 155,136 words of fp32 are 38 MiB


class PromptTask(ABC):
    """Follows the hidden states of one prompt."""

    needs_all = True
    """Whether it looks at every token, so that none may be taken from the cache."""

    @abstractmethod
    def see(self, hidden: Tensor, token_ids: Sequence[int], start: int) -> None:
        """Take up the next tokens.

        Args:
            hidden: `[n, hidden_size]`, behind the last norm.
            token_ids: the tokens they belong to.
            start: position of the first of them. One that was seen before is passed over: a prompt that was put off
                comes again.
        """

    @abstractmethod
    def result(self, request_id: str) -> Computed:
        """What came of it, once all tokens were seen.

        Raises:
            NumericalError: it is not a number.
        """


class PromptLogProbs(PromptTask):
    """Log-probabilities of the prompt's tokens, never more than a few rows of logits at a time.

    Args:
        prompt_ids: all of the prompt.
        num_top: how many of the most probable tokens are kept beside each.
        logits: the head of the model.
    """

    def __init__(self, prompt_ids: Sequence[int], num_top: int, logits: Logits) -> None:
        self._prompt_ids, self._num_top, self._logits = prompt_ids, num_top, logits
        self._own: list[float | None] = [None]
        self._ids: list[tuple[int, ...]] = [()]
        self._top: list[tuple[float, ...]] = [()]

    def see(self, hidden: Tensor, token_ids: Sequence[int], start: int) -> None:
        """See PromptTask."""
        num_known = len(self._own) - 1  # the next to look at is the hidden state of token `num_known`
        end = min(start + len(token_ids), len(self._prompt_ids) - 1)
        for first in range(max(start, num_known), end, ROWS_AT_ONCE):
            last = min(first + ROWS_AT_ONCE, end)
            following = torch.tensor(self._prompt_ids[first + 1 : last + 1])
            logits = self._logits(hidden[first - start : last - start])
            own, top, ids = token_log_probs(logits, following.to(logits.device), self._num_top)
            self._own += own.tolist()
            self._top += map(tuple, top.tolist())
            self._ids += map(tuple, ids.tolist())

    def result(self, request_id: str) -> Computed:
        """See PromptTask."""
        if any(one is not None and not torch.tensor(one).isfinite() for one in self._own):
            raise NumericalError("the log-probabilities of the prompt are not finite; check the weights")
        return Computed(request_id, (), LogProbs(tuple(self._own), tuple(self._ids), tuple(self._top)))


class Pooling(PromptTask):
    """One vector for a prompt: the hidden state of its last token, or the mean of all.

    Args:
        num_tokens: of the prompt.
        takes_mean: the mean.
        normalizes: give it length 1.
    """

    def __init__(self, num_tokens: int, *, takes_mean: bool, normalizes: bool) -> None:
        self._num_tokens, self._takes_mean, self._normalizes = num_tokens, takes_mean, normalizes
        self.needs_all = takes_mean
        self._num_seen = 0
        self._sum: Tensor | None = None

    def see(self, hidden: Tensor, token_ids: Sequence[int], start: int) -> None:
        """See PromptTask."""
        new = hidden[max(self._num_seen - start, 0) : self._num_tokens - start].double()
        if not len(new):
            return
        if self._sum is None or not self._takes_mean:
            self._sum = new.cumsum(dim=0)[-1] if self._takes_mean else new[-1].clone()
        else:
            self._sum = torch.cat((self._sum[None], new)).cumsum(dim=0)[-1]  # one after the other, however it was cut
        self._num_seen = start + len(token_ids)

    def result(self, request_id: str) -> Computed:
        """See PromptTask."""
        assert self._sum is not None
        vector = (self._sum / self._num_tokens if self._takes_mean else self._sum).float()
        if self._normalizes:
            vector = vector / vector.norm().clamp(min=torch.finfo(torch.float32).tiny)
        return Computed(request_id, (_finite(vector),))


class TokenHead(PromptTask):
    """A head applied to every token, or to the last one.

    Args:
        num_tokens: of the prompt.
        head: from hidden states `[n, hidden_size]` to `[n, labels]`.
        last_only: the last token's alone.
    """

    def __init__(self, num_tokens: int, head: Logits, *, last_only: bool) -> None:
        self._num_tokens, self._head, self._last_only = num_tokens, head, last_only
        self.needs_all = not last_only
        self._values: list[tuple[float, ...]] = []
        self._num_seen = 0

    def see(self, hidden: Tensor, token_ids: Sequence[int], start: int) -> None:
        """See PromptTask."""
        first = self._num_tokens - 1 if self._last_only else self._num_seen
        new = hidden[max(first - start, 0) : self._num_tokens - start]
        self._values += [_finite(row) for row in self._head(new)] if len(new) else []
        self._num_seen = max(self._num_seen, start + len(token_ids))

    def result(self, request_id: str) -> Computed:
        """See PromptTask."""
        return Computed(request_id, tuple(self._values))


class PromptTasks:
    """Makes them.

    Args:
        logits: the language-model head, or None.
        head: another head, or None.
        num_labels: numbers that the other head gives for a token.
    """

    def __init__(self, logits: Logits | None, head: Logits | None = None, num_labels: int = 1) -> None:
        self._logits, self._head, self._num_labels = logits, head, num_labels

    def of(self, submit: Submit, prompt_ids: Sequence[int]) -> PromptTask | None:
        """What follows the prompt of a request; None where nothing is asked of it.

        Raises:
            InputError: an option that is unknown or has a wrong value, or a result that is too large for one message.
        """
        if submit.task == "embed":
            return _pooling(submit, len(prompt_ids))
        if submit.options:
            raise InputError(f"options of the task {submit.task!r} are none; those given belong to others")
        num_top = submit.params.prompt_logprobs
        if submit.task in ("generate", "score"):
            wanted = num_top is not None or submit.task == "score"
            assert self._logits is not None
            if not wanted:
                return None
            per_token = 6 + MAX_FLOAT_BYTES + (num_top or 0) * (MAX_FLOAT_BYTES + MAX_TOKEN_ID_BYTES)
            _check_size(f"prompt_logprobs is {num_top or 0}", len(prompt_ids), per_token)
            return PromptLogProbs(prompt_ids, num_top or 0, self._logits)
        assert self._head is not None
        if submit.task != "classify":
            per_token = 3 + self._num_labels * MAX_FLOAT_BYTES
            _check_size(f"a token has {self._num_labels} labels", len(prompt_ids), per_token)
        return TokenHead(len(prompt_ids), self._head, last_only=submit.task == "classify")


def _check_size(said: str, num_tokens: int, per_token: int) -> None:
    """Refuse a result that does not go into one message."""
    most = (MAX_MESSAGE_BYTES - _FRAME_BYTES) // per_token
    if num_tokens > most:
        raise InputError(f"{said} and the prompt has {num_tokens} tokens; the limit is {most}; send less at once")


def _pooling(submit: Submit, num_tokens: int) -> Pooling:
    options = {"pooling": "last", "normalize": True, **submit.options}
    pooling, normalize = options.pop("pooling"), options.pop("normalize")
    if options:
        raise InputError(f"option {next(iter(options))!r:.80} is unknown; embeddings take pooling and normalize")
    if pooling not in ("last", "mean"):
        raise InputError(f"pooling is {pooling!r:.80}; it must be 'last' or 'mean'")
    if not isinstance(normalize, bool):
        raise InputError(f"normalize is {normalize!r:.80}; it must be true or false")
    return Pooling(num_tokens, takes_mean=pooling == "mean", normalizes=normalize)


def _finite(values: Tensor) -> tuple[float, ...]:
    if not bool(values.isfinite().all()):
        raise NumericalError("the result is not a number; check the weights, or load the model in bfloat16 or float32")
    return tuple(values.float().tolist())
