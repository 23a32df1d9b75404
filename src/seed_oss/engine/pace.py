"""Tokens of a few steps said together: a reader that wakes up for each token of a fast model takes a core from it."""

import math
import os
from collections.abc import Sequence

from seed_oss.engine.messages import Ended, Event, Tokens

READ_S = 0.0001
"""What the other side takes to pass a piece on, measured: 0.1 ms of one core."""

MAX_SHARE = 1 / 40
"""Of all cores, that passing on may take."""


class Pace:
    """Holds tokens back for an interval. A choice's first token and all that is not a token are never held.

    Args:
        interval_s: seconds between two times at which tokens are said, to the nearest step; 0 holds nothing.
        per_choice_s: least seconds between them for each choice that has begun and not ended.
    """

    def __init__(self, interval_s: float, per_choice_s: float = 0.0) -> None:
        self._interval_s, self._per_choice_s = interval_s, per_choice_s
        self._last = self._step_before = -math.inf
        self._held: list[Tokens] = []
        self._begun: set[tuple[str, int]] = set()

    @classmethod
    def for_machine(cls, interval_s: float) -> "Pace":
        """One whose reader takes at most `MAX_SHARE` of this machine's processors, however many choices there are."""
        return cls(interval_s, READ_S / MAX_SHARE / (os.cpu_count() or 1))

    def take(self, events: Sequence[Event], now: float) -> list[Event]:
        """Take what a step brought.

        Args:
            events: in order.
            now: seconds.

        Returns:
            What is to be said now: nothing, or all that was held and these events behind it.
        """
        if not self._interval_s:
            return list(events)
        is_urgent = False
        for event in events:
            is_urgent |= self._is_urgent(event)
        passed_s, step_s = now - self._last, now - self._step_before
        self._step_before = now
        is_nearest = passed_s + step_s / 2 >= self._interval_s  # the next step would end farther from it than this one
        if is_urgent or (is_nearest and passed_s >= self._per_choice_s * len(self._begun)):
            self._last = now
            return [*self.rest(), *events]
        self._held += (event for event in events if isinstance(event, Tokens))
        return []

    def rest(self) -> list[Event]:
        """All that is held: one event per choice, or as they came where they have log-probabilities."""
        held, self._held = self._held, []
        runs: dict[tuple[str, int], list[int]] = {}
        for one in held:
            if one.logprobs is None:
                runs.setdefault((one.request_id, one.choice), []).extend(one.token_ids)
        joined = [Tokens(request_id, choice, tuple(ids)) for (request_id, choice), ids in runs.items()]
        return [*joined, *(one for one in held if one.logprobs is not None)]

    def _is_urgent(self, event: Event) -> bool:
        """Whether an event must not wait; called once for each."""
        if isinstance(event, Tokens):
            key = event.request_id, event.choice
            is_first = key not in self._begun
            self._begun.add(key)
            return is_first
        if isinstance(event, Ended):
            self._begun.discard((event.request_id, event.choice))
        return True
