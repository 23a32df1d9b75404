"""One token per row through a whole model in one native call: Python around three took a fifth of a small step."""

from array import array
from collections.abc import Sequence
from ctypes import addressof, byref
from typing import Any, Self

import torch
from torch import Tensor, nn

from seed_oss.cache import Cache, PagedContext, query_offset
from seed_oss.nn.fused import (
    Batch,
    FusedLayers,
    FusedRMSNorm,
    HookWatch,
    OneCall,
    can_be_used,
    dense_batch,
    fill_in,
)
from seed_oss.nn.fused_table import LayerTable, Sources
from seed_oss.nn.quantized_linear import QuantizedEmbedding, QuantizedLinear
from seed_oss.nn.told_step import Ahead, Stepped, ToldRow, ToldRows, address, check_known
from seed_oss.ops.native import library, num_threads
from seed_oss.ops.native.structs import StepStruct
from seed_oss.ops.quantized import weight_struct
from seed_oss.ops.recording import is_recorded

NOT_AHEAD = Ahead()


class FusedStep:
    """One token per row through a whole model, ids to logits, in one native call.

    Args:
        causal: the model, in eval mode; whatever of its modules has hooks is not run without them.
        decoder: the model without its head.
        head: `[..., hidden_size]` to logits.
    """

    def __init__(self, causal: nn.Module, decoder: Any, head: QuantizedLinear) -> None:
        embedding, layers, norm = decoder.embed_tokens, decoder.layers, decoder.norm
        self._layers: FusedLayers = layers
        self._rotary = decoder.rotary_emb
        self._hooks = HookWatch((causal, decoder, embedding, layers, norm, self._rotary, head))
        self._kept = embedding.packed, head.packed, head.bias, norm.weight
        self._sources = Sources()
        for owner, name in (
            (embedding._buffers, "packed"),
            (head._buffers, "packed"),
            (head._buffers, "bias"),
            (norm._parameters, "weight"),
        ):
            self._sources.add(owner, name)
        self._vocab_size = head.shape[0]
        self._like: Tensor | None = None
        self._told: ToldRows | None = None
        self._call = StepStruct(
            embedding=weight_struct(embedding.packed, embedding.format, *embedding.shape),
            head=weight_struct(head.packed, head.format, *head.shape, head.bias),
            norm=norm.weight.data_ptr(),
            norm_eps=norm.variance_epsilon,
        )

    @classmethod
    def of(cls, causal: nn.Module, decoder: Any, head: nn.Module) -> Self | None:
        """The step of a model, or None where one of its parts is of a kind that the native call does not have."""
        embedding: Any = decoder.embed_tokens
        norm, layers = decoder.norm, decoder.layers
        if library() is None or type(embedding) is not QuantizedEmbedding or type(head) is not QuantizedLinear:
            return None
        if type(norm) is not FusedRMSNorm or not isinstance(layers, FusedLayers):
            return None
        if decoder.config.attn_implementation == "eager":
            return None
        is_float32 = embedding.dtype == norm.weight.dtype == torch.float32
        tensors = embedding.packed, head.packed, norm.weight
        is_here = all(one.device.type == "cpu" and one.is_contiguous() for one in tensors)
        return cls(causal, decoder, head) if is_float32 and is_here else None

    def run(self, tokens: Tensor, cache: Cache) -> Tensor | None:
        """Run the next token of each row.

        Args:
            tokens: int64 `[batch]`.
            cache: with the tokens before; the new ones count in it afterwards.

        Returns:
            Logits, fp32 `[batch, vocab_size]`; None where the model has to be called instead, and nothing was done.

        Raises:
            IndexError: a token that the vocabulary does not have.
        """
        start = query_offset(cache)
        if not isinstance(start, int):
            return None
        table = self._table()
        rooms = None if table is None else cache.room(table.call.num_layers, 1, self._empty_keys(table, len(tokens)))
        if table is None or not can_be_used(rooms) or tokens.device.type != "cpu":
            return None
        x = _floats(len(tokens), 1, table.call.hidden)
        cos, sin = (one.contiguous() for one in self._rotary.following(x, start))
        ids, logits = array("q", tokens.tolist()), _floats(len(tokens), self._vocab_size)
        self._run(table, dense_batch(rooms, x, cos, start), ids, x, cos, sin, logits)
        cache.advance(1)
        return logits

    def of_row(self, cache: Cache) -> "RowSteps":
        """The steps of a single row.

        Args:
            cache: with the tokens before.
        """
        return RowSteps(self, cache)

    def run_packed(self, tokens: Sequence[int], context: PagedContext, ahead: Ahead = NOT_AHEAD) -> Stepped | None:
        """Run the next token of each of several sequences.

        Args:
            tokens: those of `context.rows` in order, one of each.
            context: where each sequence keeps its keys and values.
            ahead: how far to go on from the best tokens.

        Returns:
            What it came to; None where the model has to be called instead, and nothing was done.

        Raises:
            IndexError: a token that the vocabulary does not have.
        """
        table = self._table(1 + ahead.num)
        if table is None:
            self._told = None  # with the weights that it points to
            return None
        x, logits = (_floats(len(tokens), width) for width in (table.call.hidden, self._vocab_size))
        told = self._told
        if told is None or not told.holds(table, context, self._rotary.inv_freq, ahead.num):
            starts = [start for start, _, _ in context.rows.sequences]
            angles, places = self._rotary.of_steps(starts, x.dtype, ahead.num)
            told = self._told = ToldRows(self._call, table, context, angles, places, x)
        with OneCall.lock:
            return told.run(tokens, context, x, logits, ahead)

    def _table(self, num_steps: int = 1) -> LayerTable | None:
        """The layers' table, or None where something asks for the modules to be called."""
        if torch.is_grad_enabled() or is_recorded() or self._hooks.see_any():
            return None
        if not self._sources.are_current():
            return None
        return self._layers.table_of_step(self._kept[:2], num_steps)

    def _run(
        self,
        table: LayerTable,
        batch: Batch,
        ids: "array[int]",
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        logits: Tensor,
    ) -> None:
        """Fill `logits`, and `x` with the hidden states behind the last norm."""
        call, native = self._call, library()
        assert native is not None
        with OneCall.lock:
            fill_in(table, batch, x, cos, sin)
            call.decoder, call.ids, call.logits = addressof(table.call), address(ids), logits.data_ptr()
            num_known = native.so_step(byref(call))
        check_known(num_known, len(ids))

    def _empty_keys(self, table: LayerTable, batch: int) -> Tensor:
        """What a cache without keys takes its shape and dtype from."""
        if self._like is None or self._like.shape[0] != batch:
            self._like = table.like.bfloat16().expand(batch, -1, -1, -1)
        return self._like


class RowSteps:
    """The steps of a single row, in numbers of Python: to handle tensors takes a seventh of a small model's step.

    Args:
        step: of the model.
        cache: with the tokens before.
    """

    def __init__(self, step: FusedStep, cache: Cache) -> None:
        self._step, self._cache = step, cache
        self._token, self._best = array("q", (0,)), array("q", (0,))
        self._logits = _floats(1, step._vocab_size)
        self._call = StepStruct.from_buffer_copy(step._call)
        self._call.ids, self._call.logits = address(self._token), self._logits.data_ptr()
        self._call.best, self._call.is_lost = address(self._best), None
        self._told: ToldRow | None = None

    def next(self, token: int) -> int | None:
        """Run one more token.

        Args:
            token: the one behind those in the cache, in which it counts afterwards.

        Returns:
            The token with the highest logit behind it, or NO_TOKEN; None where the model has to be called instead, and
            nothing was done.

        Raises:
            IndexError: a token that the vocabulary does not have.
        """
        start, table, native = query_offset(self._cache), self._step._table(), library()
        if table is None or native is None or not isinstance(start, int):
            return None
        told = self._told
        if told is None or not told.holds(table, self._cache, start):
            told = self._told = self._tell(table, start)
            if told is None:
                return None
        sequence = told.batch.sequences
        with OneCall.lock:  # the table's copies are not renewed meanwhile
            self._token[0] = token
            sequence[2], sequence[4] = start, start - told.angles.start
            told.table.call.threads = num_threads()
            num_known = native.so_step(byref(self._call))
        check_known(num_known, 1)
        self._cache.advance(1)
        return self._best[0]

    def _tell(self, table: LayerTable, start: int) -> ToldRow | None:
        """Tell the call what stays the same for a while; None where the cache or the angles are not of its kind."""
        like = self._step._empty_keys(table, 1)
        rooms = self._cache.room(table.call.num_layers, 1, like)
        angles = self._step._rotary.table_with(start, torch.float32)
        if angles is None or not can_be_used(rooms):
            return None
        own, x = table.copy(), _floats(1, 1, table.call.hidden)
        batch = dense_batch(rooms, x, angles.cos, start)
        fill_in(own, batch, x, angles.cos, angles.sin)
        self._call.decoder = addressof(own.call)
        end = min(angles.start + angles.cos.shape[1], *(room.keys.shape[2] for room in rooms))
        return ToldRow(table, own, batch, x, like, angles, end)


def _floats(*shape: int) -> Tensor:
    """Memory that the kernels may write fp32 to, whatever torch's defaults are at the moment."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")
