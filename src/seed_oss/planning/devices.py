"""The devices that a model could lie on, and what is free on each."""

import re
from dataclasses import dataclass

import torch

from seed_oss.errors import InputError
from seed_oss.planning.memory import memory_bytes

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


def find_devices(device: object = None, memory: int | None = None) -> list[DeviceMemory]:
    """The devices to plan for, accelerators first.

    Args:
        device: a name; None or "auto" for all that are here.
        memory: count with this many free bytes on each; a device that is not here needs it.

    Raises:
        InputError: an unknown device, or one that is not here and no `memory`.
    """
    if device is None or device == "auto":
        names = [*_cuda_names(), "cpu"]
    else:
        names = [_checked(str(device))]
    return [_with_memory(name, memory) for name in names]


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(f"device is {name!r:.40}; plans are made for 'auto', 'cpu', 'cuda' and 'cuda:N'")
    return "cuda:0" if name == "cuda" else name


def _cuda_names() -> list[str]:
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def _with_memory(name: str, memory: int | None) -> DeviceMemory:
    is_here = name == "cpu" or name in _cuda_names()
    if memory is not None:
        return DeviceMemory(name, memory, is_here)
    if not is_here:
        raise InputError(
            f"{name} is not here (this machine has {', '.join(['cpu', *_cuda_names()])}); to plan for a machine that "
            "has it, say how much memory is free there: memory=, or --memory 80GiB"
        )
    return DeviceMemory(name, _free_bytes(name))


def _free_bytes(name: str) -> int:
    if name != "cpu":
        return torch.cuda.mem_get_info(torch.device(name))[0]
    total, available = memory_bytes()
    free = available if available is not None else total
    if free is None:
        raise InputError("how much memory this machine has cannot be found out; say it: memory=, or --memory 16GiB")
    return free
