"""Running a model whose inputs something else prepares: adapters that put virtual tokens before the prompt.

peft's prompt and prefix tuning replace `prepare_inputs_for_generation` on the model object. Then each forward gets what
that returns, and the cache is the one that the model returns.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seed_oss.cache import Cache
from seed_oss.generation.columns import Columns
from seed_oss.generation.model import CausalModel
from seed_oss.generation.prompt import Prompt
from seed_oss.generation.runner import ForwardOptions, Runner

_METHOD = "prepare_inputs_for_generation"


def replaced_preparation(model: CausalModel) -> Callable[..., dict[str, Any]] | None:
    """What was put in place of the method that the model's class has, or None."""
    replaced = vars(model).get(_METHOD)
    own = getattr(type(model), _METHOD, None)
    return None if replaced is None or getattr(replaced, "__func__", None) is own else replaced


class PreparedRunner(Runner):
    """See Runner.

    Args:
        model: the model.
        prepare: called as the reference calls `prepare_inputs_for_generation`.
        prompt: what the first forward gets.
        options: how the model is called; the prompt runs at once.
        max_new: most steps that will follow.
    """

    def __init__(
        self,
        model: CausalModel,
        prepare: Callable[..., dict[str, Any]],
        prompt: Prompt,
        options: ForwardOptions,
        max_new: int,
    ) -> None:
        self._model, self._prepare, self._prompt, self._options = model, prepare, prompt, options
        self._max_new = max_new
        self._cache: Cache | None = None
        self._mask = None if prompt.attention_mask is None else Columns(prompt.attention_mask.long(), max_new)

    @property
    def cache(self) -> Cache | None:
        """See Runner.cache."""
        return self._cache

    def prefill(self) -> Any:
        """See Runner.prefill."""
        embeds = {} if self._prompt.inputs_embeds is None else {"inputs_embeds": self._prompt.inputs_embeds}
        return self._forward(self._prompt.input_ids, None, **embeds)

    def repeat(self, times: int) -> None:
        """See Runner.repeat."""
        assert self._cache is not None
        self._cache.batch_repeat_interleave(times)
        if self._mask is not None:
            self._mask = Columns(self._mask.view().repeat_interleave(times, dim=0), self._max_new)

    def step(self, tokens: Tensor, ids: Columns, done: Sequence[bool]) -> Any:
        """See Runner.step."""
        if self._mask is not None:
            self._mask.append(torch.ones_like(tokens))
        return self._forward(ids.view(), 1)

    def _forward(self, ids: Tensor, num_new: int | None, **more: Any) -> Any:
        inputs = self._prepare(
            ids,
            next_sequence_length=num_new,
            past_key_values=self._cache,
            attention_mask=None if self._mask is None else self._mask.view(),
            is_first_iteration=num_new is None,
            use_cache=True,
            logits_to_keep=self._options.logits_to_keep,
            **more,
        )
        output = self._model(**inputs, return_dict=True, **self._options.outputs)
        self._cache = output.past_key_values
        return output
