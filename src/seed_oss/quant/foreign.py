"""Checkpoints that other tools have quantized: from `quantization_config` to what is stored for every module.

    format = foreign_format(config.quantization_config)            # refuses by name what cannot be read
    plan = format.plan("model.layers.0.mlp.up_proj", (27648, 5120), headers)    # None: not quantized
    weight = plan.read({name: tensor, ...})                        # GroupedWeight or dequantized tensor

    gptq                 4 and 8 bits, versions 1 and 2, any order of columns    groups, exact
    awq                  4 bits, version gemm                                    groups, exact
    auto-round           in GPTQ's or AWQ's tensors                              groups, exact
    compressed-tensors   pack-, int- and naive-quantized                         groups, exact
                         float-quantized                                         dequantized, rounded once
    fp8, fbgemm_fp8      scales per block, row or tensor                         dequantized, rounded once

GGUF files are read by gguf_blocks.
"""

from collections.abc import Callable

from seed_oss.errors import UnsupportedModelError
from seed_oss.quant.compressed_config import compressed_tensors_format
from seed_oss.quant.foreign_config import auto_round_format, awq_format, fbgemm_fp8_format, fp8_format, gptq_format
from seed_oss.quant.foreign_fields import Fields, shown
from seed_oss.quant.foreign_plan import ForeignFormat

METHODS: dict[str, Callable[[Fields], ForeignFormat]] = {
    "gptq": gptq_format,
    "awq": awq_format,
    "auto-round": auto_round_format,
    "intel/auto-round": auto_round_format,
    "compressed-tensors": compressed_tensors_format,
    "fp8": fp8_format,
    "fbgemm_fp8": fbgemm_fp8_format,
}
_KNOWN = {
    "bitsandbytes": "its 4-bit numbers lie on no even grid, and its 8-bit weights are made for its own product",
    "mxfp4": "its 4-bit floats lie on no even grid",
    "nvfp4": "its 4-bit floats lie on no even grid",
    "hqq": "its files hold the package's own objects",
    "quanto": "its files hold the package's own objects",
    "torchao": "its files hold the package's own objects",
    "eetq": "its weights are in the order of one GPU's instructions",
    "marlin": "its weights are in the order of one GPU's instructions",
    "mlx": "its layout is not read",
}
REMEDY = (
    "load the bfloat16 original (with quantization= it becomes as small), or a GPTQ, AWQ, AutoRound, "
    "compressed-tensors, fp8 or GGUF version"
)


def foreign_format(quantization_config: object) -> ForeignFormat:
    """Read `quantization_config` of a config.json.

    Args:
        quantization_config: its content, unchecked.

    Raises:
        ConfigError: a field of a wrong type, beyond its bounds, or missing.
        UnsupportedModelError: a method or variant that cannot be read, or a field that is not known and may change the
            weights; each by name.
    """
    fields = Fields(quantization_config)
    method = _method(fields)
    if method in METHODS:
        return METHODS[method](fields)
    reason = f" ({_KNOWN[method]})" if method in _KNOWN else ""
    raise UnsupportedModelError(
        f"weights quantized by {shown(method) if method else 'an unnamed method'} cannot be read{reason}; {REMEDY}"
    )


def _method(fields: Fields) -> str:
    """Its name; two tools write none."""
    method = fields.text("quant_method")
    if method:
        return method
    if "load_in_4bit" in fields.content or "load_in_8bit" in fields.content:
        return "bitsandbytes"
    return "mlx" if {"bits", "group_size"} <= fields.content.keys() else ""
