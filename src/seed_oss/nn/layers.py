"""The stack of decoder layers."""

from collections.abc import Callable
from itertools import islice

from torch import Tensor, nn

from seed_oss.cache import DenseContext

LayerStep = Callable[[nn.Module, Tensor, Tensor, Tensor, DenseContext], Tensor]


class SeedOssLayers(nn.ModuleList):
    """The layers, one after another."""

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        context: DenseContext,
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
