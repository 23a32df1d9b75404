"""How a foreign format stores the weight of one module: which tensors, of what dtype and shape, and what they become.

A layout is decided from names, dtypes and shapes alone, before anything is read; `read` then gets the tensors of one
module at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError, InputError
from seed_oss.files.names import short
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat

REMEDY = "the file is damaged, or config.json belongs to another one; fetch the folder again"
PARAM_NAMES = {torch.float16: "float16", torch.bfloat16: "float32", torch.float32: "float32"}
"""What scales are kept in: fp16 as fp16, bf16 and fp32 as fp32, so that no bit is lost."""
SCALE_DTYPES = tuple(PARAM_NAMES)
MAX_SCALE = 1e36  # times 255 it is still an fp32 number


class TensorHeader(Protocol):
    """What a file's header says of a tensor; a tensor says the same of itself."""

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...


@dataclass(frozen=True, slots=True)
class StoredSpec:
    """What a stored tensor has to be.

    Attributes:
        choices: one of these pairs of dtype and shape.
        is_optional: it may be missing.
    """

    choices: tuple[tuple[torch.dtype, tuple[int, ...]], ...]
    is_optional: bool = False

    @classmethod
    def any_of(
        cls, dtypes: tuple[torch.dtype, ...], *shapes: tuple[int, ...], is_optional: bool = False
    ) -> "StoredSpec":
        """Any of the dtypes with any of the shapes."""
        return cls(tuple(product(dtypes, dict.fromkeys(shapes))), is_optional)

    def mismatch(self, header: TensorHeader) -> str | None:
        """What is wrong with a tensor, as the end of a sentence; None for nothing."""
        if (header.dtype, tuple(header.shape)) in self.choices:
            return None
        found = f"{_dtype_name(header.dtype)} {short(list(header.shape))}"
        return f"is {found}; it must be " + " or ".join(
            f"{_dtype_name(dtype)} {list(shape)}" for dtype, shape in self.choices
        )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, eq=False)
class ForeignWeight:
    """The weight of a module, as read from a foreign format.

    Attributes:
        weight: `[out_features, in_features]`, in groups or, where no groups hold its numbers, dequantized.
        column_order: int64 `[in_features]` where the columns of `weight` are reordered (column j belongs to the input
            feature column_order[j]): the module computes `x[..., column_order] @ weight.T`. None: they are in order.
    """

    weight: GroupedWeight | Tensor
    column_order: Tensor | None = None

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The numbers `[out_features, in_features]`, columns in the order of the input features."""
        numbers = self.weight.dequantize(dtype) if isinstance(self.weight, GroupedWeight) else self.weight.to(dtype)
        if self.column_order is None:
            return numbers
        result = torch.empty_like(numbers)
        result[:, self.column_order] = numbers
        return result


class StoredLayout(ABC):
    """One way in which a foreign format stores a weight."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is, for messages: "GPTQ, 4 bits, groups of 128"."""

    @abstractmethod
    def specs(self, out_features: int, in_features: int) -> dict[str, StoredSpec]:
        """The tensors of a module: what follows its name and a dot -> dtype and shape. The integers come first.

        Raises:
            CheckpointError: no weight of this size can be stored so.
        """

    @abstractmethod
    def quant_format(self, in_features: int, headers: Mapping[str, TensorHeader]) -> QuantFormat | None:
        """What `read` will give; None for a dequantized tensor.

        Args:
            in_features: columns.
            headers: the stored tensors, checked against `specs`.

        Raises:
            UnsupportedModelError: groups of this size cannot be held.
        """

    @abstractmethod
    def read(
        self, module: str, shape: tuple[int, int], tensors: Mapping[str, Tensor], dtype: torch.dtype
    ) -> ForeignWeight:
        """Turn the stored tensors, checked against `specs`, into a weight.

        Args:
            module: its name, for messages.
            shape: (out_features, in_features).
            tensors: what follows the module's name -> tensor.
            dtype: of a weight that is dequantized.

        Raises:
            CheckpointError: values that make no weight.
        """


def read_module(
    layout: StoredLayout,
    module: str,
    shape: tuple[int, int],
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
) -> ForeignWeight:
    """Check the tensors of one module and read them.

    Args:
        layout: how they are stored.
        module: name of the module, for messages.
        shape: (out_features, in_features).
        tensors: what follows the module's name -> tensor on the CPU.
        dtype: of a weight that cannot be held in groups and is dequantized.

    Raises:
        CheckpointError: a tensor is missing or has a wrong dtype, shape or value.
        UnsupportedModelError: the weight cannot be held.
    """
    problem = layout_problem(layout, module, shape, tensors)
    if problem is not None:
        raise CheckpointError(f"{problem}; {REMEDY}")
    layout.quant_format(shape[1], tensors)
    try:
        return layout.read(module, shape, tensors, dtype)
    except InputError as error:  # GroupedWeight's own checks
        raise CheckpointError(f"{module}: {error}; {REMEDY}") from error


def layout_problem(
    layout: StoredLayout, module: str, shape: tuple[int, int], headers: Mapping[str, TensorHeader]
) -> str | None:
    """Why tensors are not stored in this layout, as a sentence without its end; None if they are."""
    for suffix, spec in layout.specs(*shape).items():
        if suffix not in headers:
            if not spec.is_optional:
                return f"{module}.{suffix} is missing ({layout.title}, a weight {list(shape)})"
            continue
        mismatch = spec.mismatch(headers[suffix])
        if mismatch is not None:
            return f"{module}.{suffix} {mismatch} ({layout.title}, a weight {list(shape)})"
    return None


def checked_scale(name: str, scale: Tensor) -> Tensor:
    """A scale in the dtype that keeps all its bits.

    Args:
        name: of the tensor, for messages.
        scale: fp16, bf16 or fp32.

    Raises:
        CheckpointError: NaN or infinity in it, or a number that makes one of a weight.
    """
    if not bool((scale.float().abs() <= MAX_SCALE).all()):
        raise CheckpointError(f"{name} holds NaN or infinity, or numbers beyond {MAX_SCALE:.0e}; {REMEDY}")
    return scale.to(getattr(torch, PARAM_NAMES[scale.dtype]))


def with_float16_params(weight: GroupedWeight) -> GroupedWeight | None:
    """The same weight with scales and minimums in fp16; None where that would change one of them."""
    narrow: list[Tensor | None] = []
    for part in (weight.scale, weight.minimum):
        half = None if part is None else part.to(torch.float16)
        if part is not None and half is not None and not torch.equal(half.float(), part.float()):
            return None
        narrow.append(half)
    format = QuantFormat(weight.format.bits, weight.format.group_size, weight.format.zero, "float16")
    scale, minimum = narrow
    return None if scale is None else GroupedWeight(format, weight.q, scale, minimum, weight.zero_point)
