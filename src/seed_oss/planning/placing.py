"""One model in one form on one device: its bytes, the longest context, the speed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from seed_oss.config import SeedOssConfig
from seed_oss.nn.fused import MAX_HEAD_DIM
from seed_oss.ops.activations import activation, is_silu
from seed_oss.ops.native import library
from seed_oss.planning.devices import DeviceMemory
from seed_oss.planning.model import PlannedModel
from seed_oss.planning.result import CacheBytes, ExpectedSpeed, Placement
from seed_oss.planning.roofline import LayerKind, Speeds, WeightKind
from seed_oss.planning.shapes import has_language_head, model_tensors
from seed_oss.planning.weights import Form, blocks_form, scheme_form, stored_form
from seed_oss.planning.workspace import PROCESS_BYTES, Load, WorkspaceBytes, workspace_bytes
from seed_oss.quant.schemes import Scheme


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is placed.

    Args:
        config: of the model.
        form: of its weights.
        quantization: the scheme to load it with, or None.
    """

    config: SeedOssConfig
    form: Form
    quantization: str | None = None

    def is_native(self, device: str) -> bool:
        """Whether the kernels run all its layers."""
        config = self.config
        fits = config.head_dim % 16 == 0 and config.head_dim <= MAX_HEAD_DIM and is_silu(activation(config.hidden_act))
        return device == "cpu" and self.form.is_packed and fits and library() is not None

    def cache_dtype(self, device: str) -> torch.dtype:
        """What keys and values are kept in."""
        return torch.bfloat16 if self.is_native(device) else self.form.dtype

    def kinds(self) -> dict[str, WeightKind]:
        """The kinds of its weights in the layers and the head."""
        layers, head = (self.form.format_of(part) or self.form.dtype for part in ("layers", "head"))
        return {"layers": layers, "head": head}

    def layer(self, device: str) -> LayerKind:
        """Its layers but for their weights."""
        config, dtype = self.config, self.cache_dtype(device)
        heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        return LayerKind(*heads, config.hidden_size, config.intermediate_size, dtype, self.is_native(device))


def scheme_candidate(model: PlannedModel, scheme: Scheme, dtype: Any, kind: str) -> Candidate:
    """A model quantized with a scheme while it is loaded.

    Args:
        model: not quantized yet.
        scheme: what it becomes.
        dtype: as asked for, "auto" included.
        kind: of device, "cpu" or "cuda".
    """
    form = scheme_form(model.config, scheme, model.quantized_dtype(dtype, kind), model.dtype(None))
    return Candidate(model.config, form, scheme.name)


def stored_candidate(model: PlannedModel, dtype: Any, device: DeviceMemory) -> Candidate:
    """A quantized checkpoint as it is stored, on a device.

    Args:
        model: quantized already.
        dtype: of what is not, as asked for, "auto" included.
        device: where.

    Raises:
        CheckpointError, ConfigError, UnsupportedModelError: See `stored_form`.
    """
    dtype = model.quantized_dtype(dtype, device.kind)
    if model.blocks:
        return Candidate(model.config, blocks_form(model.config, model.blocks, dtype))
    return Candidate(model.config, stored_form(model.config, model.stored, dtype, has_float8=device.has_float8))


def place(candidate: Candidate, device: DeviceMemory, load: Load, speeds: Speeds | None) -> Placement:
    """What a candidate takes on a device, and how fast it is there.

    Args:
        candidate: model and form.
        device: where.
        load: how much it has to do.
        speeds: what was measured there, or None.
    """
    config, form = candidate.config, candidate.form
    num_parameters = sum(tensor.num_elements for tensor in model_tensors(config))

    def total(context: int) -> int:
        working = _working_bytes(candidate, device, replace(load, context=context))
        return form.weights.total + max(working, _loading_bytes(candidate, device))

    longest = longest_that_fits(total, device.free_bytes, config.max_position_embeddings)
    cache = _cache(candidate, device, load)
    return Placement(
        form=form.name,
        quantization=candidate.quantization,
        device=device.name,
        bits_per_weight=round(form.bits_per_weight(num_parameters), 3),
        weights=form.weights,
        cache=cache,
        workspace=_workspace(candidate, device, load),
        loading_bytes=_loading_bytes(candidate, device),
        free_bytes=device.free_bytes,
        longest_context=longest,
        speed=None if speeds is None else _speed(candidate, device, load, speeds),
    )


def longest_that_fits(total: Callable[[int], int], free_bytes: int, most: int) -> int:
    """The largest context of 1 to `most` tokens whose `total` is at most `free_bytes`; 0 where none is."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if total(middle) <= free_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def _cache(candidate: Candidate, device: DeviceMemory, load: Load) -> CacheBytes:
    config, dtype = candidate.config, candidate.cache_dtype(device.name)
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize
    return CacheBytes(str(dtype).removeprefix("torch."), per_token, per_token * load.context * load.batch)


def _workspace(candidate: Candidate, device: DeviceMemory, load: Load) -> WorkspaceBytes:
    return workspace_bytes(
        candidate.config,
        candidate.form,
        load,
        device=device.name,
        is_native=candidate.is_native(device.name),
        cache_bytes=_cache(candidate, device, load).total,
    )


def _working_bytes(candidate: Candidate, device: DeviceMemory, load: Load) -> int:
    return _cache(candidate, device, load).total + _workspace(candidate, device, load).total


def _loading_bytes(candidate: Candidate, device: DeviceMemory) -> int:
    """Weights are packed on the CPU; an accelerator gets them finished."""
    return PROCESS_BYTES + (candidate.form.loading_bytes if device.name == "cpu" else 0)


def _speed(candidate: Candidate, device: DeviceMemory, load: Load, speeds: Speeds) -> ExpectedSpeed:
    """Each part at the slower of its two limits, reading and arithmetic, one after the other."""
    config, weights = candidate.config, candidate.form.weights
    cache = _cache(candidate, device, load)
    products = {name: speeds.product(kind) for name, kind in candidate.kinds().items()}
    tensors = model_tensors(config)
    in_layers = sum(tensor.num_elements for tensor in tensors if tensor.part == "layers")
    in_head = config.vocab_size * config.hidden_size if has_language_head(config) else 0
    head_bytes = weights.head or (weights.embedding if in_head else 0)

    def seconds(part: str, num_bytes: int, num_weights: int, tokens: int) -> float:
        product = products[part]
        return max(num_bytes / product.bytes_per_s, 2 * num_weights * tokens / product.flop_per_s)

    head = seconds("head", head_bytes, in_head, load.batch)
    step = seconds("layers", weights.layers, in_layers, load.batch) + head + cache.total / speeds.read_bytes_per_s
    prompt_len = load.context * load.batch
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    layer = speeds.layers[candidate.layer(device.name)]
    beside = prompt_len * (2 * width * load.context / layer.flop_per_s + config.num_hidden_layers * layer.rest_s)
    prompt = seconds("layers", weights.layers, in_layers, prompt_len) + beside + head
    return ExpectedSpeed(prefill=round(prompt_len / prompt, 2), decode=round(load.batch / step, 2))
