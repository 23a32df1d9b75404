"""A whole model to 4 or 8 bits, its modules exchanged from outside."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.errors import InputError, StateError
from seed_oss.nn.attention import SeedOssAttention
from seed_oss.nn.fused import FusedLayers, fuse_, unfuse_
from seed_oss.nn.linear import Linear
from seed_oss.nn.mlp import SeedOssMLP
from seed_oss.nn.quantized_linear import QuantizedEmbedding, QuantizedLinear, QuantizedModule, quantized_modules
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.quant.calibration import calibrate, check_windows
from seed_oss.quant.fp8 import exchange_float8, float8_modules, has_float8
from seed_oss.quant.layer_calibration import Calibrated
from seed_oss.quant.packed_rows import pack_in_pieces, quantize_packed
from seed_oss.quant.record import Float8Record, QuantizationRecord
from seed_oss.quant.schemes import Scheme, TensorPlan, parse_scheme, plan_tensors, weight_shapes

Tick = Callable[[int], None]


@torch.no_grad()
def quantize_(
    model: Any,
    scheme: str | Scheme = "int4",
    *,
    strict: bool = False,
    calibration: Tensor | None = None,
    advance: Tick | None = None,
) -> Any:
    """Quantize a model in place: weights of the layers to the scheme's bits, embedding and head to 8.

    Linear layers and the embedding are exchanged one after another, so that memory on the way is the model plus one
    tensor. The model is for inference then: its parameters are frozen, and it computes in the dtype that its norms
    have, fp32 for speed on the CPU. Tied weights stay tied. What became of each tensor stands in
    `model.config.quantization_config`.

    Args:
        model: any model or head of the family, in eval mode, with weights on any device.
        scheme: a name as in `quant.schemes.SCHEMES` ("int4", "int8", ...), or a Scheme; or "fp8" on CUDA devices of
            compute capability 8.9 and newer: linear layers in 8-bit floating point, embedding and head as they are.
        strict: raise where a tensor does not fit the scheme, instead of taking smaller groups or leaving it as it is.
        calibration: token ids `[windows, length]` of text that the model shall do well on, for activation-aware scaling
            and error feedback (a model on the CPU); 16,384 tokens in windows of 512 do well.
        advance: called with the number of weights just done.

    Returns:
        The same model.

    Raises:
        InputError: an unknown scheme (the message lists them), one that does not fit (`strict`), no model of ours, or a
            calibration that is no windows of its tokens.
        StateError: the model is quantized already, in training mode, has adapters or no weights, or is on a device
            without the products of "fp8".
        NumericalError: NaN or infinity in a weight.
    """
    scheme = parse_scheme(scheme)
    if scheme.is_float:
        return _to_fp8(model, strict, calibration, advance)
    _check_ready(model)
    if calibration is not None:
        check_windows(calibration, model.config.vocab_size)
    was_fused = any(isinstance(module, FusedLayers) for module in model.modules())
    unfuse_(model)  # its table knows the old modules
    shapes = weight_shapes(model)
    plans = plan_tensors(scheme, shapes, tied=has_tied_head(model), strict=strict)
    found, advance = None, advance or (lambda _: None)
    if calibration is not None:
        found = calibrate(model, calibration, plans, advance=advance)
        _take_over(model, found.tensors)
    formats = _exchange(model, scheme, plans, found, advance)
    if not formats:
        raise InputError(f"no tensor of this model can be quantized to {scheme.name}; choose another scheme")
    model.requires_grad_(False)
    record = QuantizationRecord.of(scheme.name, formats, shapes, kept_of(plans), is_calibrated=calibration is not None)
    model.config.quantization_config = record.to_config()
    return fuse_(model) if was_fused else model


def _to_fp8(model: Any, strict: bool, calibration: Tensor | None, advance: Tick | None) -> Any:
    _check_ready(model)
    if calibration is not None:
        raise InputError("calibration is given for 'fp8', which rounds without it; leave it out")
    unfuse_(model)
    kept = exchange_float8(model, strict=strict, advance=advance or (lambda _: None))
    model.config.quantization_config = float8_record(model, kept).to_config()
    return model.requires_grad_(False)


def float8_record(model: nn.Module, kept: Mapping[str, str]) -> Float8Record:
    """What the modules in 8-bit floating point are.

    Args:
        model: with such modules.
        kept: name to reason, of those that are not.
    """
    modules = float8_modules(model).items()
    shapes = {name.rsplit(".", 1)[-1]: (one.out_features, one.in_features) for name, one in modules}
    return Float8Record(dict(kept), shapes)


def kept_of(plans: Mapping[str, TensorPlan]) -> dict[str, str]:
    """Module name to reason, of modules that are not quantized."""
    return {name: plan.note for name, plan in plans.items() if plan.format is None}


def has_tied_head(model: nn.Module) -> bool:
    """Whether the head is the embedding."""
    head = getattr(model, "lm_head", None)
    embedding = getattr(getattr(model, "model", None), "embed_tokens", None)
    if isinstance(head, QuantizedModule) and isinstance(embedding, QuantizedModule):
        return head.packed is embedding.packed
    return isinstance(head, nn.Linear) and isinstance(embedding, nn.Embedding) and head.weight is embedding.weight


def exchanged(old: nn.Module, format: QuantFormat, packed: Tensor | None = None) -> QuantizedModule:
    """The quantized module for a plain one, on the same device.

    Args:
        old: linear layer or embedding.
        format: of the weight.
        packed: its bytes; None for memory that is still to be filled.
    """
    if isinstance(old, nn.Embedding):
        shape = (old.num_embeddings, old.embedding_dim)
        new: QuantizedModule = QuantizedEmbedding(shape, format, packed, old.padding_idx, old.weight.dtype)
    elif isinstance(old, nn.Linear):
        new = QuantizedLinear((old.out_features, old.in_features), format, packed, old.bias)
    else:
        raise InputError(f"a {type(old).__name__} cannot be quantized; linear layers and embeddings can")
    return new.train(old.training)


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in the place of another one."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def _exchange(
    model: nn.Module, scheme: Scheme, plans: Mapping[str, TensorPlan], found: Calibrated | None, advance: Tick
) -> dict[str, QuantFormat]:
    """Quantize and replace module after module; returns what they have become."""
    is_tied = has_tied_head(model)
    formats: dict[str, QuantFormat] = {}
    for name, plan in plans.items():
        if plan.format is None or (is_tied and name == "lm_head"):
            continue
        old: Any = model.get_submodule(name)
        if found is not None:
            weight = found.weights.pop(name)
            packed, format = pack_in_pieces(weight), weight.format
        else:
            packed, format = quantize_packed(old.weight.detach().cpu(), plan.format, scheme.method, name=name)
            advance(old.weight.numel())
        replace_module(model, name, exchanged(old, format, packed.to(old.weight.device)))
        formats[name] = format
    if is_tied and "model.embed_tokens" in formats:
        head: Any = model.get_submodule("lm_head")
        embedding: Any = model.get_submodule("model.embed_tokens")
        replace_module(model, "lm_head", exchanged(head, embedding.format, embedding.packed))
        formats["lm_head"] = embedding.format
    return formats


def _take_over(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Norm weights and biases that took up scales."""
    for name, value in tensors.items():
        model.get_parameter(name).copy_(value)


def _check_ready(model: Any) -> None:
    if not isinstance(model, nn.Module) or not any(isinstance(one, SeedOssAttention) for one in model.modules()):
        raise InputError(f"a {type(model).__name__} is no Seed-OSS model; load one with from_pretrained")
    if quantized_modules(model) or has_float8(model):
        raise StateError("the model is quantized already; load the original to quantize it to something else")
    _check_adapters(model)
    if model.training:
        raise StateError("the model is in training mode; a quantized one is for inference: call model.eval() first")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise StateError("the model is on the meta device and has no weights; load it with from_pretrained")


def _check_adapters(model: nn.Module) -> None:
    """Whatever stands in the place of a plain layer would be lost, or be left beside what it was made for."""
    for name, module in model.named_modules():
        if not isinstance(module, SeedOssAttention | SeedOssMLP):
            continue
        for leaf, child in module.named_children():
            if leaf.endswith("_proj") and type(child) not in (Linear, nn.Linear):
                raise StateError(
                    f"{name}.{leaf} is a {type(child).__name__}, not a plain linear layer: adapters are attached. "
                    "Merge them first (model.merge_and_unload() in peft), then quantize"
                )
    if not hasattr(model, "config") or hasattr(model, "peft_config"):
        raise StateError("adapters are attached; merge them first (model.merge_and_unload() in peft), then quantize")
