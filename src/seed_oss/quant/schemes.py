"""The quantizations that users name, and what each tensor of a model becomes under one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from seed_oss.errors import InputError
from seed_oss.ops.grouped_weight import QuantFormat, ZeroKind, dividing_group
from seed_oss.quant.grids import Method

HEAD_GROUP = 32


@dataclass(frozen=True, slots=True)
class Scheme:
    """A quantization of a whole model.

    Attributes:
        name: as users write it.
        bits: of the weights in the layers, 4 or 8.
        group_size: columns that share a scale; None for a scale per row.
        zero: what an integer stands for, see `ops.grouped_weight`.
        head_bits: of the language-model head; symmetric groups of 32.
        embedding_bits: of the embedding; likewise.
        method: how numbers are rounded where no calibration text is given: "plain" or "search".
        is_float: 8-bit floating point with a scale per row, see quant.fp8; embedding and head stay as they are.
    """

    name: str
    bits: int
    group_size: int | None = 32
    zero: ZeroKind = "symmetric"
    head_bits: int = 8
    embedding_bits: int = 8
    method: Method = "search"
    is_float: bool = False


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("int4", 4, 32, "point"),
        Scheme("int4-g64", 4, 64, "point"),
        Scheme("int4-g128", 4, 128, "point"),
        Scheme("int4-min", 4, 32, "minimum"),
        Scheme("int4-min-g64", 4, 64, "minimum"),
        Scheme("int4-min-g128", 4, 128, "minimum"),
        Scheme("int4-sym", 4, 32),
        Scheme("int4-sym-g64", 4, 64),
        Scheme("int4-sym-g128", 4, 128),
        Scheme("int8", 8, 32),
        Scheme("int8-g64", 8, 64),
        Scheme("int8-g128", 8, 128),
        Scheme("int8-channel", 8, None),
    )
}


FLOAT8_SCHEME = Scheme("fp8", 8, None, is_float=True)
"""Not among those above, which every device computes with: it takes a CUDA device of compute capability 8.9."""


def parse_scheme(name: str | Scheme) -> Scheme:
    """The scheme of a name.

    Args:
        name: as in `SCHEMES`, or "fp8"; in any case, `_` for `-` allowed; or a scheme, which is returned.

    Raises:
        InputError: there is none of this name; the message lists them.
    """
    if isinstance(name, Scheme):
        return name
    known = {**SCHEMES, FLOAT8_SCHEME.name: FLOAT8_SCHEME}
    found = known.get(name.strip().lower().replace("_", "-")) if isinstance(name, str) else None
    if found is None:
        raise InputError(
            f"quantization is {name!r:.60}; there are {', '.join(SCHEMES)}, and fp8, which is for CUDA devices of "
            "compute capability 8.9 and newer"
        )
    return found


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What one tensor becomes.

    Attributes:
        format: None where it stays as it is.
        note: why it differs from what the scheme asks for; empty where it does not.
    """

    format: QuantFormat | None
    note: str = ""


def weight_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Module name to (out_features, in_features) of every linear layer and embedding, in the model's order."""
    return {
        name: (module.weight.shape[0], module.weight.shape[1])
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }


def plan_tensors(
    scheme: Scheme, shapes: Mapping[str, tuple[int, int]], *, tied: bool = False, strict: bool = False
) -> dict[str, TensorPlan]:
    """What each tensor of a model becomes.

    Args:
        scheme: of the whole model.
        shapes: of `weight_shapes`.
        tied: the head is the embedding: both get the format with more bits.
        strict: raise where a tensor cannot have what the scheme asks for.

    Returns:
        Module name to plan. Linear layers in `layers` get the scheme's format, `lm_head` and `embed_tokens` their own;
        heads of classifiers stay as they are. Where groups do not divide a row, the largest smaller ones that do are
        taken, and where none do the tensor stays as it is.

    Raises:
        InputError: `strict`, and groups do not divide; the message names tensor and size. A scheme without groups.
    """
    if scheme.is_float:
        raise InputError(f"{scheme.name} has no groups of integers; choose one of {', '.join(SCHEMES)} here")
    if tied:
        bits = max(scheme.head_bits, scheme.embedding_bits)
        scheme = replace(scheme, head_bits=bits, embedding_bits=bits)
    plans = {name: _plan(scheme, name, shape[1]) for name, shape in shapes.items()}
    misfits = [f"{name}: {plan.note}" for name, plan in plans.items() if plan.note and _is_quantized(name)]
    if strict and misfits:
        raise InputError(f"{scheme.name} does not fit {misfits[0]}; choose another scheme, or leave out strict")
    return plans


def bits_per_weight(plans: Mapping[str, TensorPlan], shapes: Mapping[str, tuple[int, int]]) -> float:
    """Mean bits of the weights that are quantized, scales and zeros included."""
    sizes = {name: shapes[name][0] * shapes[name][1] for name, plan in plans.items() if plan.format is not None}
    total = sum(size * format.bits_per_weight for name, size in sizes.items() if (format := plans[name].format))
    return total / max(sum(sizes.values()), 1)


def _is_quantized(name: str) -> bool:
    parts = name.split(".")
    return "layers" in parts or parts[-1] in ("lm_head", "embed_tokens")


def _plan(scheme: Scheme, name: str, in_features: int) -> TensorPlan:
    if not _is_quantized(name):
        return TensorPlan(None, "a head of its own stays as it is")
    bits, group_size, zero = scheme.bits, scheme.group_size, scheme.zero
    last = name.rsplit(".", 1)[-1]
    if last in ("lm_head", "embed_tokens"):
        bits, zero = (scheme.head_bits if last == "lm_head" else scheme.embedding_bits), "symmetric"
        group_size = HEAD_GROUP
    fitting = dividing_group(group_size, in_features)
    if fitting is None:
        return TensorPlan(None, f"rows of {in_features} columns have no groups of 4 or more; it stays as it is")
    differs = group_size is not None and fitting != group_size
    note = f"groups of {fitting}, since {group_size} does not divide {in_features} columns" if differs else ""
    return TensorPlan(QuantFormat(bits, fitting, zero), note)
