"""Keys and values in blocks of a fixed number of tokens, which any sequence may own: the cache of packed batches.

    keys, values          per layer [num_blocks, kv_heads, block_len, head_dim], bfloat16, float32 or int8
    their scales          per layer [num_blocks, kv_heads, block_len], float32, where they are int8

Token t of a sequence is in its block number t // block_len, at t % block_len. Who owns which block is for others to
know; keys are stored after rotation.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seed_oss.cache.layer import Room
from seed_oss.cache.quantized_layer import rounded
from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.ops.attention import CHUNK_KEYS

BLOCK_UNIT = 16  # keys that the kernels take from one place
CACHE_DTYPES = (torch.bfloat16, torch.float32, torch.int8)


class BlockTensors(NamedTuple):
    """What one block holds in all layers.

    Attributes:
        keys, values: `[num_layers, kv_heads, block_len, head_dim]`.
        key_scales, value_scales: fp32 `[num_layers, kv_heads, block_len]` where keys and values are int8, else None.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None


def block_bytes(config: SeedOssConfig, block_len: int = 32, dtype: torch.dtype = torch.bfloat16) -> int:
    """Memory of one block in all layers, in bytes, without making it.

    Args:
        config: of the model.
        block_len: tokens of a block.
        dtype: bfloat16, float32, or int8 with a scale per token and head.

    Raises:
        InputError: as PagedCache.
    """
    _check_kind(block_len, dtype)
    head_bytes = config.head_dim * dtype.itemsize + (4 if dtype == torch.int8 else 0)
    return 2 * config.num_hidden_layers * config.num_key_value_heads * block_len * head_bytes


class PagedCache:
    """Blocks of keys and values for every layer, made at once and filled with zeros.

    Args:
        config: of the model.
        num_blocks: how many, >= 1.
        block_len: tokens of a block: a multiple of 16 that divides 256.
        dtype: bfloat16, float32, or int8 with a scale per token and head.
        device: where.

    Raises:
        InputError: another number or dtype.
    """

    def __init__(
        self,
        config: SeedOssConfig,
        num_blocks: int,
        block_len: int = 32,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_kind(block_len, dtype)
        if isinstance(num_blocks, bool) or not isinstance(num_blocks, int) or num_blocks < 1:
            raise InputError(f"num_blocks is {num_blocks!r}; it must be an integer >= 1")
        self.num_blocks, self.block_len, self.dtype = num_blocks, block_len, dtype
        shape = (num_blocks, config.num_key_value_heads, block_len, config.head_dim)
        with torch.inference_mode(False):  # written within and outside of it
            rooms = [_new_room(shape, dtype, torch.device(device)) for _ in range(config.num_hidden_layers)]
        self.rooms = tuple(rooms)  # calls of the kernels point to them

    def write(self, layer_idx: int, block_ids: Tensor, offsets: Tensor, key: Tensor, value: Tensor) -> None:
        """Put new tokens in their slots.

        Args:
            layer_idx: which layer.
            block_ids, offsets: int64 `[num_new]`: the block of each token, and its place there.
            key: rotated, `[kv_heads, num_new, head_dim]`.
            value: same shape.
        """
        room = self.rooms[layer_idx]
        for new, numbers, scales in (
            (key, room.keys, room.key_scales),
            (value, room.values, room.value_scales),
        ):
            rows = new.detach().transpose(0, 1)
            if scales is None:
                numbers[block_ids, :, offsets] = rows.to(numbers.dtype)
            else:
                numbers[block_ids, :, offsets], scales[block_ids, :, offsets] = rounded(rows)

    def read_chunk(self, layer_idx: int, block_ids: Sequence[int], num_tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of CHUNK_KEYS tokens, as fp32 numbers.

        Args:
            layer_idx: which layer.
            block_ids: of the chunk, at most CHUNK_KEYS / block_len.
            num_tokens: how many tokens of them count; the others come out as zeros, whatever is there.

        Returns:
            Two tensors `[kv_heads, CHUNK_KEYS, head_dim]`.
        """
        room = self.rooms[layer_idx]
        blocks = torch.tensor(block_ids, device=room.keys.device)
        keys, values = room.keys[blocks].float(), room.values[blocks].float()
        if room.key_scales is not None and room.value_scales is not None:
            keys, values = keys * room.key_scales[blocks][..., None], values * room.value_scales[blocks][..., None]
        return _as_chunk(keys, num_tokens), _as_chunk(values, num_tokens)

    def read_block(self, block_id: int) -> BlockTensors:
        """A copy of what a block holds, to be kept elsewhere.

        Raises:
            InputError: there is no such block.
        """
        self._check_block(block_id)
        layers = [[part[block_id] for part in room if part is not None] for room in self.rooms]
        return BlockTensors(*(torch.stack(parts) for parts in zip(*layers, strict=True)))

    def write_block(self, block_id: int, tensors: BlockTensors) -> None:
        """Put back what `read_block` gave, in any block of a cache of the same kind.

        Raises:
            InputError: there is no such block, or the tensors have another shape or dtype.
        """
        self._check_block(block_id)
        for name, given, memory in zip(BlockTensors._fields, tensors, zip(*self.rooms, strict=True), strict=True):
            _check_block_tensor(name, given, memory)
        for layer_idx, room in enumerate(self.rooms):
            for given, memory in zip(tensors, room, strict=True):
                if given is not None and memory is not None:
                    memory[block_id] = given[layer_idx]

    def check_fits(self, config: SeedOssConfig) -> None:
        """Raise unless it was made for models of this shape.

        Raises:
            InputError: it was not.
        """
        keys = self.rooms[0].keys
        own = (len(self.rooms), keys.shape[1], keys.shape[3])
        wanted = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
        if own != wanted:
            raise InputError(
                f"the paged cache has {own[0]} layers, {own[1]} key/value heads and head_dim {own[2]}; this model has "
                f"{wanted[0]}, {wanted[1]} and {wanted[2]}: make a cache from the model's config"
            )

    def _check_block(self, block_id: int) -> None:
        if not 0 <= block_id < self.num_blocks:
            raise InputError(f"block_id is {block_id}; the cache has blocks 0 to {self.num_blocks - 1}")


def _check_kind(block_len: int, dtype: torch.dtype) -> None:
    if not isinstance(block_len, int) or block_len < 1 or block_len % BLOCK_UNIT or CHUNK_KEYS % block_len:
        raise InputError(f"block_len is {block_len!r}; it must be a multiple of {BLOCK_UNIT} that divides {CHUNK_KEYS}")
    if dtype not in CACHE_DTYPES:
        raise InputError(f"dtype is {dtype}; a paged cache holds torch.bfloat16, torch.float32 or torch.int8")


def _new_room(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Room:
    numbers = [_zeros(shape, dtype, device) for _ in range(2)]
    if dtype != torch.int8:
        return Room(*numbers)
    return Room(*numbers, *(_zeros(shape[:-1], torch.float32, device) for _ in range(2)))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take memory only where they are written to, which `torch.zeros` does everywhere on the CPU."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def _as_chunk(blocks: Tensor, num_tokens: int) -> Tensor:
    """`[num, kv_heads, block_len, head_dim]` to `[kv_heads, CHUNK_KEYS, head_dim]`."""
    tokens = blocks.transpose(0, 1).flatten(1, 2)[:, :num_tokens]
    return torch.nn.functional.pad(tokens, (0, 0, 0, CHUNK_KEYS - num_tokens))


def _check_block_tensor(name: str, given: Tensor | None, memory: tuple[Tensor | None, ...]) -> None:
    first = memory[0]
    if first is None and given is None:
        return
    shape = None if first is None else (len(memory), *first.shape[1:])
    if given is None or first is None or given.shape != shape or given.dtype != first.dtype:
        found = "missing" if given is None else f"{given.dtype} {list(given.shape)}"
        wanted = "none" if first is None or shape is None else f"{first.dtype} {list(shape)}"
        raise InputError(f"{name} of the block is {found}; this cache takes {wanted}")
