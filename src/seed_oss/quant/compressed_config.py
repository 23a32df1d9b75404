"""`quantization_config` of compressed-tensors checkpoints: which layouts its groups declare.

A group names the modules it is for; nothing is matched against the names, since the stored tensors of a module say
which group it is of (bits, group size and zero points show in their names, dtypes and shapes).
"""

from seed_oss.errors import ConfigError, UnsupportedModelError
from seed_oss.quant.compressed_tensors import IntegerLayout, PackedLayout
from seed_oss.quant.float8 import Float8Layout
from seed_oss.quant.foreign_config import ACTIVATIONS_NOTE, MAX_LAYOUTS
from seed_oss.quant.foreign_fields import MAX_GROUP, Fields, shown
from seed_oss.quant.foreign_plan import ForeignFormat
from seed_oss.quant.scale_grid import ScaleGrid
from seed_oss.quant.stored_layout import StoredLayout

CACHE_NOTE = "keys and values are cached as usual; the file was made for a cache in 8 bits"
_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
_STRATEGIES = ("tensor", "channel", "group", "block")
_ACTIVATION_ORDERS = {"": False, "weight": False, "static": False, "group": True, "dynamic": True}
_REMEDY = "load the bfloat16 original"


def compressed_tensors_format(fields: Fields) -> ForeignFormat:
    """compressed-tensors: pack-, int-, naive- and float-quantized weights in groups of modules.

    Raises:
        ConfigError: a field of a wrong type or beyond its bounds.
        UnsupportedModelError: sparsity, transforms, other formats, bits or strategies, by name.
    """
    for name in ("sparsity_config", "transform_config", "moe_sparsity_config"):
        _refuse_section(fields, name)
    format = fields.text("format", "dense")
    groups = fields.section("config_groups")
    if groups is None or not groups.content:
        raise ConfigError("quantization_config.config_groups is missing; it must say how weights are stored")
    layouts: dict[StoredLayout, None] = {}
    notes: dict[str, None] = {}
    for name in groups.content:
        layout, changes_activations = _group(groups, name, format)
        if layout is not None:
            layouts[layout] = None
        if changes_activations:
            notes[ACTIVATIONS_NOTE] = None
    if fields.get("kv_cache_scheme") is not None:
        notes[CACHE_NOTE] = None
    if not layouts or len(layouts) > MAX_LAYOUTS:
        raise ConfigError(f"{groups.where} declares {len(layouts)} kinds of weights; 1 to {MAX_LAYOUTS} are read")
    skipped = fields.names("ignore")
    idle = {"quant_method", "quantization_status", "global_compression_ratio", "version", "run_compressed"}
    fields.finish(frozenset({*idle, "dequantize", "use_optimized_inference"}))
    # where only zero points tell two layouts apart, the one that needs them is tried first
    ordered = sorted(layouts, key=lambda layout: bool(getattr(layout, "is_symmetric", True)))
    return ForeignFormat("compressed-tensors", tuple(ordered), skipped, tuple(notes))


def _refuse_section(fields: Fields, name: str) -> None:
    """Sparsity and transforms: empty, or "dense", is none."""
    section = fields.section(name)
    if section is None or not section.content:
        return
    if name == "sparsity_config" and section.text("format") == "dense":
        return
    raise UnsupportedModelError(f"{fields.where}.{name} is set ({shown(section.get('format'))}); {_REMEDY}")


def _group(groups: Fields, name: str, whole_format: str) -> tuple[StoredLayout | None, bool]:
    group = groups.section(name)
    if group is None:
        raise groups.wrong(name, None, "an object with weights in it")
    group.names("targets")
    format = group.text("format", whole_format)
    weights = group.section("weights")
    inputs, outputs = group.section("input_activations"), group.section("output_activations")
    group.finish()
    changes_activations = inputs is not None or outputs is not None
    return None if weights is None else _layout(weights, format), changes_activations


def _layout(weights: Fields, format: str) -> StoredLayout:
    bits, kind = weights.integer("num_bits", 1, 32, 8), weights.text("type", "int")
    is_symmetric, grid = weights.flag("symmetric", True), _grid(weights)
    order = weights.get("actorder")
    order = {True: "group", False: ""}[order] if isinstance(order, bool) else weights.text("actorder")
    if order not in _ACTIVATION_ORDERS:
        raise weights.wrong("actorder", order, "null, 'weight', 'static', 'group' or 'dynamic'")
    if weights.get("dynamic"):
        raise UnsupportedModelError(f"{weights.where}.dynamic is set: weights are not stored quantized; {_REMEDY}")
    weights.finish(frozenset({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"}))
    what = f"{weights.where}: {kind} weights of {bits} bits stored as {shown(format)}"
    if format not in _FORMATS:
        raise UnsupportedModelError(f"{what} are not supported, {', '.join(_FORMATS)} can be read; {_REMEDY}")
    if kind == "int" and format == "pack-quantized" and bits in (4, 8) and grid.rows in (None, 1):
        return PackedLayout(bits, grid, is_symmetric, _ACTIVATION_ORDERS[order] and grid.columns is not None)
    if kind == "int" and format in ("int-quantized", "naive-quantized") and bits <= 8 and not _ACTIVATION_ORDERS[order]:
        return IntegerLayout(grid, is_symmetric)
    if kind == "float" and format in ("float-quantized", "naive-quantized") and bits == 8 and is_symmetric:
        return Float8Layout(grid, zero_point_name="weight_zero_point")
    raise UnsupportedModelError(
        f"{what} are not supported; integers of 4 or 8 bits in words and of up to 8 in bytes, and floats of 8, can be "
        f"read; {_REMEDY}"
    )


def _grid(weights: Fields) -> ScaleGrid:
    """What shares a scale; without a strategy the group size says it, as in the package."""
    size, block = weights.get("group_size"), _block(weights)
    whole = size is None or size == -1
    default = "block" if block else "channel" if size == -1 else "tensor" if size is None else "group"
    strategy = weights.text("strategy", default)
    if strategy not in _STRATEGIES:
        raise UnsupportedModelError(
            f"{weights.where}.strategy is {shown(strategy)}; {', '.join(_STRATEGIES)} can be read; {_REMEDY}"
        )
    if (strategy == "group") is whole or (strategy == "block") != (block is not None):
        raise ConfigError(
            f"{weights.where}: strategy {strategy} does not go with group_size {shown(size)} and block_structure "
            f"{shown(block)}"
        )
    if block is not None:
        return ScaleGrid(*block)
    if strategy == "tensor":
        return ScaleGrid()
    return ScaleGrid(1, None if whole else weights.integer("group_size", 1, MAX_GROUP))


def _block(weights: Fields) -> tuple[int, int] | None:
    """A pair of integers, or "128x128"."""
    value = weights.get("block_structure")
    if not isinstance(value, str):
        return weights.pair("block_structure", 1, MAX_GROUP)
    rows, _, columns = value.partition("x")
    for part in (rows, columns):
        if not (part.isascii() and part.isdigit() and len(part) <= 7 and 1 <= int(part) <= MAX_GROUP):
            raise weights.wrong("block_structure", value, f"two integers from 1 to {MAX_GROUP}, as in '128x128'")
    return int(rows), int(columns)
