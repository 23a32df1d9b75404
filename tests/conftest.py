"""What every test runs under: one thread (tiny models are slower with two), no hub."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads of children that wait leave the processor to others

import pytest
import torch

from seed_oss.errors import InputError
from seed_oss.ops.native import INSTRUCTION_SETS, library, set_instruction_set, why_not


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=INSTRUCTION_SETS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    """The kernels in each instruction set that this processor has."""
    if library() is None:
        pytest.skip(f"no native kernels: {why_not()}")
    try:
        set_instruction_set(request.param)
    except InputError as error:
        pytest.skip(str(error))
    yield request.param
    set_instruction_set(None)


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Says at the end of the run how much a test went through: `counted(schedules=75)`; tests of one name add up."""
    return lambda **counts: record_property("counts", counts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests have counted."""
    sums = defaultdict[str, Counter[str]](Counter)
    for report in [one for reports in terminalreporter.stats.values() for one in reports]:
        for name, counts in getattr(report, "user_properties", ()):
            if name == "counts" and report.when == "call":
                sums[report.nodeid.partition("[")[0].rpartition("/")[2]].update(counts)
    if sums:
        terminalreporter.section("counts")
    for name, counts in sorted(sums.items()):
        terminalreporter.line(f"{name}: {', '.join(f'{number:,} {what}' for what, number in counts.items())}")
