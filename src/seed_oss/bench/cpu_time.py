"""Who used the processor while something was measured, and which trials that spoils.

Linux counts it; elsewhere no trial is discarded.
"""

import os
from dataclasses import dataclass
from pathlib import Path

MAX_FOREIGN_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Counters at one moment, all in seconds.

    Attributes:
        wall: of a clock.
        busy: that all processors were not idle, whoever used them.
        own: that the measured processes used.
    """

    wall: float
    busy: float
    own: float


def foreign_share(before: CpuTime, after: CpuTime, num_cpus: int, tick: float = 0.01) -> float:
    """The share of the machine that other processes used between two moments.

    Args:
        before: counters at the start.
        after: counters at the end.
        num_cpus: processors that `busy` adds up.
        tick: what the counters count in, in seconds; one per processor is their error and is not held against anybody.

    Returns:
        From 0 to 1.
    """
    wall = after.wall - before.wall
    foreign = (after.busy - before.busy) - (after.own - before.own) - tick * num_cpus
    return min(max(foreign / (wall * num_cpus), 0.0), 1.0) if wall > 0 else 0.0


def is_clean(share: float | None) -> bool:
    """Whether a trial counts: at most 5 % of the machine went to others, or nobody knows."""
    return share is None or share <= MAX_FOREIGN_SHARE


def read_cpu_time(wall: float, processes: list[int]) -> CpuTime | None:
    """The counters now, or None where the system has none.

    Args:
        wall: what the clock says.
        processes: whose time is ours.
    """
    try:
        total = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        own = sum(_process_ticks(process) for process in processes)
    except (OSError, ValueError, IndexError):
        return None
    ticks = [int(field) for field in total]
    busy = sum(ticks) - ticks[3] - ticks[4]  # all but idle and waiting for a disk; what was stolen counts as busy
    per_second = os.sysconf("SC_CLK_TCK")
    return CpuTime(wall, busy / per_second, own / per_second)


def _process_ticks(process: int) -> int:
    """User and system time of all threads of a process."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
