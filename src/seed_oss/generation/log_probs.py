"""How probable a model finds a given text: log-probabilities of its tokens, and perplexity.

Logits are computed a few positions at a time from the decoder's last hidden states and thrown away, so that there is
never a `[tokens, vocabulary]` tensor.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.cache import StaticCache
from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.generation.token_log_probs import token_log_probs
from seed_oss.planning.chunks import default_chunk_len, runs_whole

CHUNK_ELEMENTS = 5 << 21  # logits alive at a time: 40 MiB in fp32, which malloc gives back; 32 MiB it may keep
WHOLE_LEN = 8192  # longer prompts run in chunks where that saves memory; a chunk behind others needs a mask
_RANK_COLUMNS = 1 << 14


@dataclass(frozen=True)
class PromptLogProbs:
    """Log-probabilities of the tokens of prompts, each given those before it.

    The first column belongs to the second token: nothing says how probable the first one is. Where a column belongs to
    padding, or to the first token behind padding, log-probabilities are NaN and ranks and ids are 0.

    Attributes:
        log_probs: float32 `[batch, length - 1]`.
        ranks: int64 `[batch, length - 1]`, how many tokens were more probable, plus 1.
        top_ids: int64 `[batch, length - 1, top_n]`, the most probable tokens, best first.
        top_log_probs: float32 `[batch, length - 1, top_n]`.
    """

    log_probs: Tensor
    ranks: Tensor
    top_ids: Tensor
    top_log_probs: Tensor


def token_ranks(logits: Tensor, tokens: Tensor) -> Tensor:
    """How many tokens are more probable than the given ones, plus 1.

    Args:
        logits: `[batch, vocab]`.
        tokens: int64 `[batch]`.

    Returns:
        int64 `[batch]`.
    """
    own = logits.gather(1, tokens[:, None])
    ranks = torch.ones_like(tokens)
    for part in logits.split(_RANK_COLUMNS, dim=1):  # a sum of bool tensors makes int64 ones first
        ranks += (part > own).sum(dim=-1)
    return ranks


@torch.no_grad()
def prompt_log_probs(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    top_n: int = 0,
    chunk_len: int | None = None,
) -> PromptLogProbs:
    """How probable a model finds each token of its prompts.

    Args:
        model: a SeedOssForCausalLM, or a model with the same decoder and head.
        input_ids: integer `[batch, length]`, at least 2 tokens.
        attention_mask: `[batch, length]`, 0 for padding on either side; None where every token counts.
        top_n: how many of the most probable tokens to return for each position.
        chunk_len: most tokens in one forward, with a cache; None runs up to 8,192 tokens at once and longer
            prompts in chunks where that saves memory.

    Returns:
        See PromptLogProbs.

    Raises:
        InputError: an argument of a wrong shape, type or range.
    """
    ids, mask = _checked(model, input_ids, attention_mask, top_n, chunk_len)
    head = model.get_output_embeddings()
    if head is None:
        raise InputError(f"a {type(model).__name__} has no language-model head; give a SeedOssForCausalLM")
    parts: list[tuple[Tensor, ...]] = []
    for start, hidden_states in _hidden_states(model, ids, mask, chunk_len):
        tokens = ids[:, start + 1 : start + 1 + hidden_states.shape[1]]  # one fewer in the last chunk
        flat = hidden_states[:, : tokens.shape[1]].flatten(0, 1)
        scored = _score(head, flat, tokens.flatten(), min(top_n, model.config.vocab_size), model.config.vocab_size)
        parts.append(tuple(one.unflatten(0, tokens.shape) for one in scored))
    found = PromptLogProbs(*(torch.cat(kind, dim=1) for kind in zip(*parts, strict=True)))
    return _without_padding(found, mask)


def _score(head: nn.Module, hidden_states: Tensor, tokens: Tensor, top_n: int, vocab_size: int) -> tuple[Tensor, ...]:
    """The fields of PromptLogProbs for `[n, hidden]` states and the tokens `[n]` that follow them."""
    step, num_tokens = max(1, CHUNK_ELEMENTS // vocab_size), tokens.shape[0]
    # Made beforehand: small results that stay, between large ones that go, would leave holes in the heap.
    own = torch.empty(num_tokens, dtype=torch.float32, device=tokens.device)
    ranks = torch.empty_like(tokens)
    top_ids = torch.empty(num_tokens, top_n, dtype=torch.int64, device=tokens.device)
    top = torch.empty(num_tokens, top_n, dtype=torch.float32, device=tokens.device)
    for start in range(0, num_tokens, step):
        part = slice(start, start + step)
        logits = head(hidden_states[part]).float()
        own[part], top[part], top_ids[part] = token_log_probs(logits, tokens[part], top_n)
        ranks[part] = token_ranks(logits, tokens[part])
        del logits  # before the next ones need the memory
    return own, ranks, top_ids, top


def perplexity(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None = None, chunk_len: int | None = None
) -> Tensor:
    """How surprised a model is by texts: e to the mean negative log-probability of their tokens but the first.

    Args:
        model: see `prompt_log_probs`.
        input_ids: integer `[batch, length]`.
        attention_mask: `[batch, length]`, 0 for padding; None where every token counts.
        chunk_len: see `prompt_log_probs`.

    Returns:
        Float32 `[batch]`. Over several texts together it is `exp` of the mean over all their tokens.

    Raises:
        InputError: an argument of a wrong shape, type or range, or a row with fewer than two tokens.
    """
    log_probs = prompt_log_probs(model, input_ids, attention_mask, chunk_len=chunk_len).log_probs
    counts = ~log_probs.isnan() if attention_mask is None else _predicted(attention_mask.to(log_probs.device) != 0)
    alone = (counts.sum(dim=1) == 0).nonzero().squeeze(1).tolist()
    if alone:
        raise InputError(f"row {alone[0]} has fewer than two tokens next to each other; give it at least two")
    total = log_probs.masked_fill(~counts, 0.0).double().sum(dim=1)
    return (-total / counts.sum(dim=1)).exp().float()


def _checked(
    model: Any, input_ids: Any, attention_mask: Any, top_n: Any, chunk_len: Any
) -> tuple[Tensor, Tensor | None]:
    if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or input_ids.is_floating_point():
        given = list(input_ids.shape) if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise InputError(f"input_ids is {given}; it must be an integer tensor [batch, length]")
    if input_ids.shape[0] == 0 or input_ids.shape[1] < 2:
        raise InputError(f"input_ids is {list(input_ids.shape)}; give at least one row and two tokens")
    low, high = torch.stack(torch.aminmax(input_ids)).tolist()
    if low < 0 or high >= model.config.vocab_size:
        raise InputError(
            f"input_ids contain {low if low < 0 else high}; allowed are 0 to {model.config.vocab_size - 1}, the "
            "vocabulary of the model"
        )
    for name, value, lowest in (("top_n", top_n, 0), ("chunk_len", 1 if chunk_len is None else chunk_len, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise InputError(f"{name} is {value!r}; it must be an integer >= {lowest}")
    ids = input_ids.to(device=model.device, dtype=torch.int64)
    if attention_mask is None:
        return ids, None
    if not isinstance(attention_mask, Tensor) or attention_mask.shape != input_ids.shape:
        given = list(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise InputError(f"attention_mask is {given}; it must be a tensor {list(input_ids.shape)} like input_ids")
    mask = attention_mask.to(model.device) != 0
    return ids, None if bool(mask.all()) else mask


def _hidden_states(model: Any, ids: Tensor, mask: Tensor | None, chunk_len: int | None) -> Iterator[tuple[int, Tensor]]:
    """Start and last hidden states `[batch, n, hidden]` of one chunk after the other."""
    length, config = ids.shape[1], model.config
    if chunk_len is None:
        in_chunks = length > WHOLE_LEN and chunks_save_memory(config)
        chunk_len = default_chunk_len(length) if in_chunks else length
    # Of one size from the start: a cache that grows by copies leaves holes in the heap that no later copy fits into.
    cache = StaticCache(config, max_cache_len=length) if chunk_len < length else None
    positions = None if mask is None else (mask.long().cumsum(-1) - 1).masked_fill(~mask, 0)
    for start in range(0, length, chunk_len):
        end = min(start + chunk_len, length)
        output = model.base_model(
            ids[:, start:end],
            attention_mask=None if mask is None else mask[:, :end],
            position_ids=None if positions is None else positions[:, start:end],
            past_key_values=cache,
            use_cache=cache is not None,
            return_dict=True,
        )
        if getattr(output, "last_hidden_state", None) is None:
            raise InputError(
                f"the model, a {type(model).__name__}, gives no hidden states; give a SeedOssForCausalLM (of a model "
                "with adapters, its get_base_model())"
            )
        yield start, output.last_hidden_state


def chunks_save_memory(config: SeedOssConfig) -> bool:
    """Whether a token's keys and values in all layers are smaller than its activations in one layer."""
    if runs_whole(config.rope_parameters["rope_type"]):
        return False
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    attention = (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    return cached < max(3 * config.intermediate_size, attention) + 2 * config.hidden_size


def _predicted(mask: Tensor) -> Tensor:
    """Bool `[batch, length - 1]`: tokens that count and follow one that counts."""
    return mask[:, 1:] & mask[:, :-1]


def _without_padding(found: PromptLogProbs, mask: Tensor | None) -> PromptLogProbs:
    if mask is None:
        return found
    nothing = ~_predicted(mask)
    return PromptLogProbs(
        found.log_probs.masked_fill(nothing, torch.nan),
        found.ranks.masked_fill(nothing, 0),
        found.top_ids.masked_fill(nothing[..., None], 0),
        found.top_log_probs.masked_fill(nothing[..., None], torch.nan),
    )
