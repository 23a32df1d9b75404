"""Free memory of this machine, from made-up files."""

import pytest

from seed_oss.ops import memory
from seed_oss.ops.memory import mapped_ranges, memory_bytes

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
    monkeypatch.setattr(memory, "read_text", lambda path: files.get(path, ""))
    assert memory_bytes() == (expected[0] * KIB, expected[1] * KIB)


@pytest.mark.parametrize(("limit", "available"), [("max", 600 - 80), ("500", 500 - (100 - 60 - 8) - 80)])
def test_mapped_files_in_use_are_not_available_however_lately_they_were_read(
    monkeypatch: pytest.MonkeyPatch, limit: str, available: int
) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 800 kB\nMemAvailable: 600 kB\n",
        "/sys/fs/cgroup/memory.max": str(int(limit) * KIB) if limit.isdecimal() else limit,
        "/sys/fs/cgroup/memory.current": str(100 * KIB),
        "/sys/fs/cgroup/memory.stat": f"inactive_file {60 * KIB}\nactive_file {8 * KIB}\n",
    }
    monkeypatch.setattr(memory, "read_text", lambda path: files.get(path, ""))
    assert memory_bytes(80 * KIB)[1] == available * KIB


def test_ranges_of_mapped_files(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = (
        "7f10-7f20 rw-p 00000000 fe:01 77    /models/a file.safetensors\n"
        "7f30-7f40 rw-p 00000000 00:00 0\n"
        "7f50-7f60 rw-s 00000000 00:01 9    /dev/zero (deleted)\n"
        "7f70-7f80 rw-p 00000000 00:00 0    [heap]\n"
    )
    monkeypatch.setattr(memory, "read_text", lambda path: maps if path == "/proc/self/maps" else "")
    assert mapped_ranges() == [(0x7F10, 0x7F20)]


def test_memory_without_any_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "read_text", lambda path: "")
    monkeypatch.setattr(memory, "_posix_memory", lambda: 4096)
    assert memory_bytes() == (4096, None)
