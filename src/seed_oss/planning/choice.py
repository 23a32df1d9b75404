"""Where `from_pretrained(device_map="auto")` puts a model: the first device, accelerators before the CPU, that fits."""

import warnings
from collections.abc import Sequence

import torch

from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.planning.advice import gib
from seed_oss.planning.chunks import WHOLE, runs_whole
from seed_oss.planning.devices import DeviceMemory, devices_here
from seed_oss.planning.placing import Candidate, place
from seed_oss.planning.weights import plain_form, scheme_form
from seed_oss.planning.workspace import PROCESS_BYTES, Load
from seed_oss.quant.schemes import SCHEMES

DEFAULT_CONTEXT = 4096
QUANTIZED_SHARE = 0.75  # of the plain weights' bytes; fewer are quantized


def default_load(
    config: SeedOssConfig, *, batch: int = 1, context: int | None = None, chunk: int | None = None
) -> Load:
    """How much a model has to do where nobody says: one row of 4,096 tokens, or what it is made for if less."""
    if chunk is None and runs_whole(config.rope_parameters["rope_type"]):
        chunk = WHOLE
    return Load(batch, context or min(DEFAULT_CONTEXT, config.max_position_embeddings), chunk)


def choose_device(
    num_bytes: int,
    config: SeedOssConfig | None = None,
    dtype: torch.dtype | None = None,
    *,
    devices: Sequence[DeviceMemory] | None = None,
) -> torch.device:
    """The device for a model that is about to be loaded.

    An accelerator is taken if weights, cache and workspace of `default_load` fit; the CPU if the weights do.

    Args:
        num_bytes: of the weights, as they will be.
        config: of the model; without it only the weights count.
        dtype: of hidden states and cache; None for the config's own.
        devices: to choose from; None for those that are here.

    Raises:
        InputError: the weights fit nowhere; the message says what would.
    """
    found = devices_here() if devices is None else devices
    accelerators = [device for device in found if device.name != "cpu"]
    for device in accelerators:
        if num_bytes + _working_bytes(num_bytes, config, dtype, device) <= device.free_bytes:
            return torch.device(device.name)
    cpu = next((device for device in found if device.name == "cpu"), None)
    if cpu is None or num_bytes > cpu.free_bytes:
        raise InputError(_fits_nowhere(num_bytes, config, found))
    if accelerators:
        roomiest = max(accelerators, key=lambda device: device.free_bytes)
        warnings.warn(
            f"the weights take {gib(num_bytes)}, and with cache and workspace do not fit into the "
            f"{gib(roomiest.free_bytes)} that are free on {roomiest.name}: loading onto the CPU. Give device='cuda' to "
            "insist",
            stacklevel=5,
        )
    return torch.device("cpu")


def _working_bytes(
    num_bytes: int, config: SeedOssConfig | None, dtype: torch.dtype | None, device: DeviceMemory
) -> int:
    if config is None:
        return PROCESS_BYTES
    dtype = dtype or _own_dtype(config)
    form = plain_form(config, dtype)
    if num_bytes < QUANTIZED_SHARE * form.weights.total:
        form = scheme_form(config, SCHEMES["int8"], dtype, dtype)  # any scheme: its products take the same
    placement = place(Candidate(config, form), device, default_load(config), None)
    return placement.cache.total + placement.workspace.total


def _own_dtype(config: SeedOssConfig) -> torch.dtype:
    return getattr(torch, config.dtype) if config.dtype is not None else torch.float32


def _fits_nowhere(num_bytes: int, config: SeedOssConfig | None, devices: Sequence[DeviceMemory]) -> str:
    free = ", ".join(f"{gib(device.free_bytes)} on {device.name}" for device in devices)
    said = f"the weights take {gib(num_bytes)}, and free are {free}; "
    most = max((device.free_bytes for device in devices), default=0)
    if config is not None and not getattr(config, "quantization_config", None):
        for name in ("int8", "int4", "int4-sym-g128"):
            size = scheme_form(config, SCHEMES[name], torch.float32, torch.float32).weights.total
            if size < min(num_bytes, most):
                return f"{said}with quantization={name!r} they take {gib(size)}. device='cpu' insists"
    return f"{said}a smaller dtype or quantization= takes less, `seed-oss plan` shows which; device='cpu' insists"
