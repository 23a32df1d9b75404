"""The devices that a model could lie on, and what is free on each."""

import re
from dataclasses import dataclass

import torch

from seed_oss.errors import InputError
from seed_oss.ops.float8 import why_no_float8
from seed_oss.ops.memory import memory_bytes

ENDLESS = 2**63 - 1
_NAME = re.compile(r"cpu|cuda(:\d{1,4})?")


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A device.

    Attributes:
        name: "cpu", "cuda:0".
        free_bytes: what a model may take.
        is_here: it is part of this machine, so that its speed can be measured.
    """

    name: str
    free_bytes: int
    is_here: bool = True

    @property
    def kind(self) -> str:
        """ "cpu" or "cuda"."""
        return self.name.partition(":")[0]

    @property
    def has_float8(self) -> bool:
        """Whether it multiplies 8-bit floating point; a CUDA device that is not here is taken for a new one."""
        return self.kind == "cuda" and (not self.is_here or why_no_float8(torch.device(self.name)) is None)


def cpu_free_bytes() -> int | None:
    """What is available of this machine's memory; all of it where only that is known, None where nothing is."""
    total, available = memory_bytes()
    return total if available is None else available


def devices_here() -> list[DeviceMemory]:
    """Every device of this machine, the current accelerator first, the CPU last; unknown memory counts as endless."""
    names = cuda_names()
    current = f"cuda:{torch.cuda.current_device()}" if names else ""
    names.sort(key=lambda name: name != current)
    free = cpu_free_bytes()
    return [_with_memory(name, None) for name in names] + [DeviceMemory("cpu", ENDLESS if free is None else free)]


def find_devices(device: object = None, memory: int | None = None) -> list[DeviceMemory]:
    """The devices to plan for, accelerators first.

    Args:
        device: a name; None or "auto" for all that are here.
        memory: count with this many free bytes on each; a device that is not here needs it.

    Raises:
        InputError: an unknown device, or one that is not here and no `memory`.
    """
    if device is None or device == "auto":
        names = [*cuda_names(), "cpu"]
    else:
        names = [_checked(str(device))]
    return [_with_memory(name, memory) for name in names]


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(f"device is {name!r:.40}; plans are made for 'auto', 'cpu', 'cuda' and 'cuda:N'")
    return "cuda:0" if name == "cuda" else name


def cuda_names() -> list[str]:
    """Names of the CUDA devices of this machine."""
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def _with_memory(name: str, memory: int | None) -> DeviceMemory:
    is_here = name == "cpu" or name in cuda_names()
    if memory is not None:
        return DeviceMemory(name, memory, is_here)
    if not is_here:
        raise InputError(
            f"{name} is not here (this machine has {', '.join(['cpu', *cuda_names()])}); to plan for a machine that "
            "has it, say how much memory is free there: memory=, or --memory 80GiB"
        )
    return DeviceMemory(name, _free_bytes(name))


def _free_bytes(name: str) -> int:
    if name != "cpu":
        return torch.cuda.mem_get_info(torch.device(name))[0]
    free = cpu_free_bytes()
    if free is None:
        raise InputError("how much memory this machine has cannot be found out; say it: memory=, or --memory 16GiB")
    return free
