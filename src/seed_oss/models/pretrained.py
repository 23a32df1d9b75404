"""from_pretrained and save_pretrained, mixed into every model class."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast, overload

import torch
from torch import Tensor, nn

from seed_oss.config import GenerationConfig, SeedOssConfig
from seed_oss.errors import CheckpointError, InputError
from seed_oss.files import DirectoryCommit, gguf_file, model_file_exists, resolve_model
from seed_oss.models.load_options import LoadOptions, automatic_device, parse_load_options, refuse_unknown
from seed_oss.models.quantized_loading import (
    QuantizedLoad,
    finish_quantized,
    num_stored_bytes,
    prepare_quantized,
)
from seed_oss.models.quantized_state import dequantized_state, is_quantized, packed_state
from seed_oss.nn.fused import fuse_
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.planning.model import PlannedModel
from seed_oss.quant.fp8 import has_float8, has_products
from seed_oss.weights import (
    CheckpointSource,
    LoadPlan,
    LoadRules,
    StateDictSource,
    Target,
    WeightSource,
    dtype_name,
    expected_tensors,
    listed_names,
    load_weights,
    num_stored_layers,
    on_meta_device,
    plan_load,
    save_tensors,
    shared_names,
    tensor_pieces,
    tensor_spec,
    weight_dtype,
)
from seed_oss.weights.gguf_source import GGUFSource

BASE_PREFIXES = ("model.", "transformer.")
HEAD_NAMES = ("lm_head", "score", "qa_outputs")

_REFUSED_ON_SAVE = {
    "push_to_hub": "upload the saved folder: hf upload REPOSITORY FOLDER",
    "variant": "save into a folder of its own instead",
    "distributed_checkpoint": "gather the weights and pass them as state_dict",
}
_IGNORED_ON_SAVE = ("token", "save_peft_format", "save_original_format", "save_function")


class PretrainedMixin:
    """Loading from and saving into folders that transformers reads and writes, too."""

    config: SeedOssConfig
    generation_config: GenerationConfig | None
    name_or_path: str = ""
    base_model_prefix: ClassVar[str]
    _tied_weights_keys: ClassVar[Mapping[str, str]]

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *,
        config: SeedOssConfig | str | os.PathLike[str] | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        output_loading_info: Literal[False] = False,
        **kwargs: Any,
    ) -> Self: ...
    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *,
        config: SeedOssConfig | str | os.PathLike[str] | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        output_loading_info: Literal[True],
        **kwargs: Any,
    ) -> tuple[Self, dict[str, Any]]: ...
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *,
        config: SeedOssConfig | str | os.PathLike[str] | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Load a model; it is in eval mode then.

        The weights go tensor by tensor into their final dtype and place, so memory on the way is the model plus a
        small buffer. A checkpoint of another class of the family can be loaded: its own head is skipped, this class's
        head is new and random, and one warning names both.

        Args:
            pretrained_model_name_or_path: Model folder, hub id, named model ("demo"), or a GGUF file, whose blocks of 4
                and 8 bits stay what they are; None with `state_dict`.
            config: Use this config, or the one of this folder or hub id, instead of the checkpoint's own.
            state_dict: Use these tensors instead of a checkpoint (with `config`); they are copied.
            output_loading_info: Return `(model, info)`, where info holds missing_keys (initialised anew),
                unexpected_keys (skipped), mismatched_keys and error_msgs.
            dtype: "auto" (the default: what the config says, else the first floating tensor's), a torch dtype or its
                name. `torch_dtype` is the same.
            device: Where the model goes (the default device). `device_map` is the same; also "auto", the accelerator
                if the model fits there, and `{"": device}`.
            attn_implementation: "sdpa" (the default) or "eager"; "flash_attention_2" means SDPA.
            ignore_mismatched_sizes: Initialise tensors of another shape anew, named in a warning, instead of raising.
            revision, token, cache_dir, local_files_only, subfolder: Where to look, see `seed_oss.files.resolve_model`.
            show_progress: False never shows a progress bar; it appears on a terminal if loading takes over a second.
            use_safetensors, low_cpu_mem_usage, trust_remote_code: No effect; no pickle is read and no code is run.
            quantization: Quantize the weights on the way: "int4", "int8" and the others of `quant.schemes`. None loads
                a checkpoint as it is, quantized ones included. A quantized model computes in float32 on the CPU; a
                `dtype` that is given is that of its hidden states and of what is not quantized.
            disable_mmap: True copies the weights of a quantized checkpoint into memory; otherwise, on the CPU, they are
                used where they are in the files, which then must not be written into (replacing them does no harm).
            **kwargs: Fields of the config to replace (num_labels, attention_dropout, ...), if `config` is not given as
                an object. A smaller num_hidden_layers leaves out the last layers.

        Returns:
            The model, or `(model, info)`.

        Raises:
            InputError: A wrong argument, or one of the reference that is not supported here.
            MissingFileError, HubError, UnsafeFileError: The files cannot be had.
            ConfigError: A wrong config.
            CheckpointError: Tensors are missing, unexpected, of another shape or dtype, or a file is damaged.
            UnsupportedModelError: The checkpoint is quantized in a way that cannot be read.
        """
        options = parse_load_options(output_loading_info=output_loading_info, **kwargs)
        place = _find(pretrained_model_name_or_path, state_dict, options)
        source, loaded_config = _open(place, state_dict, config, options)
        model, info = _load(cls, source, loaded_config, options)
        _finish(model, place, source, pretrained_model_name_or_path)
        return (model, info) if options.output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        max_shard_size: int | str = "5GB",
        state_dict: Mapping[str, Tensor] | None = None,
        is_main_process: bool = True,
        safe_serialization: bool = True,
        dequantize: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save weights and configs into a folder, all or nothing: a reader finds the old model or the new one.

        A quantized model is saved as it is, in the format of docs/quantization.md, which only seed_oss reads.

        Other files of the folder (tokenizer, README, adapters) stay; weights of an earlier save go away. Memory on
        the way is at most one tensor above the model.

        Args:
            save_directory: The folder; made if it is missing.
            max_shard_size: Bytes of weights per file, or like "5GB"; a larger model is split and gets an index.
            state_dict: Save these tensors instead of the model's own.
            is_main_process: False saves nothing (for all but one process of a distributed run).
            safe_serialization: True; there is no other format.
            dequantize: Save the numbers that quantized weights stand for, in float32; every reader opens the result.
            **kwargs: token, save_peft_format, save_original_format and save_function of the reference have no effect.

        Raises:
            InputError: A wrong argument, or a tensor that cannot be saved.
            OSError: Disk full and the like; the folder is as before.
        """
        _check_save_arguments(safe_serialization, kwargs)
        if not is_main_process:
            return
        model = cast(Any, self)
        tensors, is_packed = _state_to_save(model, state_dict, dequantize)
        specs = {name: tensor_spec(name, tensors[name]) for name in tensors}
        config = self.config.copy()
        config.architectures = [type(self).__name__]
        config.dtype = dtype_name(_first_float(model))
        if not is_packed and "quantization_config" in config:
            del config.quantization_config
        with DirectoryCommit(save_directory if isinstance(save_directory, str) else Path(save_directory)) as staging:
            config.save_pretrained(staging)
            if self.generation_config is not None:
                self.generation_config.save_pretrained(staging)
            save_tensors(
                staging,
                specs,
                lambda name: tensor_pieces(tensors[name]),
                max_shard_size=max_shard_size,
                num_parameters=model.num_parameters(),
                packed_first=is_packed,
            )


def _state_to_save(
    model: Any, state_dict: Mapping[str, Tensor] | None, dequantize: bool
) -> tuple[Mapping[str, Tensor], bool]:
    """(what to write, whether it holds packed weights); a tied head is left out."""
    if state_dict is None and dequantize:
        return dequantized_state(model), False
    packs = state_dict is None and is_quantized(model)
    tensors = dict((packed_state(model) if packs else model.state_dict()) if state_dict is None else state_dict)
    for alias, name in model._tied_weights_keys.items():
        for part in ("weight", "packed"):
            one, other = (f"{full.rpartition('.')[0]}.{part}" for full in (alias, name))
            if one in tensors and other in tensors and _is_same_memory(tensors[one], tensors[other]):
                del tensors[one]
    return tensors, any(name.endswith(".packed") for name in tensors)


def _find(
    name: str | os.PathLike[str] | None, state_dict: Mapping[str, Tensor] | None, options: LoadOptions
) -> Path | None:
    """The folder of the checkpoint, or its GGUF file, or None where the state_dict takes its place."""
    if name is None and state_dict is None:
        raise InputError("no checkpoint is given; pass a folder or hub id, or None together with state_dict and config")
    if name is not None and state_dict is not None:
        raise InputError("both a checkpoint and a state_dict are given; pass None as the checkpoint, or no state_dict")
    if name is None:
        return None
    return gguf_file(name) or resolve_model(name, **options.where)


def _open(
    place: Path | None,
    state_dict: Mapping[str, Tensor] | None,
    config: SeedOssConfig | str | os.PathLike[str] | None,
    options: LoadOptions,
) -> tuple[WeightSource, SeedOssConfig]:
    """What the weights come from, and the config of the model."""
    if place is None or not place.is_file():
        loaded = _load_config(place, config, options)
        return (StateDictSource(state_dict or {}) if place is None else CheckpointSource(place)), loaded
    file = GGUFSource(place)
    if config is not None:
        return file, _load_config(None, config, options)
    own = file.model.config.to_dict()
    loaded, unknown = cast(
        tuple[SeedOssConfig, dict[str, Any]],
        SeedOssConfig.from_dict(own, return_unused_kwargs=True, **options.overrides),
    )
    refuse_unknown(unknown)
    return file, loaded


def _load_config(
    folder: Path | None, config: SeedOssConfig | str | os.PathLike[str] | None, options: LoadOptions
) -> SeedOssConfig:
    if isinstance(config, SeedOssConfig):
        result = _changed_copy(config, options.overrides)
    elif config is None and folder is None:
        raise InputError("a state_dict is given without a config; pass config=SeedOssConfig(...), too")
    else:
        where = {} if config is None else options.where
        place = cast(str, folder if config is None else config)
        result, unknown = cast(
            tuple[SeedOssConfig, dict[str, Any]],
            SeedOssConfig.from_pretrained(place, return_unused_kwargs=True, **where, **options.overrides),
        )
        refuse_unknown(unknown)
    return result


def _changed_copy(config: SeedOssConfig, overrides: Mapping[str, Any]) -> SeedOssConfig:
    """A copy of the caller's config; only the attention implementation can still be chosen beside it."""
    fields = sorted(overrides.keys() - {"attn_implementation"})
    if fields:
        raise InputError(f"both a config object and {', '.join(fields)} are given; set them on the config")
    result = config.copy()
    if overrides.get("attn_implementation") is not None:
        result.attn_implementation = overrides["attn_implementation"]
    return result


def _load(
    cls: type[Any], source: WeightSource, config: SeedOssConfig, options: LoadOptions
) -> tuple[Any, dict[str, Any]]:
    """Build the model without memory, decide what fills what, then fill it."""
    planned = PlannedModel(source.name, config.copy(), source.specs, _blocks(source))
    dtype = options.dtype or _default_dtype(config, source, options)
    config.dtype = dtype_name(dtype)
    layers_given = "num_hidden_layers" in options.overrides
    _check_layers(config, source, may_differ=options.ignore_mismatched_sizes)
    device = options.device or _accelerator() or torch.device("cpu")
    model, quantized = _unfilled(cls, source, config, options, dtype, device)
    if options.device is None:
        device = automatic_device(num_stored_bytes(model, dtype), planned, options.quantization, dtype)
        if has_float8(model) and not has_products(device):
            model, quantized = _unfilled(cls, source, config, options, dtype, device)
    source = source if quantized is None else quantized.source
    rules = LoadRules(
        prefixes=BASE_PREFIXES,
        heads=HEAD_NAMES,
        new_head=_may_add_head(cls, config, source),
        ignore_mismatched_sizes=options.ignore_mismatched_sizes,
        num_layers_kept=config.num_hidden_layers if layers_given else None,
    )
    plan = plan_load(
        expected_tensors(model), shared_names(model), source.specs, rules, where=source.name, model_name=cls.__name__
    )
    _warn_of_plan(cls.__name__, source.name, plan)
    target = Target(dtype, device)
    separate = load_weights(
        model,
        source,
        plan,
        target,
        init_module=torch.no_grad()(model._init_weights),
        show_progress=options.show_progress,
    )
    _note_separate(model, separate)
    model.reset_buffers(target.device)
    if quantized is not None:
        finish_quantized(model, quantized, plan.sources, dtype, target.device)
    return model, _loading_info(plan)


def _unfilled(
    cls: type[Any],
    source: WeightSource,
    config: SeedOssConfig,
    options: LoadOptions,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Any, QuantizedLoad | None]:
    """A model without memory, for a device, and what its quantized weights come from."""
    with on_meta_device():
        model: Any = cls(config)
    quantized = prepare_quantized(
        model, source, config, options.quantization, BASE_PREFIXES, dtype=dtype, may_map=options.may_map, device=device
    )
    return model, quantized


def _blocks(source: WeightSource) -> Mapping[str, QuantFormat | None]:
    return source.blocks if isinstance(source, GGUFSource) else {}


def _accelerator() -> torch.device | None:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def _default_dtype(config: SeedOssConfig, source: WeightSource, options: LoadOptions) -> torch.dtype:
    """The checkpoint's own; but the CPU's products with quantized weights compute in fp32."""
    is_quantized = options.quantization is not None or bool(getattr(config, "quantization_config", None))
    device = options.device or torch.accelerator.current_accelerator()
    if is_quantized and (device is None or device.type == "cpu"):
        return torch.float32
    return _own_dtype(config, source)


def _own_dtype(config: SeedOssConfig, source: WeightSource) -> torch.dtype:
    if config.dtype is not None:
        return weight_dtype(config.dtype, name="config.dtype")
    return next((spec.dtype for spec in source.specs.values() if spec.dtype.is_floating_point), torch.float32)


def _check_layers(config: SeedOssConfig, source: WeightSource, *, may_differ: bool) -> None:
    """A config of far more layers, or longer heads, than the files hold must not get as far as being built."""
    stored = num_stored_layers(source.specs)
    if config.num_hidden_layers > stored:
        raise CheckpointError(
            f"{source.name} holds {stored} layers, the config asks for num_hidden_layers={config.num_hidden_layers}; "
            "check that config.json and the weights belong together"
        )
    num_bytes = sum(spec.num_bytes for spec in source.specs.values())
    key_numbers = config.num_key_value_heads * config.head_dim * config.hidden_size
    if key_numbers > 2 * num_bytes and not may_differ:  # at 4 bits each, the least there is
        raise CheckpointError(
            f"{source.name} holds {num_bytes} bytes; with head_dim={config.head_dim} the keys of a layer alone are "
            f"{key_numbers} numbers; check that config.json and the weights belong together"
        )


def _may_add_head(cls: type[Any], config: SeedOssConfig, source: WeightSource) -> bool:
    """Whether this class's head may be missing: not if the checkpoint says or shows that it was saved by this class."""
    if config.architectures:
        return cls.__name__ not in config.architectures
    heads = {name.partition(".")[0] for name in source.specs} & set(HEAD_NAMES)
    with on_meta_device():
        return not heads.intersection(name for name, _ in cls(config).named_children())


def _warn_of_plan(model_name: str, where: str, plan: LoadPlan) -> None:
    notes: list[str] = []
    if plan.skipped:
        notes.append(f"not used: {listed_names(plan.skipped)}")
    if plan.new:
        notes.append(f"new and random, train before use: {listed_names(plan.new)}")
    if plan.mismatched:
        shown = [f"{name} (stored {list(have)}, needed {list(want)})" for name, have, want in plan.mismatched]
        notes.append(f"of another shape and now random, train before use: {listed_names(shown)}")
    if notes:
        warnings.warn(f"{model_name} from {where}: {'; '.join(notes)}", stacklevel=4)


def _note_separate(model: Any, separate: list[str]) -> None:
    if separate:
        model.config.tie_word_embeddings = False
        warnings.warn(
            f"{', '.join(separate)} differs from the parameter that tie_word_embeddings says it is; both are kept as "
            "stored and tie_word_embeddings is now False",
            stacklevel=4,
        )


def _loading_info(plan: LoadPlan) -> dict[str, Any]:
    return {
        "missing_keys": set(plan.new),
        "unexpected_keys": set(plan.skipped),
        "mismatched_keys": set(plan.mismatched),
        "error_msgs": [],
    }


def _finish(model: Any, place: Path | None, source: WeightSource, name: str | os.PathLike[str] | None) -> None:
    model.eval()
    if model.dtype == torch.bfloat16 and all(one.device.type == "cpu" for one in model.parameters()):
        fuse_(model)  # in fp32, steps stay bit-equal to what torch makes of them
    model.name_or_path = "" if name is None else os.fspath(name)
    model.config.name_or_path = model.name_or_path
    if place is None or not model.can_generate():
        return
    if isinstance(source, GGUFSource):
        model.generation_config = source.model.generation_config.copy()
    elif model_file_exists(place, GenerationConfig.file_name):
        model.generation_config = GenerationConfig.from_pretrained(place)


def _check_save_arguments(safe_serialization: bool, kwargs: Mapping[str, Any]) -> None:
    if not safe_serialization:
        raise InputError("safe_serialization is False; only safetensors files are written, no pickle. Leave it out")
    for name, value in kwargs.items():
        if name in _REFUSED_ON_SAVE and value not in (None, False):
            raise InputError(f"{name} is not supported: {_REFUSED_ON_SAVE[name]}")
        if name not in _REFUSED_ON_SAVE and name not in _IGNORED_ON_SAVE:
            raise InputError(f"save_pretrained has no argument {name}; check the spelling")


def _is_same_memory(first: Tensor, second: Tensor) -> bool:
    same_place = first.device == second.device and first.data_ptr() == second.data_ptr() and not first.is_meta
    return same_place and first.shape == second.shape and first.stride() == second.stride()


def _first_float(model: nn.Module) -> torch.dtype:
    return next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
