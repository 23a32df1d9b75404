"""Free memory of this machine, from made-up files; and what goes back to it."""

import ctypes
import platform
import subprocess
import sys

import pytest

from seed_oss.ops import memory
from seed_oss.ops.memory import give_back_freed, mapped_ranges, memory_bytes

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


FREED = """
import ctypes, sys
from seed_oss.ops.memory import give_back_freed

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
pieces = [libc.malloc(2**16) for _ in range(512)]  # too small to be mapped each by itself
for piece in pieces:
    ctypes.memset(piece, 1, 2**16)
for piece in pieces[:-1]:  # the last one keeps the heap from shrinking by itself
    libc.free(piece)
kept = anonymous()
give_back_freed()
print(kept - anonymous())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep less")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 20 * 1024  # KiB, of 32 MiB


@pytest.mark.parametrize("platform_name", ["darwin", "win32"])
def test_elsewhere_nothing_is_asked_of_the_c_library(platform_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform_name)
    asked: list[object] = []
    monkeypatch.setattr(ctypes, "CDLL", asked.append)
    give_back_freed()
    assert asked == []
