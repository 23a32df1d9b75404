"""Memory of this machine, limits of a container included. No torch."""

import ctypes
import os
import re
import sys
from pathlib import Path


def memory_bytes(num_mapped: int = 0) -> tuple[int | None, int | None]:
    """Total and available memory in bytes, limits of a container included; None where unknown.

    Args:
        num_mapped: bytes of mapped files that are in use. The system counts their pages as available, whether they
            have been read yet or not; here they are not.
    """
    total, available = _linux_memory()
    if total is None:
        total = _posix_memory()
    if available is not None:
        available = max(available - num_mapped, 0)
    limit, used = _cgroup_memory(num_mapped)
    if limit is not None and (total is None or limit < total):
        total = limit
        available = limit - (used or 0) if available is None else min(available, limit - (used or 0))
    return total, available


def give_back_freed() -> None:
    """Give memory that was freed back to the system. Glibc keeps that of each thread; elsewhere nothing is done."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def mapped_ranges() -> list[tuple[int, int]]:
    """Addresses of this process behind which there are files, each the first one and the one behind the last."""
    found = re.findall(
        r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ +/(?!dev/)", read_text("/proc/self/maps"), re.MULTILINE
    )
    return [(int(first, 16), int(end, 16)) for first, end in found]


def _linux_memory() -> tuple[int | None, int | None]:
    found = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", read_text("/proc/meminfo"), re.MULTILINE))
    sizes = {name: int(kib) * 1024 for name, kib in found.items()}
    return sizes.get("MemTotal"), sizes.get("MemAvailable")


def _posix_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _cgroup_memory(num_mapped: int) -> tuple[int | None, int | None]:
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        text = read_text(f"{folder}/{limit}").strip()
        if text.isdecimal():
            now = read_text(f"{folder}/{used}").strip()
            if not now.isdecimal():
                return int(text), None
            return int(text), max(int(now) - _file_cache(f"{folder}/memory.stat", num_mapped > 0), 0) + num_mapped
    return None, None


def _file_cache(path: str, with_active: bool) -> int:
    """Pages of files that nobody used lately: they count as used, and go as soon as memory is wanted.

    `with_active`: those that somebody did, too, for what is in use is counted by itself.
    """
    found = re.findall(r"^((?:total_)?(?:in)?active_file) (\d+)$", read_text(path), re.MULTILINE)
    sizes = {name.removeprefix("total_"): int(size) for name, size in found}  # of a whole hierarchy, where it is said
    return sizes.get("inactive_file", 0) + (sizes.get("active_file", 0) if with_active else 0)


def read_text(path: str) -> str:
    """What a file of the system says; nothing where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
