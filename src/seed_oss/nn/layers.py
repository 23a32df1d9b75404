"""The stack of decoder layers."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.cache import AttentionContext, PagedContext
from seed_oss.ops.native import alone
from seed_oss.ops.rows import ROWS_AT_ONCE, pad_rows

LayerStep = Callable[[nn.Module, Tensor, Tensor, Tensor, Any], Tensor]


class SeedOssLayers(nn.ModuleList):
    """The layers, one after another."""

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        context: AttentionContext,
        num_layers: int,
        step: LayerStep | None,
    ) -> Tensor:
        """Run the first layers.

        Args:
            hidden_states: `[batch, length, hidden_size]`.
            cos: `[batch, length, head_dim]`.
            sin: `[batch, length, head_dim]`.
            context: where queries meet keys and values.
            num_layers: how many layers are run.
            step: runs one layer, `step(layer, hidden_states, cos, sin, context)`, for callers that look in between;
                None calls the layer.

        Returns:
            `[batch, length, hidden_size]`.
        """
        for layer in islice(self, num_layers):
            arguments = (hidden_states, cos, sin, context)
            hidden_states = layer(*arguments) if step is None else step(layer, *arguments)
        return hidden_states

    def run_packed(self, hidden_states: Tensor, cos: Tensor, sin: Tensor, context: PagedContext) -> Tensor:
        """Run all layers on packed sequences so that a row's bits do not depend on the others.

        Torch's products sum in another order for another number of rows or threads. So on the CPU 16 rows go through
        all layers at a time, always as many, in one thread; a sequence's next 16 find the ones before in the cache.

        Args:
            hidden_states: `[1, num_tokens, hidden_size]`.
            cos: `[1, num_tokens, head_dim]`.
            sin: `[1, num_tokens, head_dim]`.
            context: of these rows.

        Returns:
            `[1, num_tokens, hidden_size]`.
        """
        if hidden_states.device.type != "cpu":  # nothing is promised there
            return SeedOssLayers.forward(self, hidden_states, cos, sin, context, len(self), None)
        parts = (one.split(ROWS_AT_ONCE, dim=1) for one in (hidden_states, cos, sin))
        done = list[Tensor]()
        with alone():
            for slab, *rows in zip(context.slabs(ROWS_AT_ONCE), *parts, strict=True):
                x, slab_cos, slab_sin = (pad_rows(one, dim=1) for one in rows)
                output = SeedOssLayers.forward(self, x, slab_cos, slab_sin, slab, len(self), None)
                done.append(output[:, : slab.rows.num_tokens])
        return torch.cat(done, dim=1)
