"""The prompt of one `generate` call: checked, on the model's device, with mask and positions settled."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seed_oss.cache import Cache, as_cache
from seed_oss.config import GenerationConfig
from seed_oss.errors import InputError
from seed_oss.generation.arguments import ModelInputs
from seed_oss.generation.model import CausalModel


@dataclass(frozen=True)
class Prompt:
    """What the first forward gets.

    Attributes:
        input_ids: int64 `[batch, length]`; length 0 for embeddings alone.
        inputs_embeds: None, or `[batch, embeds_len, hidden]`, used in place of the ids.
        attention_mask: None where every token counts; else boolean `[batch, past_len + num_new]`.
        position_ids: None to count on from the cache; else int64 `[batch or 1, num_new]`.
        past: a cache given by the user, or None.
        past_len: tokens in it.
        num_new: tokens at the end of ids or embeddings that are not cached yet.
    """

    input_ids: Tensor
    inputs_embeds: Tensor | None
    attention_mask: Tensor | None
    position_ids: Tensor | None
    past: Cache | None
    past_len: int
    num_new: int

    @property
    def total_len(self) -> int:
        """Tokens in the cache once the prompt has run."""
        return self.past_len + self.num_new

    def rows(self) -> list[list[int]]:
        """The ids of each row without padding."""
        ids, length = self.input_ids.tolist(), self.input_ids.shape[1]
        if self.attention_mask is None or not length:
            return ids
        kept = self.attention_mask[:, -length:].tolist()
        return [[token for token, keep in zip(*row, strict=True) if keep] for row in zip(ids, kept, strict=True)]

    def repeated(self, times: int) -> "Prompt":
        """Each row `times` times, copies side by side."""
        repeat = _repeater(times)
        positions = self.position_ids
        return replace(
            self,
            input_ids=self.input_ids.repeat_interleave(times, dim=0),
            inputs_embeds=repeat(self.inputs_embeds),
            attention_mask=repeat(self.attention_mask),
            position_ids=positions if positions is None or positions.shape[0] == 1 else repeat(positions),
        )


def _repeater(times: int) -> Any:
    return lambda tensor: None if tensor is None else tensor.repeat_interleave(times, dim=0)


def make_prompt(model: CausalModel, given: ModelInputs, config: GenerationConfig) -> Prompt:
    """Check the prompt and work out mask and positions.

    Args:
        model: gives device and vocabulary.
        given: what the user passed.
        config: gives the special tokens.

    Returns:
        The prompt, not yet repeated for `num_return_sequences`.

    Raises:
        InputError: shape, type, range or combination of the inputs.
    """
    past = None if given.past_key_values is None else as_cache(given.past_key_values)
    past_len = 0 if past is None else past.get_seq_length()
    embeds = _check_embeds(given.inputs_embeds, model)
    ids, is_from_bos = _prompt_ids(given.input_ids, embeds, model, config)
    given_len = ids.shape[1] if embeds is None else embeds.shape[1]
    mask = _check_mask(given.attention_mask, ids if embeds is None else embeds, model)
    if mask is None and not is_from_bos and ids.shape[1] == given_len:
        mask = _mask_from_padding(ids, config)
    num_new = _num_new(given_len, past_len, mask)
    mask = _unless_full(mask)
    positions = _positions(given.position_ids, mask, num_new, ids.device)
    return Prompt(ids, embeds, mask, positions, past, past_len, num_new)


def _prompt_ids(
    input_ids: Any, embeds: Tensor | None, model: CausalModel, config: GenerationConfig
) -> tuple[Tensor, bool]:
    """Ids int64 `[batch, length]`, and whether they are just the bos token because nothing was given."""
    if input_ids is not None:
        ids = _check_ids(input_ids, model)
        if embeds is not None and ids.shape[0] != embeds.shape[0]:
            raise InputError(f"input_ids has {ids.shape[0]} rows and inputs_embeds {embeds.shape[0]}; they must agree")
        if ids.shape[1] == 0 and embeds is None:
            raise InputError("the prompt has length 0; give at least one token, or no input at all to start from bos")
        return ids, False
    if embeds is not None:
        return torch.zeros(embeds.shape[0], 0, dtype=torch.int64, device=model.device), False
    if config.bos_token_id is None:
        raise InputError("no prompt is given and bos_token_id is not set; give input_ids or set bos_token_id")
    return torch.full((1, 1), config.bos_token_id, dtype=torch.int64, device=model.device), True


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _is_plain(tensor: Tensor, model: CausalModel) -> bool:
    """Whether the tensor holds numbers one after another that can be looked at."""
    has_values = tensor.layout == torch.strided and (not tensor.is_meta or model.device.type == "meta")
    return has_values and not tensor.is_quantized and not tensor.is_complex()


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)} ({tensor.layout} on {tensor.device})"


def _check_ids(input_ids: Any, model: CausalModel) -> Tensor:
    if isinstance(input_ids, Mapping):
        raise InputError("the prompt is a mapping, as a tokenizer returns it; call generate(**inputs)")
    if not isinstance(input_ids, Tensor):
        raise InputError(f"input_ids is a {type(input_ids).__name__}; it must be an integer tensor [batch, length]")
    if input_ids.dim() != 2 or input_ids.dtype not in _INTEGERS or not _is_plain(input_ids, model):
        raise InputError(f"input_ids is {_described(input_ids)}; it must be a dense int64 tensor [batch, length]")
    if input_ids.shape[0] == 0:
        raise InputError("input_ids has no rows; give at least one prompt")
    if input_ids.numel():
        low, high = torch.stack(torch.aminmax(input_ids)).tolist()
        if low < 0 or high >= model.config.vocab_size:
            raise InputError(
                f"input_ids contain {low if low < 0 else high}; allowed are 0 to {model.config.vocab_size - 1}, "
                "the vocabulary of the model"
            )
    return input_ids.to(device=model.device, dtype=torch.int64)


def _check_embeds(embeds: Any, model: CausalModel) -> Tensor | None:
    if embeds is None:
        return None
    hidden = model.config.hidden_size
    if (
        not isinstance(embeds, Tensor)
        or embeds.dim() != 3
        or embeds.shape[2] != hidden
        or not embeds.is_floating_point()
        or not _is_plain(embeds, model)
    ):
        given = _described(embeds) if isinstance(embeds, Tensor) else type(embeds).__name__
        raise InputError(
            f"inputs_embeds is {given}; it must be a dense float tensor [batch, length, hidden_size={hidden}]"
        )
    if embeds.shape[0] == 0 or embeds.shape[1] == 0:
        raise InputError(f"inputs_embeds is {list(embeds.shape)}; give at least one row and one token")
    return embeds.to(model.device)


def _check_mask(mask: Any, tokens: Tensor, model: CausalModel) -> Tensor | None:
    """Boolean `[batch, length]`."""
    if mask is None:
        return None
    if (
        not isinstance(mask, Tensor)
        or mask.dim() != 2
        or mask.shape[0] != tokens.shape[0]
        or not _is_plain(mask, model)
    ):
        given = _described(mask) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(
            f"attention_mask is {given}; it must be a dense 2D tensor [batch={tokens.shape[0]}, cached + new tokens]"
        )
    return mask.to(model.device) != 0


def _mask_from_padding(ids: Tensor, config: GenerationConfig) -> Tensor | None:
    """Pads count as padding where they cannot be mistaken for an end of sequence."""
    pad, eos = config.pad_token_id, eos_ids(config)
    if pad is not None and pad not in eos:
        return ids != pad
    if ids.shape[0] > 1 and eos:
        unknown = "pad_token_id is not set" if pad is None else f"pad_token_id {pad} is an end of sequence as well"
        fill = eos[0] if pad is None else pad
        warnings.warn(
            f"a batch is given without attention_mask, and {unknown}: every token of the prompts counts; pass "
            f"attention_mask if there is padding (rows that end early are filled with {fill})",
            stacklevel=5,
        )
    return None


def _num_new(given_len: int, past_len: int, mask: Tensor | None) -> int:
    """How many of the given tokens are not in the cache. A mask as long as they are says they are the whole text."""
    covered = given_len if mask is None else mask.shape[1]
    if covered == given_len:
        if given_len <= past_len:
            raise InputError(
                f"the prompt has {given_len} tokens and the cache already {past_len}; give all tokens, cached and new, "
                f"or only new ones with an attention_mask of {past_len} + {given_len} columns"
            )
        return given_len - past_len
    if covered != past_len + given_len:
        raise InputError(
            f"attention_mask has {covered} columns; it must have {given_len}"
            + (f", or {past_len + given_len} to count {past_len} cached tokens as well" if past_len else "")
        )
    return given_len


def _positions(given: Any, mask: Tensor | None, num_new: int, device: torch.device) -> Tensor | None:
    if given is None:
        if mask is None:
            return None
        positions = (mask.long().cumsum(-1) - 1).masked_fill(~mask, 0)
        return positions[:, -num_new:]
    wrong = not isinstance(given, Tensor) or given.dim() != 2 or given.shape[1] < num_new
    if (
        wrong
        or given.dtype not in _INTEGERS
        or given.layout != torch.strided
        or given.is_meta != (device.type == "meta")
    ):
        shown = _described(given) if isinstance(given, Tensor) else type(given).__name__
        raise InputError(f"position_ids is {shown}; it must be a dense int64 tensor [batch or 1, {num_new} or more]")
    return given[:, -num_new:].to(device=device, dtype=torch.int64)


def _unless_full(mask: Tensor | None) -> Tensor | None:
    if mask is None or bool(mask.all()):
        return None
    empty = (~mask.any(dim=1)).nonzero().squeeze(1).tolist()
    if empty:
        raise InputError(f"row {empty[0]} of the prompt is padding only; give it at least one token that counts")
    if mask.shape[0] > 1 and not bool(mask[:, -1].all()):
        warnings.warn(
            "the prompts are padded on the right, and new tokens are added after the padding; for correct results "
            "pad them on the left (padding_side='left')",
            stacklevel=5,
        )
    return mask


def eos_ids(config: GenerationConfig) -> list[int]:
    """The end-of-sequence tokens, as a list."""
    eos = config.eos_token_id
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
