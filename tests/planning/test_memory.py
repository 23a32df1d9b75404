"""Free memory of this machine, from made-up files."""

import pytest

from seed_oss.planning import memory
from seed_oss.planning.memory import memory_bytes

KIB = 1024


@pytest.mark.parametrize(
    ("limit", "cached", "expected"),
    [("max", 0, (800, 600)), ("500", 0, (500, 400)), ("500", 60, (500, 460)), ("2000", 0, (800, 600))],
)
def test_memory_knows_the_limit_of_a_container(
    monkeypatch: pytest.MonkeyPatch, limit: str, cached: int, expected: tuple[int, int]
) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 800 kB\nMemAvailable: 600 kB\n",
        "/sys/fs/cgroup/memory.max": str(int(limit) * KIB) if limit.isdecimal() else limit,
        "/sys/fs/cgroup/memory.current": str(100 * KIB),
        "/sys/fs/cgroup/memory.stat": f"anon 7\ninactive_file {cached * KIB}\nactive_file 8\n",
    }
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))
    assert memory_bytes() == (expected[0] * KIB, expected[1] * KIB)


def test_memory_without_any_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_read", lambda path: "")
    monkeypatch.setattr(memory, "_posix_memory", lambda: 4096)
    assert memory_bytes() == (4096, None)
