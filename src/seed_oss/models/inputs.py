"""Checks of what a forward is given. Shapes and types always, values only where looking costs nothing."""

from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.cache import PagedContext
from seed_oss.errors import InputError, StateError

# Accepted for the sake of callers written for the reference, and without effect: tokenizers hand out token_type_ids,
# 4.x code passes cache_position, trainers pass num_items_in_batch to every head.
WITHOUT_EFFECT = ("token_type_ids", "cache_position", "num_items_in_batch")


def check_unused(kwargs: dict[str, Any], allowed: tuple[str, ...] = WITHOUT_EFFECT) -> None:
    """Refuse keyword arguments that nobody will read.

    Raises:
        InputError: names them.
    """
    unknown = [name for name, value in kwargs.items() if name not in allowed and value is not None]
    if unknown:
        raise InputError(f"forward() does not take {', '.join(sorted(unknown))}; remove or rename these arguments")


def check_model_inputs(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    position_ids: Tensor | None,
    attention_mask: Tensor | None,
    hidden_size: int,
) -> None:
    """Check shapes and types of the inputs of the base model.

    Raises:
        InputError: says what was given and what is needed.
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise InputError(f"You must specify exactly one of input_ids or inputs_embeds; {given} was given")
    if input_ids is not None:
        _check_integers(input_ids, "input_ids", "[batch, length]")
    if inputs_embeds is not None:
        _check_embeds(inputs_embeds, hidden_size)
    given = input_ids if input_ids is not None else inputs_embeds
    assert given is not None
    if given.shape[1] == 0:
        raise InputError("the input has length 0; give at least one token")
    if position_ids is not None:
        _check_positions(position_ids, given)
    if attention_mask is not None:
        _check_mask_type(attention_mask)


def _check_embeds(embeds: Any, hidden_size: int) -> None:
    if not isinstance(embeds, Tensor):
        raise InputError(f"inputs_embeds is a {type(embeds).__name__}; it must be a float tensor")
    if embeds.dim() != 3 or embeds.shape[2] != hidden_size or not embeds.is_floating_point():
        raise InputError(
            f"inputs_embeds is {embeds.dtype} {list(embeds.shape)}; it must be a float tensor "
            f"[batch, length, hidden_size={hidden_size}]"
        )


def _check_mask_type(mask: Any) -> None:
    if not isinstance(mask, Tensor):
        raise InputError(f"attention_mask is a {type(mask).__name__}; it must be a tensor")
    if mask.is_complex() or mask.is_sparse or mask.is_quantized:
        raise InputError(
            f"attention_mask is a {mask.layout} tensor of {mask.dtype}; it must be a dense one of booleans, integers "
            "or floats"
        )


def _check_integers(value: Tensor, name: str, shape: str) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}; it must be an integer tensor {shape}")
    if value.dim() != 2 or value.dtype not in (torch.int64, torch.int32) or value.is_sparse:
        raise InputError(f"{name} is {value.dtype} {list(value.shape)}; it must be an integer tensor {shape}")


def _check_positions(position_ids: Tensor, given: Tensor) -> None:
    _check_integers(position_ids, "position_ids", "[batch or 1, length]")
    if position_ids.shape[0] not in (1, given.shape[0]) or position_ids.shape[1] != given.shape[1]:
        raise InputError(
            f"position_ids is {list(position_ids.shape)}; it must be [{given.shape[0]} or 1, {given.shape[1]}]"
        )


def check_cache_position(cache_position: Any, length: int, offset: int | Tensor) -> None:
    """The 4.x argument. Positions follow from the cache, so it may only say the same.

    Args:
        cache_position: int32 or int64 `[length]`, or None.
        length: number of new tokens.
        offset: tokens in the cache.

    Raises:
        InputError: a wrong type or shape; other positions (looked at on the CPU, in eager mode).
    """
    if cache_position is None:
        return
    if not isinstance(cache_position, Tensor):
        raise InputError(
            f"cache_position is a {type(cache_position).__name__}; it must be an integer tensor [{length}]"
        )
    if cache_position.dtype not in (torch.int64, torch.int32) or cache_position.shape != (length,):
        raise InputError(
            f"cache_position is {cache_position.dtype} {list(cache_position.shape)}; it must be an integer tensor "
            f"[{length}], one entry for each new token"
        )
    on_device = any(isinstance(one, Tensor) and one.device.type != "cpu" for one in (cache_position, offset))
    if torch.compiler.is_compiling() or on_device:
        return
    start = int(offset)
    if not torch.equal(cache_position.long(), torch.arange(start, start + length, device="cpu")):
        raise InputError(
            f"cache_position starts with {int(cache_position[0])}; after {start} cached tokens it must be {start} to "
            f"{start + length - 1} (leave it out: positions follow from the cache)"
        )


def check_mask_length(attention_mask: Tensor | None, needed: int, at_most: int) -> None:
    """A 2D mask covers the cached tokens and the new ones.

    Raises:
        InputError: it is shorter, or longer than any cache slot.
    """
    if attention_mask is None or attention_mask.dim() != 2:
        return
    if not needed <= attention_mask.shape[1] <= max(needed, at_most):
        raise InputError(
            f"attention_mask is {list(attention_mask.shape)}; with what is cached it must cover {needed} tokens"
        )


def check_packed_inputs(
    model: Any, input_ids: Tensor, position_ids: Tensor, context: PagedContext, total_lens: Tensor | None
) -> None:
    """Check what a packed forward is given.

    Raises:
        InputError: ids, positions or lengths of a wrong type, or not one for each row; a cache of another model.
        StateError: the model is in training mode.
    """
    context.cache.check_fits(model.config)
    num_tokens, rope_type = context.rows.num_tokens, model.rotary_emb.rope_type
    for name, given in (("input_ids", input_ids), ("position_ids", position_ids), ("total_lens", total_lens)):
        if given is None and rope_type not in ("dynamic", "longrope"):
            continue
        if given is None or given.dtype not in (torch.int64, torch.int32) or given.shape != (num_tokens,):
            found = "None" if given is None else f"{given.dtype} {list(given.shape)}"
            raise InputError(
                f"{name} is {found}; it must be an integer tensor [{num_tokens}], one entry for each new token of the "
                f"packed rows (rope_type is {rope_type!r})"
            )
    if model.training:
        raise StateError("the model is in training mode; packed rows are for inference: call model.eval() first")


def embed(embedding: nn.Module, input_ids: Tensor) -> Tensor:
    """Look up `[batch, length]` ids.

    Raises:
        InputError: an id outside the vocabulary (CPU, eager mode).
    """
    if torch.compiler.is_compiling() or input_ids.device.type != "cpu":
        return embedding(input_ids)
    try:
        return embedding(input_ids)
    except IndexError as error:
        rows = getattr(embedding, "num_embeddings", 0)
        wrong = input_ids[(input_ids < 0) | (input_ids >= rows)]
        if not wrong.numel():
            raise
        raise InputError(f"input_ids contain {int(wrong[0])}; allowed are 0 to {rows - 1}") from error
