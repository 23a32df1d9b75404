"""All decoder layers in one native call, put in the place of the plain ones from outside.

`fuse_` swaps the stack of a model; the layers in it, their names and their parameters stay what they are, and whatever
the native call cannot do (training, gradients, attention weights, hidden states, hooks, adapters, masks that are added,
other devices) runs them one by one as before.
"""

import ctypes
import os
import threading
from ctypes import byref
from dataclasses import dataclass
from operator import is_
from typing import Any, Self

import torch
from torch import Tensor, nn

from seed_oss.cache import AttentionContext, DenseContext, Room
from seed_oss.errors import StateError
from seed_oss.nn.attention import SeedOssAttention
from seed_oss.nn.decoder_layer import SeedOssDecoderLayer
from seed_oss.nn.layers import LayerStep, SeedOssLayers
from seed_oss.nn.linear import Linear
from seed_oss.nn.mlp import SeedOssMLP
from seed_oss.nn.norm import SeedOssRMSNorm
from seed_oss.nn.quantized_linear import QuantizedLinear
from seed_oss.ops.activations import is_silu
from seed_oss.ops.linear import MAX_NATIVE_ROWS
from seed_oss.ops.native import library, num_threads, together
from seed_oss.ops.native.structs import (
    BFLOAT16,
    CACHE_BFLOAT16,
    CACHE_FLOAT32,
    CACHE_INT8,
    FLOAT32,
    DecoderStruct,
    LayerStruct,
    WeightStruct,
)
from seed_oss.ops.quantized import weight_struct

MAX_HEAD_DIM = 256
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
_CACHE_KINDS = {torch.bfloat16: CACHE_BFLOAT16, torch.float32: CACHE_FLOAT32, torch.int8: CACHE_INT8}


def fuse_(model: nn.Module) -> nn.Module:
    """Run the decoder layers of a model natively from now on, for inference on the CPU.

    Args:
        model: any model or head of the family, in eval mode.

    Returns:
        The same model. Where the kernels are missing or the layers are of another kind, nothing changes.

    Raises:
        StateError: it is in training mode.
    """
    if model.training:
        raise StateError("the model is in training mode; fused layers are for inference: call model.eval() first")
    for parent, name, layers in _stacks(model):
        if type(layers) is SeedOssLayers and FusedLayers.can_run(layers):
            setattr(parent, name, FusedLayers(list(layers)).eval())
            _swap_norm(parent, FusedRMSNorm)
    return model


def unfuse_(model: nn.Module) -> nn.Module:
    """Undo `fuse_`.

    Returns:
        The same model.
    """
    for parent, name, layers in _stacks(model):
        if isinstance(layers, FusedLayers):
            setattr(parent, name, SeedOssLayers(list(layers)))
            _swap_norm(parent, SeedOssRMSNorm)
    return model


def _swap_norm(parent: nn.Module, kind: type[SeedOssRMSNorm]) -> None:
    """The norm behind the layers, in another kind, with the same weight."""
    old: Any = parent.norm
    with torch.device("meta"):
        new = kind(old.weight.shape[0], old.variance_epsilon)
    new.weight = old.weight
    parent.norm = new.train(old.training)


def runs_natively(model: Any) -> bool:
    """Whether a model has fused layers, so that torch's threads should sleep while it generates."""
    stacks = _stacks(model) if isinstance(model, nn.Module) else []
    return any(isinstance(layers, FusedLayers) for _, _, layers in stacks)


def _stacks(model: nn.Module) -> list[tuple[nn.Module, str, SeedOssLayers]]:
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, SeedOssLayers)
    ]


class _OneCall:
    """Threads may run one model at the same time, and its table is filled in for each call."""

    lock = threading.Lock()

    @classmethod
    def renew(cls) -> None:
        """In the child of a fork nobody is left who would let go of it."""
        cls.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OneCall.renew)


@dataclass(frozen=True)
class _Table:
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


class FusedLayers(SeedOssLayers):
    """The stack, run natively where that is possible."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__(layers)
        self._table: _Table | None = None
        self._has_looked = False  # whether there can be a table

    @staticmethod
    def can_run(layers: SeedOssLayers) -> bool:
        """Whether the kernels are there and made for such layers."""
        if library() is None or not len(layers) or not all(map(_is_ours, layers)):
            return False
        first: Any = layers[0]
        attention, mlp = first.self_attn, first.mlp
        fits = attention.head_dim % 16 == 0 and attention.head_dim <= MAX_HEAD_DIM and is_silu(mlp.act_fn)
        return fits and all(
            _can_multiply(layer.get_submodule(path)) for layer in layers for path in _PROJECTIONS.values()
        )

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        context: AttentionContext,
        num_layers: int,
        step: LayerStep | None,
    ) -> Tensor:
        """See SeedOssLayers.forward."""
        arguments = (hidden_states, cos, sin, context, num_layers, step)
        if torch.compiler.is_compiling() or not isinstance(context, DenseContext):
            return super().forward(*arguments)
        if self._is_plain_inference(hidden_states, context, num_layers, step):
            table = self._current_table(is_step=hidden_states.shape[1] == 1)
            num_tokens = hidden_states.shape[0] * hidden_states.shape[1]
            if table is not None and (table.is_packed or num_tokens <= MAX_NATIVE_ROWS):
                memory = self._memory(table, hidden_states, context)
                if memory is not None:
                    return self._run(table, memory, hidden_states, cos, sin, context)
        with together():
            return super().forward(*arguments)

    def _is_plain_inference(self, x: Tensor, context: DenseContext, num_layers: int, step: LayerStep | None) -> bool:
        if step is not None or self.training or x.device.type != "cpu" or num_layers != len(self):
            return False
        if torch.is_grad_enabled() and (x.requires_grad or any(one.requires_grad for one in self.parameters())):
            return False
        mask = context.mask.tensor
        is_boolean = mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1)
        return is_boolean and not context.eager and not torch.is_autocast_enabled("cpu")

    def _current_table(self, is_step: bool) -> _Table | None:
        """The table, or None where something about the layers asks for them to be called."""
        # While decoding, all that Python holds has left the processor's caches, and a look at every module would take a
        # twentieth of a step: what was replaced inside of a layer is noticed at the next prompt.
        if is_step and self._has_looked:
            return None if any(map(_has_hooks, self)) else self._table
        self._has_looked = True
        if any(map(_has_hooks, self.modules())):
            self._table = None
        elif self._table is None or not self._table.is_current():
            self._table = _make_table(self) if self.can_run(self) else None
        return self._table

    def _memory(self, table: _Table, x: Tensor, context: DenseContext) -> list[Room] | None:
        """Keys and values of every layer, with room for the new tokens."""
        batch, length = x.shape[:2]
        like = table.like if x.dtype == torch.float32 and not table.is_packed else table.like.bfloat16()
        like = like.expand(batch, -1, -1, -1)
        if context.cache is None:
            room = like.new_empty(2, len(self), batch, like.shape[1], length, like.shape[3])
            return [Room(*layer) for layer in room.transpose(0, 1)]
        rooms = context.cache.room(len(self), length, like)
        if rooms is None or any(room.keys.dtype not in _CACHE_KINDS for room in rooms):
            return None
        return rooms

    def _run(
        self,
        table: _Table,
        memory: list[Room],
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        context: DenseContext,
    ) -> Tensor:
        keys, mask = memory[0].keys, context.mask.tensor
        x = hidden_states.to(torch.float32, copy=True).contiguous()
        cos, sin = cos.float().contiguous(), sin.float().contiguous()
        mask = None if mask is None else mask.contiguous()
        native = library()
        assert native is not None
        with _OneCall.lock:
            table.point_to(memory)
            call = table.call
            call.batch, call.length = x.shape[:2]
            call.past = 0 if context.cache is None else int(context.cache.layer(0).length)
            call.cache_kind = _CACHE_KINDS[keys.dtype]
            call.batch_stride, call.head_stride = keys.stride()[:2]
            call.x, call.cos, call.sin = x.data_ptr(), cos.data_ptr(), sin.data_ptr()
            call.cos_batch_stride = 0 if cos.shape[0] == 1 else cos.stride(0)
            call.mask = None if mask is None else mask.data_ptr()
            call.mask_batch_stride = 0 if mask is None or mask.shape[0] == 1 else mask.stride(0)
            call.mask_query_stride = 0 if mask is None or mask.shape[2] == 1 else mask.stride(2)
            call.is_causal = mask is None and (context.mask.is_causal or x.shape[1] == 1)
            call.threads = num_threads()
            native.so_decoder(byref(call))
        return x.to(hidden_states.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own table: this one has addresses in it."""
        return {**self.__dict__, "_table": None, "_has_looked": False}

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._table, self._has_looked = None, False
        return super()._apply(fn, recurse)


class FusedRMSNorm(SeedOssRMSNorm):
    """The norm as the fused layers compute it, where nobody wants a gradient."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise `[..., hidden_size]`."""
        native = library()
        wants_graph = torch.is_grad_enabled() and (hidden_states.requires_grad or self.weight.requires_grad)
        is_plain = hidden_states.device.type == "cpu" and hidden_states.dtype == self.weight.dtype == torch.float32
        if native is None or wants_graph or not is_plain or torch.compiler.is_compiling():
            return super().forward(hidden_states)
        x = hidden_states.contiguous()
        out, cols = torch.empty_like(x), x.shape[-1]
        weight = self.weight.contiguous()
        native.so_rms_norm(
            x.data_ptr(), weight.data_ptr(), self.variance_epsilon, x.numel() // cols, cols, out.data_ptr()
        )
        return out


def _is_ours(layer: nn.Module) -> bool:
    parts = _PARTS.items()
    return type(layer) is SeedOssDecoderLayer and all(type(getattr(layer, name)) is kind for name, kind in parts)


def _can_multiply(module: nn.Module) -> bool:
    if isinstance(module, QuantizedLinear):
        return module.packed.device.type == "cpu"
    is_plain = type(module) is Linear and module.weight.dtype in _KINDS  # an adapter's is another type
    return is_plain and module.weight.device.type == "cpu"


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _make_table(layers: FusedLayers) -> _Table:
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
    table = _Table(call, structs, all(_is_packed(layer) for layer in layers), like, [], [], [])
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


def _weight_of(module: Any, table: _Table) -> WeightStruct:
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


def _float_pointer(owner: dict[str, Any], name: str, table: _Table) -> int | None:
    """Address of a tensor in fp32, or None where there is none."""
    tensor = owner.get(name)
    table.sources.append((owner, name, tensor))
    if tensor is None:
        return None
    data = tensor.detach().float().contiguous()
    table.kept.append(data)
    return data.data_ptr()
