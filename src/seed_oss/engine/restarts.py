"""When an engine that died is started again, and when no more. Plain values, no clock."""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Restarts:
    """The deaths so far, and the rule.

    Attributes:
        first_s: seconds to wait after the first death; doubled with each further one.
        longest_s: most seconds to wait.
        max_deaths: as many within `window_s` are the last.
        window_s: seconds after which a death is forgotten.
        deaths: times of those not forgotten.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    max_deaths: int = 3
    window_s: float = 300.0
    deaths: tuple[float, ...] = ()

    def after_death(self, now: float) -> Self:
        """The state after one more death.

        Args:
            now: its time in seconds.
        """
        return replace(self, deaths=(*(one for one in self.deaths if now - one < self.window_s), now))

    @property
    def delay_s(self) -> float | None:
        """Seconds to wait before the next start; None: there is none."""
        if len(self.deaths) >= self.max_deaths:
            return None
        return min(self.longest_s, self.first_s * 2.0 ** max(0, len(self.deaths) - 1))
