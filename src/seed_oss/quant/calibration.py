"""From calibration tokens to the integers of a whole model, one layer after another.

    hidden states of all tokens ── layer 0 ── layer 1 ── ...        as the layers quantized so far compute them
                                     │
         q, k, v   see the norm's output       ─┐
         o         sees what was attended       ├ X^T X of each, then the weights; the next group sees the inputs that
         gate, up  see the second norm's output │ the quantized ones before it produce
         down      sees the gated product      ─┘

Memory: one layer in fp32, the hidden states, and the inputs of the group at work (tokens x intermediate_size x 4 bytes)
with their Gram matrix (intermediate_size squared x 4 bytes), besides the results.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.cache import AttentionMask, DenseContext
from seed_oss.errors import InputError
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


def calibrate(
    model: Any,
    input_ids: Tensor,
    plans: Mapping[str, TensorPlan],
    settings: CalibrationSettings | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Calibrated:
    """Quantize a model for the inputs that its layers see on calibration tokens.

    Args:
        model: a model or head of the family in plain form on the CPU; left as it is. Heads of classifiers see nothing.
        input_ids: `[windows, length]`; each window is read for itself. 16,384 tokens in windows of 512 do well.
        plans: of `plan_tensors`. Embedding and head are rounded by the search, the head's for the inputs it gets.
        settings: which means are used.
        advance: called with the number of weights just done: of the embedding, of a layer, of the head.

    Returns:
        Integers, and the parameters that changed with them.

    Raises:
        InputError: the ids are no windows of tokens of the model.
        NumericalError: NaN or infinity in a weight or on the way.
    """
    if input_ids.dim() != 2 or not input_ids.numel():
        raise InputError(f"input_ids is {list(input_ids.shape)}; calibration takes [windows, length]")
    first, last, vocab_size = int(input_ids.min()), int(input_ids.max()), model.config.vocab_size
    if first < 0 or last >= vocab_size:
        raise InputError(
            f"input_ids go from {first} to {last}, and the model has tokens 0 to {vocab_size - 1}; make them with the "
            "model's own tokenizer"
        )
    settings = settings or CalibrationSettings()
    with torch.no_grad():
        result = Calibrated({}, {})
        base: Any = model.base_model
        start = "" if base is model else f"{model.base_model_prefix}."
        hidden = _embedded(base, f"{start}embed_tokens", input_ids, plans, result)
        advance(sum(weight.q.numel() for weight in result.weights.values()))
        position_ids = torch.arange(input_ids.shape[1])[None]
        cos, sin = base.rotary_emb(hidden, position_ids)
        for index, layer in enumerate(base.layers):
            prefix = f"{start}layers.{index}."
            found = calibrate_layer(layer, hidden, (cos, sin), _plans_below(plans, prefix), settings, prefix)
            result.weights.update({prefix + name: value for name, value in found.weights.items()})
            result.tensors.update({prefix + name: value for name, value in found.tensors.items()})
            advance(sum(weight.q.numel() for weight in found.weights.values()))
        if "lm_head" in plans:
            advance(_quantize_head(model, hidden, plans, result))
    return result


@torch.no_grad()
def calibrate_layer(
    layer: SeedOssDecoderLayer,
    hidden: Tensor,
    rope: tuple[Tensor, Tensor],
    plans: Mapping[str, TensorPlan],
    settings: CalibrationSettings,
    prefix: str = "",
) -> Calibrated:
    """Quantize one layer.

    Args:
        layer: left as it is.
        hidden: what it gets, fp32 `[windows, length, hidden_size]`; changed in place to what the quantized layer makes
            of it.
        rope: cosines and sines, `[1, length, head_dim]`.
        plans: by names within the layer (`self_attn.q_proj`).
        settings: which means are used.
        prefix: of the names, for messages.

    Returns:
        Integers and changed parameters, by names within the layer.
    """
    dtype = layer.input_layernorm.weight.dtype
    work = _LayerWork(deepcopy(layer).float().eval(), hidden, rope, plans, settings, prefix)
    if settings.scaling:
        work.scale(dtype)
    work.quantize()
    before = dict(layer.named_parameters())
    kept = {
        name: value.detach().to(dtype)
        for name, value in work.layer.named_parameters()
        if value.dim() == 1 and not torch.equal(value, before[name].float())
    }
    return Calibrated(work.weights, kept)


class _LayerWork:
    """A copy of a layer while it is scaled and quantized."""

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
        return torch.cat([function(part) for part in _parts(hidden)])


def gram(inputs: Tensor, norm: nn.Module | None = None) -> Tensor:
    """X^T X over all tokens, divided by their number.

    Args:
        inputs: `[windows, length, width]`.
        norm: applied first.

    Returns:
        fp32 `[width, width]`.
    """
    total = torch.zeros(inputs.shape[-1], inputs.shape[-1])
    for part in _parts(inputs):
        rows = (part if norm is None else norm(part)).flatten(0, 1)
        total.addmm_(rows.t(), rows, alpha=1 / inputs[..., 0].numel())
    return total


def _parts(hidden: Tensor) -> tuple[Tensor, ...]:
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


def _plans_below(plans: Mapping[str, TensorPlan], prefix: str) -> dict[str, TensorPlan]:
    return {name[len(prefix) :]: plan for name, plan in plans.items() if name.startswith(prefix)}


def _embedded(base: Any, name: str, input_ids: Tensor, plans: Mapping[str, TensorPlan], result: Calibrated) -> Tensor:
    """Hidden states before the first layer, of the quantized embedding (`name`) where it is one."""
    table = base.embed_tokens.weight
    format = plans[name].format
    if format is None:
        return table[input_ids].float()
    result.weights[name] = quantize_weight(table, format, name=name)
    used, places = input_ids.unique(return_inverse=True)
    weight = result.weights[name]
    rows = GroupedWeight(
        weight.format,
        weight.q[used],
        *(None if part is None else part[used] for part in (weight.scale, weight.minimum, weight.zero_point)),  # type: ignore[arg-type]
    )
    return rows.dequantize()[places]


def _quantize_head(model: Any, hidden: Tensor, plans: Mapping[str, TensorPlan], result: Calibrated) -> int:
    """The number of its weights; 0 where they are those of the embedding, or stay as they are."""
    format = plans["lm_head"].format
    if format is None:
        return 0
    if model.lm_head.weight is model.model.embed_tokens.weight:
        if "model.embed_tokens" in result.weights:
            result.weights["lm_head"] = result.weights["model.embed_tokens"]
        return 0
    squares = torch.zeros(hidden.shape[-1])
    for part in _parts(hidden):
        squares += model.model.norm(part.to(model.model.norm.weight.dtype)).float().square().sum((0, 1))
    result.weights["lm_head"] = quantize_weight(model.lm_head.weight, format, importance=squares, name="lm_head")
    return model.lm_head.weight.numel()
