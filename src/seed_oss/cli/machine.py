"""Facts about this machine and what is installed on it. Nothing here fails: what cannot be found out is said so."""

import importlib.util
import os
import platform
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

from seed_oss.ops.memory import memory_bytes as memory_bytes

EXTRAS: dict[str, tuple[str, ...]] = {
    "gguf": ("gguf",),
    "grammar": ("llguidance",),
    "gpu": ("triton",),
    "server": ("fastapi", "uvicorn", "h11", "prometheus-client"),
    "bench": ("transformers", "llama-cpp-python", "openvino", "matplotlib", "gguf"),
}
"""Packages of each extra that users install; a test compares it with pyproject.toml."""

_GIB = 2**30
_VARIABLES = (
    *("SEED_OSS_CACHE", "SEED_OSS_DEBUG", "SEED_OSS_OPS", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF"),
)


def version_of(package: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def required_packages() -> dict[str, str]:
    """Packages of the core install with their lowest versions, as the installed seed-oss declares them."""
    try:
        declared = metadata.requires("seed-oss") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)>=([\d.]+)$", line.replace(" ", "")) for line in declared)
    return {match[1]: match[2] for match in found if match}


def is_older(version: str, lowest: str) -> bool:
    """Whether a version is below another one, by its leading numbers."""
    numbers = [[int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3]] for text in (version, lowest)]
    return numbers[0] < numbers[1]


def import_torch() -> ModuleType | str:
    """torch, or why it cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return torch


def cpu_name() -> str:
    """What the processor calls itself."""
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def cpu_flags() -> set[str]:
    """Instruction sets of the processor as Linux names them; empty elsewhere."""
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()


def num_usable_cpus() -> int:
    """Logical processors that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gib(num_bytes: int | None) -> str:
    """Bytes as GiB."""
    return "unknown" if num_bytes is None else f"{num_bytes / _GIB:.1f} GiB"


def compiler() -> str | None:
    """The C++ compiler that torch.compile would call, or None."""
    return os.environ.get("CXX") or next((name for name in ("g++", "clang++", "c++", "cl") if shutil.which(name)), None)


def has_module(name: str) -> bool:
    """Whether a module could be imported; it is not."""
    return importlib.util.find_spec(name) is not None


def set_variables() -> dict[str, str]:
    """Environment variables that change how seed-oss runs."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
