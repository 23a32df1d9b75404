"""From the inputs of one layer to its integers, and to what the quantized layer makes of them.

    q, k, v   see the norm's output        ─┐
    o         sees what was attended        ├ X^T X of each, then the weights; the next group sees the inputs that the
    gate, up  see the second norm's output  │ quantized ones before it produce
    down      sees the gated product       ─┘

Memory: the layer in fp32, its inputs, and those of the group at work (tokens x width x 4 bytes) with three matrices of
the size of their Gram matrix (width squared x 4 bytes), besides the results.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.cache import AttentionMask, DenseContext
from seed_oss.nn import SeedOssDecoderLayer
from seed_oss.ops.grouped_weight import GroupedWeight
from seed_oss.quant.activation_scaling import (
    best_alpha,
    fold_into_norm_,
    fold_into_rows_,
    fold_into_values_,
    input_factors,
    shared_factors,
)
from seed_oss.quant.error_feedback import FeedbackSettings, quantize_with_feedback
from seed_oss.quant.rounding import largest_magnitude, quantize_weight
from seed_oss.quant.schemes import TensorPlan

TOKENS_AT_ONCE = 2048


@dataclass(frozen=True)
class CalibrationSettings:
    """Which of the means are used.

    Attributes:
        scaling: activation-aware scaling of the columns. Under feedback it adds little where the inputs of columns are
            alike (KL divergence of the demo with 6 layers in 4 bits: 0.0104 with it, 0.0106 without, re-based) and
            more where they differ (0.0081 and 0.0107, as shipped).
        feedback: GPTQ-style error feedback; without it the search, weighted by the mean squares of the inputs.
        effort: of the feedback.
    """

    scaling: bool = True
    feedback: bool = True
    effort: FeedbackSettings = field(default_factory=FeedbackSettings)


@dataclass(frozen=True)
class Calibrated:
    """What calibration makes of a model.

    Attributes:
        weights: module name to its weight in integers.
        tensors: parameter name to new value, in the model's dtype: norm weights and biases that took up scales.
    """

    weights: dict[str, GroupedWeight]
    tensors: dict[str, Tensor]


@torch.no_grad()
def calibrate_layer(
    layer: SeedOssDecoderLayer,
    hidden: Tensor,
    rope: tuple[Tensor, Tensor],
    plans: Mapping[str, TensorPlan],
    settings: CalibrationSettings,
    *,
    dtype: torch.dtype = torch.float32,
    prefix: str = "",
) -> Calibrated:
    """Quantize one layer.

    Args:
        layer: in fp32, on the CPU, in eval mode; changed in place to what the result stands for.
        hidden: what it gets, fp32 `[windows, length, hidden_size]`; changed in place to what the quantized layer makes
            of it.
        rope: cosines and sines, `[1, length, head_dim]`.
        plans: by names within the layer (`self_attn.q_proj`).
        settings: which means are used.
        dtype: in which norm weights and biases will be stored.
        prefix: of the names, for messages.

    Returns:
        Integers and changed parameters, by names within the layer.

    Raises:
        NumericalError: NaN or infinity in a weight or in the inputs.
    """
    before = {name: value.detach().clone() for name, value in layer.named_parameters() if value.dim() == 1}
    work = _LayerWork(layer, hidden, rope, plans, settings, prefix)
    if settings.scaling:
        work.scale(dtype)
    work.quantize()
    after = dict(layer.named_parameters())
    kept = {
        name: after[name].detach().to(dtype) for name, value in before.items() if not torch.equal(after[name], value)
    }
    return Calibrated(work.weights, kept)


class _LayerWork:
    """A layer while it is scaled and quantized."""

    def __init__(
        self,
        layer: SeedOssDecoderLayer,
        hidden: Tensor,
        rope: tuple[Tensor, Tensor],
        plans: Mapping[str, TensorPlan],
        settings: CalibrationSettings,
        prefix: str,
    ) -> None:
        self.layer, self.hidden, self.rope, self.plans, self.settings = layer, hidden, rope, plans, settings
        self.prefix = prefix
        self.weights: dict[str, GroupedWeight] = {}

    def scale(self, dtype: torch.dtype) -> None:
        """Find factors from the inputs of the layer as it is, and fold them in."""
        attention, mlp = self.layer.self_attn, self.layer.mlp
        seen = [self._normed_gram(self.layer.input_layernorm, self.hidden)]
        attended = self._attended()
        seen.append(gram(attended))
        between = self.hidden + attention.o_proj(attended)
        seen.append(self._normed_gram(self.layer.post_attention_layernorm, between))
        seen.append(gram(self._gated(between)))
        head_dim = attention.head_dim
        kv_heads = attention.v_proj.out_features // head_dim
        share = (kv_heads, attention.o_proj.in_features // head_dim // kv_heads, head_dim)
        self._scale_norm(self.layer.input_layernorm, ("q_proj", "k_proj", "v_proj"), "self_attn", seen[0], dtype)
        alpha = self._alpha(("self_attn.o_proj",), seen[1], share)
        fold_into_values_(attention.v_proj, attention.o_proj, shared_factors(seen[1], alpha, share), share)
        self._scale_norm(self.layer.post_attention_layernorm, ("gate_proj", "up_proj"), "mlp", seen[2], dtype)
        alpha = self._alpha(("mlp.down_proj",), seen[3])
        fold_into_rows_(mlp.up_proj, mlp.down_proj, input_factors(seen[3], alpha))

    def quantize(self) -> None:
        """Quantize group after group; `hidden` becomes the layer's output."""
        attention, mlp = self.layer.self_attn, self.layer.mlp
        seen = self._normed_gram(self.layer.input_layernorm, self.hidden)
        self._quantize(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), seen)
        attended = self._attended()
        self._quantize(("self_attn.o_proj",), gram(attended))
        self.hidden += attention.o_proj(attended)
        del attended
        seen = self._normed_gram(self.layer.post_attention_layernorm, self.hidden)
        self._quantize(("mlp.gate_proj", "mlp.up_proj"), seen)
        gated = self._gated(self.hidden)
        self._quantize(("mlp.down_proj",), gram(gated))
        self.hidden += mlp.down_proj(gated)

    def _scale_norm(self, norm: Any, names: tuple[str, ...], part: str, seen: Tensor, dtype: torch.dtype) -> None:
        full = tuple(f"{part}.{name}" for name in names)
        factors = input_factors(seen, self._alpha(full, seen))
        fold_into_norm_(norm, [self._linear(name) for name in full], factors, dtype)

    def _alpha(self, names: tuple[str, ...], seen: Tensor, share: tuple[int, int, int] | None = None) -> float:
        weights = [(self._linear(name).weight, format) for name in names if (format := self.plans[name].format)]
        for name in names:
            largest_magnitude(self._linear(name).weight, self.prefix + name)
        largest_magnitude(seen, f"the inputs of {self.prefix}{names[0]}")
        return best_alpha(weights, seen, share=share) if weights else 0.0

    def _quantize(self, names: tuple[str, ...], seen: Tensor) -> None:
        for name in names:
            format = self.plans[name].format
            if format is None:
                continue
            weight, full_name = self._linear(name).weight, self.prefix + name
            if self.settings.feedback:
                found = quantize_with_feedback(weight, seen, format, settings=self.settings.effort, name=full_name)
            else:
                found = quantize_weight(weight, format, importance=seen.diagonal(), name=full_name)
            self.weights[name] = found
            weight.copy_(found.dequantize())

    def _linear(self, name: str) -> Any:
        return self.layer.get_submodule(name)

    def _normed_gram(self, norm: nn.Module, hidden: Tensor) -> Tensor:
        return gram(hidden, norm)

    def _attended(self) -> Tensor:
        """What the output projection gets, `[windows, length, heads * head_dim]`."""
        cos, sin = self.rope
        with _left_out(self.layer.self_attn, "o_proj"):
            return self._in_parts(
                lambda part: self.layer.self_attn(
                    self.layer.input_layernorm(part), cos, sin, DenseContext(AttentionMask(None, True), None, False)
                ),
                self.hidden,
            )

    def _gated(self, hidden: Tensor) -> Tensor:
        """What the down projection gets, `[windows, length, intermediate_size]`."""
        with _left_out(self.layer.mlp, "down_proj"):
            return self._in_parts(lambda part: self.layer.mlp(self.layer.post_attention_layernorm(part)), hidden)

    def _in_parts(self, function: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        out, start = None, 0
        for part in parts_of(hidden):
            made = function(part)
            if out is None:
                out = made.new_empty(hidden.shape[0], *made.shape[1:])
            out[start : start + len(made)] = made
            start += len(made)
        assert out is not None
        return out


def gram(inputs: Tensor, norm: nn.Module | None = None) -> Tensor:
    """X^T X over all tokens, divided by their number.

    Args:
        inputs: `[windows, length, width]`.
        norm: applied first.

    Returns:
        fp32 `[width, width]`.
    """
    total = torch.zeros(inputs.shape[-1], inputs.shape[-1])
    for part in parts_of(inputs):
        rows = (part if norm is None else norm(part)).flatten(0, 1)
        total.addmm_(rows.t(), rows, alpha=1 / inputs[..., 0].numel())
    return total


def parts_of(hidden: Tensor) -> tuple[Tensor, ...]:
    """Windows of some 2,048 tokens at a time."""
    return hidden.split(max(1, TOKENS_AT_ONCE // hidden.shape[1]))


@contextmanager
def _left_out(module: nn.Module, name: str) -> Iterator[None]:
    """The module without its last product: it returns what goes into it."""
    last = module.get_submodule(name)
    setattr(module, name, nn.Identity())
    try:
        yield
    finally:
        setattr(module, name, last)
