"""What keys and values depend on beside the tokens, as one digest: blocks on disk are good for nothing else."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss._version import __version__
from seed_oss.cache import PagedCache
from seed_oss.ops.native.library import VERSION, instruction_set

FORMAT = 1
"""Of blocks on disk."""


def cache_identity(model: Any, cache: PagedCache) -> str:
    """Hexadecimal digest of weights and quantization, RoPE, kind of cache, and of what computes.

    Args:
        model: in the state in which it runs.
        cache: where keys and values are.
    """
    facts = {
        "format": FORMAT,
        "version": __version__,
        "torch": torch.__version__,
        "kernels": [VERSION, instruction_set()],
        "config": model.config.to_dict(),
        "cache": [str(cache.dtype), cache.block_len],
        "device": str(model.device.type),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(_tensors(model)):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:40]


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
