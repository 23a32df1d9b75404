"""A whole model to 8-bit floating point, on devices that multiply it, and back to numbers on those that do not.

numbers  e4m3, one byte each
scale    of a row: its largest magnitude / 448; a number stands for itself times the scale of its row
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.errors import InputError, NumericalError
from seed_oss.nn.float8_linear import Float8Linear
from seed_oss.ops.float8 import FLOAT8, MULTIPLE, check_float8, round_to_float8, why_no_float8
from seed_oss.quant.schemes import FLOAT8_SCHEME, weight_shapes

NAME = FLOAT8_SCHEME.name
PIECE_VALUES = 1 << 18
_OUTSIDE = "embeddings and heads stay as they are"


def has_products(device: torch.device) -> bool:
    """Whether a device multiplies 8-bit floating point."""
    return why_no_float8(device) is None


def float8_modules(model: nn.Module) -> dict[str, Float8Linear]:
    """Name to module, of those in 8-bit floating point."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Float8Linear)}


def has_float8(model: nn.Module) -> bool:
    """Whether a model has been through `exchange_float8`."""
    return any(isinstance(module, Float8Linear) for module in model.modules())


def kept_from_float8(shapes: Mapping[str, tuple[int, int]], *, strict: bool = False) -> dict[str, str]:
    """Which modules stay as they are.

    Args:
        shapes: of `weight_shapes`.
        strict: raise where the weight of a layer does not fit.

    Returns:
        Module name to reason; all others become 8-bit floating point.

    Raises:
        InputError: a weight's shape, with `strict`; or that of all of them.
    """
    layers = {name: shape for name, shape in shapes.items() if "layers" in name.split(".")}
    misfits = [name for name, shape in layers.items() if any(size % MULTIPLE for size in shape)]
    if misfits and (strict or len(misfits) == len(layers)):
        remedy = "take another scheme" + (", or leave out strict" if strict else "")
        raise InputError(
            f"{NAME} does not fit {misfits[0]} {list(layers[misfits[0]])}: rows and columns must be multiples of "
            f"{MULTIPLE}; {remedy}"
        )
    reason = f"rows and columns are no multiples of {MULTIPLE}; it stays as it is"
    return {**{name: _OUTSIDE for name in shapes if name not in layers}, **dict.fromkeys(misfits, reason)}


def exchange_float8(model: nn.Module, *, strict: bool, advance: Callable[[int], None]) -> dict[str, str]:
    """Exchange the linear layers in `layers`; embedding and heads stay as they are.

    Args:
        model: on a device that has the scaled product.
        strict: raise where a weight does not fit, instead of leaving it as it is.
        advance: called with the number of weights just done.

    Returns:
        Module name to reason, of what is not exchanged.

    Raises:
        StateError: the device has no scaled product.
        InputError: a weight's shape, with `strict`; or that of all of them.
        NumericalError: NaN or infinity in a weight.
    """
    shapes = weight_shapes(model)
    first: Any = model.get_submodule(next(name for name in shapes if "layers" in name.split(".")))
    check_float8(first.weight.device)
    del first
    kept = kept_from_float8(shapes, strict=strict)
    for name in shapes:
        if name not in kept:
            old: Any = model.get_submodule(name)
            new = Float8Linear(old.weight, old.bias)
            check_scale(f"{name}.weight", new.scale)
            _replace(model, name, new.train(old.training))
            advance(old.weight.numel())
            del old  # before the next one is made
    return kept


def check_scale(name: str, scale: Tensor) -> None:
    """Raise where a weight held what is no number: the scale of its row is none then.

    Args:
        name: of the weight, for the message.
        scale: of its rows.

    Raises:
        NumericalError: it did.
    """
    if not bool(torch.isfinite(scale).all()):
        raise NumericalError(f"{name} has NaN or infinity; check the checkpoint")


@torch.no_grad()
def round_in_pieces(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`ops.float8.round_to_float8`, some rows at a time.

    Args:
        weight: `[out_features, in_features]`, any float dtype.

    Returns:
        The bytes of the numbers, uint8 of the same shape, and fp32 `[out_features, 1]`.
    """
    packed = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    scale = torch.empty(weight.shape[0], 1, dtype=torch.float32, device=weight.device)
    step = max(PIECE_VALUES // weight.shape[1], 1)
    for row in range(0, weight.shape[0], step):
        numbers, scale[row : row + step] = round_to_float8(weight[row : row + step])
        packed[row : row + step] = numbers.view(torch.uint8)
    return packed, scale


@torch.no_grad()
def numbers_of(packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What the bytes stand for: the product in fp32, rounded once, some rows at a time.

    Args:
        packed: uint8 `[out_features, in_features]`.
        scale: fp32 `[out_features, 1]`.
        dtype: of the result.
    """
    result = torch.empty(packed.shape, dtype=dtype, device=packed.device)
    step = min(max(PIECE_VALUES // packed.shape[1], 1), packed.shape[0])
    room = torch.empty(step, packed.shape[1], dtype=torch.float32, device=packed.device)
    for row in range(0, packed.shape[0], step):
        numbers = packed[row : row + step].view(FLOAT8)
        piece = room[: numbers.shape[0]].copy_(numbers).mul_(scale[row : row + step])
        result[row : row + step] = piece
    return result


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
