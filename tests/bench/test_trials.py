"""What counts, in which order engines run, and what the trials say together."""

import pytest

from seed_oss.bench.cpu_time import CpuTime, foreign_share, is_clean, read_cpu_time
from seed_oss.bench.trials import Measured, Spread, Trial, Turn, best_of, collect, rounds, run_clean


@pytest.mark.parametrize(
    ("busy", "own", "share"),
    [
        (4.0, 4.0, 0.0),
        (4.0, 3.98, 0.0),  # what the counters cannot tell
        (4.0, 3.78, 0.05),
        (4.0, 2.0, 0.495),
        (2.0, 2.5, 0.0),
        (9.0, 0.0, 1.0),
    ],
)
def test_foreign_share(busy: float, own: float, share: float) -> None:
    """Two seconds on two processors."""
    before, after = CpuTime(10.0, 100.0, 50.0), CpuTime(12.0, 100.0 + busy, 50.0 + own)
    assert foreign_share(before, after, num_cpus=2) == pytest.approx(share)


def test_no_time_has_no_share() -> None:
    moment = CpuTime(1.0, 1.0, 1.0)
    assert foreign_share(moment, moment, num_cpus=2) == 0.0


@pytest.mark.parametrize(("share", "clean"), [(None, True), (0.0, True), (0.05, True), (0.051, False), (1.0, False)])
def test_the_bound(share: float | None, clean: bool) -> None:
    assert is_clean(share) is clean


def test_no_counters_without_the_process() -> None:
    assert read_cpu_time(0.0, [2**30]) is None


def test_every_engine_runs_once_per_round_and_takes_turns_to_be_first() -> None:
    found = list(rounds(3, (1, 2), 4))
    assert [turns[0].engine for turns in found] == [0, 1, 2, 0]
    everything = {Turn(engine, threads) for engine in range(3) for threads in (1, 2)}
    assert all(len(turns) == 6 and set(turns) == everything for turns in found)


def trial(share: float | None, prefill: float = 1.0) -> Trial:
    return Trial(prefill, 1.0, share)


def test_a_disturbed_trial_is_repeated_until_one_is_clean() -> None:
    made, waits = iter([trial(0.5), trial(0.2), trial(0.01), trial(0.0)]), []
    assert run_clean(lambda: next(made), 5, waits.append) == (trial(0.01), 2)
    assert waits == [1, 2]


def test_repeats_have_a_bound_and_the_least_disturbed_one_stays() -> None:
    made = iter([trial(0.5), trial(0.2), trial(0.3), trial(0.0)])
    assert run_clean(lambda: next(made), 2, lambda failures: None) == (trial(0.2), 2)


def test_nothing_is_repeated_where_nobody_counts() -> None:
    made = iter([trial(None)])
    assert run_clean(lambda: next(made), 3, lambda failures: None) == (trial(None), 0)


def test_disturbed_trials_do_not_count_beside_clean_ones() -> None:
    clean, dirty = trial(0.0), trial(0.6, 9.0)
    assert collect([(clean, 0), (dirty, 3), (clean, 1)]) == Measured((clean, clean), 5, False)
    assert collect([(clean, 1), (clean, 0)]) == Measured((clean, clean), 1, False)


def test_without_a_clean_trial_the_result_says_so() -> None:
    dirty = trial(0.6)
    assert collect([(dirty, 3), (dirty, 3)]) == Measured((dirty, dirty), 6, True)


def test_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.00004]) == Spread(2.0, 1.0, 3.0, 3)


def test_the_better_number_of_threads() -> None:
    best = best_of({1: [10.0, 11.0, 12.0], 2: [30.0, 5.0, 6.0]})
    assert (best.threads, best.speed.median) == (1, 11.0)
