"""From calibration tokens to the integers of a whole model, one part after another.

    token ids ── embedding ── layer 0 ── layer 1 ── ... ── head     hidden states of all tokens go from part to part,
                     │           │          │               │       as the parts quantized so far compute them
                 integers    integers    integers       integers

Each part is asked for when its turn comes: it is copied from a model in memory, or read from files. Memory: one part,
the hidden states, and what `layer_calibration` takes beside them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from seed_oss.errors import InputError
from seed_oss.nn import SeedOssDecoderLayer
from seed_oss.ops.grouped_weight import GroupedWeight
from seed_oss.quant.layer_calibration import Calibrated, CalibrationSettings, calibrate_layer, parts_of
from seed_oss.quant.rounding import quantize_weight
from seed_oss.quant.schemes import TensorPlan


class ModelParts(ABC):
    """The parts of a model on the CPU, each asked for once.

    Attributes:
        model: what it is built like: config, names, formats of its norms, rotary buffers. Its weights may be missing.
    """

    model: Any

    @abstractmethod
    def embedding(self) -> Tensor:
        """The embedding's weight, `[vocab_size, hidden_size]`, any float dtype; it is left as it is."""

    @abstractmethod
    def layer(self, index: int) -> SeedOssDecoderLayer:
        """A layer in fp32 and eval mode, for the caller to change."""

    @abstractmethod
    def norm(self) -> nn.Module:
        """The last norm; it is left as it is."""

    @abstractmethod
    def head(self) -> Tensor:
        """The weight of the language-model head, `[vocab_size, hidden_size]`, any float dtype; left as it is."""


@final
class PartsInMemory(ModelParts):
    """The parts of a model that is in memory; it is left as it is.

    Args:
        model: a model or head of the family in plain form on the CPU.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def embedding(self) -> Tensor:
        """Of the model itself."""
        return self.model.base_model.embed_tokens.weight

    def layer(self, index: int) -> SeedOssDecoderLayer:
        """A copy."""
        return deepcopy(self.model.base_model.layers[index]).float().eval()

    def norm(self) -> nn.Module:
        """Of the model itself."""
        return self.model.base_model.norm

    def head(self) -> Tensor:
        """Of the model itself."""
        return self.model.lm_head.weight


@dataclass(frozen=True)
class CalibratedPart:
    """A part that is done.

    Attributes:
        index: 0 for the embedding, then the layers, then the head with everything else.
        found: its integers, and the parameters that changed with them, by names in the model; the receiver's own.
        hidden: what the next part gets, fp32 `[windows, length, hidden_size]`; the next part changes it in place.
    """

    index: int
    found: Calibrated
    hidden: Tensor

    @property
    def num_weights(self) -> int:
        """Weights that are integers now."""
        return sum(weight.q.numel() for weight in self.found.weights.values())


def num_parts(model: Any) -> int:
    """How many parts there are: embedding, layers, and a last one with the head."""
    return len(model.base_model.layers) + 2


def base_prefix(model: Any) -> str:
    """What names of the model under the head begin with; nothing where there is no head."""
    return "" if model.base_model is model else f"{model.base_model_prefix}."


@torch.no_grad()
def calibrated_parts(
    parts: ModelParts,
    input_ids: Tensor,
    plans: Mapping[str, TensorPlan],
    settings: CalibrationSettings | None = None,
    *,
    start: int = 0,
    hidden: Tensor | None = None,
) -> Iterator[CalibratedPart]:
    """Quantize part after part for the inputs that each of them sees on calibration tokens.

    Args:
        parts: of the model. Heads of classifiers see nothing.
        input_ids: `[windows, length]`; each window is read for itself. 16,384 tokens in windows of 512 do well.
        plans: of `plan_tensors`. Embedding and head are rounded by the search, the head's for the inputs it gets.
        settings: which means are used.
        start: the first part; those before it are done.
        hidden: of the part before `start`, see CalibratedPart; changed in place.

    Yields:
        Parts in their order. A tied head is not among the integers of the last one.

    Raises:
        InputError: the ids are no windows of tokens of the model.
        NumericalError: NaN or infinity in a weight or on the way.
    """
    model, settings = parts.model, settings or CalibrationSettings()
    base: Any = model.base_model
    check_windows(input_ids, model.config.vocab_size)
    above = base_prefix(model)
    rope = base.rotary_emb(torch.empty(0), torch.arange(input_ids.shape[1])[None])
    for index in range(start, num_parts(model)):
        found = Calibrated({}, {})
        if index == 0:
            hidden = _embedded(parts.embedding(), f"{above}embed_tokens", input_ids, plans, found)
        assert hidden is not None
        if 0 < index <= len(base.layers):
            found = _calibrated_layer(parts, index - 1, hidden, rope, plans, settings, f"{above}layers.{index - 1}.")
        elif index and "lm_head" in plans:
            _quantize_head(parts, hidden, plans, found)
        yield CalibratedPart(index, found, hidden)


def calibrate(
    model: Any,
    input_ids: Tensor,
    plans: Mapping[str, TensorPlan],
    settings: CalibrationSettings | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Calibrated:
    """Quantize a model in memory for the inputs that its layers see on calibration tokens.

    Args:
        model: a model or head of the family in plain form on the CPU; left as it is.
        input_ids, plans, settings: see `calibrated_parts`.
        advance: called with the number of weights just done: of the embedding, of a layer, of the head.

    Returns:
        Integers, and the parameters that changed with them.

    Raises:
        InputError, NumericalError: as `calibrated_parts` does.
    """
    result = Calibrated({}, {})
    for part in calibrated_parts(PartsInMemory(model), input_ids, plans, settings):
        result.weights.update(part.found.weights)
        result.tensors.update(part.found.tensors)
        advance(part.num_weights)
    if _is_tied(model) and "model.embed_tokens" in result.weights:
        result.weights["lm_head"] = result.weights["model.embed_tokens"]
    return result


def check_windows(input_ids: Any, vocab_size: int) -> None:
    """Raise unless it is token ids of a vocabulary, `[windows, length]`.

    Raises:
        InputError: it is something else.
    """
    is_tensor = isinstance(input_ids, Tensor)
    if not is_tensor or input_ids.dtype.is_floating_point or input_ids.dtype == torch.bool:
        kind = str(input_ids.dtype) if is_tensor else type(input_ids).__name__
        raise InputError(f"input_ids is a {kind}; calibration takes token ids, an integer tensor [windows, length]")
    if input_ids.dim() != 2 or not input_ids.numel():
        raise InputError(f"input_ids is {list(input_ids.shape)}; calibration takes [windows, length]")
    first, last = int(input_ids.min()), int(input_ids.max())
    if first < 0 or last >= vocab_size:
        raise InputError(
            f"input_ids go from {first} to {last}, and the model has tokens 0 to {vocab_size - 1}; make them with the "
            "model's own tokenizer"
        )


def _calibrated_layer(
    parts: ModelParts,
    index: int,
    hidden: Tensor,
    rope: tuple[Tensor, Tensor],
    plans: Mapping[str, TensorPlan],
    settings: CalibrationSettings,
    prefix: str,
) -> Calibrated:
    """Names of the result are those in the model."""
    dtype = parts.model.base_model.layers[index].input_layernorm.weight.dtype
    within = {name[len(prefix) :]: plan for name, plan in plans.items() if name.startswith(prefix)}
    found = calibrate_layer(parts.layer(index), hidden, rope, within, settings, dtype=dtype, prefix=prefix)
    return Calibrated(
        {prefix + name: value for name, value in found.weights.items()},
        {prefix + name: value for name, value in found.tensors.items()},
    )


def _embedded(
    table: Tensor, name: str, input_ids: Tensor, plans: Mapping[str, TensorPlan], found: Calibrated
) -> Tensor:
    """Hidden states before the first layer, of the quantized embedding (`name`) where it is one."""
    format = plans[name].format
    if format is None:
        return table[input_ids].float()
    found.weights[name] = quantize_weight(table, format, name=name)
    used, places = input_ids.unique(return_inverse=True)
    weight = found.weights[name]
    rows = GroupedWeight(
        weight.format,
        weight.q[used],
        *(None if part is None else part[used] for part in (weight.scale, weight.minimum, weight.zero_point)),  # type: ignore[arg-type]
    )
    return rows.dequantize()[places]


def _quantize_head(parts: ModelParts, hidden: Tensor, plans: Mapping[str, TensorPlan], found: Calibrated) -> None:
    """Nothing is found where the head is the embedding, or stays as it is."""
    format = plans["lm_head"].format
    if format is None or _is_tied(parts.model):
        return
    norm: Any = parts.norm()
    squares = torch.zeros(hidden.shape[-1])
    for part in parts_of(hidden):
        squares += norm(part.to(norm.weight.dtype)).float().square().sum((0, 1))
    found.weights["lm_head"] = quantize_weight(parts.head(), format, importance=squares, name="lm_head")


def _is_tied(model: Any) -> bool:
    head = getattr(model, "lm_head", None)
    return head is not None and head.weight is model.model.embed_tokens.weight
