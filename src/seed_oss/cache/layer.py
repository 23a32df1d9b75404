"""The keys and values of one decoder layer, `[batch, kv_heads, length, head_dim]`, keys already rotated.

`write` stores new tokens behind the ones that count and returns everything a query may look at; `advance` makes them
count. The two are apart so that a forward moves all layers on at once, after the last of them.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from seed_oss.errors import CacheFullError, InputError


class Room(NamedTuple):
    """Memory of a layer that may be written from outside.

    Attributes:
        keys, values: `[batch, kv_heads, capacity, head_dim]`, the tokens that count in front.
        key_scales, value_scales: fp32 `[batch, kv_heads, capacity]` where keys and values are int8, else None.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None


class _Given(NamedTuple):
    """A room that was given away, and for whom it may be given again."""

    room: Room
    capacity: int
    shape: torch.Size  # of `like`
    is_inference: bool


class CacheLayer(ABC):
    """What both kinds of layer can do."""

    is_compileable = False

    @property
    @abstractmethod
    def keys(self) -> Tensor:
        """Keys `[batch, kv_heads, length, head_dim]`; an empty tensor before the first write."""

    @property
    @abstractmethod
    def values(self) -> Tensor:
        """Values, same shape as `keys`."""

    @property
    @abstractmethod
    def length(self) -> int | Tensor:
        """Number of tokens that count: an integer, or a 0-dim tensor where the graph must not depend on it."""

    @abstractmethod
    def write(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store `[batch, kv_heads, num_new, head_dim]` behind what counts; return all keys and values to attend to."""

    @abstractmethod
    def room(self, num_new: int, like: Tensor) -> Room | None:
        """Memory that new tokens may be written to from outside, instead of with `write`.

        Args:
            num_new: how many tokens will come.
            like: an empty tensor `[batch, kv_heads, 0, head_dim]` of the dtype that is wanted if there is none yet.

        Returns:
            The memory, or None where it may not be written in place.
        """

    @abstractmethod
    def advance(self, num_tokens: int) -> None:
        """Let `num_tokens` written tokens count."""

    @abstractmethod
    def kv_len(self, num_new: int) -> int:
        """Length of what `write` would return for `num_new` tokens."""

    @abstractmethod
    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Replace the batch by its rows `rows` `[new_batch]`, in that order, repeats allowed."""

    @abstractmethod
    def reset(self) -> None:
        """Forget every token, keep the memory."""


def _empty() -> Tensor:
    return torch.empty(0)


class DynamicLayer(CacheLayer):
    """A layer that grows. Room is added in steps, so that a decoding step does not copy what is there."""

    min_growth = 256

    def __init__(self) -> None:
        self._keys, self._values, self._length = _empty(), _empty(), 0
        self._owned = False  # only memory we made ourselves is written in place
        self._given: _Given | None = None  # the last `room`: a step asks every layer, and should not wait for it

    @property
    def keys(self) -> Tensor:
        """Keys `[batch, kv_heads, length, head_dim]`; an empty tensor before the first write."""
        return self._keys[:, :, : self._length] if self._keys.dim() == 4 else self._keys

    @property
    def values(self) -> Tensor:
        """Values, same shape as `keys`."""
        return self._values[:, :, : self._length] if self._values.dim() == 4 else self._values

    @property
    def length(self) -> int:
        """Number of tokens that count."""
        return self._length

    def set(self, keys: Tensor, values: Tensor) -> None:
        """Take over given keys and values `[batch, kv_heads, length, head_dim]`."""
        if keys.dim() != 4 or keys.shape[:3] != values.shape[:3]:
            raise InputError(
                f"cached keys {tuple(keys.shape)} and values {tuple(values.shape)} must both be "
                "[batch, kv_heads, length, head_dim]"
            )
        self._keys, self._values, self._length, self._owned = keys, values, keys.shape[2], False

    def write(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store new tokens; in place where autograd does not need the old tensors.

        Raises:
            InputError: they do not fit what is cached.
        """
        if self._length:
            check_fits(self._keys, key)
        needs_graph = torch.is_grad_enabled() and (key.requires_grad or self._keys.requires_grad)
        if needs_graph or torch.compiler.is_compiling():
            return self._append(key, value)
        end = self._length + key.shape[2]
        self._make_room(key, value, end)
        self._keys[:, :, self._length : end] = key
        self._values[:, :, self._length : end] = value
        return self._keys[:, :, :end], self._values[:, :, :end]

    def room(self, num_new: int, like: Tensor) -> Room | None:
        """See CacheLayer.room."""
        end, is_inference = self._length + num_new, torch.is_inference_mode_enabled()
        given = self._given
        if given is not None and end <= given.capacity and given.shape == like.shape and self._length:
            room = given.room
            if room.keys is self._keys and room.values is self._values and given.is_inference == is_inference:
                return room
        if self._length:
            check_fits(self._keys, like)
            if self._values.dtype != self._keys.dtype:
                return None
        if not (self._length and end <= self._keys.shape[2] and self._may_write()):
            old = self._keys[:, :, :0] if self._length else like
            self._make_room(old, old, end)
        self._given = _Given(Room(self._keys, self._values), self._keys.shape[2], like.shape, is_inference)
        return self._given.room

    def _append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self._length:
            key, value = torch.cat((self.keys, key), dim=2), torch.cat((self.values, value), dim=2)
        self._keys, self._values, self._owned = key, value, False
        return key, value

    def _make_room(self, key: Tensor, value: Tensor, end: int) -> None:
        if not (self._may_write() and end <= self._keys.shape[2]):
            capacity = end + max(self.min_growth, end // 4)
            self._keys = self._grown(self.keys, key, capacity)
            self._values = self._grown(self.values, value, capacity)
            self._owned = True

    def _may_write(self) -> bool:
        # Memory made under inference_mode must not be written outside of it.
        return self._owned and self._keys.is_inference() == torch.is_inference_mode_enabled()

    def _grown(self, old: Tensor, like: Tensor, capacity: int) -> Tensor:
        batch, kv_heads, _, head_dim = like.shape
        new = like.new_empty(batch, kv_heads, capacity, head_dim)
        if self._length:
            new[:, :, : self._length] = old
        return new

    def advance(self, num_tokens: int) -> None:
        """Let `num_tokens` written tokens count."""
        self._length += num_tokens

    def kv_len(self, num_new: int) -> int:
        """Length of what `write` would return for `num_new` tokens."""
        return self._length + num_new

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self._length = min(self._length, length)

    def select(self, rows: Tensor) -> None:
        """Replace the batch by its rows `rows`."""
        if self._length:
            rows = rows.to(self._keys.device)
            self._keys, self._values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
            self._owned = True

    def reset(self) -> None:
        """Forget every token."""
        self._length = 0


def check_fits(old: Tensor, new: Tensor) -> None:
    """Refuse new keys of another batch, number of heads or width.

    Raises:
        InputError: they differ from the cached ones.
    """
    if old.shape[:2] != new.shape[:2] or old.shape[3] != new.shape[3]:
        raise InputError(
            f"cached keys are {list(old.shape)} and new ones {list(new.shape)}; all but the length, [batch, kv_heads, "
            "length, head_dim], must be equal: pass a cache of this model and this batch"
        )


class StaticLayer(CacheLayer):
    """A layer of fixed shape: the same memory and the same graph at every step.

    Args:
        max_cache_len: number of tokens there is room for.
    """

    is_compileable = True

    def __init__(self, max_cache_len: int) -> None:
        self.max_cache_len = max_cache_len
        self._keys, self._values = _empty(), _empty()
        self._length = torch.zeros((), dtype=torch.int64)
        self._known_length: int | None = 0  # the same on the host; None once a compiled graph has moved it on

    @property
    def keys(self) -> Tensor:
        """The whole buffer `[batch, kv_heads, max_cache_len, head_dim]`; an empty tensor before the first write."""
        return self._keys

    @property
    def values(self) -> Tensor:
        """Values, same shape as `keys`."""
        return self._values

    @property
    def length(self) -> Tensor:
        """Number of tokens that count, a 0-dim int64 tensor."""
        return self._length

    def allocate(self, batch: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        """Make the buffers, zero-filled."""
        shape = (batch, kv_heads, self.max_cache_len, head_dim)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self._length = self._length.to(device)

    def write(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store new tokens at fixed addresses; return the whole buffers."""
        if self._keys.dim() != 4:
            self.allocate(key.shape[0], key.shape[1], key.shape[3], key.dtype, key.device)
        self._check(key)
        slots = torch.arange(key.shape[2], device=key.device) + self._length
        if torch.is_grad_enabled() and (key.requires_grad or self._keys.requires_grad):
            # Autograd keeps the old buffer for its backward: replace rather than overwrite.
            self._keys, self._values = self._keys.index_copy(2, slots, key), self._values.index_copy(2, slots, value)
        else:
            self._keys.index_copy_(2, slots, key)
            self._values.index_copy_(2, slots, value)
        return self._keys, self._values

    def room(self, num_new: int, like: Tensor) -> Room | None:
        """See CacheLayer.room."""
        if self._keys.dim() != 4:
            self.allocate(like.shape[0], like.shape[1], like.shape[3], like.dtype, like.device)
        check_fits(self._keys, like)
        self._check_room(num_new)
        return Room(self._keys, self._values)

    def _check(self, key: Tensor) -> None:
        if key.shape[0] != self._keys.shape[0]:
            raise InputError(f"batch of {key.shape[0]} rows given to a StaticCache of {self._keys.shape[0]} rows")
        if key.shape[2] > self.max_cache_len or not torch.compiler.is_compiling():
            self._check_room(key.shape[2])

    def _check_room(self, num_new: int) -> None:
        if torch.compiler.is_compiling():
            length = 0
        else:
            length = self._known_length = int(self._length) if self._known_length is None else self._known_length
        if length + num_new > self.max_cache_len:
            raise CacheFullError(
                f"{num_new} more tokens after {length} do not fit a StaticCache of max_cache_len={self.max_cache_len}; "
                "make a longer one, or use DynamicCache"
            )

    def advance(self, num_tokens: int) -> None:
        """Let `num_tokens` written tokens count."""
        self._length.add_(num_tokens)
        if torch.compiler.is_compiling():
            self._known_length = None
        elif self._known_length is not None:
            self._known_length += num_tokens

    def know_length(self, length: int | None) -> None:
        """Tell the host how many tokens count, which a graph moves on without it; None if it has to ask."""
        self._known_length = length

    def kv_len(self, num_new: int) -> int:
        """Always the whole buffer."""
        return self.max_cache_len

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self._length.clamp_(max=length)
        if torch.compiler.is_compiling():
            self._known_length = None
        elif self._known_length is not None:
            self._known_length = min(self._known_length, length)

    def select(self, rows: Tensor) -> None:
        """Replace the batch by its rows `rows`."""
        if self._keys.dim() == 4:
            rows = rows.to(self._keys.device)
            self._keys, self._values = self._keys.index_select(0, rows), self._values.index_select(0, rows)

    def reset(self) -> None:
        """Forget every token, keep the memory."""
        self._length.zero_()
        self._known_length = 0
