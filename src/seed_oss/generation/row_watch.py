"""Which rows are done and why, decided on the host from one transfer of the new tokens per step."""

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from seed_oss.errors import InputError, NumericalError
from seed_oss.generation.columns import Columns
from seed_oss.generation.sampling import NO_TOKEN
from seed_oss.generation.steering import Steering
from seed_oss.generation.stop_strings import StopStringTracker
from seed_oss.generation.stopping import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria, StopStringCriteria


class RowWatch:
    """Applies stopping criteria to a batch that grows by one token per row and step.

    The criteria of this package are followed incrementally; any other one is called with all ids, as documented there.

    Args:
        criteria: stopping criteria.
        prompt_ids: int64 `[batch, length]`.
        pad_token_id: what rows that are done are filled with; None lets them run on.
        streamer: gets the new tokens of each step, or None.
        steering: the row controls, which follow the tokens.
    """

    def __init__(
        self,
        criteria: Iterable[Any],
        prompt_ids: Tensor,
        pad_token_id: int | None,
        streamer: Any,
        steering: Steering | None = None,
    ) -> None:
        self._eos: set[int] = set()
        self._trackers: list[list[StopStringTracker]] = [[] for _ in prompt_ids]
        self._deadlines: list[MaxTimeCriteria] = []
        self._others: list[Any] = []
        self.max_length: int | None = None
        for criterion in criteria:
            self._follow(criterion, prompt_ids)
        self._end_ids = frozenset(self._eos)
        self._pad, self._streamer = pad_token_id, streamer
        self._steering = Steering([], [], 0) if steering is None else steering
        self._prompt_len = prompt_ids.shape[1]
        self._reasons: list[str | None] = [None] * prompt_ids.shape[0]
        self._num_tokens = [0] * prompt_ids.shape[0]
        self._device = prompt_ids.device
        self._done_mask: Tensor | None = None  # on the device, once a row is done and others are not
        self._without_number: Tensor | None = None  # rows, where no step is read
        self._sent: tuple[Tensor, Any] | None = (
            None  # tokens on their way to the host, and what tells that they are there
        )
        self._reads_tokens = bool(self._eos or streamer is not None or any(self._trackers) or self._steering)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a row."""
        return self._end_ids

    @property
    def done(self) -> list[bool]:
        """Per row, whether it has ended."""
        return [reason is not None for reason in self._reasons]

    @property
    def filled(self) -> list[bool]:
        """Per row, whether it gets pads, so that nobody looks at what the model says of it."""
        return self.done if self._pad is not None else [False] * len(self._reasons)

    @property
    def reasons(self) -> list[str | None]:
        """Per row, why it ended: "eos", "stop_string", "criteria", "length", "time", or what a row control said."""
        return list(self._reasons)

    @property
    def num_tokens(self) -> list[int]:
        """Per row, how many new tokens it got before it ended."""
        return list(self._num_tokens)

    def look(self) -> bool:
        """Ask the row controls what may come next, and end the rows that they stop; whether all rows are done."""
        if not self._steering:
            return False
        self._steering.look(self.done)
        return self._stop(self._steering.stops())

    def drop(self, tokens: Tensor, scores: Tensor) -> bool:
        """End the steered rows to which nothing is left that may come; whether all rows are done.

        Args:
            tokens: int64 `[batch]` from a chooser.
            scores: float32 `[batch, vocab]` that they were chosen by.
        """
        return bool(self._steering) and self._stop(self._steering.left_without(tokens, scores))

    def _stop(self, stops: Mapping[int, str]) -> bool:
        if stops:
            self._mark([stops.get(row, reason) for row, reason in enumerate(self._reasons)])
        return all(self.done)

    def _follow(self, criterion: Any, prompt_ids: Tensor) -> None:
        kind = type(criterion)  # a subclass may have changed what it does
        if kind is MaxLengthCriteria:
            self.max_length = min(criterion.max_length, self.max_length or criterion.max_length)
        elif kind is EosTokenCriteria:
            self._eos.update(criterion.eos_token_id.tolist())
        elif kind is MaxTimeCriteria:
            self._deadlines.append(criterion)
        elif kind is StopStringCriteria:
            for trackers, row in zip(self._trackers, prompt_ids.tolist(), strict=True):
                trackers.append(criterion.tracker(row))
        else:
            self._others.append(criterion)

    def settle(self, tokens: Tensor) -> Tensor:
        """The tokens to go on with: pads where a row is done already.

        Args:
            tokens: int64 `[batch]` from a chooser.

        Returns:
            int64 `[batch]`; may still hold NO_TOKEN, which `update` reports.
        """
        if self._done_mask is not None:
            tokens = torch.where(self._done_mask, self._pad, tokens)  # type: ignore[arg-type]
        if self._reads_tokens:
            return tokens
        # Nobody looks at this step: remember the rows, and go on with a token that exists.
        lost = tokens == NO_TOKEN
        self._without_number = lost if self._without_number is None else self._without_number | lost
        return tokens.clamp(min=0)

    def send(self, tokens: Tensor) -> None:
        """Start the transfer that `update` waits for, so that what is started next does not come before it.

        Args:
            tokens: int64 `[batch]` from `settle`.
        """
        if self._reads_tokens and tokens.is_cuda:
            host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            host.copy_(tokens, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(tokens.device))
            self._sent = host, arrived

    def _received(self, tokens: Tensor) -> Tensor:
        """The tokens on the host."""
        if self._sent is None:
            return tokens.cpu()
        (host, arrived), self._sent = self._sent, None
        arrived.synchronize()
        return host

    def update(self, tokens: Tensor, ids: Columns, scores: tuple[Tensor, ...] | None) -> bool:
        """Take notice of a step.

        Args:
            tokens: int64 `[batch]` from `settle`.
            ids: everything so far, `tokens` included.
            scores: processed scores so far, for criteria that ask.

        Returns:
            Whether all rows are done.

        Raises:
            NumericalError: there was no number to choose a token by.
        """
        reasons: list[str | None] = list(self._reasons)
        self._num_tokens = [count + (why is None) for count, why in zip(self._num_tokens, reasons, strict=True)]
        if self._reads_tokens:
            tokens = self._received(tokens)
            self._read(tokens.tolist(), len(ids), reasons)
        for criterion in self._others:
            said = _as_list(criterion, criterion(ids.view(), scores), len(reasons))
            reasons = [reason or ("criteria" if now else None) for reason, now in zip(reasons, said, strict=True)]
        for_all = self._reason_for_all(len(ids))
        reasons = [reason or for_all for reason in reasons]
        if self._streamer is not None:
            self._streamer.put(tokens)
        self._mark(reasons)
        return all(self.done)

    @property
    def can_take(self) -> bool:
        """Whether `take` may stand for `update`: there is one row, and no criterion that asks for tensors."""
        return len(self._reasons) == 1 and not self._others

    def take(self, token: int, length: int) -> str | None:
        """Take notice of a step of the only row, where `can_take`.

        Args:
            token: the new one.
            length: tokens so far, this one and the prompt included.

        Returns:
            Why the row has ended, or None.

        Raises:
            NumericalError: there was no number to choose a token by.
        """
        reasons = list(self._reasons)
        self._num_tokens[0] += reasons[0] is None
        if self._reads_tokens or token == NO_TOKEN:
            self._read([token], length, reasons)
        reasons[0] = reasons[0] or self._reason_for_all(length)
        if self._streamer is not None:
            self._streamer.put(torch.frombuffer(array("q", (token,)), dtype=torch.int64))  # the quickest tensor to make
        self._mark(reasons)
        return reasons[0]

    def check_numbers(self) -> None:
        """Report what `update` has not looked at.

        Raises:
            NumericalError: there was no number to choose a token by.
        """
        if self._without_number is not None and bool(self._without_number.any()):
            raise _no_number(int(self._without_number.nonzero()[0]), None)

    def _reason_for_all(self, length: int) -> str | None:
        if self.max_length is not None and length >= self.max_length:
            return "length"
        return "time" if any(deadline.is_over() for deadline in self._deadlines) else None

    def _read(self, tokens: list[int], length: int, reasons: list[str | None]) -> None:
        for row, token in enumerate(tokens):
            if reasons[row] is not None:
                continue
            if token == NO_TOKEN:
                raise _no_number(row, length - self._prompt_len)
            said = self._steering.directive(row)
            may_end = said.text_may_end and token not in said.unread
            starts, trackers = said.text_starts, self._trackers[row]
            stops = [tracker.feed(token, starts=starts) if may_end else tracker.skip(token) for tracker in trackers]
            reasons[row] = "eos" if token in self._eos else "stop_string" if any(stops) else None
            self._steering.advance(row, token)

    def _mark(self, reasons: list[str | None]) -> None:
        done = [reason is not None for reason in reasons]
        if self._pad is not None and done != self.done and not all(done):
            self._done_mask = torch.tensor(done, device=self._device)
        self._reasons = reasons


def _as_list(criterion: Any, said: Any, num_rows: int) -> list[bool]:
    if isinstance(said, Tensor) and said.numel() == num_rows:
        return said.reshape(-1).tolist()
    if isinstance(said, bool) or (isinstance(said, Tensor) and said.numel() == 1):
        return [bool(said)] * num_rows
    shape = list(said.shape) if isinstance(said, Tensor) else repr(said)
    raise InputError(
        f"the stopping criterion {type(criterion).__name__} returned {shape}; it must return a bool, or "
        f"a tensor [{num_rows}] of them"
    )


def _no_number(row: int, new_token: int | None) -> NumericalError:
    where = "" if new_token is None else f" for new token {new_token}"
    return NumericalError(
        f"row {row} has no finite score to choose a token by{where}: its logits are NaN, or every token is forbidden; "
        "load the model in bfloat16 or float32 if it is in float16, and check weights and logits processors (loading a "
        "quantized folder with disable_mmap=True checks it, and names a damaged tensor)"
    )
