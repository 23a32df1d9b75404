"""`seed_oss.plan`: what fits where, and how fast, before anything is loaded."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.planning.advice import advise
from seed_oss.planning.choice import default_load
from seed_oss.planning.devices import DeviceMemory, find_devices
from seed_oss.planning.model import PlannedModel, find_model
from seed_oss.planning.placing import Candidate, place, scheme_candidate, stored_candidate
from seed_oss.planning.result import MeasuredSpeed, MemoryPlan, Placement
from seed_oss.planning.roofline import Speeds, measure
from seed_oss.planning.shapes import model_tensors
from seed_oss.planning.weights import plain_form
from seed_oss.quant.schemes import parse_scheme

DEFAULT_SCHEMES = ("int8", "int4", "int4-g128")
MAX_BYTES = 2**63 - 1
PLAIN = "none"


def plan(
    model: str | os.PathLike[str] | SeedOssConfig,
    *,
    context: int | None = None,
    batch: int = 1,
    quantization: str | None = None,
    dtype: Any = "auto",
    device: Any = None,
    memory: int | None = None,
    prefill_chunk: int | None = None,
    measure_speed: bool = True,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    subfolder: str | None = None,
) -> MemoryPlan:
    """What a model takes, where it fits, and how fast it will be; from its configuration and headers alone.

    Args:
        model: a folder, a GGUF file, a hub id (only its configuration is fetched), "demo", "36b" for the shape of
            ByteDance-Seed/Seed-OSS-36B without any file, or a SeedOssConfig.
        context: tokens of a row, prompt and answer together; 4,096 by default, or what the model is made for if less.
        batch: rows that run together.
        quantization: one scheme, such as "int4", or "none"; by default no quantization and the usual schemes. A
            quantized checkpoint is planned as it is stored.
        dtype: of weights that are not quantized; "auto" is the one that loading would take.
        device: "cpu", "cuda" or "cuda:1"; None or "auto" for all that are here.
        memory: count with this many free bytes on each device; then it need not be here.
        prefill_chunk: most new tokens of a row in one forward, as `generate(prefill_chunk_size=)`; by default as many
            as it takes without one, 2,048, fewer in contexts beyond 65,536.
        measure_speed: measure this machine, for some seconds at most in the first call, and say how fast it will be.
        revision, cache_dir, token, local_files_only, subfolder: where to look, see `seed_oss.files.resolve_model`.

    Returns:
        A MemoryPlan: `placements` has every form on every device, `best` the one that is suggested, or None.

    Raises:
        InputError: an unknown scheme or device, a number out of range, or a size beyond what a computer can count.
        MissingFileError, HubError, UnsafeFileError: the files cannot be had.
        ConfigError, CheckpointError: a wrong configuration, or damaged headers.
        UnsupportedModelError: a quantized checkpoint in a format that cannot be read.
    """
    _check(batch=batch, context=context, memory=memory, prefill_chunk=prefill_chunk)
    devices = _fitting_scheme(find_devices(device, memory), quantization)
    where = {"revision": revision, "cache_dir": cache_dir, "token": token, "subfolder": subfolder}
    found = find_model(model, local_files_only=local_files_only, **where)
    load = default_load(found.config, batch=batch, context=context, chunk=prefill_chunk)
    candidates = {one.name: _candidates(found, quantization, dtype, one) for one in devices}
    speeds = {one.name: _measured(one, candidates[one.name]) for one in devices if measure_speed and one.is_here}
    placements = [
        place(one, device, load, speeds.get(device.name)) for device in devices for one in candidates[device.name]
    ]
    _check_sizes(placements)
    best = next((placement for placement in placements if placement.fits), None)
    return MemoryPlan(
        model=found.name,
        num_parameters=sum(tensor.num_elements for tensor in model_tensors(found.config)),
        context=load.context,
        batch=batch,
        prefill_chunk=load.chunk_len,
        devices=tuple(devices),
        placements=tuple(placements),
        best=best,
        advice=advise(found, placements, best, devices, load, dtype),
        measured=tuple(_limits(name, speed, candidates[name]) for name, speed in speeds.items()),
    )


def _check(**numbers: Any) -> None:
    for name, value in numbers.items():
        if value is None and name != "batch":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_BYTES:
            raise InputError(f"{name} is {value!r:.60}; it must be a whole number from 1 to {MAX_BYTES}")


def _fitting_scheme(devices: list[DeviceMemory], quantization: str | None) -> list[DeviceMemory]:
    """Those that compute with a scheme; all but "fp8" run everywhere."""
    if quantization is None or _is_plain(quantization) or not parse_scheme(quantization).is_float:
        return devices
    fitting = [one for one in devices if one.has_float8]
    if not fitting:
        raise InputError(
            f"quantization is {quantization!r:.40}, which CUDA devices of compute capability 8.9 and newer multiply; "
            f"none is among {', '.join(one.name for one in devices)}; plan for one with device='cuda' and memory= "
            "(--memory 80GiB), or take 'int8', which runs everywhere"
        )
    return fitting


def _is_plain(quantization: str) -> bool:
    return isinstance(quantization, str) and quantization.strip().lower() == PLAIN


def _candidates(model: PlannedModel, quantization: str | None, dtype: Any, device: DeviceMemory) -> list[Candidate]:
    """The forms to plan for a device, the most exact one first."""
    kind = device.kind
    if model.is_quantized:
        if quantization is not None:
            raise InputError(
                f"quantization is {quantization!r:.40}, and {model.name} is quantized already; leave it out, or plan "
                "the original"
            )
        return [stored_candidate(model, dtype, device)]
    is_plain = quantization is None or _is_plain(quantization)
    schemes = DEFAULT_SCHEMES if quantization is None else () if is_plain else (quantization,)
    plain = [Candidate(model.config, plain_form(model.config, model.dtype(dtype)))] if is_plain else []
    return plain + [scheme_candidate(model, parse_scheme(name), dtype, kind) for name in schemes]


def _measured(device: DeviceMemory, candidates: Sequence[Candidate]) -> Speeds:
    kinds = [kind for candidate in candidates for kind in candidate.kinds().values()]
    return measure(device, kinds, [candidate.layer(device.name) for candidate in candidates])


def _limits(device: str, speeds: Speeds, candidates: Sequence[Candidate]) -> MeasuredSpeed:
    products = {one.form.name: speeds.product(one.kinds()["layers"]) for one in candidates}
    return MeasuredSpeed(
        device,
        round(speeds.read_bytes_per_s),
        speeds.read_threads,
        {name: round(product.bytes_per_s) for name, product in products.items()},
        {name: round(product.flop_per_s) for name, product in products.items()},
        {one.form.name: round(speeds.layers[one.layer(device)].flop_per_s) for one in candidates},
    )


def _check_sizes(placements: Sequence[Placement]) -> None:
    largest = max(placement.total_bytes for placement in placements)
    if largest > MAX_BYTES:
        raise InputError(
            f"this would take {largest:.3g} bytes, more than can be addressed; give a smaller context or batch"
        )
