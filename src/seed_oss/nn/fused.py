"""All decoder layers in one native call, put in the place of the plain ones from outside.

`fuse_` swaps the stack of a model; the layers in it, their names and their parameters stay what they are, and whatever
the native call cannot do (training, gradients, attention weights, hidden states, hooks, adapters, masks that are added,
other devices) runs them one by one as before.
"""

import os
import threading
from array import array
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from ctypes import byref
from typing import Any, NamedTuple, Self, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from seed_oss.cache import (
    AttentionContext,
    AttentionMask,
    Cache,
    DenseContext,
    PackedRows,
    PagedContext,
    Room,
    query_offset,
)
from seed_oss.errors import StateError
from seed_oss.nn.fused_table import LayerTable, add_low_ranks, are_known, make_table
from seed_oss.nn.layers import LayerStep, SeedOssLayers
from seed_oss.nn.linear import Linear
from seed_oss.nn.norm import SeedOssRMSNorm
from seed_oss.nn.quantized_linear import QuantizedModule
from seed_oss.ops.activations import is_silu
from seed_oss.ops.linear import MAX_NATIVE_ROWS, batch_invariant_linear
from seed_oss.ops.native import library, num_threads, together
from seed_oss.ops.native.pages import HugePages
from seed_oss.ops.native.structs import CACHE_BFLOAT16, CACHE_FLOAT32, CACHE_INT8
from seed_oss.ops.norm import rms_norm_rows
from seed_oss.ops.recording import wants_graph
from seed_oss.ops.rows import in_slabs

_Module = TypeVar("_Module", bound=nn.Module)

MAX_HEAD_DIM = 256
NO_MASK = AttentionMask(None, is_causal=True)
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


def fused(model: nn.Module) -> nn.Module:
    """A model that shares all parameters with this one and runs its layers as `fuse_` makes them; this one stays.

    Args:
        model: any model or head of the family, in eval mode.

    Returns:
        The second one, or the model itself where it is fused already.

    Raises:
        StateError: it is in training mode.
    """
    if runs_natively(model):
        return model
    twin = with_own_children(model)
    for path in [name for name, module in model.named_modules() if isinstance(module, SeedOssLayers)]:
        parent = twin
        for name in path.split(".")[:-1]:
            child = with_own_children(parent.get_submodule(name))
            setattr(parent, name, child)
            parent = child
    return fuse_(twin)


def with_own_children(module: _Module) -> _Module:
    """The same module once more: its parameters and children are shared, and its children may be exchanged."""
    twin = copy(module)
    twin._modules = dict(module._modules)
    return twin


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


class OneCall:
    """Threads may run one model at the same time, and its table is filled in for each call."""

    lock = threading.Lock()

    @classmethod
    def renew(cls) -> None:
        """In the child of a fork nobody is left who would let go of it."""
        cls.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=OneCall.renew)


class Batch(NamedTuple):
    """Whose tokens a call has, and where their keys and values are.

    Attributes:
        memory: keys and values of each layer.
        sequences: five int64 for each sequence, see Sequence in csrc/types.h.
        blocks: int64, the tables that they point into.
        mask: bool `[num_sequences or 1, 1, length or 1, num_keys]`, or None.
        is_causal: where there is no mask.
    """

    memory: Sequence[Room]
    sequences: "array[int]"
    blocks: "array[int]"
    mask: Tensor | None = None
    is_causal: bool = True


class FusedLayers(SeedOssLayers):
    """The stack, run natively where that is possible."""

    def __init__(
        self, layers: list[nn.Module], low_ranks: Sequence[Mapping[str, tuple[Tensor, Tensor]]] | None = None
    ) -> None:
        super().__init__(layers)
        self._low_ranks = [{} for _ in layers] if low_ranks is None else low_ranks
        self._table: LayerTable | None = None
        self._hooks: HookWatch | None = None  # of the layers; None before the first look at them
        self._inner_hooks = HookWatch(())  # of all modules that the table was made of
        self._pages = HugePages(())

    @staticmethod
    def can_run(layers: SeedOssLayers) -> bool:
        """Whether the kernels are there and made for such layers."""
        if library() is None or not len(layers) or not are_known(layers):
            return False
        first: Any = layers[0]
        head_dim = first.self_attn.head_dim
        return head_dim % 16 == 0 and head_dim <= MAX_HEAD_DIM and is_silu(first.mlp.act_fn)

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
        is_whole = step is None and num_layers == len(self)
        if is_whole and self._is_plain_inference(hidden_states) and _is_plain_attention(context):
            past = int(query_offset(context.cache))
            table = self._current_table(int(hidden_states.shape[1] == 1 and past > 0))
            num_tokens = hidden_states.shape[0] * hidden_states.shape[1]
            if table is not None and (table.is_packed or num_tokens <= MAX_NATIVE_ROWS):
                memory = self._memory(table, hidden_states, context.cache)
                if memory is not None:
                    batch = dense_batch(memory, hidden_states, cos, past, context.mask)
                    return _run(table, batch, hidden_states, cos, sin)
        with together():
            return super().forward(*arguments)

    def run_packed(self, hidden_states: Tensor, cos: Tensor, sin: Tensor, context: PagedContext) -> Tensor:
        """See SeedOssLayers.run_packed: natively for any number of tokens, or else in torch for any number."""
        native = self.run_natively(hidden_states, cos, sin, context)
        return super().run_packed(hidden_states, cos, sin, context) if native is None else native

    def run_natively(self, hidden_states: Tensor, cos: Tensor, sin: Tensor, context: PagedContext) -> Tensor | None:
        """See SeedOssLayers.run_packed; None where something about the layers asks for torch."""
        rows = context.rows
        if self._is_plain_inference(hidden_states):
            table = self._current_table(int(all(start > 0 and length == 1 for start, length, _ in rows.sequences)))
            if table is not None:
                batch = packed_batch(context.cache.rooms, rows, context.cache.block_len)
                return _run(table, batch, hidden_states, cos, sin)
        return None

    def _is_plain_inference(self, x: Tensor) -> bool:
        if self.training or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return False
        return not (
            torch.is_grad_enabled() and (x.requires_grad or any(one.requires_grad for one in self.parameters()))
        )

    def _current_table(self, num_steps: int, also_read: Sequence[Tensor] = ()) -> LayerTable | None:
        """The table, or None where something about the layers asks for them to be called; no steps are a prompt."""
        # While decoding, all that Python holds has left the processor's caches, and a look at every module would take a
        # twentieth of a step: what was replaced inside of a layer is noticed at the next prompt.
        if num_steps and self._hooks is not None:
            if self._hooks.see_any():
                return None
        else:
            self._look()
        table = self._table
        if num_steps and table is not None and not self._pages.are_done:
            with OneCall.lock:
                self._pages.go_on(also_read, num_steps)
        if table is not None and not (num_steps and table.has_current_copies()):
            with OneCall.lock:
                table.renew_copies()
        return table

    def _look(self) -> None:
        """Make a table where there is none for the modules as they are now."""
        self._hooks = HookWatch(self)
        if self._table is not None and self._table.is_current() and not self._inner_hooks.see_any():
            return
        self._forget_table()
        if not any(map(has_hooks, self.modules())) and self.can_run(self):
            self._table = self._made_table()

    def _made_table(self) -> LayerTable:
        table = make_table(self)
        self._inner_hooks = HookWatch(self.modules())
        add_low_ranks(table, self._low_ranks)
        self._pages = HugePages(table.kept)
        return table

    def table_of_step(self, also_read: Sequence[Tensor], num_steps: int = 1) -> LayerTable | None:
        """The table for one token per row in fp32; None where the layers have to be called.

        Args:
            also_read: what a step reads beside the layers' weights, and gets into huge pages with them.
            num_steps: that it is for.
        """
        if self.training or torch.is_autocast_enabled("cpu"):
            return None
        table = self._current_table(num_steps, also_read)
        return table if table is not None and table.is_packed else None

    def _memory(self, table: LayerTable, x: Tensor, cache: Cache | None) -> list[Room] | None:
        """Keys and values of every layer, with room for the new tokens."""
        batch, length = x.shape[:2]
        like = table.like if x.dtype == torch.float32 and not table.is_packed else table.like.bfloat16()
        like = like.expand(batch, -1, -1, -1)
        if cache is None:
            room = like.new_empty(2, len(self), batch, like.shape[1], length, like.shape[3])
            return [Room(*layer) for layer in room.transpose(0, 1)]
        rooms = cache.room(len(self), length, like)
        return rooms if can_be_used(rooms) else None

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own table: this one has addresses in it."""
        made = {"_table": None, "_hooks": None, "_inner_hooks": HookWatch(()), "_pages": HugePages(())}
        return {**self.__dict__, **made}

    def _forget(self) -> None:
        """Look at everything at the next call, though it be a step."""
        self._hooks = None
        self._forget_table()

    def _forget_table(self) -> None:
        """With the pages of its weights, which may be gone."""
        self._table, self._pages = None, HugePages(())

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()  # what is assigned now lies elsewhere
        super()._load_from_state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; who trains changes weights, also in ways that are counted nowhere."""
        if mode != self.training:
            self._forget()
        return super().train(mode)


class FusedRMSNorm(SeedOssRMSNorm):
    """The norm as the fused layers compute it, where nobody wants a gradient."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise `[..., hidden_size]`."""
        is_plain = hidden_states.device.type == "cpu" and hidden_states.dtype == self.weight.dtype == torch.float32
        if not is_plain or wants_graph(hidden_states, self.weight):
            return super().forward(hidden_states)
        return rms_norm_rows(hidden_states, self.weight.detach(), self.variance_epsilon)


def can_be_used(rooms: list[Room] | None) -> TypeGuard[list[Room]]:
    """Whether the kernels write to such a cache."""
    return rooms is not None and all(room.keys.dtype in _CACHE_KINDS for room in rooms)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling a module does something beside, or instead of, its class's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


class HookWatch:
    """Whether some modules have hooks, for who asks at every step: to ask `has_hooks` of each of them takes longer."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        watched = list(modules)
        self._hooks = [hooks for one in watched for hooks in (one._forward_hooks, one._forward_pre_hooks)]
        self._own = [one.__dict__ for one in watched]

    def see_any(self) -> bool:
        """Whether `has_hooks` is true of one of them now."""
        return any(self._hooks) or any("forward" in own for own in self._own)


def logits_of_rows(head: nn.Module, hidden_states: Tensor) -> Tensor:
    """Logits whose bits depend neither on how many rows there are nor on the number of threads.

    Args:
        head: a linear layer, plain or quantized.
        hidden_states: `[rows, hidden_size]`, at least one row.

    Returns:
        fp32 `[rows, vocab_size]`; as the head gives them, rounded to the dtype of its input.

    Raises:
        StateError: a gradient is asked for.
    """
    if torch.is_grad_enabled() and hidden_states.requires_grad:
        raise StateError("hidden_states need a gradient; logits of packed rows are for inference: use torch.no_grad()")
    if type(head) is Linear and not has_hooks(head):
        return batch_invariant_linear(hidden_states, head.weight.detach(), head.bias).float()
    if isinstance(head, QuantizedModule) and library() is not None:
        return head(hidden_states).float()
    return in_slabs(head, hidden_states).float()


def _is_plain_attention(context: DenseContext) -> bool:
    mask = context.mask.tensor
    is_boolean = mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1)
    return is_boolean and not context.eager


def dense_batch(memory: Sequence[Room], x: Tensor, cos: Tensor, past: int, mask: AttentionMask = NO_MASK) -> Batch:
    """Equally long rows: each has one block, which is all of its memory."""
    batch, length = x.shape[:2]
    angle_step = 0 if cos.shape[0] == 1 else length
    sequences = _numbers((row * length, length, past, row, row * angle_step) for row in range(batch))
    tensor = None if mask.tensor is None else mask.tensor.contiguous()
    is_causal = tensor is None and (mask.is_causal or length == 1)
    return Batch(memory, sequences, array("q", range(batch)), tensor, is_causal)


def packed_batch(
    memory: Sequence[Room],
    rows: PackedRows,
    block_len: int,
    first_angles: Sequence[int] | None = None,
    is_growing: bool = False,
) -> Batch:
    """Sequences whose keys and values are in blocks.

    Args:
        memory: keys and values of each layer.
        rows: the sequences.
        block_len: tokens of a block.
        first_angles: of each sequence, the row of its first token in the table of angles; None where angles are in the
            order of the tokens.
        is_growing: whether blocks that are not needed so far are in the tables, too.
    """
    sequences, blocks, first_row = array("q"), array("q"), 0
    for index, (start, length, block_ids) in enumerate(rows.sequences):
        first_angle = first_row if first_angles is None else first_angles[index]
        sequences.extend((first_row, length, start, len(blocks), first_angle))
        blocks.extend(block_ids if is_growing else block_ids[: -(-(start + length) // block_len)])
        first_row += length
    return Batch(memory, sequences, blocks)


def _numbers(rows: Iterable[tuple[int, ...]]) -> "array[int]":
    return array("q", [number for row in rows for number in row])


def _run(table: LayerTable, batch: Batch, hidden_states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """All layers over `[batch, length, hidden_size]`; the rows in it are those of the batch's sequences in order."""
    x = hidden_states.to(torch.float32, copy=True).contiguous()
    cos, sin = cos.float().contiguous(), sin.float().contiguous()
    native = library()
    assert native is not None
    with OneCall.lock:
        fill_in(table, batch, x, cos, sin)
        native.so_decoder(byref(table.call))
    return x.to(hidden_states.dtype)


def fill_in(table: LayerTable, batch: Batch, x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """What the table's call is told of a batch. All tensors are contiguous and fp32 and must outlive the call."""
    keys, mask, call = batch.memory[0].keys, batch.mask, table.call
    table.point_to(batch.memory)
    call.num_tokens, call.num_sequences = x.numel() // call.hidden, len(batch.sequences) // 5
    call.sequences, call.blocks = batch.sequences.buffer_info()[0], batch.blocks.buffer_info()[0]
    call.cache_kind, call.block_len = _CACHE_KINDS[keys.dtype], keys.shape[2]
    call.block_stride, call.head_stride = keys.stride()[:2]
    call.x, call.cos, call.sin = x.data_ptr(), cos.data_ptr(), sin.data_ptr()
    call.mask = None if mask is None else mask.data_ptr()
    call.mask_batch_stride = 0 if mask is None or mask.shape[0] == 1 else mask.stride(0)
    call.mask_query_stride = 0 if mask is None or mask.shape[2] == 1 else mask.stride(2)
    call.is_causal, call.threads = batch.is_causal, num_threads()
