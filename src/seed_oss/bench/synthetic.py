"""Quantized models of random bytes: a shape that fits into memory only in its final form gets built there.

Bytes go straight into the packed layout, layer by layer; no weight exists in floating point. Scales are such that a
product keeps the size of its input, so that numbers stay finite through any number of layers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss import SeedOssConfig, SeedOssForCausalLM
from seed_oss.errors import InputError
from seed_oss.nn import SeedOssRMSNorm, SeedOssRotaryEmbedding
from seed_oss.nn.quantized_linear import QuantizedEmbedding, QuantizedLinear
from seed_oss.ops.grouped_weight import PARAM_DTYPES, QuantFormat
from seed_oss.ops.packing import BLOCK_ROWS, packed_bytes, record_bytes
from seed_oss.quant.schemes import Scheme, TensorPlan, plan_tensors, weight_shapes
from seed_oss.weights import on_meta_device

BIAS_SIZE = 0.1


def synthetic_model(config: SeedOssConfig, scheme: Scheme, seed: int = 0) -> SeedOssForCausalLM:
    """A quantized model with random weights, in eval mode. Peak memory is the model and a tensor's scales.

    Args:
        config: the shape; the head must be untied.
        scheme: of the weights.
        seed: of the random bytes.

    Raises:
        InputError: a tied head, or a tensor of the shape that groups do not divide.
    """
    if config.tie_word_embeddings:
        raise InputError("tie_word_embeddings is true; a synthetic model has a head of its own")
    with on_meta_device():
        model = SeedOssForCausalLM(config)
    plans = synthetic_plan(model, scheme)
    generator = torch.Generator().manual_seed(seed)
    for name, module in list(model.named_modules()):
        if name in plans:
            _replace(model, name, _random_module(module, plans[name], generator))
        elif isinstance(module, SeedOssRMSNorm):
            module.weight = nn.Parameter(torch.ones(module.weight.shape))
        elif isinstance(module, SeedOssRotaryEmbedding):
            module.reset_buffers("cpu")
    return model.eval().requires_grad_(False)


def synthetic_plan(model: nn.Module, scheme: Scheme) -> dict[str, QuantFormat]:
    """The format of every weight, for a model on any device.

    Raises:
        InputError: a tensor that the scheme leaves as it is.
    """
    plans = plan_tensors(scheme, weight_shapes(model))
    return {name: _format(name, plan, scheme) for name, plan in plans.items()}


def _format(name: str, plan: TensorPlan, scheme: Scheme) -> QuantFormat:
    if plan.format is None:
        raise InputError(f"{scheme.name} does not fit {name}: {plan.note}; choose another scheme")
    return plan.format


def weight_bytes(config: SeedOssConfig, scheme: Scheme) -> int:
    """Bytes of all packed weights of a shape, before it is built."""
    with on_meta_device():
        model = SeedOssForCausalLM(config)
    shapes: Mapping[str, tuple[int, int]] = weight_shapes(model)
    return sum(packed_bytes(format, *shapes[name]) for name, format in synthetic_plan(model, scheme).items())


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def _random_module(old: Any, format: QuantFormat, generator: torch.Generator) -> nn.Module:
    rows, cols = old.weight.shape
    if isinstance(old, nn.Embedding):
        packed = random_packed((rows, cols), format, generator, size=1.0)
        return QuantizedEmbedding((rows, cols), format, packed, old.padding_idx)
    packed = random_packed((rows, cols), format, generator, size=cols**-0.5)
    bias = None if old.bias is None else torch.randn(rows, generator=generator) * BIAS_SIZE
    return QuantizedLinear((rows, cols), format, packed, bias)


def random_packed(shape: tuple[int, int], format: QuantFormat, generator: torch.Generator, size: float) -> Tensor:
    """Random bytes of a packed weight, with scales (and zeros) for numbers around 0.

    Args:
        shape: of the weight.
        format: of the bytes.
        generator: draws them.
        size: standard deviation of the numbers.

    Returns:
        uint8, see ops.packing.
    """
    num_bytes = packed_bytes(format, *shape)
    packed = torch.empty(num_bytes, dtype=torch.uint8)
    whole = num_bytes // 8 * 8
    packed[:whole].view(torch.int64).random_(-(2**63), None, generator=generator)
    packed[whole:] = 0
    records = packed.view(-1, shape[1] // format.group_size, record_bytes(format))
    for block in records.split(_blocks_at_a_time(records.shape[1])):
        _fill_params(block, format, generator, size)
    missing = -shape[0] % BLOCK_ROWS
    if missing:
        width = PARAM_DTYPES[format.param_dtype].itemsize
        records[-1, :, (BLOCK_ROWS - missing) * width : BLOCK_ROWS * width] = 0  # rows that only fill the block
    return packed


def _blocks_at_a_time(num_groups: int) -> int:
    return max(1, 2**20 // (num_groups * BLOCK_ROWS))


def _fill_params(records: Tensor, format: QuantFormat, generator: torch.Generator, size: float) -> None:
    """Scales, and minimums or zero points, of some records `[blocks, groups, bytes]`."""
    levels = 2**format.bits
    dtype = PARAM_DTYPES[format.param_dtype]
    width = dtype.itemsize * BLOCK_ROWS
    step = size / (levels * 12**-0.5)  # of evenly spread integers
    scale = (torch.rand(*records.shape[:2], BLOCK_ROWS, generator=generator) * 0.5 + 0.75) * step
    records[..., :width] = scale.to(dtype).view(torch.uint8)
    if format.zero == "minimum":
        records[..., width : 2 * width] = (scale * -(levels - 1) / 2).to(dtype).view(torch.uint8)
    elif format.zero == "point":
        middle = 0x88 if format.bits == 4 else levels // 2
        records[..., width : width + BLOCK_ROWS * format.bits // 8] = middle
