"""A clock that only goes forward, and never far at once, whatever the machine's clock does."""

import math


class SteadyClock:
    """Adds up what another clock says has passed.

    Args:
        max_tick_s: most seconds that one reading adds.
    """

    def __init__(self, max_tick_s: float) -> None:
        self.now = 0.0
        self._max_tick_s = max_tick_s
        self._last_seen: float | None = None

    def read(self, now: float) -> float:
        """Seconds since the first reading.

        Args:
            now: seconds on the other clock. Where it went back, or is no number, nothing has passed.
        """
        if math.isfinite(now):
            passed = 0.0 if self._last_seen is None else now - self._last_seen
            self.now += min(max(passed, 0.0), self._max_tick_s)
            self._last_seen = now
        return self.now

    def time_of(self, moment: float) -> float:
        """A moment of the other clock, not long before its last reading, in seconds since the first one."""
        waited = (self._last_seen or 0.0) - moment
        return self.now - min(max(waited, 0.0), self._max_tick_s) if math.isfinite(waited) else self.now
