"""What one native call of all layers is told of them: weights, norms, and where keys and values are."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.cache import Room
from seed_oss.nn.attention import SeedOssAttention
from seed_oss.nn.decoder_layer import SeedOssDecoderLayer
from seed_oss.nn.linear import Linear
from seed_oss.nn.mlp import SeedOssMLP
from seed_oss.nn.norm import SeedOssRMSNorm
from seed_oss.nn.quantized_linear import QuantizedLinear
from seed_oss.ops.native.structs import BFLOAT16, FLOAT32, DecoderStruct, LayerStruct, LowRankStruct, WeightStruct
from seed_oss.ops.quantized import weight_struct

_PROJECTIONS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_PARTS = {
    "self_attn": SeedOssAttention,
    "mlp": SeedOssMLP,
    "input_layernorm": SeedOssRMSNorm,
    "post_attention_layernorm": SeedOssRMSNorm,
}
_KINDS = {torch.bfloat16: BFLOAT16, torch.float32: FLOAT32}


@dataclass
class _Copied:
    """A tensor of the model that the kernels read a copy of, in fp32 or in one piece."""

    source: Tensor
    data: Tensor
    version: int | None

    def is_current(self) -> bool:
        """Whether nobody wrote to the source since; of an inference tensor this cannot be told."""
        return self.version == _version(self.source)

    def renew(self) -> None:
        """Copy again."""
        self.version = _version(self.source)
        self.data.copy_(self.source.detach())


class Sources:
    """What dictionaries of modules held under names, and where the numbers were.

    Lists side by side, which are compared without a line of Python for each: after a pass over the weights all that
    Python holds has left the processor's caches.
    """

    def __init__(self) -> None:
        self._owners: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._values: list[nn.Module | Tensor | None] = []
        self._tensors: list[Tensor] = []
        self._addresses: list[int] = []

    def add(self, owner: dict[str, Any], name: str) -> Any:
        """Remember what a dictionary has under a name, and give it back."""
        value = owner.get(name)
        self._owners.append(owner)
        self._names.append(name)
        self._values.append(value)
        if isinstance(value, Tensor):
            self._tensors.append(value)
            self._addresses.append(value.data_ptr())
        return value

    def are_current(self) -> bool:
        """Whether all of it is still there, at the same addresses."""
        are_there = all(map(is_, map(dict.get, self._owners, self._names), self._values))
        return are_there and list(map(Tensor.data_ptr, self._tensors)) == self._addresses


@dataclass(frozen=True)
class LayerTable:
    """What the native call knows of the layers.

    Attributes:
        call: the call, with all that stays the same from one to the next.
        layers: their structures.
        is_packed: every weight is quantized.
        like: an empty tensor `[1, kv_heads, 0, head_dim]`.
        sources: all that the structures point to.
        kept: tensors that have to live as long as the structures.
        copied: those of them that are copies of a source.
        rooms: keys and values that they point to.
    """

    call: DecoderStruct
    layers: Any
    is_packed: bool
    like: Tensor
    sources: Sources
    kept: list[Tensor]
    copied: list[_Copied]
    rooms: list[Room]

    def point_to(self, memory: Sequence[Room]) -> None:
        """Let the structures point to the keys and values of each layer."""
        if len(memory) == len(self.rooms) and all(map(is_, memory, self.rooms)):
            return
        self.rooms[:] = memory
        for struct, room in zip(self.layers, memory, strict=True):
            struct.keys, struct.values = room.keys.data_ptr(), room.values.data_ptr()
            if room.key_scales is not None and room.value_scales is not None:
                struct.key_scales, struct.value_scales = room.key_scales.data_ptr(), room.value_scales.data_ptr()

    def copy(self) -> "LayerTable":
        """One with structures of its own, which point to the same weights and to no keys and values."""
        call = DecoderStruct.from_buffer_copy(self.call)
        layers = type(self.layers).from_buffer_copy(self.layers)
        call.layers = ctypes.addressof(layers)
        return replace(self, call=call, layers=layers, rooms=[])

    def is_current(self) -> bool:
        """Whether the layers still hold the modules and tensors that the structures point to."""
        return self.sources.are_current()

    def has_current_copies(self) -> bool:
        """Whether no source of a copy has a newer version; what is written to its `.data` is not counted."""
        return all(copied.is_current() for copied in self.copied)

    def renew_copies(self) -> None:
        """Copy again what the structures point to copies of; no call may run meanwhile."""
        with torch.inference_mode():  # where they may have been made
            for copied in self.copied:
                copied.renew()

    def add(self, owner: dict[str, Any], name: str) -> Any:
        """Remember what a dictionary has under a name, and give it back."""
        return self.sources.add(owner, name)

    def add_data(self, owner: dict[str, Any], name: str, dtype: torch.dtype | None = None) -> Tensor | None:
        """The numbers of a tensor in one piece and in a dtype, or None where there is none."""
        tensor = self.add(owner, name)
        if tensor is None:
            return None
        data = tensor.detach().to(dtype or tensor.dtype).contiguous()
        self.kept.append(data)
        if data.data_ptr() != tensor.data_ptr():
            self.copied.append(_Copied(tensor, data, _version(tensor)))
        return data


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def are_known(layers: nn.ModuleList) -> bool:
    """Whether all of the layers are plain ones, or quantized, on the CPU."""
    return all(map(_is_ours, layers)) and all(
        _can_multiply(layer.get_submodule(path)) for layer in layers for path in _PROJECTIONS.values()
    )


def _is_ours(layer: nn.Module) -> bool:
    parts = _PARTS.items()
    return type(layer) is SeedOssDecoderLayer and all(type(getattr(layer, name)) is kind for name, kind in parts)


def _can_multiply(module: nn.Module) -> bool:
    if isinstance(module, QuantizedLinear):
        return module.packed.device.type == "cpu"
    is_plain = type(module) is Linear and module.weight.dtype in _KINDS  # an adapter's is another type
    return is_plain and module.weight.device.type == "cpu"


def add_low_ranks(table: LayerTable, layers: Sequence[Mapping[str, tuple[Tensor, Tensor]]]) -> None:
    """Let the structures point to what an adapter adds.

    Args:
        table: of the layers.
        layers: for each layer "self_attn.q_proj" and the like to fp32 `[rank, in_features]` and
            `[out_features, rank]`; the rank is the same everywhere.
    """
    places = {path: place for place, path in enumerate(_PROJECTIONS.values())}
    for struct, low_ranks in zip(table.layers, layers, strict=True):
        for path, (a, b) in low_ranks.items():
            struct.low_ranks[places[path]] = LowRankStruct(a.data_ptr(), b.data_ptr())
            table.kept.extend((a, b))
            table.call.rank = a.shape[0]


def make_table(layers: nn.ModuleList) -> LayerTable:
    """The table of layers that `are_known` accepts."""
    modules: list[Any] = list(layers)
    structs, attention = (LayerStruct * len(layers))(), modules[0].self_attn
    kv_heads = attention.k_proj.out_features // attention.head_dim
    call = DecoderStruct(
        num_layers=len(layers),
        hidden=attention.q_proj.in_features,
        heads=attention.q_proj.out_features // attention.head_dim,
        kv_heads=kv_heads,
        head_dim=attention.head_dim,
        intermediate=modules[0].mlp.gate_proj.out_features,
        layers=ctypes.addressof(structs),
        eps=modules[0].input_layernorm.variance_epsilon,
    )
    like = torch.empty(1, kv_heads, 0, attention.head_dim, dtype=torch.float32, device="cpu")
    table = LayerTable(call, structs, all(_is_packed(layer) for layer in layers), like, Sources(), [], [], [])
    for name, struct in zip(layers._modules, structs, strict=True):
        layer = table.add(layers._modules, name)
        for part in _PARTS:
            table.add(layer._modules, part)
        for field, path in _PROJECTIONS.items():
            parent, _, child = path.rpartition(".")
            setattr(struct, field, _weight_of(table.add(layer.get_submodule(parent)._modules, child), table))
        struct.input_norm = _float_pointer(layer.input_layernorm._parameters, "weight", table)
        struct.post_norm = _float_pointer(layer.post_attention_layernorm._parameters, "weight", table)
    return table


def _is_packed(layer: nn.Module) -> bool:
    return all(isinstance(layer.get_submodule(path), QuantizedLinear) for path in _PROJECTIONS.values())


def _weight_of(module: Any, table: LayerTable) -> WeightStruct:
    tensors = module._buffers if isinstance(module, QuantizedLinear) else module._parameters
    bias = _float_pointer(tensors, "bias", table)
    if isinstance(module, QuantizedLinear):
        packed: Any = table.add_data(tensors, "packed")
        struct = weight_struct(packed, module.format, *module.shape)
        struct.bias = bias
        return struct
    data: Any = table.add_data(tensors, "weight")
    return WeightStruct(data.data_ptr(), bias, *data.shape, _KINDS[data.dtype], 0, 0, 0)


def _float_pointer(owner: dict[str, Any], name: str, table: LayerTable) -> int | None:
    """Address of a tensor in fp32, or None where there is none."""
    data = table.add_data(owner, name, torch.float32)
    return None if data is None else data.data_ptr()
