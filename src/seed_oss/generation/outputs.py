"""What `generate` returns besides plain ids."""

from torch import Tensor

from seed_oss.cache import Cache
from seed_oss.nn.outputs import ModelOutput


class GenerateDecoderOnlyOutput(ModelOutput):
    """Ids `[batch, length]`; per new token and as asked for: processed scores and raw logits `[batch, vocab]` in
    float32, attention weights per layer `[batch, heads, new, total]`, hidden states per layer `[batch, new, hidden]`;
    and the cache, where there is one."""

    sequences: Tensor
    scores: tuple[Tensor, ...] | None
    logits: tuple[Tensor, ...] | None
    attentions: tuple[tuple[Tensor, ...], ...] | None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None
    past_key_values: Cache | None
