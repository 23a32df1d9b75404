"""What a quantized model answers where a plain one has parameters: its state, its size, its ties."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.errors import StateError
from seed_oss.nn.quantized_linear import QuantizedModule, quantized_modules, stored_tensors
from seed_oss.ops.float8 import FLOAT8
from seed_oss.quant.fp8 import float8_modules, has_float8
from seed_oss.quant.quantize import has_tied_head
from seed_oss.weights.packed_source import check_params, stored_shape

_BESIDE = (".column_order", ".scale")  # of packed weights


class DequantizedState(Mapping[str, Tensor]):
    """The state dict of a quantized model under the plain model's names; each tensor is made when it is asked for.

    One whose scales hold NaN or infinity, as in a damaged file that is mapped, is a CheckpointError then.

    Args:
        model: with quantized modules.
    """

    def __init__(self, model: nn.Module) -> None:
        self._stored = {name: tensor.detach() for name, tensor in stored_tensors(model).items()}
        self._modules = {**quantized_modules(model), **float8_modules(model)}
        self._names = {self._plain_name(name): name for name in self._stored if not name.endswith(_BESIDE)}

    @staticmethod
    def _plain_name(name: str) -> str:
        return name.removesuffix(".packed") + ".weight" if name.endswith(".packed") else name

    def __getitem__(self, name: str) -> Tensor:
        stored = self._names[name]
        module = self._modules.get(stored.rpartition(".")[0])
        if module is None or not stored.endswith(".packed"):
            return self._stored[stored]
        if isinstance(module, QuantizedModule):
            check_params(stored, module.packed, module.format)
        return module.weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def is_quantized(model: nn.Module) -> bool:
    """Whether a model has quantized modules."""
    return has_float8(model) or any(isinstance(module, QuantizedModule) for module in model.modules())


def dequantized_state(model: nn.Module) -> Mapping[str, Tensor]:
    """The state of a quantized model as a plain one would save it, a tied head left out."""
    state = DequantizedState(model)
    names = [name for name in state if not (name == "lm_head.weight" and has_tied_head(model))]
    return _Part(state, names)


class _Part(Mapping[str, Tensor]):
    """Some entries of a mapping."""

    def __init__(self, whole: Mapping[str, Tensor], names: list[str]) -> None:
        self._whole, self._names = whole, names

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._whole[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def packed_state(model: nn.Module) -> dict[str, Tensor]:
    """What a model stores; packed weights as `[blocks of rows, bytes of a block]`, as they stand in files, and 8-bit
    floating point in its own dtype."""
    modules, floats = quantized_modules(model), {f"{name}.packed" for name in float8_modules(model)}
    state: dict[str, Tensor] = {}
    for name, tensor in stored_tensors(model).items():
        module = modules.get(name.rpartition(".")[0]) if name.endswith(".packed") else None
        tensor = tensor.detach().view(FLOAT8) if name in floats else tensor.detach()
        state[name] = tensor if module is None else tensor.view(stored_shape(module.format, module.shape))
    return state


def refuse_loading(model: nn.Module) -> None:
    """A quantized model takes no state dict.

    Raises:
        StateError: it is one.
    """
    if is_quantized(model):
        raise StateError(
            "the model is quantized and takes no state dict; load the weights into a plain model and quantize "
            "that (seed_oss.quant.quantize.quantize_), or use from_pretrained(None, config=..., state_dict=..., "
            "quantization=...)"
        )


def refuse_resizing(embedding: Any) -> None:
    """Rows of a quantized embedding cannot be added.

    Raises:
        StateError: it is quantized.
    """
    if isinstance(embedding, QuantizedModule):
        raise StateError("the embedding is quantized and keeps its size; resize the plain model, then quantize it")


def tie_quantized(model: nn.Module, tied: Mapping[str, str]) -> bool:
    """Let tied modules share the packed bytes of their sources.

    Args:
        model: any.
        tied: names of tied parameters -> names of their sources.

    Returns:
        Whether the sources are quantized.
    """
    for name, source in tied.items():
        owner: Any = model.get_submodule(name.rpartition(".")[0])
        origin: Any = model.get_submodule(source.rpartition(".")[0])
        if not isinstance(origin, QuantizedModule):
            return False
        if isinstance(owner, QuantizedModule) and owner.shape == origin.shape:
            owner.replace_packed(origin.packed, origin.format)
    return bool(tied)


def num_quantized(model: nn.Module, skipped: nn.Module | None = None) -> int:
    """Weights in quantized modules and their biases, shared ones counted once."""
    sizes: dict[int, int] = {}
    for module in quantized_modules(model).values():
        if module is skipped:
            continue
        sizes[id(module.packed)] = module.shape[0] * module.shape[1]
        bias: Any = getattr(module, "bias", None)
        if isinstance(bias, torch.Tensor):
            sizes[id(bias)] = bias.numel()
    for module in float8_modules(model).values():
        sizes[id(module.packed)] = module.packed.numel() + (0 if module.bias is None else module.bias.numel())
    return sum(sizes.values())
