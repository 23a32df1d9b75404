"""Whether the kernels can run at all.

`SEED_OSS_OPS=reference` in the environment leaves them alone, as it does the native ones.
"""

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MIN_CAPABILITY = (8, 0)  # bfloat16 in tensor cores


@cache
def why_not() -> str | None:
    """Why no kernel runs on this machine, and what to do; None where they do."""
    if os.environ.get("SEED_OSS_OPS") == "reference":
        return "SEED_OSS_OPS=reference is set"
    if find_spec("triton") is None:
        return "triton is not installed; pip install 'seed-oss[gpu]'"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < MIN_CAPABILITY:
        return f"the device has compute capability {capability[0]}.{capability[1]}; 8.0 or newer is needed"
    return None


def is_on_device(tensor: Tensor) -> bool:
    """Whether a tensor is where kernels run."""
    return tensor.is_cuda


def can_run(*tensors: Tensor) -> bool:
    """Whether a kernel may take the place of torch's operations for these inputs: on CUDA, no gradient.

    Args:
        *tensors: floating inputs, and integers beside them.
    """
    if torch.compiler.is_compiling() or not is_on_device(tensors[0]):
        return False
    wants_graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not wants_graph and all(map(_has_kernels, tensors)) and why_not() is None


def _has_kernels(tensor: Tensor) -> bool:
    return is_on_device(tensor) and (tensor.dtype in DTYPES or not tensor.is_floating_point())


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels on the CPU, as it does in tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"
