"""The caches that users hold: one object, a layer of keys and values per decoder layer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor

from seed_oss.cache.layer import CacheLayer, DynamicLayer, Room, StaticLayer
from seed_oss.cache.quantized_layer import QuantizedLayer
from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError


class Cache(ABC):
    """Keys and values of every layer; what DynamicCache and StaticCache share."""

    is_compileable = False

    @property
    @abstractmethod
    def layers(self) -> list[Any]:
        """The layers, first to last."""

    def layer(self, layer_idx: int) -> CacheLayer:
        """The layer `layer_idx`, made if it is the next one."""
        return self.layers[layer_idx]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        return self.layers[layer_idx].keys, self.layers[layer_idx].values

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for layer in self.layers:
            yield layer.keys, layer.values

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Append to one layer and let it count at once, as attention code written for the reference does.

        Args:
            key_states: rotated keys `[batch, kv_heads, num_new, head_dim]`.
            value_states: values, same shape.
            layer_idx: which layer.

        Returns:
            All keys and values to attend to.
        """
        layer = self.layer(layer_idx)
        keys, values = layer.write(key_states, value_states)
        layer.advance(key_states.shape[2])
        return keys, values

    def room(self, num_layers: int, num_new: int, like: Tensor) -> list[Room] | None:
        """Memory of the first layers for new tokens that are written from outside, see `CacheLayer.room`.

        Args:
            num_layers: how many layers.
            num_new: how many tokens will come.
            like: an empty tensor `[batch, kv_heads, 0, head_dim]` of the dtype that is wanted if there is none yet.

        Returns:
            That of each layer; None where one of them may not be written in place.
        """
        layers = self.layers if len(self.layers) >= num_layers else [self.layer(index) for index in range(num_layers)]
        rooms: list[Room] = []
        for layer in islice(layers, num_layers):
            room = layer.room(num_new, like)
            if room is None:
                return None
            rooms.append(room)
        return rooms

    def advance(self, num_tokens: int) -> None:
        """Let the tokens that every layer has written count. Once per forward, after the last layer."""
        for layer in self.layers:
            layer.advance(num_tokens)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of cached tokens."""
        return int(self.layers[layer_idx].length) if layer_idx < len(self.layers) else 0

    def get_max_cache_shape(self) -> int:
        """Number of tokens there is room for; -1 where there is no limit."""
        return -1

    def get_max_length(self) -> int:
        """Same as `get_max_cache_shape`."""
        return self.get_max_cache_shape()

    def crop(self, max_length: int) -> None:
        """Shorten: keep the first `max_length` tokens, or, if negative, drop the last `-max_length`.

        Raises:
            InputError: not an integer.
        """
        _check_integer("max_length", max_length)
        if max_length < 0:
            max_length = max(self.get_seq_length() + max_length, 0)
        for layer in self.layers:
            layer.crop(max_length)

    def reorder_cache(self, beam_idx: Tensor | Sequence[int]) -> None:
        """Make row i the old row `beam_idx[i]`.

        Args:
            beam_idx: integers `[new_batch]`, from 0 to the number of rows - 1 (the values of a tensor are looked at
                on the CPU only).

        Raises:
            InputError: anything else.
        """
        written = [layer.keys.shape[0] for layer in self.layers if layer.keys.dim() == 4]
        rows = _rows(beam_idx, written[0] if written else None)
        for layer in self.layers:
            layer.select(rows)

    def batch_select_indices(self, indices: Tensor | Sequence[int]) -> None:
        """Keep the rows `indices` `[new_batch]`, see `reorder_cache`."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times, copies side by side.

        Raises:
            InputError: not an integer >= 1.
        """
        _check_integer("repeats", repeats)
        if repeats < 1:
            raise InputError(f"repeats is {repeats}; it must be an integer >= 1")
        for layer in self.layers:
            if layer.keys.dim() == 4:
                layer.select(torch.arange(layer.keys.shape[0]).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget every token."""
        for layer in self.layers:
            layer.reset()

    def to_legacy_cache(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """The 4.x tuple form: per layer `(keys, values)`, only what counts."""
        length = self.get_seq_length()
        return tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in self)


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} is {value!r}; it must be an integer")


def _rows(given: object, num_rows: int | None) -> Tensor:
    """Row numbers as an int64 tensor `[new_batch]`, checked against `num_rows` where that is known."""
    try:
        rows = given if isinstance(given, Tensor) else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"rows are given as {given!r:.80}; give integers in a list or a 1D tensor") from None
    if rows.dim() != 1 or not rows.numel() or rows.dtype not in (torch.int64, torch.int32):
        raise InputError(f"rows are {rows.dtype} {list(rows.shape)}; give at least one, int64 or int32 [new_batch]")
    if num_rows is not None and rows.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = rows[(rows < 0) | (rows >= num_rows)]
        if wrong.numel():
            raise InputError(
                f"row {int(wrong[0])} is asked of a cache of {num_rows} rows; allowed are 0 to {num_rows - 1}"
            )
    return rows.long()


class DynamicCache(Cache):
    """A cache that grows with what is written to it.

    Args:
        past: optional keys and values per layer, each `[batch, kv_heads, length, head_dim]`, to start from.
        config: accepted as in the reference; a dynamic cache needs nothing from it.
    """

    def __init__(
        self, past: Iterable[tuple[Tensor, ...]] | SeedOssConfig | None = None, config: SeedOssConfig | None = None
    ) -> None:
        self._layers: list[DynamicLayer] = []
        if past is None or isinstance(past, SeedOssConfig):
            return
        for keys, values, *_ in past:
            layer = DynamicLayer()
            layer.set(keys, values)
            self._layers.append(layer)

    @property
    def layers(self) -> list[DynamicLayer]:
        """The layers written so far."""
        return self._layers

    def layer(self, layer_idx: int) -> CacheLayer:
        """The layer `layer_idx`, made if it is the next one."""
        while layer_idx >= len(self._layers):
            self._layers.append(DynamicLayer())
        return self._layers[layer_idx]

    @classmethod
    def from_legacy_cache(cls, past_key_values: Iterable[tuple[Tensor, ...]] | None = None) -> "DynamicCache":
        """From the 4.x tuple form."""
        return cls(past_key_values)


class QuantizedCache(Cache):
    """A cache that grows with what is written, in 8 bits with a scale per token and head: half of what bfloat16 takes.

    Args:
        config: model configuration; accepted for symmetry with the others, and not needed.
    """

    def __init__(self, config: SeedOssConfig | None = None) -> None:
        self._layers: list[QuantizedLayer] = []

    @property
    def layers(self) -> list[QuantizedLayer]:
        """The layers written so far."""
        return self._layers

    def layer(self, layer_idx: int) -> CacheLayer:
        """The layer `layer_idx`, made if it is the next one."""
        while layer_idx >= len(self._layers):
            self._layers.append(QuantizedLayer())
        return self._layers[layer_idx]


class StaticCache(Cache):
    """A cache of fixed shape: nothing is allocated while decoding, and a compiled step stays one graph.

    Args:
        config: gives the number of layers.
        max_cache_len: number of tokens there is room for, >= 1.
        max_batch_size, device, dtype: if all are given the memory is taken now, else at the first write.

    Raises:
        InputError: `max_cache_len` is not a positive integer.
    """

    is_compileable = True

    def __init__(
        self,
        config: SeedOssConfig,
        max_cache_len: int,
        max_batch_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(max_cache_len, int) or max_cache_len < 1:
            raise InputError(f"max_cache_len is {max_cache_len!r}; it must be an integer >= 1")
        self.max_cache_len = max_cache_len
        self._layers = [StaticLayer(max_cache_len) for _ in range(config.num_hidden_layers)]
        if max_batch_size is not None and device is not None and dtype is not None:
            for layer in self._layers:
                kv_heads = config.num_key_value_heads
                layer.allocate(max_batch_size, kv_heads, config.head_dim, dtype, torch.device(device))

    @property
    def layers(self) -> list[StaticLayer]:
        """The layers."""
        return self._layers

    def get_max_cache_shape(self) -> int:
        """Number of tokens there is room for."""
        return self.max_cache_len


def as_cache(past_key_values: Any, num_layers: int | None = None) -> Cache:
    """What a user passed as `past_key_values`: our caches as they are, 4.x tuples and foreign caches taken over.

    A foreign cache (one with `.layers` of `.keys` and `.values`, as peft makes for prefix tuning) is read, not written.

    Args:
        past_key_values: what was passed.
        num_layers: of the model; None if it is not known.

    Raises:
        InputError: anything else, or a cache of a model with another number of layers.
    """
    cache = _taken_over(past_key_values)
    if num_layers is not None and len(cache.layers) not in (0, num_layers):
        raise InputError(
            f"past_key_values has {len(cache.layers)} layers and the model {num_layers}; pass a cache of this model"
        )
    return cache


def _taken_over(past_key_values: Any) -> Cache:
    if isinstance(past_key_values, Cache):
        return past_key_values
    if isinstance(past_key_values, (tuple, list)):
        pairs = cast("Sequence[Any]", past_key_values)
    else:
        layers = getattr(past_key_values, "layers", None)
        pairs = None if layers is None else [(getattr(one, "keys", 0), getattr(one, "values", 0)) for one in layers]
    if pairs is None or not all(_is_pair(pair) for pair in pairs):
        raise InputError(
            f"past_key_values is a {type(past_key_values).__name__}; pass a DynamicCache, StaticCache or "
            "QuantizedCache, or a tuple of (keys, values) per layer, tensors [batch, kv_heads, length, head_dim]"
        )
    return DynamicCache(pairs)


def _is_pair(pair: Any) -> bool:
    is_sequence = isinstance(pair, (tuple, list)) and len(cast("Sequence[Any]", pair)) >= 2
    return is_sequence and all(isinstance(one, Tensor) for one in pair[:2])
