"""Products in 8-bit floating point (e4m3; Micikevicius et al. 2022, arXiv:2209.05433), through torch's scaled product.

Weights have a scale per row, activations one per token, found when they come.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.errors import StateError

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0  # number of this dtype
MULTIPLE = 16  # that the scaled product wants of rows and columns of a weight
MIN_CAPABILITY = (8, 9)


def why_no_float8(device: torch.device) -> str | None:
    """Why a device has no scaled product, or None where it has."""
    if device.type != "cuda":
        return f"the model is on {device.type}"
    found = torch.cuda.get_device_capability(device)
    if found < MIN_CAPABILITY:
        return f"the device has compute capability {found[0]}.{found[1]}"
    return None


def check_float8(device: torch.device) -> None:
    """Raise unless a device has the scaled product.

    Raises:
        StateError: it has not; the message has the remedy.
    """
    reason = why_no_float8(device)
    if reason is not None:
        raise StateError(
            f"fp8 needs a CUDA device of compute capability 8.9 or newer, and {reason}; load the model there "
            "(device='cuda'), or take 'int8', which runs everywhere"
        )


def round_to_float8(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest numbers of 8 bits, and the scale of each row.

    Args:
        numbers: `[rows, columns]`.

    Returns:
        float8_e4m3fn `[rows, columns]` and fp32 `[rows, 1]`; a row with NaN or infinity has such a scale.
    """
    numbers = numbers.float()
    largest = numbers.abs().amax(-1, keepdim=True)
    inverse = LARGEST / largest
    inverse = torch.where(inverse.isinf(), 0.0, inverse)  # a row below the smallest scale is one of zeros
    return (numbers * inverse).to(FLOAT8), largest / LARGEST


def float8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` with both in 8 bits.

    Args:
        x: `[..., in_features]`, floating.
        weight: float8_e4m3fn `[out_features, in_features]`, both multiples of 16.
        scale: fp32 `[out_features, 1]`.
        bias: `[out_features]` or None.

    Returns:
        `[..., out_features]` in the dtype of `x`, rounded to bfloat16 on the way.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _linear_of_numbers(x, weight, scale, bias)
    rows, row_scale = round_to_float8(x.reshape(-1, x.shape[-1]))
    if not rows.shape[0]:
        return x.new_empty(*x.shape[:-1], weight.shape[0])
    product = torch._scaled_mm  # type: ignore[attr-defined]
    out = product(rows, weight.t(), scale_a=row_scale, scale_b=scale.t(), out_dtype=torch.bfloat16)
    out = out.to(x.dtype).view(*x.shape[:-1], weight.shape[0])
    return out if bias is None else out + bias.to(x.dtype)


def float8_linear_reference(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """The readable form of `float8_linear`, in fp32."""
    rows, row_scale = round_to_float8(x.reshape(-1, x.shape[-1]))
    numbers = (rows.float() * row_scale).view(x.shape)
    return _linear_of_numbers(numbers, weight, scale, bias).to(x.dtype)


def _linear_of_numbers(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    numbers = (weight.float() * scale).to(x.dtype)
    return F.linear(x, numbers, None if bias is None else bias.to(x.dtype))
