"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), half-split layout, and its scaled variants.

Frequencies are plain functions of the normalised `config.rope_parameters`; all arithmetic is fp32. The variants:
linear (kaiokendev 2023), dynamic NTK (bloc97 2023), YaRN (Peng et al. 2023, arXiv:2309.00071), LongRoPE (Ding et al.
2024, arXiv:2402.13753), llama3 (Llama 3.1 release), proportional (a rotated share of the dimensions, the rest fixed).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from seed_oss.config import SeedOssConfig
from seed_oss.errors import ConfigError
from seed_oss.ops.triton import can_run, take_over


def default_inv_freq(theta: float | Tensor, dim: int, device: torch.device | None = None) -> Tensor:
    """Inverse frequencies `theta ** (-i / dim)` for i = 0, 2, ..., dim - 2.

    Args:
        theta: base of the geometric progression, a number or an fp32 tensor, 0-dim or `[..., 1]`.
        dim: number of rotated dimensions, even.
        device: where to put the result.

    Returns:
        fp32 `[dim / 2]`, or `[..., dim / 2]`.
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.int64, device=device).float() / dim
    return 1.0 / (theta**exponents)


def dynamic_theta(theta: float, factor: float, dim: int, trained_len: int, seq_len: Tensor) -> Tensor:
    """The NTK-aware base for sequences of `seq_len` tokens, an integer tensor of any shape, each >= `trained_len`."""
    stretch = (factor * seq_len / trained_len) - (factor - 1)
    return theta * stretch ** (dim / (dim - 2))


def _linear(config: SeedOssConfig, rope: Mapping[str, Any], device: torch.device | None) -> tuple[Tensor, float]:
    return default_inv_freq(rope["rope_theta"], config.head_dim, device) / rope["factor"], 1.0


def _default(config: SeedOssConfig, rope: Mapping[str, Any], device: torch.device | None) -> tuple[Tensor, float]:
    return default_inv_freq(rope["rope_theta"], config.head_dim, device), 1.0


def _proportional(config: SeedOssConfig, rope: Mapping[str, Any], device: torch.device | None) -> tuple[Tensor, float]:
    num_angles = config.head_dim // 2
    num_rotated = int(rope.get("partial_rotary_factor", 1.0) * config.head_dim // 2)
    inv_freq = default_inv_freq(rope["rope_theta"], config.head_dim, device)
    is_rotated = torch.arange(num_angles, device=device) < num_rotated
    return torch.where(is_rotated, inv_freq, 0.0) / rope.get("factor", 1.0), 1.0


def _llama3(config: SeedOssConfig, rope: Mapping[str, Any], device: torch.device | None) -> tuple[Tensor, float]:
    """Keep short wavelengths, divide long ones by the factor, blend in between."""
    inv_freq = default_inv_freq(rope["rope_theta"], config.head_dim, device)
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    trained_len = rope["original_max_position_embeddings"]
    wavelength = 2 * math.pi / inv_freq
    blend = (trained_len / wavelength - low) / (high - low)
    blended = (1 - blend) * inv_freq / factor + blend * inv_freq
    is_long, is_short = wavelength > trained_len / low, wavelength < trained_len / high
    return torch.where(is_long, inv_freq / factor, torch.where(is_short, inv_freq, blended)), 1.0


def _yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _yarn_attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    mscale, mscale_all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    if mscale and mscale_all_dim:
        return float(_yarn_mscale(factor, mscale) / _yarn_mscale(factor, mscale_all_dim))
    return _yarn_mscale(factor)


def _yarn_ramp_bounds(rope: Mapping[str, Any], dim: int) -> tuple[float, float]:
    """Dimension indices between which YaRN goes over from extrapolation to interpolation (paper, section 3.2)."""
    trained_len, theta = rope["original_max_position_embeddings"], rope["rope_theta"]

    def dimension_of(num_rotations: float) -> float:
        return dim * math.log(trained_len / (num_rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension_of(rope.get("beta_fast") or 32), dimension_of(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    return low, high + 0.001 if low == high else high


def _yarn(config: SeedOssConfig, rope: Mapping[str, Any], device: torch.device | None) -> tuple[Tensor, float]:
    dim, factor = config.head_dim, rope.get("factor")
    if factor is None:
        factor = config.max_position_embeddings / rope["original_max_position_embeddings"]
    extrapolated = default_inv_freq(rope["rope_theta"], dim, device)
    low, high = _yarn_ramp_bounds(rope, dim)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32, device=device) - low) / (high - low)).clamp(0, 1)
    inv_freq = (extrapolated / factor) * ramp + extrapolated * (1 - ramp)
    return inv_freq, _yarn_attention_factor(rope, factor)


def longrope_inv_freq(
    config: SeedOssConfig, rope: Mapping[str, Any], device: torch.device | None, *, long: bool
) -> Tensor:
    """LongRoPE frequencies fp32 `[head_dim / 2]`: the long or the short list of per-dimension factors."""
    extension = torch.tensor(rope["long_factor" if long else "short_factor"], dtype=torch.float32, device=device)
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64, device=device).float() / config.head_dim
    return 1.0 / (extension * rope["rope_theta"] ** exponents)


def _longrope(config: SeedOssConfig, rope: Mapping[str, Any], device: torch.device | None) -> tuple[Tensor, float]:
    trained_len = rope["original_max_position_embeddings"]
    factor = rope.get("factor")
    if factor is None:
        factor = config.max_position_embeddings / trained_len
    scaling = rope.get("attention_factor")
    if scaling is None:
        scaling = 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(trained_len))
    return longrope_inv_freq(config, rope, device, long=False), scaling


_FREQUENCIES: dict[str, Callable[..., tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _default,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}


def rope_frequencies(config: SeedOssConfig, device: torch.device | None = None) -> tuple[Tensor, float]:
    """Frequencies of a config before any switching with length.

    Args:
        config: model configuration; `rope_parameters` says which variant.
        device: where to put the frequencies.

    Returns:
        `(inv_freq, attention_scaling)`: fp32 `[head_dim / 2]` and the factor that cos and sin are multiplied by.

    Raises:
        ConfigError: unknown `rope_type`.
    """
    rope = config.rope_parameters
    rope_type = rope["rope_type"]
    if rope_type not in _FREQUENCIES:
        raise ConfigError(f"rope_parameters.rope_type is {rope_type!r}; allowed: {', '.join(_FREQUENCIES)}")
    return _FREQUENCIES[rope_type](config, rope, device)


def length_variant(config: SeedOssConfig, total_len: int) -> int:
    """Which frequencies a sequence gets that will have so many tokens: equal numbers, equal frequencies.

    Returns:
        0 where the length does not matter, or is one that the model was trained for.
    """
    rope = config.rope_parameters
    if rope["rope_type"] == "longrope":
        return int(total_len > rope["original_max_position_embeddings"])
    is_stretched = rope["rope_type"] == "dynamic" and total_len > config.max_position_embeddings
    return total_len if is_stretched else 0


def cos_sin(position_ids: Tensor, inv_freq: Tensor, scaling: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all angles, computed in fp32.

    Args:
        position_ids: integer `[batch, length]`.
        inv_freq: fp32 `[head_dim / 2]`, or `[batch, length, head_dim / 2]`.
        scaling: factor on both results.
        dtype: dtype of the results.

    Returns:
        Two tensors `[batch, length, head_dim]`; the second half repeats the first.
    """
    angles = position_ids[..., None].float() * inv_freq
    angles = torch.cat((angles, angles), dim=-1)
    return (angles.cos() * scaling).to(dtype), (angles.sin() * scaling).to(dtype)


def rotate_half(x: Tensor) -> Tensor:
    """`(x1, x2) -> (-x2, x1)` over the halves of the last dimension."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `[batch, heads, length, head_dim]` by `cos`, `sin` `[batch, length, head_dim]`."""
    return x * cos.unsqueeze(1) + rotate_half(x) * sin.unsqueeze(1)


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """`apply_rope` of queries and keys; one kernel on CUDA.

    Args:
        query: `[batch, heads, length, head_dim]`.
        key: `[batch, kv_heads, length, head_dim]`.
        cos: `[batch or 1, length, head_dim]`.
        sin: same shape.

    Returns:
        Rotated queries and keys.
    """
    if can_run(query, key, cos, sin):
        return _rotate_on_cuda(query, key, cos, sin)
    return apply_rope(query, cos, sin), apply_rope(key, cos, sin)


def _rotate_on_cuda(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    def kernel() -> tuple[Tensor, Tensor]:
        from seed_oss.ops.triton import rope

        return rope.rotate(query, key, cos, sin)

    compiled_for = ("rotate", query.shape[1], query.shape[3], query.dtype, cos.dtype)
    return take_over(
        query.device, compiled_for, kernel, lambda: (apply_rope(query, cos, sin), apply_rope(key, cos, sin))
    )
