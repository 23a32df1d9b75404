"""Bytes of a model's weights in memory, part by part, for a dtype, a scheme, or as a checkpoint stores them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from seed_oss.config import SeedOssConfig
from seed_oss.errors import CheckpointError
from seed_oss.files.names import escaped
from seed_oss.ops.float8 import FLOAT8
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.packing import packed_bytes
from seed_oss.planning.shapes import Part, TensorShape, model_tensors, part_of
from seed_oss.quant.float8 import PIECE_VALUES
from seed_oss.quant.foreign import foreign_format
from seed_oss.quant.foreign_plan import ModulePlan
from seed_oss.quant.fp8 import kept_from_float8
from seed_oss.quant.schemes import FLOAT8_SCHEME, Scheme, plan_tensors
from seed_oss.weights.source import TensorSpec

BIAS_BYTES = 4  # of quantized layers: fp32
SCALE_BYTES = 4  # of a row in 8-bit floating point
UNPACKED_BYTES = 2  # of a foreign weight while it is repacked: what is stored, and a byte for each integer
FLOAT_PIECE_BYTES = 3 * 4 * PIECE_VALUES  # of foreign 8-bit floats on their way: numbers, scales, products
OWN_SUFFIX = ".packed"
LEAST_BYTE_BITS = 7.0  # of a weight in 8 bits and its scale; one in 4 bits has 6 at most
MOST_PACKED_BITS = 12.0


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of the weights in memory.

    Attributes:
        embedding: of the table of words.
        layers: of all decoder layers, norms and biases included.
        head: of the head; 0 where it shares the embedding.
        other: the last norm.
    """

    embedding: int
    layers: int
    head: int
    other: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.layers + self.head + self.other


@dataclass(frozen=True, slots=True)
class Form:
    """What a model's weights become.

    Attributes:
        name: "bfloat16" or another dtype, the name of a scheme, or the method of a quantized checkpoint.
        dtype: of everything that is not quantized.
        weights: bytes of each part.
        formats: of linear layers and the embedding, by name without ".weight"; None for plain ones. One entry stands
            for all layers.
        loading_bytes: on the way, beside all weights: the largest one before it is packed, or as 8-bit floating point
            before it is numbers.
        may_reorder: columns may be in another order, which the fused layers do not know.
        is_float8: weights of the layers are 8-bit floating point, and activations are rounded to it.
    """

    name: str
    dtype: torch.dtype
    weights: WeightBytes
    formats: Mapping[str, QuantFormat | None]
    loading_bytes: int = 0
    may_reorder: bool = False
    is_float8: bool = False

    @property
    def is_quantized(self) -> bool:
        """Whether any weight is."""
        return any(self.formats.values())

    @property
    def is_packed(self) -> bool:
        """Whether all matrices of the layers are, so that they can be fused."""
        in_layers = [format for name, format in self.formats.items() if part_of(name) == "layers"]
        return not self.may_reorder and all(format is not None for format in in_layers)

    def format_of(self, part: Part) -> QuantFormat | None:
        """Of the largest share of a part; a head that is the embedding has the embedding's."""
        found = [format for name, format in self.formats.items() if part_of(name) == part]
        if not found and part == "head":
            return self.format_of("embedding")
        return found[-1] if found else None

    def bits_per_weight(self, num_parameters: int) -> float:
        """Mean bits of a parameter, with all that belongs to it."""
        return 8 * self.weights.total / max(num_parameters, 1)


def plain_form(config: SeedOssConfig, dtype: torch.dtype) -> Form:
    """All weights in one dtype."""
    tensors = model_tensors(config)
    formats: dict[str, QuantFormat | None] = dict.fromkeys(_matrices(tensors))
    return Form(str(dtype).removeprefix("torch."), dtype, _weight_bytes(tensors, formats, dtype), formats)


def scheme_form(config: SeedOssConfig, scheme: Scheme, dtype: torch.dtype, stored_dtype: torch.dtype) -> Form:
    """Weights quantized with a scheme while they are loaded.

    Args:
        config: of the model.
        scheme: what they become.
        dtype: of the rest.
        stored_dtype: what they are read in.
    """
    tensors = model_tensors(config)
    if scheme.is_float:
        return _float8_form(tensors, dtype)
    is_tied = config.tie_word_embeddings and not any(tensor.part == "head" for tensor in tensors)
    plans = plan_tensors(scheme, _matrices(tensors), tied=is_tied)
    formats = {name: plan.format for name, plan in plans.items()}
    largest = _largest_quantized(tensors, formats)
    return Form(scheme.name, dtype, _weight_bytes(tensors, formats, dtype), formats, largest * stored_dtype.itemsize)


def _float8_form(tensors: Sequence[TensorShape], dtype: torch.dtype) -> Form:
    """Rounded on the CPU, while the accelerator gets finished weights: nothing is there beside them."""
    matrices = _matrices(tensors)
    chosen = matrices.keys() - kept_from_float8(matrices).keys()
    plain = _weight_bytes([one for one in tensors if _module(one.name) not in chosen], {}, dtype)
    layers = sum(
        one.num_elements + one.count * one.shape[0] * SCALE_BYTES
        if len(one.shape) == 2
        else one.num_elements * BIAS_BYTES
        for one in tensors
        if _module(one.name) in chosen
    )
    sizes = replace(plain, layers=plain.layers + layers)
    return Form(FLOAT8_SCHEME.name, dtype, sizes, dict.fromkeys(matrices), is_float8=True)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _largest_quantized(tensors: Sequence[TensorShape], formats: Mapping[str, QuantFormat | None]) -> int:
    sizes = [shape[0] * shape[1] for name, shape in _matrices(tensors).items() if formats.get(name) is not None]
    return max(sizes, default=0)


def stored_form(
    config: SeedOssConfig, stored: Mapping[str, TensorSpec], dtype: torch.dtype, *, has_float8: bool = False
) -> Form:
    """Weights as a quantized checkpoint holds them: packed bytes as they are, foreign formats as they are repacked.

    Args:
        config: with a quantization_config.
        stored: name -> dtype and shape, of every tensor of the checkpoint.
        dtype: of what is not quantized.
        has_float8: the device multiplies 8-bit floating point; elsewhere our own such weights become numbers.

    Raises:
        CheckpointError, ConfigError: tensors that are not what the configuration says.
        UnsupportedModelError: a format that cannot be read.
    """
    if any(name.endswith(OWN_SUFFIX) and spec.dtype == FLOAT8 for name, spec in stored.items()):
        return _stored_float8_form(config, stored, dtype, has_float8)
    if any(name.endswith(OWN_SUFFIX) for name in stored):
        sizes, reorders = _own_bytes(stored, dtype), any(name.endswith(".column_order") for name in stored)
        return Form(_stored_name(config), dtype, sizes, _own_formats(config, sizes), may_reorder=reorders)
    if not stored:
        raise CheckpointError(
            f"the checkpoint is quantized ({_stored_name(config)}) and its weights are not here, so their size is "
            "unknown; download it first, or plan its bfloat16 original with quantization="
        )
    return _foreign_form(config, stored, dtype)


def _stored_float8_form(
    config: SeedOssConfig, stored: Mapping[str, TensorSpec], dtype: torch.dtype, has_float8: bool
) -> Form:
    formats: dict[str, QuantFormat | None] = dict.fromkeys(_matrices(model_tensors(config)))
    if has_float8:
        return Form(_stored_name(config), dtype, _own_bytes(stored, dtype), formats, is_float8=True)
    numbers = {name: spec for name, spec in stored.items() if not name.endswith(".scale")}
    sizes: dict[Part, int] = dict.fromkeys(("embedding", "layers", "head", "other"), 0)
    for name, spec in numbers.items():
        sizes[part_of(name)] += spec.num_bytes // spec.dtype.itemsize * dtype.itemsize
    largest = max(spec.num_bytes for spec in numbers.values() if spec.dtype == FLOAT8)
    return Form(_stored_name(config), dtype, WeightBytes(**sizes), formats, largest)


def blocks_form(config: SeedOssConfig, blocks: Mapping[str, QuantFormat | None], dtype: torch.dtype) -> Form:
    """Weights of a GGUF file, in the groups that hold its blocks.

    Args:
        config: of the model.
        blocks: name of a matrix in blocks -> its groups; None where it is dequantized.
        dtype: of what is not packed.
    """
    tensors = [one for tensor in model_tensors(config) for one in _each_layer(tensor)]
    formats = {module: blocks.get(f"{module}.weight") for module in _matrices(tensors)}
    return Form("gguf", dtype, _weight_bytes(tensors, formats, dtype), formats)


def _stored_name(config: SeedOssConfig) -> str:
    quantization = getattr(config, "quantization_config", None)
    fields: Mapping[str, object] = quantization if isinstance(quantization, Mapping) else {}
    found = (fields.get(key) for key in ("scheme", "quant_method"))
    return next((escaped(name)[:40] for name in found if isinstance(name, str) and name), "as stored")


def _matrices(tensors: Sequence[TensorShape]) -> dict[str, tuple[int, int]]:
    return {
        tensor.name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for tensor in tensors
        if len(tensor.shape) == 2
    }


def _weight_bytes(
    tensors: Sequence[TensorShape], formats: Mapping[str, QuantFormat | None], dtype: torch.dtype
) -> WeightBytes:
    sizes: dict[Part, int] = dict.fromkeys(("embedding", "layers", "head", "other"), 0)
    for tensor in tensors:
        module, _, leaf = tensor.name.rpartition(".")
        format = formats.get(module)
        if format is not None and leaf == "weight":
            sizes[tensor.part] += tensor.count * packed_bytes(format, tensor.shape[0], tensor.shape[1])
        else:
            item_bytes = BIAS_BYTES if format is not None else dtype.itemsize
            sizes[tensor.part] += tensor.num_elements * item_bytes
    return WeightBytes(**sizes)


def _own_bytes(stored: Mapping[str, TensorSpec], dtype: torch.dtype) -> WeightBytes:
    sizes: dict[Part, int] = dict.fromkeys(("embedding", "layers", "head", "other"), 0)
    quantized = {name.removesuffix(OWN_SUFFIX) for name in stored if name.endswith(OWN_SUFFIX)}
    for name, spec in stored.items():
        module = name.rpartition(".")[0]
        num_bytes = spec.num_bytes
        if spec.dtype.is_floating_point and spec.dtype != FLOAT8:
            item_bytes = BIAS_BYTES if module in quantized else dtype.itemsize
            num_bytes = num_bytes // spec.dtype.itemsize * item_bytes
        sizes[part_of(name)] += num_bytes
    return WeightBytes(**sizes)


def _own_formats(config: SeedOssConfig, sizes: WeightBytes) -> dict[str, QuantFormat | None]:
    """How many bits each part has, from its bytes; which groups exactly makes no difference here."""
    tensors = model_tensors(config)
    formats: dict[str, QuantFormat | None] = {}
    for name in _matrices(tensors):
        part = part_of(name)
        num_elements = sum(tensor.num_elements for tensor in tensors if tensor.part == part)
        bits = 8 * getattr(sizes, part) / num_elements
        formats[name] = None if bits > MOST_PACKED_BITS else QuantFormat(4 if bits < LEAST_BYTE_BITS else 8, 32)
    return formats


def _foreign_form(config: SeedOssConfig, stored: Mapping[str, TensorSpec], dtype: torch.dtype) -> Form:
    foreign = foreign_format(getattr(config, "quantization_config", None))
    tensors = [one for tensor in model_tensors(config) for one in _each_layer(tensor)]
    plans = {module: foreign.plan(module, shape, stored) for module, shape in _matrices(tensors).items()}
    formats = {module: None if plan is None else plan.format for module, plan in plans.items()}
    reorders = any(plan is not None and plan.may_reorder for plan in plans.values())
    loading_bytes = max(_largest_quantized(tensors, formats) * UNPACKED_BYTES, _largest_floats(plans.values()))
    return Form(foreign.method, dtype, _weight_bytes(tensors, formats, dtype), formats, loading_bytes, reorders)


def _largest_floats(plans: Iterable[ModulePlan | None]) -> int:
    sizes = [plan.shape[0] * plan.shape[1] for plan in plans if plan is not None and plan.format is None]
    return max(sizes) + FLOAT_PIECE_BYTES if sizes else 0


def _each_layer(tensor: TensorShape) -> list[TensorShape]:
    if tensor.part != "layers":
        return [tensor]
    rest = tensor.name.removeprefix("model.layers.0.")
    return [TensorShape(f"model.layers.{i}.{rest}", tensor.shape, "layers") for i in range(tensor.count)]
