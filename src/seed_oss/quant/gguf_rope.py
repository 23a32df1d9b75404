"""Rotary positions of a GGUF file as `rope_parameters`.

llama.cpp scales positions by metadata (none, linear, yarn) or, for Llama 3, by a tensor of divisors that its converter
computed from four numbers. The numbers are not in the file; here they are found by computing the tensor again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from seed_oss.errors import UnsupportedModelError
from seed_oss.files.names import short
from seed_oss.quant.gguf_metadata import get_bool, get_float, get_int, get_text

if TYPE_CHECKING:
    from seed_oss.quant.gguf_header import GGUFHeader

ROPE_FREQS = "rope_freqs.weight"

_DEFAULT_THETA = 10_000.0
_USED_KEYS = (
    "dimension_count",
    "freq_base",
    "scale_linear",
    "scaling.type",
    "scaling.factor",
    "scaling.original_context_length",
    "scaling.finetuned",
    "scaling.attn_factor",
    "scaling.yarn_ext_factor",
    "scaling.yarn_attn_factor",
    "scaling.yarn_beta_fast",
    "scaling.yarn_beta_slow",
    "scaling.yarn_log_multiplier",
)
# Llama 3.1 and 3.2 share these; scaling all three by one number changes nothing.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_CLOSE = 1e-5


def rope_keys() -> tuple[str, ...]:
    """Names of the metadata keys that `rope_parameters` reads, below "<architecture>."."""
    return tuple(f"rope.{key}" for key in _USED_KEYS)


def rope_parameters(
    header: GGUFHeader, architecture: str, head_dim: int, context_len: int, factors: np.ndarray | None
) -> dict[str, Any]:
    """The rotary parameters of a GGUF file, in the form of transformers 5.

    Args:
        header: The file's header.
        architecture: Its architecture, the first part of the keys.
        head_dim: Dimensions of a head, all of them rotated.
        context_len: The file's context length, in tokens.
        factors: Values of the tensor rope_freqs.weight `[head_dim / 2]`, or None.

    Returns:
        `rope_type`, `rope_theta` and the type's parameters.

    Raises:
        UnsupportedModelError: A scaling that Seed-OSS cannot express; the message names key and value.
        CheckpointError: A value of a wrong type.
    """
    prefix = f"{architecture}.rope."
    theta = get_float(header, f"{prefix}freq_base", _DEFAULT_THETA, minimum=1.0)
    parameters = {"rope_theta": theta, **_scaling(header, f"{prefix}scaling.", prefix, context_len)}
    if factors is None:
        return parameters
    if parameters["rope_type"] != "default":
        raise UnsupportedModelError(f"{header.source}: {ROPE_FREQS} beside {parameters['rope_type']} scaling")
    return {"rope_theta": theta, **_llama3(header, factors, theta, head_dim)}


def _scaling(header: GGUFHeader, scaling: str, prefix: str, context_len: int) -> dict[str, Any]:
    # A factor of 0 means none; without a type it is linear; scale_linear is the key's old name.
    factor = get_float(header, f"{scaling}factor", get_float(header, f"{prefix}scale_linear", 0.0)) or 1.0
    kind = get_text(header, f"{scaling}type", "linear")
    if f"{scaling}finetuned" in header.metadata:
        get_bool(header, f"{scaling}finetuned")  # a remark, with no effect on the numbers
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedModelError(
            f"{header.source}: {scaling}type is {short(kind)}; none, linear and yarn are supported"
        )
    _refuse_other_than(header, f"{scaling}attn_factor", (1.0,))
    if kind == "yarn":
        return _yarn(header, scaling, factor, context_len)
    if kind == "none" or factor == 1.0:
        return {"rope_type": "default"}
    return {"rope_type": "linear", "factor": factor}


def _yarn(header: GGUFHeader, scaling: str, factor: float, context_len: int) -> dict[str, Any]:
    # llama.cpp computes the attention factor from the scale and ignores the stored one; its converter stores the
    # reference's. Only a file in which both agree means one thing.
    usual = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
    _refuse_other_than(header, f"{scaling}yarn_attn_factor", (usual,))
    _refuse_other_than(header, f"{scaling}yarn_ext_factor", (1.0, -1.0))
    _refuse_other_than(header, f"{scaling}yarn_log_multiplier", (0.0,))
    original = get_int(header, f"{scaling}original_context_length", 0) or context_len
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_fast": get_float(header, f"{scaling}yarn_beta_fast", 32.0),
        "beta_slow": get_float(header, f"{scaling}yarn_beta_slow", 1.0),
    }


def _refuse_other_than(header: GGUFHeader, key: str, allowed: tuple[float, ...]) -> None:
    if key not in header.metadata:
        return
    value = get_float(header, key, minimum=-math.inf)
    if not any(math.isclose(value, one, rel_tol=_CLOSE, abs_tol=1e-12) for one in allowed):
        raise UnsupportedModelError(
            f"{header.source}: {key} is {value}; {' or '.join(f'{one:.6g}' for one in allowed)} can be expressed"
        )


def _llama3(header: GGUFHeader, factors: np.ndarray, theta: float, head_dim: int) -> dict[str, Any]:
    if factors.shape != (head_dim // 2,):
        raise UnsupportedModelError(
            f"{header.source}: {ROPE_FREQS} has the shape {factors.shape}, not ({head_dim // 2},)"
        )
    factor = float(factors.max())
    if np.allclose(factors, 1.0, rtol=_CLOSE):
        return {"rope_type": "default"}
    if not np.allclose(factors, _llama3_factors(theta, head_dim, factor), rtol=_CLOSE):
        raise UnsupportedModelError(
            f"{header.source}: {ROPE_FREQS} scales the rotary frequencies in a way that is not Llama 3's "
            f"({_LLAMA3}, factor {factor:.6g}); it cannot be expressed"
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}


def _llama3_factors(theta: float, head_dim: int, factor: float) -> np.ndarray:
    """Divisors of the frequencies: 1 for short waves, `factor` for long ones, a blend between.

    Source: transformers modeling_rope_utils.py, llama3; llama.cpp conversion/llama.py stores the quotient.
    """
    low, high, length = (
        _LLAMA3["low_freq_factor"],
        _LLAMA3["high_freq_factor"],
        _LLAMA3["original_max_position_embeddings"],
    )
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = length * frequencies / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / factor + smooth)
