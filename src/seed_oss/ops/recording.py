"""Whether the operations that run now are written down by somebody: a compiler, an export, a dispatch mode.

A native call is invisible to them, and needs memory that a tensor of theirs may lack. There the call's torch library op
is what has to run; elsewhere its dispatch, about 10 us, is saved.
"""

import torch
from torch import Tensor


def is_recorded() -> bool:
    """Whether ops are to be called by their names in `torch.ops.seed_oss`."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


def wants_graph(*tensors: Tensor) -> bool:
    """Whether a gradient is asked for, which no native op has."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
