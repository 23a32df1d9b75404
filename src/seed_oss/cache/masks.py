"""Who may look at whom: the mask of one forward, shared by all its layers."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.errors import InputError


@dataclass(frozen=True)
class AttentionMask:
    """A mask ready for the attention backend.

    Attributes:
        tensor: None, or broadcastable to `[batch, heads, query_len, kv_len]`; boolean (True attends) for SDPA,
            additive for eager.
        is_causal: only with `tensor` None: query i attends to keys 0..i.
    """

    tensor: Tensor | None
    is_causal: bool


@dataclass(frozen=True)
class MaskShape:
    """Sizes of one forward: `query_len` tokens at `offset`, looking at `kv_len` keys."""

    batch: int
    query_len: int
    kv_len: int
    offset: int | Tensor


def packed_sequence_ids(position_ids: Tensor) -> Tensor:
    """Number the sequences packed in each row: a new one starts where positions do not go up by one.

    Args:
        position_ids: `[batch, length]`.

    Returns:
        int64 `[batch, length]`, counting from 0.
    """
    steps = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1)
    return (steps != 1).cumsum(-1)


def attention_mask(
    padding_mask: Tensor | None,
    shape: MaskShape,
    *,
    sequence_ids: Tensor | None = None,
    is_causal: bool = True,
    eager: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> AttentionMask:
    """Build the mask of one forward.

    Args:
        padding_mask: None; `[batch, <= kv_len]` with nonzero for real tokens; or a finished 4D mask, boolean (True
            attends) or additive.
        shape: sizes of this forward.
        sequence_ids: `[batch, query_len]` from `packed_sequence_ids`: no attention across different ids.
        is_causal: False lets every token see every other one.
        eager: an additive mask (0 or the dtype's lowest number) instead of a boolean one.
        dtype: dtype of an additive mask.
        device: where the mask lives.

    Returns:
        The mask; `tensor` is None wherever SDPA needs none.

    Raises:
        InputError: a mask of a wrong shape, or a 4D one of integers.
    """
    if padding_mask is not None and padding_mask.dim() == 4:
        _check_4d(padding_mask, shape)
        return AttentionMask(_finished(padding_mask, eager, dtype), False)
    padding = _full_padding_mask(padding_mask, shape, device)
    if not eager and sequence_ids is None and _needs_no_tensor(padding, shape, is_causal):
        if is_causal and shape.query_len > 1:  # a branch: SDPA takes no symbolic boolean while compiling
            return AttentionMask(None, True)
        return AttentionMask(None, False)
    allowed = _allowed(padding, shape, sequence_ids, is_causal, device)
    return AttentionMask(_finished(allowed, eager, dtype), False)


def _finished(mask: Tensor, eager: bool, dtype: torch.dtype) -> Tensor:
    """A boolean or additive mask as the backend takes it: eager only adds, SDPA knows few dtypes."""
    if mask.dtype == torch.bool:
        return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype) if eager else mask
    return mask if eager or mask.dtype == dtype else mask.float()


def _allowed(
    padding: Tensor | None,
    shape: MaskShape,
    sequence_ids: Tensor | None,
    is_causal: bool,
    device: torch.device | None,
) -> Tensor:
    """Boolean `[1 or batch, 1, query_len, kv_len]`."""
    keys = torch.arange(shape.kv_len, device=device)
    queries = torch.arange(shape.query_len, device=device) + shape.offset
    if is_causal:
        allowed = (keys <= queries[:, None])[None, None]
    else:
        allowed = torch.ones(1, 1, shape.query_len, shape.kv_len, dtype=torch.bool, device=device)
    if padding is not None:
        allowed = allowed & padding[:, None, None, :]
    if sequence_ids is not None:
        allowed = allowed & (sequence_ids[:, None, :, None] == sequence_ids[:, None, None, :])
    return allowed


def _check_4d(mask: Tensor, shape: MaskShape) -> None:
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise InputError(
            f"attention_mask is a 4D mask of {mask.dtype}; a 4D mask must be torch.bool (True attends; mask.bool() "
            "makes it) or a float dtype (added to the scores)"
        )
    batch, _, query_len, kv_len = mask.shape
    if batch not in (1, shape.batch) or query_len not in (1, shape.query_len) or kv_len != shape.kv_len:
        raise InputError(
            f"attention_mask is {list(mask.shape)}; a 4D mask must be "
            f"[{shape.batch} or 1, heads or 1, {shape.query_len} or 1, {shape.kv_len}]"
        )


def _full_padding_mask(mask: Tensor | None, shape: MaskShape, device: torch.device | None) -> Tensor | None:
    """Boolean `[batch, kv_len]`; slots that a fixed-size cache has beyond the mask are not attended to."""
    if mask is None:
        return None
    if mask.dim() != 2 or mask.shape[0] not in (1, shape.batch):
        raise InputError(
            f"attention_mask is {list(mask.shape)}; it must be [batch={shape.batch}, cached + new tokens], or 4D"
        )
    mask = mask.to(device=device, dtype=torch.bool)
    return F.pad(mask, (0, shape.kv_len - mask.shape[1])) if mask.shape[1] < shape.kv_len else mask[:, : shape.kv_len]


def _needs_no_tensor(padding: Tensor | None, shape: MaskShape, is_causal: bool) -> bool:
    """Whether SDPA's own causal flag, or nothing at all, says the same as a mask."""
    tracing = torch.compiler.is_compiling()
    if padding is not None and (tracing or padding.is_meta):
        return False
    if not is_causal:
        return padding is None or bool(padding.all())
    if isinstance(shape.offset, Tensor):
        if tracing or shape.query_len == 1 or int(shape.offset) > 0:
            return False
        return padding is None or bool(padding[:, : shape.query_len].all())  # a fixed-size cache, still empty
    if shape.kv_len == shape.query_len or shape.query_len == 1:
        return padding is None or bool(padding.all())
    return False
