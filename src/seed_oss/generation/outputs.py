"""What `generate` returns besides plain ids."""

from typing import Any

from torch import Tensor

from seed_oss.cache import Cache
from seed_oss.nn.outputs import ModelOutput


class GenerateDecoderOnlyOutput(ModelOutput):
    """Ids `[batch, length]`; per new token and as asked for: processed scores and raw logits `[batch, vocab]` in
    float32, attention weights per layer `[batch, heads, new, total]`, hidden states per layer `[batch, new, hidden]`;
    and the cache, where there is one.

    Ours, not in transformers: `finish_reasons`, per row "eos", "stop_string", "criteria", "length", "time", or what a
    row control said; with row controls `forced`, bool `[batch, new]`, the tokens that one forced; with
    `output_logprobs` the log-probabilities that the model itself gave, before any logits processor: `logprobs`
    float32 `[batch, new]` of the tokens, and with `top_logprobs=n` those of the n most probable ones,
    `top_logprobs` float32 `[batch, new, n]`, and their ids, `top_logprob_ids` int64 `[batch, new, n]`. Where a row has
    ended these are 0 and False. `control_states` has, per row, the last state of each of its controls: that of a
    ThinkingControl says how many tokens were thought and what closed the thinking.
    """

    sequences: Tensor
    scores: tuple[Tensor, ...] | None
    logits: tuple[Tensor, ...] | None
    attentions: tuple[tuple[Tensor, ...], ...] | None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None
    past_key_values: Cache | None
    finish_reasons: list[str] | None
    forced: Tensor | None
    logprobs: Tensor | None
    top_logprobs: Tensor | None
    top_logprob_ids: Tensor | None
    control_states: list[tuple[Any, ...]] | None


class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """The best beams `[batch * num_return_sequences, length]` and, with `output_scores`, the log-probability of each
    divided by its length to the power of `length_penalty`, float32; per new token and as asked for: processed
    log-probabilities and raw logits of the running beams `[batch * num_beams, vocab]` in float32, attention weights and
    hidden states; `beam_indices` int32 `[batch * num_return_sequences, new]`, for each new token the running beam it
    continued, -1 behind the end; and the cache, where there is one."""

    sequences: Tensor
    sequences_scores: Tensor | None
    scores: tuple[Tensor, ...] | None
    logits: tuple[Tensor, ...] | None
    beam_indices: Tensor
    attentions: tuple[tuple[Tensor, ...], ...] | None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None
    past_key_values: Cache | None
