"""`quantization_config` of GPTQ, AWQ, AutoRound and fp8 checkpoints: which layouts it declares.

Fields that tell how a file was made change nothing about what is in it; they are listed as idle. Every other field that
is not understood is refused by name.
"""

from collections.abc import Iterator

from seed_oss.errors import ConfigError, UnsupportedModelError
from seed_oss.quant.awq import AWQLayout
from seed_oss.quant.float8 import Float8Layout
from seed_oss.quant.foreign_fields import MAX_GROUP, Fields, escaped_name, shown
from seed_oss.quant.foreign_plan import ForeignFormat
from seed_oss.quant.gptq import GPTQLayout
from seed_oss.quant.scale_grid import ScaleGrid

MAX_LAYOUTS = 32
ACTIVATIONS_NOTE = "activations stay in the model's dtype; the file was made for activations in 8 bits or fewer"

_WHICH = frozenset(
    {
        *("quant_method", "modules_in_block_to_quantize", "block_name_to_quantize", "to_quant_block_names"),
        *("modules_to_convert", "quant_block_list", "block_list", "lm_head", "quant_lm_head"),
        "module_name_preceding_first_block",
    }
)
_HOW_IT_WAS_MADE = frozenset(
    {
        *("damp_percent", "damp_auto_increment", "static_groups", "true_sequential", "act_group_aware", "mse", "meta"),
        *("model_name_or_path", "model_file_base_name", "tokenizer", "dataset", "batch_size", "pad_token_id"),
        *("use_cuda_fp16", "model_seqlen", "max_input_length", "cache_block_outputs", "use_exllama", "disable_exllama"),
        *(
            "exllama_config",
            "backend",
            "pack_impl",
            "offload_to_disk",
            "parallel_packing",
            "v2",
            "v2_alpha",
            "failsafe",
        ),
        *(
            "do_fuse",
            "modules_to_fuse",
            "fuse_max_seq_len",
            "autoround_version",
            "amp",
            "low_gpu_mem_usage",
            "nsamples",
        ),
        *("seqlen", "iters", "lr", "minmax_lr", "gradient_accumulate_steps", "scale_dtype", "lr_scheduler"),
        *("enable_minmax_tuning", "enable_norm_bias_tuning", "enable_quanted_input", "enable_torch_compile"),
        *("dynamic_max_gap", "not_use_best_mse", "disable_opt_rtn", "enable_alg_ext", "enable_adam", "seed"),
    }
)
_IDLE = _WHICH | _HOW_IT_WAS_MADE
_GPTQ_VERSIONS = {"gptq": False, "gptq_v2": True}
# How symmetric AutoRound weights may be packed; the zero points of others are only certain for the first name.
_AUTO_ROUND_GPTQ = ("auto_round:auto_gptq", "auto_round:gptq", "auto_round:gptq:exllamav2", "auto_round", "auto", "")
_AUTO_ROUND_AWQ = ("auto_round:auto_awq", "auto_round:awq")


def gptq_format(fields: Fields) -> ForeignFormat:
    """GPTQ: bits, group_size, sym, desc_act, version, and `dynamic` overrides of them for some modules."""
    stored = fields.text("checkpoint_format", fields.text("format", "gptq"))
    if stored not in _GPTQ_VERSIONS:
        raise _unsupported("GPTQ weights stored as", stored, _GPTQ_VERSIONS)
    if fields.flag("is_marlin_format"):
        raise _unsupported("GPTQ weights stored as", "marlin", _GPTQ_VERSIONS)
    _only(fields, "pack_dtype", ("int32",))
    _only(fields, "data_type", ("int",))
    layouts = _gptq_layouts(fields, is_version_2=_GPTQ_VERSIONS[stored], overrides="dynamic")
    skipped = fields.names("modules_to_not_convert")
    fields.finish(_IDLE)
    return ForeignFormat("gptq", layouts, skipped)


def awq_format(fields: Fields) -> ForeignFormat:
    """AWQ: 4 bits, version gemm."""
    version = fields.text("version", fields.text("format", "gemm"))
    if version != "gemm":
        raise _unsupported("AWQ weights of version", version, ("gemm",))
    if fields.text("backend") == "llm-awq":
        raise _unsupported("AWQ weights of backend", "llm-awq", ("autoawq",))
    _bits_of(fields, (4,), "AWQ")
    _only(fields, "data_type", ("int",))
    layout = AWQLayout(fields.group_size(128))
    fields.flag("zero_point")  # zero points are stored either way
    fields.flag("sym")
    skipped = fields.names("modules_to_not_convert")
    fields.finish(_IDLE)
    return ForeignFormat("awq", (layout,), skipped)


def auto_round_format(fields: Fields) -> ForeignFormat:
    """AutoRound: GPTQ's or AWQ's tensors, with overrides in `extra_config`."""
    packing = fields.text("packing_format", fields.text("backend"))
    _only(fields, "data_type", ("int",))
    notes = (ACTIVATIONS_NOTE,) if fields.integer("act_bits", 1, 32, 16) < 16 else ()
    for name in ("act_group_size", "act_sym", "act_dynamic", "act_data_type"):
        fields.get(name)
    if packing in _AUTO_ROUND_AWQ:
        _bits_of(fields, (4,), "AWQ")
        fields.flag("sym")
        layouts = (AWQLayout(fields.group_size(128)),)
    elif packing in _AUTO_ROUND_GPTQ:
        layouts = _gptq_layouts(fields, is_version_2=False, overrides="extra_config")
        if packing != _AUTO_ROUND_GPTQ[0] and not all(layout.is_symmetric for layout in layouts):
            raise _unsupported("asymmetric AutoRound weights packed as", packing, _AUTO_ROUND_GPTQ[:1])
    else:
        raise _unsupported("AutoRound weights packed as", packing, (_AUTO_ROUND_GPTQ[0], _AUTO_ROUND_AWQ[0]))
    skipped = fields.names("modules_to_not_convert")
    fields.finish(_IDLE)
    return ForeignFormat("auto-round", layouts, skipped, notes)


def fp8_format(fields: Fields) -> ForeignFormat:
    """8-bit floats with a scale per block (DeepSeek's `weight_scale_inv`) or per tensor."""
    _only(fields, "fmt", ("e4m3", "e4m3fn", "float8_e4m3fn"))
    _only(fields, "scale_fmt", ("float", "ue8m0"))
    _only(fields, "activation_scheme", ("dynamic", "static"))
    block = fields.pair("weight_block_size", 1, MAX_GROUP)
    grid = ScaleGrid() if block is None else ScaleGrid(*block)
    skipped = fields.names("modules_to_not_convert") or fields.names("ignored_layers")
    fields.get("ignored_layers")
    fields.finish(_WHICH | {"dequantize", "expert_dtype", "kv_cache_scheme"})
    layouts = (Float8Layout(grid, "weight_scale_inv"), Float8Layout(grid, "weight_scale"))
    return ForeignFormat("fp8", layouts, skipped, (ACTIVATIONS_NOTE,))


def fbgemm_fp8_format(fields: Fields) -> ForeignFormat:
    """8-bit floats with a scale per row."""
    skipped = fields.names("modules_to_not_convert")
    fields.finish(_WHICH | {"activation_scale_ub"})
    return ForeignFormat("fbgemm_fp8", (Float8Layout(ScaleGrid(1)),), skipped, (ACTIVATIONS_NOTE,))


def _gptq_layouts(fields: Fields, *, is_version_2: bool, overrides: str) -> tuple[GPTQLayout, ...]:
    """Of the file, and of modules whose bits or group size are set apart. Shapes tell these; symmetry they don't."""
    base = GPTQLayout(
        _bits_of(fields, (4, 8), "GPTQ"),
        fields.group_size(128),
        is_symmetric=fields.flag("sym", True),  # the quantizers' default; the stored zero points are compared with it
        is_version_2=is_version_2,
        needs_g_idx=fields.flag("desc_act"),
    )
    layouts = tuple(dict.fromkeys((base, *_overrides(fields, overrides, base))))
    if len(layouts) > MAX_LAYOUTS:
        raise ConfigError(
            f"{fields.where}.{overrides} has {len(layouts)} kinds of weights; at most {MAX_LAYOUTS} are read"
        )
    return layouts


def _overrides(fields: Fields, name: str, base: GPTQLayout) -> Iterator[GPTQLayout]:
    overrides = fields.section(name)
    for key in () if overrides is None else overrides.content:
        one = None if overrides is None else overrides.section(key)
        # "-:pattern" and 16 bits: modules that are left alone
        if one is None or key.startswith("-:") or (one.get("bits") or base.bits) in (16, 32):
            continue
        for field, value in (("sym", base.is_symmetric), ("desc_act", base.needs_g_idx)):
            if one.flag(field, value) != value:
                raise UnsupportedModelError(
                    f"{one.where}.{field} differs from {fields.where}.{field}; shapes do not tell such modules apart; "
                    "load the bfloat16 original"
                )
        _only(one, "data_type", ("int",))
        whole = -1 if base.group_size is None else base.group_size
        bits, size = _bits_of(one, (4, 8), "GPTQ", base.bits), one.group_size(whole)
        one.finish(_IDLE | {"act_bits", "act_group_size", "act_sym", "act_dynamic", "act_data_type"})
        yield GPTQLayout(bits, size, base.is_symmetric, base.is_version_2, base.needs_g_idx)


def _bits_of(fields: Fields, readable: tuple[int, ...], what: str, default: int | None = None) -> int:
    bits = fields.integer("bits", 1, 32, default)
    if bits not in readable:
        raise _unsupported(f"{what} weights of bits", bits, readable)
    return bits


def _only(fields: Fields, name: str, allowed: tuple[str, ...]) -> None:
    value = fields.text(name, allowed[0]).removeprefix("torch.")
    if value not in allowed:
        raise _unsupported(f"{fields.where}.{escaped_name(name)}", value, allowed)


def _unsupported(what: str, value: object, readable: object) -> UnsupportedModelError:
    names = ", ".join(str(item) for item in readable) if isinstance(readable, tuple | dict) else str(readable)
    return UnsupportedModelError(f"{what} {shown(value)} are not supported, {names} can be read")
