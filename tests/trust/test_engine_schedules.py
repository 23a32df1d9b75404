"""Simulated schedules with faults: I1 to I14 after every step, the tokens of each row as if it ran alone, liveness.

`SEED_OSS_TRUST_CASES` is the number of schedules: 300 unless set, and 20,000 at most. A failure names its case:
`SEED_OSS_TRUST_FIRST=<case> SEED_OSS_TRUST_CASES=1` runs it alone.
"""

import os
from collections import Counter
from collections.abc import Callable

import pytest

from tests.engine.simulator import Simulation

CASES = min(int(os.environ.get("SEED_OSS_TRUST_CASES", "300")), 20_000)
FIRST = int(os.environ.get("SEED_OSS_TRUST_FIRST", "0"))
CHUNKS = 4


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_schedules(chunk: int, counted: Callable[..., None]) -> None:
    seen: Counter[str] = Counter()
    for case in range(FIRST + chunk, FIRST + CASES, CHUNKS):
        seen += _run(case)
        seen["schedules"] += 1
    counted(**seen)
    assert seen["schedules"] == len(range(FIRST + chunk, FIRST + CASES, CHUNKS))


def _run(case: int) -> Counter[str]:
    try:
        return Simulation(case).run().seen
    except Exception as error:
        error.add_note(f"schedule {case}")
        raise
