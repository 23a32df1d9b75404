"""The same model in another basis, by exact transforms: its function stays, and its weights lie on no grid any more.

What a rounding does to a model can be measured on such a copy even where the original was made from rounded weights.
"""

from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.errors import InputError


@torch.no_grad()
def rebase_(model: Any, seed: int = 0) -> None:
    """Fold the norms' weights into the matrices after them, and rotate the residual stream by a random matrix.

    RMSNorm without weights commutes with rotations, so that the function stays (in exact arithmetic; computed in fp64
    here and rounded once). Embedding and head must be two tensors: only the head takes the last norm's weights.

    Args:
        model: a SeedOssForCausalLM in plain form; changed in place.
        seed: of the rotation.

    Raises:
        InputError: the head is tied to the embedding.
    """
    if model.lm_head.weight is model.model.embed_tokens.weight:
        raise InputError(
            "the head is tied to the embedding; untie it first: copy the weight, tie_word_embeddings=False"
        )
    rotation = random_rotation(model.config.hidden_size, seed)
    _set(model.model.embed_tokens.weight, model.model.embed_tokens.weight.double() @ rotation)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        _rotate_inputs(layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj), rotation)
        _rotate_outputs(attention.o_proj, rotation)
        _rotate_inputs(layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), rotation)
        _rotate_outputs(mlp.down_proj, rotation)
    _rotate_inputs(model.model.norm, (model.lm_head,), rotation)


def random_rotation(size: int, seed: int) -> Tensor:
    """A random orthogonal matrix, uniformly distributed (Mezzadri 2006, arXiv:math-ph/0609050).

    Returns:
        fp64 `[size, size]`.
    """
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    return q * r.diagonal().sign()


def _rotate_inputs(norm: Any, linears: tuple[Any, ...], rotation: Tensor) -> None:
    for linear in linears:
        _set(linear.weight, (linear.weight.double() * norm.weight.double()) @ rotation)
    norm.weight.fill_(1.0)


def _rotate_outputs(linear: Any, rotation: Tensor) -> None:
    _set(linear.weight, rotation.t() @ linear.weight.double())
    if linear.bias is not None:
        _set(linear.bias, linear.bias.double() @ rotation)


def _set(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.copy_(value)
