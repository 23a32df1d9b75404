"""Devices that torch can use here."""

from types import ModuleType
from typing import Any

_ACCELERATORS = ("cuda", "xpu", "mps")


def device_names(torch: ModuleType) -> list[str]:
    """Names that `--device` takes on this machine, "cpu" first."""
    names = ["cpu"]
    for kind in _ACCELERATORS:
        count = _num_devices(torch, kind)
        if count:
            names += [kind, *(f"{kind}:{index}" for index in range(count))]
    return names


def describe_accelerator(torch: ModuleType, kind: str) -> list[str]:
    """One line for each accelerator of a kind: name, memory, what its numbers can be."""
    lines: list[str] = []
    for index in range(_num_devices(torch, kind)):
        if kind == "cuda":
            properties = torch.cuda.get_device_properties(index)
            capability = f"compute capability {properties.major}.{properties.minor}"
            lines.append(f"{kind}:{index} {properties.name}, {properties.total_memory / 2**30:.1f} GiB, {capability}")
        else:
            lines.append(f"{kind}:{index}")
    return lines


def why_no_cuda(torch: ModuleType) -> str:
    """The reason why torch sees no CUDA device."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA; install a CUDA build to use an NVIDIA GPU"
    return "torch is built with CUDA but finds no GPU; check that nvidia-smi lists one and the driver is new enough"


def _num_devices(torch: ModuleType, kind: str) -> int:
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module: Any = getattr(torch, kind, None)
    return module.device_count() if module is not None and module.is_available() else 0
