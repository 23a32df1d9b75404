"""The model that this package's engine runs, as the benchmark describes it in JSON."""

from typing import Any

import torch
from torch import nn

from seed_oss import AutoModelForCausalLM, SeedOssForCausalLM
from seed_oss.bench.schemes import AS_STORED, PLAIN_DTYPES, scheme_of
from seed_oss.bench.shapes import shape_config
from seed_oss.bench.synthetic import synthetic_model
from seed_oss.nn.fused import fuse_
from seed_oss.nn.quantized_linear import QuantizedModule
from seed_oss.weights import on_meta_device


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
    head: Any = model.get_submodule("lm_head")
    embedding: Any = model.get_submodule("model.embed_tokens")
    packed = {id(one.packed): one.packed for one in model.modules() if isinstance(one, QuantizedModule)}
    tensors = {**packed, **{id(one): one for one in model.parameters()}}
    total = sum(tensor.nbytes for tensor in tensors.values())
    embedded = embedding.packed if isinstance(embedding, QuantizedModule) else embedding.weight
    used = head.packed if isinstance(head, QuantizedModule) else head.weight
    return total if used is embedded else total - embedded.nbytes
