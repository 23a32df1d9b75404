"""The activation functions that `config.hidden_act` may name."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.errors import ConfigError, InputError
from seed_oss.files.names import short
from seed_oss.ops.native import library


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _laplace(x: Tensor) -> Tensor:
    """Laplace activation of MEGA (Ma et al. 2022, arXiv:2209.10655)."""
    mean, deviation = math.sqrt(0.5), math.sqrt(0.25 / math.pi)
    return 0.5 * (1.0 + torch.erf((x - mean) / (deviation * math.sqrt(2.0))))


def _clipped_gelu(x: Tensor) -> Tensor:
    return F.gelu(x).clip(-10, 10)


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_10": _clipped_gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_accurate": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_python_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "relu2": _relu_squared,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "laplace": _laplace,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": _identity,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function called `name` in `config.hidden_act`.

    Raises:
        ConfigError: no such activation.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"hidden_act is {short(name)}; allowed: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def is_silu(function: Callable[[Tensor], Tensor]) -> bool:
    """Whether a function is the one that the native kernels have."""
    return function is F.silu


@torch.library.custom_op("seed_oss::silu_mul", mutates_args=())
def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up` (SwiGLU; Shazeer 2020, arXiv:2002.05202), natively for fp32 on the CPU.

    Args:
        gate: floating, any shape.
        up: same shape and dtype.

    Returns:
        Same shape and dtype.

    Raises:
        InputError: shapes or dtypes differ.
    """
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise InputError(f"gate is {gate.dtype} {list(gate.shape)} and up {up.dtype} {list(up.shape)}; make them equal")
    native = library()
    if native is None or gate.device.type != "cpu" or gate.dtype != torch.float32 or gate.numel() == 0:
        return silu_mul_reference(gate, up).contiguous()
    out, up = gate.clone(memory_format=torch.contiguous_format), up.contiguous()
    native.so_silu_mul(out.data_ptr(), up.data_ptr(), out.numel())
    return out


@silu_mul.register_fake
def _(gate: Tensor, up: Tensor) -> Tensor:
    return gate.new_empty(gate.shape)


def silu_mul_reference(gate: Tensor, up: Tensor) -> Tensor:
    """The readable form of `silu_mul`."""
    return F.silu(gate) * up
