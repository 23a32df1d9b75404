"""The only file of this folder that imports torch; it is imported when a tensor is asked for or given."""

from typing import Any

import torch


def as_tensor(rows: Any) -> torch.Tensor:
    """Make an int64 tensor from integers nested to any depth; empty lists give an empty int64 tensor."""
    return torch.tensor(rows, dtype=torch.int64)


def is_tensor(value: Any) -> bool:
    """Tell whether a value is a torch tensor."""
    return isinstance(value, torch.Tensor)


def move(value: torch.Tensor, device: Any, *, non_blocking: bool = False) -> torch.Tensor:
    """Copy a tensor to a device."""
    return value.to(device=device, non_blocking=non_blocking)
