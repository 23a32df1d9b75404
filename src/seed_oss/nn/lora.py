"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) beside a model: its weights are shared, and stay as they are."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seed_oss.cache import PagedContext
from seed_oss.nn.fused import FusedLayers, logits_of_rows, with_own_children
from seed_oss.nn.layers import SeedOssLayers
from seed_oss.ops.linear import batch_invariant_linear
from seed_oss.ops.native import alone
from seed_oss.ops.rows import in_slabs

PROJECTIONS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}
"""What may be adapted in a layer, and the part of the layer that it belongs to."""

_Module = TypeVar("_Module", bound=nn.Module)


class LowRank(NamedTuple):
    """What is added to a weight: `scaling * b @ a`.

    Attributes:
        a: fp32 `[rank, in_features]`.
        b: fp32 `[out_features, rank]`.
        scaling: of the product.
    """

    a: Tensor
    b: Tensor
    scaling: float


class LoraLinear(nn.Module):
    """`base(x) + scaling * (x @ a.T) @ b.T`; the bits of a row do not depend on the other rows.

    The added part is computed in fp32 and the sum rounded once, as peft does it.

    Args:
        base: a linear layer, plain or quantized, which is shared.
        low_rank: what is added; None adds nothing.
    """

    def __init__(self, base: nn.Module, low_rank: LowRank | None = None) -> None:
        super().__init__()
        self.base, self.low_rank = base, low_rank

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        rows = input.reshape(-1, input.shape[-1])
        output = logits_of_rows(self.base, rows)
        if self.low_rank is not None:
            a, b, scaling = self.low_rank
            output = output + batch_invariant_linear(batch_invariant_linear(rows.float(), a), b) * scaling
        return output.to(input.dtype).view(*input.shape[:-1], -1)


class SteadyActivation(nn.Module):
    """An activation whose bits do not depend on the number of rows: torch's take other instructions for what is left
    over at the end of a tensor.

    Args:
        function: elementwise.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return in_slabs(self.function, input.reshape(-1, input.shape[-1])).view(input.shape)


class LoraLayers(SeedOssLayers):
    """A stack whose products are all LoraLinear's.

    Args:
        layers: in their order.
        fused: the same stack as the kernels run it, which share its weights; None where they cannot.
    """

    def __init__(self, layers: list[nn.Module], fused: FusedLayers | None = None) -> None:
        super().__init__(layers)
        self._fused = (fused,)  # no submodule: its parameters are there already

    def run_packed(self, hidden_states: Tensor, cos: Tensor, sin: Tensor, context: PagedContext) -> Tensor:
        """See SeedOssLayers.run_packed: natively, or all rows at a time, since every product takes care of itself."""
        (fused,) = self._fused
        native = None if fused is None else fused.run_natively(hidden_states, cos, sin, context)
        if native is not None:
            return native
        with alone(hidden_states.device.type == "cpu"):
            return self(hidden_states, cos, sin, context, len(self), None)


@torch.no_grad()
def adapted(decoder: _Module, low_ranks: Mapping[str, LowRank]) -> _Module:
    """A second decoder that shares every weight with the first one, and adds to some.

    Neither the decoder nor what it holds is changed. The second one is for inference, in packed rows above all.

    Args:
        decoder: a SeedOssModel in eval mode, fused or not, quantized or not.
        low_ranks: "layers.0.self_attn.q_proj" and the like to what is added there, on the decoder's device.

    Returns:
        The second one.
    """
    twin: Any = with_own_children(decoder)
    old: Any = decoder.get_submodule("layers")
    layers = [_adapted_layer(layer, f"layers.{index}", low_ranks) for index, layer in enumerate(old)]
    fused = FusedLayers(list(old), _padded(len(old), low_ranks)).eval() if isinstance(old, FusedLayers) else None
    twin.layers = LoraLayers(layers, fused).eval()
    return twin


def _padded(num_layers: int, low_ranks: Mapping[str, LowRank]) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Per layer what the kernels take: scaled, and of one rank, with zeros behind."""
    rank = max((one.a.shape[0] for one in low_ranks.values()), default=0)
    layers: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in range(num_layers)]
    for path, (a, b, scaling) in low_ranks.items():
        _, index, name = path.split(".", 2)
        behind = rank - a.shape[0]
        wide = F.pad(a, (0, 0, 0, behind)), F.pad(b * scaling, (0, behind))
        layers[int(index)][name] = wide[0].contiguous(), wide[1].contiguous()
    return layers


def _adapted_layer(layer: nn.Module, name: str, low_ranks: Mapping[str, LowRank]) -> nn.Module:
    twin = with_own_children(layer)
    for part in sorted(set(PROJECTIONS.values())):
        setattr(twin, part, with_own_children(layer.get_submodule(part)))
    for leaf, part in PROJECTIONS.items():
        path = f"{part}.{leaf}"
        setattr(twin.get_submodule(part), leaf, LoraLinear(layer.get_submodule(path), low_ranks.get(f"{name}.{path}")))
    mlp: Any = twin.get_submodule("mlp")
    mlp.act_fn = SteadyActivation(mlp.act_fn)
    return twin.eval()
