"""A whole model to 8-bit floating point, on devices that multiply it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from seed_oss.errors import InputError, NumericalError
from seed_oss.nn.float8_linear import Float8Linear
from seed_oss.ops.float8 import MULTIPLE, check_float8
from seed_oss.quant.schemes import weight_shapes

NAME = "fp8"


def is_fp8(scheme: object) -> bool:
    """Whether a scheme's name means 8-bit floating point."""
    return isinstance(scheme, str) and scheme.strip().lower() == NAME


def has_float8(model: nn.Module) -> bool:
    """Whether a model has been through `exchange_float8`."""
    return any(isinstance(module, Float8Linear) for module in model.modules())


def exchange_float8(model: nn.Module, *, strict: bool, advance: Callable[[int], None]) -> None:
    """Exchange the linear layers in `layers`; embedding and heads stay as they are.

    Args:
        model: on a device that has the scaled product.
        strict: raise where a weight does not fit, instead of leaving it as it is.
        advance: called with the number of weights just done.

    Raises:
        StateError: the device has no scaled product.
        InputError: a weight's shape, with `strict`; or that of all of them.
        NumericalError: NaN or infinity in a weight.
    """
    names = [name for name in weight_shapes(model) if "layers" in name.split(".")]
    modules: dict[str, Any] = {name: model.get_submodule(name) for name in names}
    check_float8(next(iter(modules.values())).weight.device)
    misfits = [name for name, old in modules.items() if any(size % MULTIPLE for size in old.weight.shape)]
    if misfits and (strict or len(misfits) == len(modules)):
        shape = list(modules[misfits[0]].weight.shape)
        remedy = "take another scheme" + (", or leave out strict" if strict else "")
        raise InputError(
            f"{NAME} does not fit {misfits[0]} {shape}: rows and columns must be multiples of {MULTIPLE}; {remedy}"
        )
    for name, old in modules.items():
        if name not in misfits:
            _exchange(model, name, old)
            advance(old.weight.numel())


def _exchange(model: nn.Module, name: str, old: Any) -> None:
    if not bool(torch.isfinite(old.weight).all()):
        raise NumericalError(f"{name}.weight has NaN or infinity; check the checkpoint")
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, Float8Linear(old.weight, old.bias).train(old.training))
