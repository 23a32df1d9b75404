"""The arguments of `from_pretrained`, checked and turned into plain values before anything is opened."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from seed_oss.errors import InputError
from seed_oss.ops.float8 import check_float8
from seed_oss.planning.choice import choose_device
from seed_oss.planning.model import PlannedModel
from seed_oss.quant.schemes import Scheme, parse_scheme
from seed_oss.weights import weight_dtype

_NOT_HERE = "is not in this release"
_PLACE = "use device_map='auto', a device or {'': device}; a model lies on one device in this release"
_ENGINE = "parallelism over several devices is not in this release"
_QUANT = "quantization='{}' is the argument here"

REFUSED = {
    "adapter_kwargs": "load the model, then attach the adapter with peft.PeftModel.from_pretrained",
    "adapter_name": "load the model, then attach the adapter with peft.PeftModel.from_pretrained",
    "allow_all_kernels": "kernels from the hub are never run",
    "code_revision": "no code of a model is ever run",
    "device_mesh": _ENGINE,
    "distributed_config": _ENGINE,
    "experts_implementation": "Seed-OSS has no experts; leave it out",
    "force_download": "remove the model from the hub cache (hf cache rm) and load it again",
    "from_flax": "only safetensors checkpoints are read; convert it once with transformers",
    "from_tf": "only safetensors checkpoints are read; convert it once with transformers",
    "fusion_config": _NOT_HERE,
    "generation_config": "set model.generation_config after loading",
    "gguf_file": "give the file itself: from_pretrained('FILE.gguf')",
    "kernel_config": "kernels from the hub are never run",
    "key_mapping": "rename the tensors of the checkpoint once instead",
    "load_in_4bit": _QUANT.format("int4"),
    "load_in_8bit": _QUANT.format("int8"),
    "max_memory": _PLACE,
    "mirror": "set the environment variable HF_ENDPOINT",
    "offload_buffers": _PLACE,
    "offload_folder": _PLACE,
    "offload_state_dict": _PLACE,
    "proxies": "set the environment variables HTTPS_PROXY and HTTP_PROXY",
    "quantization_config": _QUANT.format("int4"),
    "resume_download": "interrupted downloads are always resumed; leave it out",
    "tp_plan": _ENGINE,
    "tp_size": _ENGINE,
    "tqdm_class": "show_progress=False turns the progress bar off",
    "use_auth_token": "it is called token",
    "use_flash_attention_2": "attn_implementation='sdpa' picks flash kernels where the device has them",
    "use_kernels": "kernels from the hub are never run",
    "variant": "only model.safetensors and its shards are read; put the variant's files under these names",
    "weights_only": "no pickle is ever read; leave it out",
}
"""Arguments of the reference that are not supported here, and what to do instead."""

_ASKS_NOTHING: dict[str, tuple[Any, ...]] = {
    "weights_only": (True,),
    "adapter_name": ("default",),
    "adapter_kwargs": ({},),
}
"""Values of them that ask for nothing; None and False always do."""

HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "subfolder")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Checked arguments of `from_pretrained`.

    Attributes:
        dtype: Of the weights; None means the checkpoint's own.
        device: Where the model goes; None means the accelerator if the model fits there, else the CPU.
        quantization: What a checkpoint that is not quantized becomes on the way; None leaves it as it is.
        may_map: Quantized weights may be used where they are in the file.
        where: Hub arguments for `resolve_model`.
        overrides: Keyword arguments that replace fields of the config.
    """

    dtype: torch.dtype | None = None
    device: torch.device | None = None
    ignore_mismatched_sizes: bool = False
    output_loading_info: bool = False
    show_progress: bool = True
    quantization: Scheme | None = None
    may_map: bool = True
    where: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)


def parse_load_options(
    *,
    dtype: Any = None,
    torch_dtype: Any = None,
    device: Any = None,
    device_map: Any = None,
    quantization: Any = None,
    disable_mmap: bool | None = False,
    ignore_mismatched_sizes: bool = False,
    use_safetensors: bool | None = None,
    low_cpu_mem_usage: bool | None = None,
    trust_remote_code: bool | None = False,
    output_loading_info: bool = False,
    show_progress: bool = True,
    **kwargs: Any,
) -> LoadOptions:
    """Check the arguments; see `PretrainedMixin.from_pretrained` for what they mean.

    Raises:
        InputError: A wrong value, or an argument of the reference that is not supported.
        StateError: quantization="fp8" and a device that does not multiply such numbers.
    """
    if use_safetensors is False:
        raise InputError("use_safetensors is False; only safetensors files are read, no pickle. Leave it out")
    if trust_remote_code:
        warnings.warn("trust_remote_code has no effect: no code of a model is ever run", stacklevel=3)
    where = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
    scheme = None if quantization is None else parse_scheme(quantization)
    place = _device(device, device_map)
    return LoadOptions(
        dtype=_dtype(dtype, torch_dtype),
        device=_with_products(place) if scheme is not None and scheme.is_float else place,
        ignore_mismatched_sizes=bool(ignore_mismatched_sizes),
        output_loading_info=bool(output_loading_info),
        show_progress=bool(show_progress),
        quantization=scheme,
        may_map=not disable_mmap,
        where=where,
        overrides=_without_refused(kwargs),
    )


def refuse_unknown(unknown: Mapping[str, Any]) -> None:
    """Refuse keyword arguments that are neither ours nor fields of the config.

    Raises:
        InputError: There are some.
    """
    if unknown:
        names = ", ".join(sorted(unknown))
        raise InputError(f"from_pretrained has no argument and the config no field {names}; check the spelling")


def _without_refused(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in kwargs.items():
        asks_nothing = value is None or value is False or value in _ASKS_NOTHING.get(name, ())
        if name in REFUSED and not asks_nothing:
            raise InputError(f"{name} is not supported: {REFUSED[name]}")
    return {name: value for name, value in kwargs.items() if name not in REFUSED}


def _with_products(device: torch.device | None) -> torch.device:
    """The device for 8-bit floating point; where none is asked for, only the accelerator can be it, never the CPU.

    Raises:
        StateError: it does not multiply such numbers.
    """
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    place = device or here or torch.device("cpu")
    check_float8(place)
    return place


def _dtype(dtype: Any, torch_dtype: Any) -> torch.dtype | None:
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise InputError(f"dtype is {dtype!r} and torch_dtype {torch_dtype!r}; they mean the same, give one")
    value = torch_dtype if dtype is None else dtype
    return None if value is None or value == "auto" else weight_dtype(value)


def _device(device: Any, device_map: Any) -> torch.device | None:
    if device is not None and device_map is not None:
        raise InputError(f"device is {device!r} and device_map {device_map!r}; give one of them")
    if device_map == "auto" or device == "auto":
        return None
    value = device
    if device_map is not None:
        value = _single_device(device_map)
    result = torch.get_default_device() if value is None else _as_device(value)
    if result.type == "meta":
        raise InputError(
            "weights cannot be loaded onto the meta device; for a model without weights use "
            "`with torch.device('meta'): SeedOssForCausalLM(config)`"
        )
    return result


def _single_device(device_map: Any) -> Any:
    if not isinstance(device_map, Mapping):
        return device_map
    devices = {str(value): value for value in device_map.values()}
    if len(devices) != 1:
        raise InputError(f"device_map names {len(devices)} devices ({', '.join(list(devices)[:4])}); {_PLACE}")
    return next(iter(devices.values()))


def _as_device(value: Any) -> torch.device:
    if isinstance(value, torch.device):
        return value
    try:
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return torch.device(value)
    except RuntimeError:
        pass  # said below
    raise InputError(f"{value!r} is not a device; {_PLACE}")


def automatic_device(
    num_bytes: int, model: PlannedModel, scheme: Scheme | None, dtype: torch.dtype | None
) -> torch.device:
    """Where the planner puts a model: the first device on which its plan fits, accelerators before the CPU.

    Args:
        num_bytes: of the weights, as they will be.
        model: as it is stored.
        scheme: to quantize it with, or None.
        dtype: of what is not quantized.

    Raises:
        InputError: it fits nowhere; the message says what would.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None and accelerator.type != "cuda":
        return accelerator  # it shares the memory of the CPU, or does not say how much is free
    return choose_device(num_bytes, model, scheme, dtype)
