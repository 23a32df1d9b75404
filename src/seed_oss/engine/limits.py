"""How much the engine takes on, and how long anything may wait."""

import math
from dataclasses import dataclass

from seed_oss.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds of the scheduler.

    Args:
        max_model_len: most tokens of a row, prompt and new ones together.
        max_num_seqs: most rows that run at once.
        max_num_batched_tokens: most tokens in a step; at least `max_num_seqs`, so that each running row goes on.
        max_num_waiting: most rows in the queue, besides as many as may run; None means four times `max_num_seqs`.
        max_queued_tokens: most tokens of the rows in the queue together, without those that have run already.
        max_priority: largest priority; the smallest is its negative. From one to the other must age, by `ageing_s`,
            in less than `queue_timeout_s`, or a flow of urgent rows keeps the others from ever running.
        queue_timeout_s: seconds after which a row ends that has never run.
        progress_timeout_s: seconds after which a row ends that got no further; a chunk of its prompt is progress.
        total_timeout_s: seconds after which any row ends, or None.
        ageing_s: seconds of waiting that make up for one level of priority.
        ahead_s: seconds that a step may take in which rows get several tokens; 0 gives them one at a time.
        max_tick_s: most seconds that count between two looks at the clock, so that a jump ends nothing.

    Raises:
        ConfigError: a value out of its range.
    """

    max_model_len: int
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_num_waiting: int | None = None
    max_queued_tokens: int = 1_048_576
    max_priority: int = 2
    queue_timeout_s: float = 60.0
    progress_timeout_s: float = 120.0
    total_timeout_s: float | None = None
    ageing_s: float = 10.0
    ahead_s: float = 0.04
    max_tick_s: float = 30.0

    def __post_init__(self) -> None:
        """Check."""
        counts = ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "max_num_waiting", "max_queued_tokens")
        for name in (*counts, "max_priority"):
            _check_count(name, getattr(self, name), optional=name == "max_num_waiting")
        for name in ("queue_timeout_s", "progress_timeout_s", "total_timeout_s", "ageing_s", "max_tick_s"):
            _check_seconds(name, getattr(self, name), optional=name == "total_timeout_s")
        _check_seconds("ahead_s", self.ahead_s, may_be_zero=True)
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens} and max_num_seqs is {self.max_num_seqs}; "
                "a step has at least one token for each running row: raise the first or lower the second"
            )

    @property
    def queue_len(self) -> int:
        """Most rows that wait because others run."""
        return 4 * self.max_num_seqs if self.max_num_waiting is None else self.max_num_waiting

    @property
    def max_num_rows(self) -> int:
        """Most rows that run or wait."""
        return self.max_num_seqs + self.queue_len


def _check_count(name: str, value: object, *, optional: bool) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be an integer of at least 1")


def _check_seconds(name: str, value: object, *, optional: bool = False, may_be_zero: bool = False) -> None:
    if optional and value is None:
        return
    is_known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    if not is_known or (value == 0 and not may_be_zero):
        least = "of at least 0" if may_be_zero else "above 0"
        raise ConfigError(f"{name} is {value!r}; it must be a finite number of seconds {least}")
