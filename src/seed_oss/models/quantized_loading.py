"""Loading into a quantized model: which weights are packed, how they come about, and what the model is told of them."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from seed_oss.config import SeedOssConfig
from seed_oss.errors import CheckpointError, InputError
from seed_oss.files.names import short
from seed_oss.nn.float8_linear import Float8Linear
from seed_oss.nn.fused import fuse_
from seed_oss.nn.quantized_linear import (
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedModule,
    ReorderedLinear,
    quantized_modules,
    stored_tensors,
)
from seed_oss.ops.float8 import LARGEST
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.quant.foreign import foreign_format
from seed_oss.quant.fp8 import (
    float8_modules,
    has_float8,
    has_products,
    kept_from_float8,
)
from seed_oss.quant.quantize import exchanged, float8_record, has_tied_head, kept_of, replace_module
from seed_oss.quant.record import Float8Record, QuantizationRecord, is_own_format, read_record
from seed_oss.quant.schemes import Scheme, plan_tensors, weight_shapes
from seed_oss.weights import TensorSpec, WeightSource, on_meta_device
from seed_oss.weights.dtypes import WEIGHT_DTYPES
from seed_oss.weights.float8_source import NumbersOfFloat8, RoundedFloat8, RoundedScale, StoredFloat8
from seed_oss.weights.gguf_source import GGUFBlocks, GGUFSource
from seed_oss.weights.packed_source import (
    ForeignModule,
    PackedSource,
    ReadingRoom,
    RoundedNumbers,
    StoredBytes,
    WeightMaker,
)


@dataclass(frozen=True)
class QuantizedLoad:
    """What a quantized model is loaded from.

    Attributes:
        source: with the weights packed.
        scheme: name for the record.
        is_calibrated: for the record.
        kept: module name to reason, for the record.
        note: a warning for whoever gets the model, or nothing.
    """

    source: PackedSource
    scheme: str
    is_calibrated: bool = False
    kept: Mapping[str, str] | None = None
    note: str = ""


def prepare_quantized(
    model: nn.Module,
    source: WeightSource,
    config: SeedOssConfig,
    scheme: Scheme | None,
    prefixes: Sequence[str],
    *,
    dtype: torch.dtype,
    may_map: bool,
    device: torch.device | None = None,
) -> QuantizedLoad | None:
    """Exchange modules of a model on the meta device for quantized ones, where their weights will be packed.

    Args:
        model: plain, on the meta device.
        source: what is stored.
        config: of the checkpoint.
        scheme: asked for by the caller, or None.
        prefixes: what names of the model under the head may start with.
        dtype: of what is not quantized.
        may_map: stored bytes may be used where they are in the file.
        device: of the finished model; None where only files are made of it.

    Returns:
        None for a model that stays plain.

    Raises:
        InputError: a scheme for a checkpoint that is quantized otherwise, or that fits no tensor.
        ConfigError, CheckpointError, UnsupportedModelError: a quantized checkpoint that contradicts itself or its
            config, or cannot be read.
    """
    stored: Any = getattr(config, "quantization_config", None)
    names = _StoredNames(model, source, prefixes)
    if isinstance(source, GGUFSource) and source.blocks:
        return _gguf(model, names, source, scheme)
    if not stored:
        if scheme is None:
            return None
        return _to_float8(model, names, scheme) if scheme.is_float else _by_scheme(model, names, scheme, may_map)
    if is_own_format(stored):
        record = read_record(stored)
        if scheme is not None and scheme.name != record.scheme:
            raise _quantized_already(names.source, record.scheme, scheme)
        if not isinstance(record, Float8Record):
            return _own(model, names, record, may_map)
        if device is None or has_products(device):
            return _own_float8(model, names, record)
        return _numbers_of_float8(names, record, dtype, device)
    return _foreign(model, names, stored, scheme, dtype)


class _StoredNames:
    """Where the modules of a model are in a checkpoint."""

    def __init__(self, model: nn.Module, source: WeightSource, prefixes: Sequence[str]) -> None:
        self.source, self.shapes, self._prefixes = source, weight_shapes(model), prefixes
        self._by_bare = {self._bare(module): module for module in {name.rpartition(".")[0] for name in source.specs}}

    def module(self, name: str) -> str:
        """The name that a module of the model has in the checkpoint."""
        return self._by_bare.get(self._bare(name), name)

    def has(self, module: str, part: str) -> bool:
        """Whether the checkpoint holds a tensor of a (stored) module."""
        return f"{module}.{part}" in self.source.specs

    def has_numbers(self, name: str) -> bool:
        """Whether the weight of a module of the model is there to be rounded.

        What is missing or of another shape is reported, or made anew, with everything else that does not fit.
        """
        spec = self.source.specs.get(f"{self.module(name)}.weight")
        return spec is not None and spec.shape == self.shapes[name] and spec.dtype in WEIGHT_DTYPES

    def _bare(self, name: str) -> str:
        for prefix in self._prefixes:
            if name.startswith(prefix):
                return name[len(prefix) :]
        return name


def _own(model: nn.Module, names: _StoredNames, record: QuantizationRecord, may_map: bool) -> QuantizedLoad:
    makers: list[WeightMaker] = []
    formats: dict[str, QuantFormat] = {}
    for name, shape in names.shapes.items():
        module = names.module(name)
        if names.has(module, "packed"):
            formats[name] = record.format_of(module)
            makers.append(_stored_maker(names.source, module, formats[name], shape, record))
        elif names.has(module, "weight") and module not in record.kept:
            raise _not_recorded(names.source, module)
    if not makers:
        raise _nothing_quantized(names.source)
    _exchange_all(model, names, formats)
    return QuantizedLoad(
        PackedSource(names.source, makers, may_map=may_map), record.scheme, record.is_calibrated, record.kept
    )


def _own_float8(model: nn.Module, names: _StoredNames, record: Float8Record) -> QuantizedLoad:
    found = _stored_float8(names, record)
    _exchange_float8(model, list(found))
    source = PackedSource(names.source, list(found.values()), may_map=False)
    return QuantizedLoad(source, record.scheme, kept=record.kept)


def _numbers_of_float8(
    names: _StoredNames, record: Float8Record, dtype: torch.dtype, device: torch.device
) -> QuantizedLoad:
    """The model stays plain: what the bytes stand for is made tensor by tensor."""
    room = _room(names.source)
    makers = [NumbersOfFloat8(stored, dtype, room) for stored in _stored_float8(names, record).values()]
    note = (
        f"{names.source.name} is in fp8, which {device} does not multiply: the weights are now "
        f"{str(dtype).removeprefix('torch.')} and take {dtype.itemsize} bytes each. The original with "
        "quantization='int8' stays small here"
    )
    return QuantizedLoad(PackedSource(names.source, makers, may_map=False), record.scheme, note=note)


def _stored_float8(names: _StoredNames, record: Float8Record) -> dict[str, StoredFloat8]:
    """Modules in 8-bit floating point by their names in the model; there is one."""
    found: dict[str, StoredFloat8] = {}
    for name, shape in names.shapes.items():
        module = names.module(name)
        if names.has(module, "packed"):
            _check_shape(names.source, module, shape, record.shapes)
            found[name] = StoredFloat8(module, shape)
            found[name].check(names.source.specs)
        elif names.has(module, "weight") and module not in record.kept:
            raise _not_recorded(names.source, module)
    if not found:
        raise _nothing_quantized(names.source)
    return found


def _exchange_float8(model: nn.Module, chosen: Sequence[str]) -> None:
    with on_meta_device():
        for name in chosen:
            old: Any = model.get_submodule(name)
            replace_module(model, name, Float8Linear(old.weight, old.bias).train(old.training))


def _not_recorded(source: WeightSource, module: str) -> CheckpointError:
    return CheckpointError(
        f"{source.name}: {short(module)} is not quantized, and config.json does not say so; the weights belong to "
        "another config.json, fetch or quantize the folder again"
    )


def _check_shape(
    source: WeightSource, module: str, shape: tuple[int, int], shapes: Mapping[str, tuple[int, int]]
) -> None:
    part = module.rpartition(".")[2]
    if shapes.get(part) != shape:
        shown = shapes.get(part, "none")
        raise CheckpointError(
            f"{source.name}: quantization_config.shapes gives {part} as {list(shown)}, the model needs {list(shape)}; "
            "check that config.json and the weights belong together"
        )


def _stored_maker(
    source: WeightSource, module: str, format: QuantFormat, shape: tuple[int, int], record: QuantizationRecord
) -> StoredBytes:
    _check_shape(source, module, shape, record.shapes)
    if shape[1] % format.group_size:
        raise CheckpointError(
            f"{source.name}: {module} has groups of {format.group_size} by config.json, which do not divide "
            f"{shape[1]} columns; check that config.json and the weights belong together"
        )
    maker = StoredBytes(module, format, shape)
    maker.check(source.specs[maker.name])
    order, wanted = source.specs.get(f"{module}.column_order"), TensorSpec(torch.int32, (shape[1],))
    if order is not None and order != wanted:
        raise CheckpointError(
            f"{source.name}: {module}.column_order is {order.dtype} {list(order.shape)}; it must be {wanted.dtype} "
            f"{list(wanted.shape)}; the file is damaged, fetch or quantize it again"
        )
    return maker


def _by_scheme(model: nn.Module, names: _StoredNames, scheme: Scheme, may_map: bool) -> QuantizedLoad:
    plans = plan_tensors(scheme, names.shapes, tied=has_tied_head(model))
    makers: list[WeightMaker] = []
    formats: dict[str, QuantFormat] = {}
    room = _room(names.source)
    for name, plan in plans.items():
        module = names.module(name)
        if plan.format is None or not names.has_numbers(name):
            continue
        formats[name] = plan.format
        makers.append(RoundedNumbers(module, plan.format, names.shapes[name], scheme.method, room))
    if not makers:
        raise _nothing_fits(names.source, scheme)
    _exchange_all(model, names, formats)
    return QuantizedLoad(PackedSource(names.source, makers, may_map=may_map), scheme.name, kept=kept_of(plans))


def _to_float8(model: nn.Module, names: _StoredNames, scheme: Scheme) -> QuantizedLoad:
    kept = kept_from_float8(names.shapes)
    chosen = [name for name in names.shapes if name not in kept and names.has_numbers(name)]
    if not chosen:
        raise _nothing_fits(names.source, scheme)
    makers: list[WeightMaker] = []
    room, scales = _room(names.source), dict[str, torch.Tensor]()
    for name in chosen:
        what = (names.module(name), names.shapes[name], room, scales)
        makers += [RoundedFloat8(*what), RoundedScale(*what)]
    _exchange_float8(model, chosen)
    return QuantizedLoad(PackedSource(names.source, makers, may_map=False), scheme.name, kept=kept)


def _room(source: WeightSource) -> ReadingRoom:
    return ReadingRoom(max((spec.num_bytes for spec in source.specs.values()), default=0))


def _nothing_fits(source: WeightSource, scheme: Scheme) -> InputError:
    return InputError(f"{source.name} has no tensor that can be quantized to {scheme.name}")


def _foreign(
    model: nn.Module, names: _StoredNames, content: object, scheme: Scheme | None, dtype: torch.dtype
) -> QuantizedLoad:
    found = foreign_format(content)
    if scheme is not None:
        raise _quantized_already(names.source, found.method, scheme)
    makers: list[WeightMaker] = []
    formats: dict[str, QuantFormat] = {}
    kept: dict[str, str] = {}
    for name, shape in names.shapes.items():
        plan = found.plan(names.module(name), shape, names.source.specs)
        if plan is None:
            kept[name] = "not quantized in the file"
            continue
        makers.append(ForeignModule(plan, dtype))
        if plan.format is None:
            kept[name] = "8-bit floats, which have no groups"
        else:
            formats[name] = plan.format
    if not makers:
        raise _nothing_quantized(names.source)
    for note in found.notes:
        warnings.warn(f"{names.source.name}: {note}", stacklevel=5)
    _exchange_all(model, names, formats)
    ignored = {name for name in names.source.specs if found.is_idle(name)}
    source = PackedSource(names.source, makers, may_map=False, ignored=ignored)
    return QuantizedLoad(source, found.method, kept=kept)


def _gguf(model: nn.Module, names: _StoredNames, file: GGUFSource, scheme: Scheme | None) -> QuantizedLoad:
    if scheme is not None:
        raise _quantized_already(file, "gguf", scheme)
    makers: list[WeightMaker] = []
    formats: dict[str, QuantFormat] = {}
    kept: dict[str, str] = {}
    for name, shape in names.shapes.items():
        module = names.module(name)
        weight = f"{module}.weight"
        if weight not in file.specs or file.specs[weight].shape != shape:
            continue
        format = file.blocks.get(weight)
        if format is not None:
            formats[name] = format
            makers.append(GGUFBlocks(file, module, format, shape))
        elif weight in file.blocks:
            kept[name] = f"{file.type_name(weight)} blocks, which are not kept in groups: dequantized"
        else:
            kept[name] = f"{file.type_name(weight)} in the file"
    _warn_of_dequantized(file)
    _exchange_all(model, names, formats)
    return QuantizedLoad(PackedSource(file, makers, may_map=False), "gguf", kept=kept)


def _warn_of_dequantized(file: GGUFSource) -> None:
    names = [name for name, format in file.blocks.items() if format is None]
    if names:
        types = ", ".join(sorted({file.type_name(name) for name in names}))
        warnings.warn(
            f"{file.name}: {len(names)} of {len(file.blocks)} matrices are in blocks that are not kept as groups of "
            f"4 or 8 bits ({types}); they are dequantized and take more memory",
            stacklevel=6,
        )


def _nothing_quantized(source: WeightSource) -> CheckpointError:
    return CheckpointError(
        f"{source.name}: config.json has a quantization_config, and no weight is quantized; remove it from "
        "config.json, or fetch the folder again"
    )


def _quantized_already(source: WeightSource, is_now: str, scheme: Scheme) -> InputError:
    return InputError(
        f"quantization is {scheme.name!r}, and {source.name} is quantized already ({short(is_now)}); leave "
        "the argument out to load it as it is, or quantize the original"
    )


def _exchange_all(model: nn.Module, names: _StoredNames, formats: Mapping[str, QuantFormat]) -> None:
    is_tied = has_tied_head(model) and "model.embed_tokens" in formats
    with on_meta_device():
        for name, format in formats.items():
            old = model.get_submodule(name)
            new = exchanged(old, format)
            module = names.module(name)
            if names.has(module, "column_order") and isinstance(new, QuantizedLinear):
                new = ReorderedLinear(new.shape, format, new.packed, None, new.bias)
            replace_module(model, name, new)
        embedding: Any = model.get_submodule("model.embed_tokens") if is_tied else None
        if embedding is not None:
            head = model.get_submodule("lm_head")
            same = isinstance(head, QuantizedModule) and head.format == embedding.format
            if same or not isinstance(head, QuantizedModule):
                plain: Any = head
                bias = plain.bias
                replace_module(
                    model, "lm_head", QuantizedLinear(embedding.shape, embedding.format, embedding.packed, bias)
                )


def finish_quantized(
    model: Any, loaded: QuantizedLoad, sources: Mapping[str, str], dtype: torch.dtype, device: torch.device
) -> None:
    """Tell the modules what came of their weights, freeze the model, record it in its config, fuse the layers.

    Args:
        model: filled.
        loaded: what it was loaded from.
        sources: name in the model -> name in the source.
        dtype: of the hidden states.
        device: of the model.

    Raises:
        CheckpointError: an order of columns that is none.
    """
    for name, stored in sources.items():
        made = loaded.source.made.pop(stored, None)
        if made is not None and made.format is not None:
            _settle(model, name.rpartition(".")[0], made.format, made.column_order)
    _settle_shared(model)
    modules = quantized_modules(model)
    model.requires_grad_(False)
    for name, module in modules.items():
        if isinstance(module, ReorderedLinear):
            module.check_order(name)
        if isinstance(module, QuantizedEmbedding):
            module.dtype = dtype
    _check_scales(model, loaded.source.name)
    if loaded.note:
        warnings.warn(loaded.note, stacklevel=5)
    if not modules and not has_float8(model):
        if "quantization_config" in model.config:
            del model.config.quantization_config
        return
    model.config.quantization_config = record_of(model, loaded).to_config()
    if device.type == "cpu" and modules:
        fuse_(model.eval())


def _check_scales(model: nn.Module, where: str) -> None:
    for name, module in float8_modules(model).items():
        if not bool(((module.scale * LARGEST).isfinite() & (module.scale >= 0)).all()):
            raise CheckpointError(
                f"{where}: {name}.scale holds NaN, infinity, negative numbers, or what makes infinity of a weight; "
                "fetch or quantize the folder again"
            )


def record_of(model: nn.Module, loaded: QuantizedLoad) -> QuantizationRecord | Float8Record:
    """What the quantized modules of a model are; there must be one."""
    if has_float8(model):
        return float8_record(model, loaded.kept or {})
    modules = quantized_modules(model)
    return QuantizationRecord.of(
        loaded.scheme,
        {name: module.format for name, module in modules.items()},
        {name: module.shape for name, module in modules.items()},
        loaded.kept or {},
        is_calibrated=loaded.is_calibrated,
    )


def _settle(model: nn.Module, name: str, format: QuantFormat, column_order: torch.Tensor | None) -> None:
    module: Any = model.get_submodule(name)
    module.replace_packed(module.packed, format)
    if column_order is None:
        return
    if not isinstance(module, QuantizedLinear):
        raise CheckpointError(f"{name} has its columns in another order, which only linear layers can have")
    replace_module(
        model,
        name,
        ReorderedLinear(module.shape, format, module.packed, column_order.to(module.packed.device), module.bias),
    )


def _settle_shared(model: nn.Module) -> None:
    """A tied head learns the format that the embedding has got."""
    by_bytes: dict[int, QuantFormat] = {}
    for module in quantized_modules(model).values():
        module.format = by_bytes.setdefault(id(module.packed), module.format)


def num_stored_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of a model once it is filled, what is shared counted once."""
    sizes = {
        id(tensor): tensor.numel() * (dtype.itemsize if tensor.is_floating_point() else tensor.element_size())
        for tensor in stored_tensors(model).values()
    }
    return sum(sizes.values())
