"""Which engine runs when, which runs count, and what they say together. Plain values; nothing here measures."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from seed_oss.bench.cpu_time import is_clean


@dataclass(frozen=True, slots=True)
class Turn:
    """One engine at one number of threads."""

    engine: int
    threads: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What one turn took.

    Attributes:
        prefill_s: to the first new token.
        decode_s: from it to the last one.
        foreign_share: of the machine that others used meanwhile; None where nobody knows.
        weights_read: bytes per second at which the engine's weights could be read right after; None where nobody knows.
    """

    prefill_s: float
    decode_s: float
    foreign_share: float | None = None
    weights_read: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """All that counts of one turn's trials.

    Attributes:
        trials: those that count; where none was clean, the ones that were not.
        num_discarded: how many were thrown away and repeated.
        is_disturbed: no trial was clean within the bound of repeats.
    """

    trials: tuple[Trial, ...]
    num_discarded: int
    is_disturbed: bool


def rounds(num_engines: int, threads: Sequence[int], num_trials: int) -> Iterator[list[Turn]]:
    """Every engine at every number of threads once per round; each round starts with the next engine."""
    for trial in range(num_trials):
        order = [(first + trial) % num_engines for first in range(num_engines)]
        yield [Turn(engine, count) for engine in order for count in threads]


def run_clean(run: Callable[[], Trial], max_repeats: int, wait: Callable[[int], None]) -> tuple[Trial, int]:
    """Run until a trial is clean.

    Args:
        run: makes a trial.
        max_repeats: how often one is repeated at most.
        wait: called with the number of failures before each repeat.

    Returns:
        The first clean trial, or the least disturbed one; and how many were discarded.
    """
    tried = [run()]
    while not is_clean(tried[-1].foreign_share) and len(tried) <= max_repeats:
        wait(len(tried))
        tried.append(run())
    best = min(tried, key=lambda trial: trial.foreign_share or 0.0)
    chosen = tried[-1] if is_clean(tried[-1].foreign_share) else best
    return chosen, len(tried) - 1


def collect(found: Sequence[tuple[Trial, int]]) -> Measured:
    """One turn's trials over all rounds: the clean ones, where there are any."""
    clean = tuple(trial for trial, _ in found if is_clean(trial.foreign_share))
    discarded = sum(count for _, count in found)
    if len(clean) == len(found):
        return Measured(clean, discarded, False)
    kept = clean or tuple(trial for trial, _ in found)
    return Measured(kept, discarded + len(found) - len(kept), not clean)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and spread of some numbers."""

    median: float
    min: float
    max: float
    trials: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one number, each with four digits."""
        median, low, high = (float(f"{n:.4g}") for n in (statistics.median(values), min(values), max(values)))
        return cls(median, low, high, len(values))


@dataclass(frozen=True, slots=True)
class Best:
    """The better number of threads and what it gives, in tokens per second."""

    threads: int
    speed: Spread


def best_of(speeds: dict[int, list[float]]) -> Best:
    """Number of threads to speeds in all trials: the number with the highest median."""
    threads = max(speeds, key=lambda count: statistics.median(speeds[count]))
    return Best(threads, Spread.of(speeds[threads]))
