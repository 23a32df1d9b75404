"""What one native call of all layers is told of them: weights, norms, and where keys and values are."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class LayerTable:
    """What the native call knows of the layers.

    Attributes:
        call: the call, with all that stays the same from one to the next.
        layers: their structures.
        is_packed: every weight is quantized.
        like: an empty tensor `[1, kv_heads, 0, head_dim]`.
        sources: (dictionary, name, module or tensor) of all that the structures point to.
        kept: tensors made for them.
        rooms: keys and values that they point to.
    """

    call: DecoderStruct
    layers: Any
    is_packed: bool
    like: Tensor
    sources: list[tuple[dict[str, Any], str, nn.Module | Tensor | None]]
    kept: list[Tensor]
    rooms: list[Room]

    def point_to(self, memory: list[Room]) -> None:
        """Let the structures point to the keys and values of each layer."""
        if len(memory) == len(self.rooms) and all(map(is_, memory, self.rooms)):
            return
        self.rooms[:] = memory
        for struct, room in zip(self.layers, memory, strict=True):
            struct.keys, struct.values = room.keys.data_ptr(), room.values.data_ptr()
            if room.key_scales is not None and room.value_scales is not None:
                struct.key_scales, struct.value_scales = room.key_scales.data_ptr(), room.value_scales.data_ptr()

    def is_current(self) -> bool:
        """Whether the layers still hold the modules and tensors that the structures point to."""
        return all(owner.get(name) is value for owner, name, value in self.sources)


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
    like = torch.empty(1, kv_heads, 0, attention.head_dim)
    table = LayerTable(call, structs, all(_is_packed(layer) for layer in layers), like, [], [], [])
    for name, layer, struct in zip(layers._modules, modules, structs, strict=True):
        table.sources.append((layers._modules, name, layer))
        table.sources.extend((layer._modules, part, getattr(layer, part)) for part in _PARTS)
        for field, path in _PROJECTIONS.items():
            parent, _, child = path.rpartition(".")
            owner = layer.get_submodule(parent)._modules
            table.sources.append((owner, child, owner[child]))
            setattr(struct, field, _weight_of(layer.get_submodule(path), table))
        struct.input_norm = _float_pointer(layer.input_layernorm._parameters, "weight", table)
        struct.post_norm = _float_pointer(layer.post_attention_layernorm._parameters, "weight", table)
    return table


def _is_packed(layer: nn.Module) -> bool:
    return all(isinstance(layer.get_submodule(path), QuantizedLinear) for path in _PROJECTIONS.values())


def _weight_of(module: Any, table: LayerTable) -> WeightStruct:
    tensors = module._buffers if isinstance(module, QuantizedLinear) else module._parameters
    bias = _float_pointer(tensors, "bias", table)
    if isinstance(module, QuantizedLinear):
        table.sources.append((module._buffers, "packed", module.packed))
        struct = weight_struct(module.packed, module.format, *module.shape)
        struct.bias = bias
        return struct
    weight = module.weight
    table.sources.append((module._parameters, "weight", weight))
    data = weight.detach().contiguous()
    table.kept.append(data)
    return WeightStruct(data.data_ptr(), bias, *data.shape, _KINDS[data.dtype], 0, 0, 0)


def _float_pointer(owner: dict[str, Any], name: str, table: LayerTable) -> int | None:
    """Address of a tensor in fp32, or None where there is none."""
    tensor = owner.get(name)
    table.sources.append((owner, name, tensor))
    if tensor is None:
        return None
    data = tensor.detach().float().contiguous()
    table.kept.append(data)
    return data.data_ptr()
