"""The rotary embedding of a model: frequencies as buffers, cosines and sines per forward."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seed_oss.config import SeedOssConfig
from seed_oss.ops.rope import cos_sin, default_inv_freq, dynamic_theta, longrope_inv_freq, rope_frequencies

_TABLE_LEN = 256
_MAX_TABLE_LEN = 32_768  # 2 x 16 MiB for heads of 128


class AngleTable(NamedTuple):
    """Cosines and sines `[1, length, head_dim]` of positions from `start` on, and what they were made of."""

    start: int
    cos: Tensor
    sin: Tensor
    inv_freq: Tensor
    dtype: torch.dtype

    def has(self, start: int, end: int, inv_freq: Tensor, dtype: torch.dtype) -> bool:
        """Whether the positions from `start` to before `end` are in it, made of this."""
        is_inside = self.start <= start and end <= self.start + self.cos.shape[1]
        return is_inside and self.inv_freq is inv_freq and self.dtype == dtype


class SeedOssRotaryEmbedding(nn.Module):
    """Cosines and sines for given positions. Buffers are fp32 whatever dtype the model is cast to.

    The `dynamic` type keeps the longest length seen in `max_seq_len_cached` (growing with it, and starting over when
    a shorter sequence than the trained length comes); `longrope` chooses between two sets of frequencies. Both look
    at the largest position of the batch, as the reference does, and both are tensors rather than branches.
    """

    inv_freq: Tensor
    long_inv_freq: Tensor
    max_seq_len_cached: Tensor

    def __init__(self, config: SeedOssConfig) -> None:
        super().__init__()
        self.config = config
        self.rope_type: str = config.rope_parameters["rope_type"]
        self.original_max_seq_len = config.max_position_embeddings
        self.attention_scaling = 1.0
        self._table: AngleTable | None = None
        self._long_table: AngleTable | None = None  # from position 0 on
        self.reset_buffers()

    def reset_buffers(self, device: torch.device | str | None = None) -> None:
        """Compute the buffers anew on `device` (the default device if None)."""
        self._table = self._long_table = None
        device = torch.device(device) if device is not None else torch.get_default_device()
        # arithmetic on the meta device would make torch import its compiler (seconds)
        computed_on = torch.device("cpu") if device.type == "meta" else device
        with computed_on:
            inv_freq, self.attention_scaling = rope_frequencies(self.config, computed_on)
            self.register_buffer("inv_freq", inv_freq.to(device), persistent=False)
            if self.rope_type == "longrope":
                long_inv_freq = longrope_inv_freq(self.config, self.config.rope_parameters, computed_on, long=True)
                self.register_buffer("long_inv_freq", long_inv_freq.to(device), persistent=False)
        if self.rope_type == "dynamic":
            length = torch.tensor(self.original_max_seq_len, dtype=torch.int64, device=device)
            self.register_buffer("max_seq_len_cached", length, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SeedOssRotaryEmbedding":
        """Follow the model to its device, but not to its dtype: angles need fp32."""
        super()._apply(fn, recurse)
        self.reset_buffers(self.inv_freq.device)
        return self

    @torch.no_grad()
    def forward(self, hidden_states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[batch, length, head_dim]` in the dtype of `hidden_states`.

        Args:
            hidden_states: gives dtype and device.
            position_ids: integer `[batch, length]`.
        """
        inv_freq = self._inv_freq_for(position_ids)
        return cos_sin(position_ids, inv_freq, self.attention_scaling, hidden_states.dtype)

    @torch.no_grad()
    def of_sequences(
        self, hidden_states: Tensor, position_ids: Tensor, total_lens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[batch, length, head_dim]` that do not depend on the other tokens.

        Args:
            hidden_states: gives dtype and device.
            position_ids: integer `[batch, length]`.
            total_lens: integer `[batch, length]`, of the sequence that each token belongs to, tokens to come included;
                only `dynamic` and `longrope` look at it.
        """
        inv_freq = self.inv_freq if total_lens is None else self._inv_freq_of(total_lens[..., None])
        return cos_sin(position_ids, inv_freq, self.attention_scaling, hidden_states.dtype)

    def of_steps(
        self, positions: Sequence[int], dtype: torch.dtype, num_ahead: int = 0
    ) -> tuple[AngleTable, Sequence[int]]:
        """Cosines and sines on the CPU of a token of each of several sequences.

        They are looked up where they can be, as a step is short beside computing them. Not for the types that depend
        on lengths.

        Args:
            positions: of the tokens.
            dtype: of the results.
            num_ahead: how many positions behind these are wanted, too, where a table has them.

        Returns:
            A table, and which row of it belongs to each token.
        """
        end = max(positions) + 1
        if end > _MAX_TABLE_LEN:
            cos, sin = cos_sin(torch.tensor([positions]), self.inv_freq, self.attention_scaling, dtype)
            return AngleTable(0, cos, sin, self.inv_freq, dtype), range(len(positions))
        end = min(end + num_ahead, _MAX_TABLE_LEN)
        table = self._long_table
        if table is None or not table.has(0, end, self.inv_freq, dtype):
            length = max(_TABLE_LEN, 1 << (end - 1).bit_length())
            self._long_table = table = self._made_table(0, length, dtype)
        return table, positions

    def _made_table(self, start: int, length: int, dtype: torch.dtype) -> AngleTable:
        with torch.inference_mode(False):  # whoever comes next may want a graph
            positions = torch.arange(start, start + length)[None]
            cos, sin = cos_sin(positions, self.inv_freq, self.attention_scaling, dtype)
        return AngleTable(start, cos, sin, self.inv_freq, dtype)

    def _inv_freq_of(self, total_lens: Tensor) -> Tensor:
        if self.rope_type == "longrope":
            trained_len = self.config.rope_parameters["original_max_position_embeddings"]
            return torch.where(total_lens > trained_len, self.long_inv_freq, self.inv_freq)
        if self.rope_type == "dynamic":
            trained_len, rope = self.original_max_seq_len, self.config.rope_parameters
            lens = total_lens.clamp(min=trained_len)
            theta = dynamic_theta(rope["rope_theta"], rope["factor"], self.config.head_dim, trained_len, lens)
            grown = default_inv_freq(theta, self.config.head_dim, lens.device)
            return torch.where(lens > trained_len, grown, self.inv_freq)
        return self.inv_freq

    def following(self, hidden_states: Tensor, start: int | Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[1, length, head_dim]` of consecutive positions.

        On the CPU those of single tokens are looked up: a step of decoding is short beside computing them.

        Args:
            hidden_states: `[batch, length, hidden_size]`; gives dtype, device and length.
            start: the first position.
        """
        length, is_compiling = hidden_states.shape[1], torch.compiler.is_compiling()
        if length > 1 or is_compiling or not isinstance(start, int) or hidden_states.device.type != "cpu":
            return self(hidden_states, torch.arange(length, device=hidden_states.device)[None] + start)
        table = self.table_with(start, hidden_states.dtype)
        if table is None:
            return self(hidden_states, torch.tensor([[start]]))
        row = slice(start - table.start, start - table.start + 1)
        return table.cos[:, row], table.sin[:, row]

    def table_with(self, position: int, dtype: torch.dtype) -> AngleTable | None:
        """A table on the CPU that has a position; None for the types whose angles depend on the longest position.

        Args:
            position: the one that has to be in it; as a rule it is followed by others.
            dtype: of cosines and sines.
        """
        if self.rope_type in ("dynamic", "longrope"):
            return None
        table = self._table
        if table is None or not table.has(position, position + 1, self.inv_freq, dtype):
            self._table = table = self._made_table(position, _TABLE_LEN, dtype)
        return table

    def _inv_freq_for(self, position_ids: Tensor) -> Tensor:
        if self.rope_type == "longrope":
            trained_len = self.config.rope_parameters["original_max_position_embeddings"]
            return torch.where(position_ids.max() + 1 > trained_len, self.long_inv_freq, self.inv_freq)
        if self.rope_type == "dynamic":
            return self._dynamic_inv_freq(position_ids.max() + 1)
        return self.inv_freq

    def _dynamic_inv_freq(self, seq_len: Tensor) -> Tensor:
        trained_len, rope = self.original_max_seq_len, self.config.rope_parameters
        cached = torch.maximum(self.max_seq_len_cached, seq_len)
        cached = torch.where(seq_len < trained_len, trained_len, cached)
        self.max_seq_len_cached.copy_(cached)
        theta = dynamic_theta(rope["rope_theta"], rope["factor"], self.config.head_dim, trained_len, cached)
        grown = default_inv_freq(theta, self.config.head_dim, seq_len.device)
        return torch.where(cached > trained_len, grown, self.inv_freq)

    def extra_repr(self) -> str:
        """The RoPE parameters, for printing."""
        return ", ".join(f"{key}={value!r}" for key, value in self._shown_parameters().items())

    def _shown_parameters(self) -> dict[str, Any]:
        return {key: value for key, value in self.config.rope_parameters.items() if not isinstance(value, list)}
