"""Decoding through a graph of one step, built beside the first steps and taking over between two of them.

prompt, first steps: as ModelRunner runs them, while kernels are built
a step has run on kernels that all are built  ->  before the next one, the step is captured
captured: each step copies its tokens to where the graph reads them, and replays
not captured: ModelRunner's steps go on, and `why_not` says why
"""

import logging
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from seed_oss.cache import Cache, StaticCache
from seed_oss.config import SeedOssConfig
from seed_oss.generation.columns import Columns
from seed_oss.generation.model import CausalModel
from seed_oss.generation.runner import ModelRunner, Runner
from seed_oss.generation.step_graph import StepGraph, graph_maker
from seed_oss.ops.triton import Builder, builder

_LOG = logging.getLogger(__name__)
MAX_CACHE_SHARE = 0.5  # of the free memory, for a fixed-size cache that nobody asked for
MIN_REPLAYS = 16  # steps that may still come; a capture takes the time of several


class GraphRunner(Runner):
    """See Runner.

    Args:
        runner: runs the prompt and the first steps; its cache has a fixed size.
        make_graph: makes an empty graph.
        max_new: most new tokens; with few to come there is no graph.
        kernels: builds the kernels of the steps.
    """

    def __init__(
        self,
        runner: ModelRunner,
        make_graph: Callable[[], StepGraph],
        max_new: int,
        kernels: Builder | None = None,
    ) -> None:
        self._runner, self._make_graph, self._num_left = runner, make_graph, max_new - 1
        self._kernels = builder() if kernels is None else kernels
        self._graph: StepGraph | None = None
        self._is_settled = False  # a step has run, and on kernels that will stay
        self._tokens = torch.empty(0)
        self.why_not: str | None = None

    @property
    def cache(self) -> Cache | None:
        """See Runner.cache."""
        return self._runner.cache

    @property
    def has_taken_over(self) -> bool:
        """Whether steps are replayed."""
        return self._graph is not None

    @property
    def runs_ahead(self) -> bool:
        """See Runner.runs_ahead: a replay is started without waiting for the device."""
        return self.has_taken_over

    def take_back_step(self) -> None:
        """See Runner.take_back_step."""
        assert self.cache is not None
        self.cache.crop(-1)

    def prefill(self) -> Any:
        """See Runner.prefill."""
        return self._runner.prefill()

    def repeat(self, times: int) -> None:
        """See Runner.repeat."""
        assert self._graph is None
        self._runner.repeat(times)

    def step(self, tokens: Tensor, ids: Columns, done: Sequence[bool]) -> Any:
        """See Runner.step."""
        if self._graph is None and self._is_settled and self.why_not is None and self._num_left >= MIN_REPLAYS:
            self._capture(tokens)
        self._num_left -= 1
        if self._graph is None:
            return self._plain_step(tokens, ids, done)
        self._tokens.copy_(tokens[:, None])
        return SimpleNamespace(logits=self._graph.replay(), past_key_values=self.cache)

    def finish(self) -> None:
        """See Runner.finish."""
        self._runner.finish()

    def _plain_step(self, tokens: Tensor, ids: Columns, done: Sequence[bool]) -> Any:
        with self._kernels.held():
            before = self._kernels.num_in_use
            output = self._runner.step(tokens, ids, done)
        self._is_settled = not self._kernels.is_busy() and self._kernels.num_in_use == before
        return output

    def _capture(self, tokens: Tensor) -> None:
        cache, graph = self.cache, self._make_graph()
        assert isinstance(cache, StaticCache)
        length = cache.get_seq_length()
        self._tokens = tokens[:, None].clone()
        mask, positions = self._runner.step_inputs(cache.max_cache_len)
        inputs: dict[str, Tensor] = {"input_ids": self._tokens}

        def run() -> Tensor:
            following = None if positions is None else positions.add_(1)
            return self._runner.forward(inputs, following, mask).logits

        try:
            graph.capture(run)
        except RuntimeError as error:
            self.why_not = f"the step cannot be captured: {str(error).strip().splitlines()[0]:.200}"
            _LOG.info("%s; steps go on one by one", self.why_not)
        else:
            self._graph = graph
        for layer in cache.layers:
            layer.know_length(length if self._graph is None else None)  # a graph counts on the device alone


def graphs_for(model: CausalModel, cache: Cache | None, outputs: dict[str, bool]) -> Callable[[], StepGraph] | None:
    """What makes the graphs of a model's steps; None where they cannot be one.

    Args:
        model: the model.
        cache: its cache.
        outputs: what it returns beside logits.
    """
    return graph_maker(model.device) if isinstance(cache, StaticCache) and not outputs else None


def prefers_fixed_size(model: CausalModel, rows: int, num_kept: int) -> bool:
    """Whether a call that asks for no cache in particular gets one of fixed size, so that its steps can be a graph.

    Args:
        model: the model.
        rows: of the batch.
        num_kept: tokens that the cache must have room for.
    """
    if graph_maker(model.device) is None:
        return False
    return cache_bytes(model.config, rows, num_kept) <= MAX_CACHE_SHARE * _free_bytes(model.device)


def cache_bytes(config: SeedOssConfig, rows: int, num_kept: int) -> int:
    """Most that a cache can take: its numbers in fp32."""
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    return per_token * rows * num_kept


def _free_bytes(device: torch.device) -> float:
    if device.type != "cuda":
        return float("inf")
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # of earlier calls, free to use
    return torch.cuda.mem_get_info(device)[0] + kept
