"""Memory of this machine, limits of a container included. No torch."""

import os
import re
from pathlib import Path


def memory_bytes() -> tuple[int | None, int | None]:
    """Total and available memory in bytes, limits of a container included; None where unknown."""
    total, available = _linux_memory()
    if total is None:
        total = _posix_memory()
    limit, used = _cgroup_memory()
    if limit is not None and (total is None or limit < total):
        total = limit
        available = limit - (used or 0) if available is None else min(available, limit - (used or 0))
    return total, available


def _linux_memory() -> tuple[int | None, int | None]:
    found = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE))
    sizes = {name: int(kib) * 1024 for name, kib in found.items()}
    return sizes.get("MemTotal"), sizes.get("MemAvailable")


def _posix_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _cgroup_memory() -> tuple[int | None, int | None]:
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        text = _read(f"{folder}/{limit}").strip()
        if text.isdecimal():
            now = _read(f"{folder}/{used}").strip()
            return int(text), max(int(now) - _file_cache(f"{folder}/memory.stat"), 0) if now.isdecimal() else None
    return None, None


def _file_cache(path: str) -> int:
    """Pages of files that nobody used lately: they count as used, and go as soon as memory is wanted."""
    found = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(path), re.MULTILINE)
    return int(found[1]) if found else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
