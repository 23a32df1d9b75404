"""What the weights of a checkpoint in a foreign format are stored as, module by module, from headers alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.quant.stored_layout import (
    REMEDY,
    ForeignWeight,
    StoredLayout,
    TensorHeader,
    layout_problem,
    read_module,
)

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHOWN_PROBLEMS = 3
# Scales of activations and of cached keys and values: what they are for is not done here.
IDLE_SUFFIXES = frozenset(
    f"{what}_{kind}" for what in ("input", "output", "activation", "q", "k", "v") for kind in ("scale", "zero_point")
) | {"input_scale_ub", "input_global_scale"}


@dataclass(frozen=True)
class ModulePlan:
    """The stored tensors of one quantized module.

    Attributes:
        module: its name.
        shape: (out_features, in_features).
        layout: how it is stored.
        names: what follows the module's name -> full name of the stored tensor.
        format: of the GroupedWeight that `read` gives; None where it gives a dequantized tensor.
        may_reorder: `read` may give a column order.
    """

    module: str
    shape: tuple[int, int]
    layout: StoredLayout
    names: Mapping[str, str]
    format: QuantFormat | None
    may_reorder: bool

    def read(self, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> ForeignWeight:
        """Read the weight.

        Args:
            tensors: full name -> tensor on the CPU, for all of `names`; others are not looked at.
            dtype: of a weight that is dequantized.

        Raises:
            CheckpointError: a tensor is missing, not what the header said, or holds values that make no weight.
        """
        own = {suffix: tensors[name] for suffix, name in self.names.items() if name in tensors}
        missing = [name for name in self.names.values() if name not in tensors]
        if missing:
            raise CheckpointError(f"{missing[0]} is missing; {REMEDY}")
        return read_module(self.layout, self.module, self.shape, own, dtype)


@dataclass(frozen=True)
class ForeignFormat:
    """A foreign format as config.json declares it.

    Attributes:
        method: its name, such as "gptq".
        layouts: how weights may be stored.
        not_converted: modules that the file says are not quantized, names and patterns as written. Nothing is matched
            against them: which tensors are stored says what is quantized.
        notes: what is done otherwise than the file asks for, a sentence each.
    """

    method: str
    layouts: tuple[StoredLayout, ...]
    not_converted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def plan(self, module: str, shape: tuple[int, int], stored: Mapping[str, TensorHeader]) -> ModulePlan | None:
        """How the weight of a module is stored.

        Args:
            module: its name in the checkpoint, such as "model.layers.0.mlp.up_proj".
            shape: (out_features, in_features) in the model.
            stored: every tensor of the checkpoint -> dtype and shape.

        Returns:
            None where the module is not quantized: `module.weight` is a plain tensor, or there is none at all.

        Raises:
            CheckpointError: tensors that are stored in none of the declared ways, or in two.
            UnsupportedModelError: a weight that cannot be held.
        """
        own = self._own(module, stored)
        if not own or (own.keys() == {"weight"} and own["weight"].dtype in _FLOATS):
            return None
        problems: list[str] = []
        for layout in self.layouts:
            problem = _problem(layout, module, shape, own)
            if problem is None:
                return _planned(layout, module, shape, own)
            problems.append(problem)
        problems = list(dict.fromkeys(problems))
        more = f" (and {len(problems) - _SHOWN_PROBLEMS} more)" if len(problems) > _SHOWN_PROBLEMS else ""
        raise CheckpointError(f"{'; or '.join(problems[:_SHOWN_PROBLEMS])}{more}; {REMEDY}")

    def is_idle(self, name: str) -> bool:
        """Whether a stored tensor serves something that is not done here, such as scales of activations."""
        return name.rpartition(".")[2] in IDLE_SUFFIXES

    def _own(self, module: str, stored: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
        suffixes = ["weight", *_ALL_SUFFIXES]
        return {suffix: stored[name] for suffix in suffixes if (name := f"{module}.{suffix}") in stored}


# Of all formats: a tensor of another format beside the own ones is noticed, too.
_ALL_SUFFIXES = (
    *("qweight", "qzeros", "scales", "g_idx"),
    *("weight_packed", "weight_scale", "weight_scale_inv", "weight_zero_point", "weight_shape", "weight_g_idx"),
    *("weight_global_scale", "weight_bitmask", "compressed", "bitmask"),
)


def _problem(layout: StoredLayout, module: str, shape: tuple[int, int], own: Mapping[str, TensorHeader]) -> str | None:
    try:
        problem = layout_problem(layout, module, shape, own)
        strange = [suffix for suffix in own if suffix not in layout.specs(*shape)]
    except CheckpointError as error:
        return f"{module}: {str(error).removesuffix(f'; {REMEDY}')}"
    if problem is None and strange:
        return f"{module}.{strange[0]} has no place beside the other tensors of {module} ({layout.title})"
    return problem


def _planned(layout: StoredLayout, module: str, shape: tuple[int, int], own: Mapping[str, TensorHeader]) -> ModulePlan:
    names = {suffix: f"{module}.{suffix}" for suffix in own}
    may_reorder = any(suffix.endswith("g_idx") for suffix in own)
    return ModulePlan(module, shape, layout, names, layout.quant_format(shape[1], own), may_reorder)
