"""The model that this package's engine runs, as the benchmark describes it in JSON."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss import AutoModelForCausalLM, SeedOssForCausalLM
from seed_oss.bench.schemes import AS_STORED, PLAIN_DTYPES, scheme_of
from seed_oss.bench.shapes import shape_config
from seed_oss.bench.synthetic import synthetic_model
from seed_oss.nn.fused import fuse_
from seed_oss.nn.quantized_linear import QuantizedModule
from seed_oss.ops.native import library
from seed_oss.weights import on_meta_device

_READINGS = 2


def load_model(what: dict[str, Any]) -> Any:
    """A model ready to generate.

    Args:
        what: `weights`, a name as in `schemes`; `head_bits` or None; `directory` of a checkpoint, with `is_quantized`
            where it holds these weights already, or a GGUF file; or `shape`, the name of one.
    """
    weights = what["weights"]
    if "shape" in what:
        config = shape_config(what["shape"])
        if weights in PLAIN_DTYPES:
            return fuse_(_random_plain(config, getattr(torch, weights)))
        return fuse_(synthetic_model(config, scheme_of(weights, what["head_bits"])))
    if weights in PLAIN_DTYPES:
        return fuse_(AutoModelForCausalLM.from_pretrained(what["directory"], dtype=weights))
    scheme = None if weights == AS_STORED or what.get("is_quantized") else scheme_of(weights, what["head_bits"])
    return fuse_(AutoModelForCausalLM.from_pretrained(what["directory"], quantization=scheme))


@torch.no_grad()
def _random_plain(config: Any, dtype: torch.dtype) -> SeedOssForCausalLM:
    """Small random numbers in every matrix, without the slow initialisation."""
    with on_meta_device():
        model = SeedOssForCausalLM(config)
    model = model.to(dtype).to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.uniform_(-0.03, 0.03) if parameter.dim() > 1 else parameter.fill_(1.0)
    model.reset_buffers("cpu")
    return model.eval().requires_grad_(False)


def read_bytes(model: nn.Module) -> int:
    """Bytes of weights that a step reads: all but an embedding that is not the head, too."""
    return sum(tensor.nbytes for tensor in _read_by_a_step(model))


def read_rate(model: nn.Module, threads: int) -> float | None:
    """Bytes per second at which the weights of a step can be read where they lie; None without the native kernels.

    Memory is not equally fast everywhere: a buffer of another process tells little of it.
    """
    native, tensors = library(), _read_by_a_step(model)
    if native is None:
        return None
    rates: list[float] = []
    for _ in range(_READINGS):
        start = time.perf_counter()
        for tensor in tensors:
            native.so_read(tensor.data_ptr(), tensor.nbytes, threads)
        rates.append(sum(tensor.nbytes for tensor in tensors) / (time.perf_counter() - start))
    return max(rates)


def _read_by_a_step(model: nn.Module) -> list[Tensor]:
    head: Any = model.get_submodule("lm_head")
    embedding: Any = model.get_submodule("model.embed_tokens")
    packed = {id(one.packed): one.packed for one in model.modules() if isinstance(one, QuantizedModule)}
    tensors: dict[int, Tensor] = {**packed, **{id(one): one for one in model.parameters()}}
    embedded = embedding.packed if isinstance(embedding, QuantizedModule) else embedding.weight
    used = head.packed if isinstance(head, QuantizedModule) else head.weight
    return [tensor for tensor in tensors.values() if tensor is used or tensor is not embedded]
