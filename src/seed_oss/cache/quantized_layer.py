"""The keys and values of one layer in 8 bits, a scale per token and head. Half the memory of bfloat16."""

import torch
from torch import Tensor

from seed_oss.cache.layer import CacheLayer, Room, check_fits

MIN_GROWTH = 256


class QuantizedLayer(CacheLayer):
    """A layer that grows like DynamicLayer; keys and values come out as fp32 numbers."""

    def __init__(self) -> None:
        self._room: Room | None = None
        self._length = 0

    @property
    def keys(self) -> Tensor:
        """Keys as fp32 numbers `[batch, kv_heads, length, head_dim]`; an empty tensor before the first write."""
        return torch.empty(0) if self._room is None else _numbers(self._room.keys, self._room.key_scales, self._length)

    @property
    def values(self) -> Tensor:
        """Values, same shape as `keys`."""
        room = self._room
        return torch.empty(0) if room is None else _numbers(room.values, room.value_scales, self._length)

    @property
    def length(self) -> int:
        """Number of tokens that count."""
        return self._length

    def write(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Round and store new tokens; return all as numbers, in the dtype of `key`."""
        end = self._length + key.shape[2]
        room = self._with_room(key[:, :, :0], end)
        for numbers, integers, scales in (
            (key, room.keys, room.key_scales),
            (value, room.values, room.value_scales),
        ):
            assert scales is not None
            integers[:, :, self._length : end], scales[:, :, self._length : end] = rounded(numbers)
        keys, values = _numbers(room.keys, room.key_scales, end), _numbers(room.values, room.value_scales, end)
        return keys.to(key.dtype), values.to(key.dtype)

    def room(self, num_new: int, like: Tensor) -> Room | None:
        """See CacheLayer.room."""
        return self._with_room(like, self._length + num_new)

    def _with_room(self, like: Tensor, end: int) -> Room:
        room = self._room
        if room is not None and self._length:
            check_fits(room.keys, like)
        can_write = room is not None and room.keys.is_inference() == torch.is_inference_mode_enabled()
        if room is None or not can_write or end > room.keys.shape[2] or room.keys.shape[:2] != like.shape[:2]:
            self._room = room = self._grown(like, end + max(MIN_GROWTH, end // 4))
        return room

    def _grown(self, like: Tensor, capacity: int) -> Room:
        shape = (*like.shape[:2], capacity)
        new = Room(
            torch.empty(*shape, like.shape[3], dtype=torch.int8, device=like.device),
            torch.empty(*shape, like.shape[3], dtype=torch.int8, device=like.device),
            torch.empty(shape, dtype=torch.float32, device=like.device),
            torch.empty(shape, dtype=torch.float32, device=like.device),
        )
        for old_part, new_part in zip(self._room or (), new, strict=False):
            if self._length and old_part is not None and new_part is not None:
                new_part[:, :, : self._length] = old_part[:, :, : self._length]
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
        if self._room is not None:
            rows = rows.to(self._room.keys.device)
            self._room = Room(*(None if part is None else part.index_select(0, rows) for part in self._room))  # type: ignore[arg-type]

    def reset(self) -> None:
        """Forget every token."""
        self._length = 0


def rounded(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest integers of -127 to 127 and the scale of each row.

    Args:
        numbers: `[..., head_dim]`.

    Returns:
        int8 `[..., head_dim]` and fp32 `[...]`.
    """
    numbers = numbers.detach().float()
    largest = numbers.abs().amax(-1)
    inverse = 127.0 / largest
    inverse = torch.where(inverse.isfinite(), inverse, 0.0)  # zeros, and magnitudes below 4e-37, are rounded to zero
    return (numbers * inverse[..., None]).round().to(torch.int8), largest / 127.0


def _numbers(integers: Tensor, scales: Tensor | None, length: int) -> Tensor:
    assert scales is not None
    return integers[:, :, :length].float() * scales[:, :, :length, None]
