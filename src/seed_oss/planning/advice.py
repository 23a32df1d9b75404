"""What a plan says in words: what is suggested, and where nothing fits, what would."""

from collections.abc import Sequence
from typing import Any

from seed_oss.planning.devices import DeviceMemory
from seed_oss.planning.model import PlannedModel
from seed_oss.planning.placing import place, scheme_candidate
from seed_oss.planning.result import Placement
from seed_oss.planning.workspace import Load
from seed_oss.quant.schemes import SCHEMES

NOTABLE_GROWTH = 1.02


def advise(
    model: PlannedModel,
    placements: Sequence[Placement],
    best: Placement | None,
    devices: Sequence[DeviceMemory],
    load: Load,
    dtype: Any,
) -> tuple[str, ...]:
    """What is worth knowing about a plan, a sentence each.

    Args:
        model: what is planned.
        placements: all of them.
        best: the one that is suggested, or None.
        devices: what was looked at.
        load: how much the model has to do.
        dtype: as asked for, "auto" included.
    """
    if best is not None:
        said = [_suggestion(best)]
    else:
        said = [_missing(placements), *_smaller(model, placements, devices, load, dtype), *_shorter(placements)]
    said += _grown(model, placements)
    trained = model.config.max_position_embeddings
    if load.context > trained:
        said.append(f"The model is made for {trained:,} tokens; beyond, its answers get worse.")
    return tuple(said)


def gib(num_bytes: int) -> str:
    """Bytes as GiB, or MiB where that is more readable."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"


def _suggestion(best: Placement) -> str:
    how = f"quantization={best.quantization!r}, " if best.quantization else ""
    return (
        f"Use {best.form} on {best.device}: {gib(best.total_bytes)} of {gib(best.free_bytes)}; a context of up to "
        f"{best.longest_context:,} tokens fits. from_pretrained(..., {how}device={best.device!r})"
    )


def _grown(model: PlannedModel, placements: Sequence[Placement]) -> list[str]:
    """What a GGUF file grows by when its blocks become groups."""
    held = min((placement.weights.total for placement in placements), default=0)
    if not model.blocks or held <= NOTABLE_GROWTH * model.file_bytes:
        return []
    return [
        f"The file has {gib(model.file_bytes)} of weights, which take {gib(held)} here: its blocks become groups of 4 "
        "or 8 bits with a whole number for each scale, or numbers where no groups hold them; values stay the same."
    ]


def _missing(placements: Sequence[Placement]) -> str:
    closest = min(placements, key=lambda placement: placement.missing_bytes)
    return (
        f"Nothing fits. Closest is {closest.form} on {closest.device}: it takes {gib(closest.total_bytes)}, "
        f"{gib(closest.free_bytes)} are free, {gib(closest.missing_bytes)} are missing."
    )


def _smaller(
    model: PlannedModel,
    placements: Sequence[Placement],
    devices: Sequence[DeviceMemory],
    load: Load,
    dtype: Any,
) -> list[str]:
    """The most exact scheme that fits and was not among those planned."""
    if model.is_quantized:
        return []
    seen = {placement.form for placement in placements}
    others = [
        place(scheme_candidate(model, scheme, dtype, device.kind), device, load, None)
        for name, scheme in SCHEMES.items()
        for device in devices
        if name not in seen
    ]
    fitting = max(
        (other for other in others if other.fits), key=lambda other: (other.weights.total, other.form), default=None
    )
    if fitting is None:
        return []
    return [
        f"quantization={fitting.quantization!r} would fit on {fitting.device}: {gib(fitting.total_bytes)} of "
        f"{gib(fitting.free_bytes)}."
    ]


def _shorter(placements: Sequence[Placement]) -> list[str]:
    longest = max(placements, key=lambda placement: placement.longest_context)
    if longest.longest_context == 0:
        smallest = min(placements, key=lambda placement: placement.weights.total)
        return [f"No context is short enough: the weights alone are {gib(smallest.weights.total)} in {smallest.form}."]
    return [
        f"A context of {longest.longest_context:,} tokens would fit in {longest.form} on {longest.device}; a smaller "
        "batch or prefill_chunk helps, too."
    ]
