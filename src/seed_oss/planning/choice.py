"""Where `from_pretrained(device_map="auto")` puts a model: the first device, accelerators before the CPU, that fits."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch

from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.planning.advice import gib
from seed_oss.planning.chunks import WHOLE, runs_whole
from seed_oss.planning.devices import DeviceMemory, devices_here
from seed_oss.planning.model import PlannedModel
from seed_oss.planning.placing import Candidate, place, scheme_candidate, stored_candidate
from seed_oss.planning.result import Placement
from seed_oss.planning.weights import WeightBytes, plain_form
from seed_oss.planning.workspace import Load
from seed_oss.quant.schemes import SCHEMES, Scheme

DEFAULT_CONTEXT = 4096


def default_load(
    config: SeedOssConfig, *, batch: int = 1, context: int | None = None, chunk: int | None = None
) -> Load:
    """How much a model has to do where nobody says: one row of 4,096 tokens, or what it is made for if less."""
    if chunk is None and runs_whole(config.rope_parameters["rope_type"]):
        chunk = WHOLE
    return Load(batch, context or min(DEFAULT_CONTEXT, config.max_position_embeddings), chunk)


def choose_device(
    num_bytes: int,
    model: PlannedModel,
    scheme: Scheme | None = None,
    dtype: torch.dtype | None = None,
    *,
    devices: Sequence[DeviceMemory] | None = None,
) -> torch.device:
    """The device for a model that is about to be loaded.

    An accelerator is taken if the plan of `default_load` fits; else the CPU, with a warning if only a shorter context
    fits there.

    Args:
        num_bytes: of the weights, as they will be.
        model: as it is stored.
        scheme: to quantize it with, or None.
        dtype: of hidden states and cache; None for the model's own.
        devices: to choose from; None for those that are here.

    Raises:
        InputError: not even one token fits anywhere; the message says what would.
    """
    found = devices_here() if devices is None else devices
    placements = [_placed(num_bytes, model, scheme, dtype, device) for device in found]
    accelerators = [one for one in placements if one.device != "cpu"]
    fitting = next((one for one in accelerators if one.fits), None)
    if fitting is not None:
        return torch.device(fitting.device)
    cpu = next((one for one in placements if one.device == "cpu"), None)
    if cpu is None or cpu.longest_context == 0:
        raise InputError(_fits_nowhere(placements, model, found))
    if accelerators:
        roomiest = max(accelerators, key=lambda one: one.free_bytes)
        warnings.warn(
            f"the weights take {gib(num_bytes)}, and with cache and workspace do not fit into the "
            f"{gib(roomiest.free_bytes)} that are free on {roomiest.device}: loading onto the CPU. Give device='cuda' "
            "to insist",
            stacklevel=5,
        )
    if not cpu.fits:
        warnings.warn(
            f"with {default_load(model.config).context:,} tokens the model takes {gib(cpu.total_bytes)} and "
            f"{gib(cpu.free_bytes)} are free on the CPU: a context of up to {cpu.longest_context:,} tokens fits. "
            "A smaller dtype or quantization= takes less; device='cpu' insists",
            stacklevel=5,
        )
    return torch.device("cpu")


def _placed(
    num_bytes: int, model: PlannedModel, scheme: Scheme | None, dtype: torch.dtype | None, device: DeviceMemory
) -> Placement:
    """The plan, with the weights' bytes as they will be."""
    planned = _candidate(model, scheme, dtype, device)
    form = replace(planned.form, weights=WeightBytes(embedding=0, layers=num_bytes, head=0, other=0))
    return place(replace(planned, form=form), device, default_load(model.config), None)


def _candidate(
    model: PlannedModel, scheme: Scheme | None, dtype: torch.dtype | None, device: DeviceMemory
) -> Candidate:
    if model.is_quantized or model.blocks:
        return stored_candidate(model, dtype, device)
    if scheme is not None:
        return scheme_candidate(model, scheme, dtype, device.kind)
    return Candidate(model.config, plain_form(model.config, model.dtype(dtype)))


def _fits_nowhere(placements: Sequence[Placement], model: PlannedModel, devices: Sequence[DeviceMemory]) -> str:
    free = ", ".join(f"{gib(device.free_bytes)} on {device.name}" for device in devices)
    roomiest = max(placements, key=lambda one: one.free_bytes)
    said = (
        f"the weights take {gib(roomiest.weights.total)} and with {default_load(model.config).context:,} tokens "
        f"{gib(roomiest.total_bytes)}, and free are {free}; "
    )
    if not (model.is_quantized or model.blocks):
        for name in ("int8", "int4", "int4-sym-g128"):
            plans = [_with_scheme(model, SCHEMES[name], device) for device in devices]
            fitting = next((one for one in plans if one.fits), None)
            if fitting is not None and fitting.weights.total < roomiest.weights.total:
                return f"{said}with quantization={name!r} {gib(fitting.total_bytes)}. device='cpu' insists"
    return f"{said}a smaller dtype or quantization= takes less, `seed-oss plan` shows which; device='cpu' insists"


def _with_scheme(model: PlannedModel, scheme: Scheme, device: DeviceMemory) -> Placement:
    return place(scheme_candidate(model, scheme, None, device.kind), device, default_load(model.config), None)
