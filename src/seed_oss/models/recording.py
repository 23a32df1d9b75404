"""Which hidden states and attention weights a forward hands out."""

import warnings
from typing import Any

from torch import Tensor

from seed_oss.cache import DenseContext
from seed_oss.config import SeedOssConfig


def wants_attentions(config: SeedOssConfig, output_attentions: bool | None) -> bool:
    """Whether attention weights are asked for, by argument or config."""
    return bool(config.output_attentions if output_attentions is None else output_attentions)


class Recorder:
    """Collects what was asked for.

    Args:
        config: defaults for what is None.
        output_hidden_states: True or False, or the index or indices to keep (negative ones count from the end; the
            number 0 means False, as in the reference).
        output_attentions: True or False.
    """

    def __init__(
        self, config: SeedOssConfig, output_hidden_states: bool | int | list[int] | None, output_attentions: bool | None
    ) -> None:
        wanted: Any = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        wanted = False if wanted is None else wanted
        self.num_states = config.num_hidden_layers + 1
        self.selected = self._selected(wanted)
        self.wants_attentions = wants_attentions(config, output_attentions)
        self.keeps_last_unnormed = getattr(config, "tie_last_hidden_states", True) is False
        self.states: list[Tensor | None] = []

    def _selected(self, wanted: Any) -> set[int] | None:
        if isinstance(wanted, int) and not wanted:  # 0 means False, as in the reference; [0] is the embeddings
            return None
        if wanted is True:
            return set(range(self.num_states))
        indices = [wanted] if isinstance(wanted, int) else list(wanted)
        return {index % self.num_states for index in indices if -self.num_states <= index < self.num_states}

    def add(self, hidden_states: Tensor) -> None:
        """Note the input of the next layer."""
        if self.selected is not None:
            self.states.append(hidden_states if len(self.states) in self.selected else None)

    def hidden_states(self, last_layer: Tensor, last_hidden_state: Tensor) -> tuple[Tensor | None, ...] | None:
        """All states, the last one after the final norm; None if none were asked for."""
        if self.selected is None:
            return None
        last = last_layer if self.keeps_last_unnormed else last_hidden_state
        return (*self.states, last if self.num_states - 1 in self.selected else None)

    def attentions(self, context: DenseContext) -> tuple[Tensor, ...] | None:
        """Weights per layer `[batch, heads, query_len, kv_len]`; empty, with a warning, under SDPA."""
        if not self.wants_attentions:
            return None
        if context.weights is None:
            warnings.warn(
                "output_attentions: SDPA has no attention weights to return; use set_attn_implementation('eager')",
                stacklevel=4,
            )
            return ()
        return tuple(context.weights[layer_idx] for layer_idx in sorted(context.weights))
