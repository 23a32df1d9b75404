"""Running the model over the prompt and then token by token."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.cache import Cache
from seed_oss.errors import InputError
from seed_oss.generation.columns import Columns
from seed_oss.generation.model import CausalModel
from seed_oss.generation.prompt import Prompt
from seed_oss.nn.fused_step import FusedStep, RowSteps
from seed_oss.ops.triton import builder


@dataclass(frozen=True)
class ForwardOptions:
    """How the model is called.

    Attributes:
        chunk_len: most prompt tokens in one forward.
        logits_to_keep: positions at the end whose logits are computed; 0 is all.
        outputs: what else the model shall return, such as `{"output_attentions": True}`.
    """

    chunk_len: int
    logits_to_keep: int
    outputs: dict[str, bool]


class Runner(ABC):
    """Runs the model, and keeps what changes from step to step beside the ids."""

    @property
    @abstractmethod
    def cache(self) -> Cache | None:
        """Keys and values so far; None where everything is computed anew at each step."""

    @abstractmethod
    def prefill(self) -> Any:
        """Run the prompt; return the model's output."""

    @abstractmethod
    def repeat(self, times: int) -> None:
        """Give each row `times` copies side by side, cache included."""

    @abstractmethod
    def step(self, tokens: Tensor, ids: Columns, done: Sequence[bool]) -> Any:
        """Run one more token per row.

        Args:
            tokens: int64 `[batch]`.
            ids: everything so far, `tokens` included.
            done: rows that have ended, of which nobody looks at what comes.

        Returns:
            The model's output.
        """

    @property
    def runs_ahead(self) -> bool:
        """Whether the next step may be started before it is known whether it is wanted."""
        return False

    def row_steps(self) -> RowSteps | None:
        """Steps of the only row, each the token behind another; None where only `step` can run them."""
        return None

    def take_back_step(self) -> None:  # noqa: B027 - only for those that run ahead
        """The last step was not wanted, and nothing follows: leave nothing of it in the cache."""

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from what row `rows[i]`, another beam of the same prompt, has run."""
        if self.cache is not None and not torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            self.cache.reorder_cache(rows)

    def finish(self) -> None:  # noqa: B027 - most have nothing to do
        """Nothing more will be run."""


class StepOutput(NamedTuple):
    """What a step without the model's own forward comes to.

    Attributes:
        logits: fp32 `[batch, 1, vocab_size]`.
        past_key_values: the cache.
    """

    logits: Tensor
    past_key_values: Cache


def fused_step(model: CausalModel) -> FusedStep | None:
    """The native call of a model's decoding step; None for a model that has none, such as one that wraps another."""
    return model.fused_step() if hasattr(type(model), "fused_step") else None  # type: ignore[attr-defined]


class ModelRunner(Runner):
    """See Runner; keeps cache, mask and positions.

    Args:
        model: the model.
        prompt: what the first forward gets.
        cache: where keys and values go; None computes everything anew at each step.
        options: how the model is called.
        max_new: most steps that will follow.
    """

    def __init__(
        self, model: CausalModel, prompt: Prompt, cache: Cache | None, options: ForwardOptions, max_new: int
    ) -> None:
        self._model, self._prompt, self._options, self._max_new = model, prompt, options, max_new
        self._cache = cache
        self._fused_step = None if cache is None or any(options.outputs.values()) else fused_step(model)
        self._mask = None if prompt.attention_mask is None else Columns(prompt.attention_mask, max_new)
        self._positions = prompt.position_ids

    @property
    def cache(self) -> Cache | None:
        """See Runner.cache."""
        return self._cache

    def prefill(self) -> Any:
        """Run the prompt, in chunks if it is long; return the model's output for the last one."""
        num_new, chunk_len = self._prompt.num_new, self._options.chunk_len
        output: Any = None
        for start in range(0, num_new, chunk_len):
            del output  # before the next chunk needs the memory
            output = self._run_prompt(start, min(start + chunk_len, num_new))
            if self._cache is not None and output.past_key_values is None:
                raise InputError(
                    "the model did not use its cache, as with gradient checkpointing while training; call model.eval() "
                    "first, or pass use_cache=False"
                )
        return output

    def repeat(self, times: int) -> None:
        """See Runner.repeat."""
        assert self._cache is not None
        self._cache.batch_repeat_interleave(times)
        if self._mask is not None:
            self._mask = Columns(self._mask.view().repeat_interleave(times, dim=0), self._max_new)
        if self._positions is not None and self._positions.shape[0] > 1:
            self._positions = self._positions.repeat_interleave(times, dim=0)

    def step(self, tokens: Tensor, ids: Columns, done: Sequence[bool]) -> Any:
        """See Runner.step."""
        if self._fused_step is not None and self._mask is None and self._positions is None:
            assert self._cache is not None
            logits = self._fused_step.run(tokens, self._cache)
            if logits is not None:
                return StepOutput(logits[:, None], self._cache)
        if self._mask is not None:
            self._mask.append(torch.ones_like(tokens, dtype=torch.bool))
        if self._positions is not None:
            following = self._positions[:, -1:] + 1
            again = self._cache is None
            self._positions = torch.cat((self._positions, following), dim=1) if again else following
        input_ids = tokens[:, None] if self._cache is not None else ids.view()
        return self.forward(
            {"input_ids": input_ids}, self._positions, None if self._mask is None else self._mask.view()
        )

    def row_steps(self) -> RowSteps | None:
        """See Runner.row_steps."""
        if self._fused_step is None or self._cache is None or self._mask is not None or self._positions is not None:
            return None
        return self._fused_step.of_row(self._cache)

    def run(self, tokens: Tensor) -> Any:
        """Run several more tokens per row, int64 `[batch, n]`, into the cache; the output has logits for each."""
        num_new = tokens.shape[1]
        if self._mask is not None:
            self._mask.extend(torch.ones_like(tokens, dtype=torch.bool))
        if self._positions is not None:
            self._positions = self._positions[:, -1:] + torch.arange(1, num_new + 1, device=tokens.device)
        mask = None if self._mask is None else self._mask.view()
        return self.forward({"input_ids": tokens}, self._positions, mask, num_new)

    def take_back(self, num_tokens: int) -> None:
        """Forget the last tokens that were run."""
        if not num_tokens:
            return
        assert self._cache is not None
        self._cache.crop(-num_tokens)
        if self._mask is not None:
            self._mask.crop(len(self._mask) - num_tokens)
        if self._positions is not None:
            self._positions = self._positions[:, -1:] - num_tokens

    def step_inputs(self, kv_len: int) -> tuple[Tensor | None, Tensor | None]:
        """What stays the same memory for steps from here on.

        Args:
            kv_len: of a fixed-size cache.

        Returns:
            A mask boolean `[batch, kv_len]`, True for every token to come, and the positions of the last tokens
            `[batch or 1, 1]`; copies, each None where the model is called without.
        """
        mask = None if self._mask is None else self._mask.view()
        if mask is not None:
            mask = F.pad(mask, (0, kv_len - mask.shape[1]), value=True)
        return mask, None if self._positions is None else self._positions[:, -1:].clone()

    def _run_prompt(self, start: int, end: int) -> Any:
        prompt = self._prompt
        first, last = start - prompt.num_new, end - prompt.num_new or None
        if prompt.inputs_embeds is not None:
            inputs = {"inputs_embeds": prompt.inputs_embeds[:, first:last]}
        else:
            inputs = {"input_ids": prompt.input_ids[:, first:last]}
        positions = None if prompt.position_ids is None else prompt.position_ids[:, first:last]
        mask = None if prompt.attention_mask is None else prompt.attention_mask[:, : prompt.past_len + end]
        return self.forward(inputs, positions, mask)

    def forward(
        self,
        inputs: dict[str, Tensor],
        positions: Tensor | None,
        mask: Tensor | None,
        logits_to_keep: int | None = None,
    ) -> Any:
        """Call the model.

        Args:
            inputs: ids or embeddings.
            positions: int64 `[batch or 1, length]`, or None.
            mask: boolean `[batch, cached + length]`, or None.
            logits_to_keep: positions at the end whose logits are computed; None as the options say.
        """
        if positions is not None:
            inputs["position_ids"] = positions
        if mask is not None:
            inputs["attention_mask"] = mask
        with builder().held():  # a forward goes on with the kernels that it began with
            return self._model(
                **inputs,
                past_key_values=self._cache,
                use_cache=self._cache is not None,
                logits_to_keep=self._options.logits_to_keep if logits_to_keep is None else logits_to_keep,
                return_dict=True,
                **self._options.outputs,
            )
