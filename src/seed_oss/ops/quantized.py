"""Products with quantized weights, and rows of quantized embeddings.

Activations are cut into groups of 32 columns, or fewer where the weight's groups want it, and rounded to 8 bits with a
scale per group; products are then sums of integers. The kernels and the readable form compute the same. Where a
gradient is asked for, and on other devices, the numbers that the weight stands for are multiplied in floating point.
"""

import math
from ctypes import byref

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.native import library, num_threads
from seed_oss.ops.native.structs import BYTES, NIBBLES, ZERO_KINDS, WeightStruct
from seed_oss.ops.packing import BLOCK_ROWS, check_packed, unpack
from seed_oss.ops.recording import is_recorded
from seed_oss.ops.triton import can_run, take_over

BLOCKS_AT_ONCE = 64  # of an embedding whose rows are unpacked by torch's operations
MAX_KERNEL_ROWS = 16  # of activations on CUDA; beyond, torch's product with all numbers is faster


def weight_struct(
    packed: Tensor, format: QuantFormat, out_features: int, in_features: int, bias: Tensor | None = None
) -> WeightStruct:
    """How the kernels get a weight. The tensors must outlive it.

    Args:
        packed: uint8 on the CPU, see ops.packing.
        format: what is packed.
        out_features, in_features: the weight's shape.
        bias: fp32 `[out_features]` or None.
    """
    return WeightStruct(
        packed.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out_features,
        in_features,
        NIBBLES if format.bits == 4 else BYTES,
        format.group_size,
        ZERO_KINDS[format.zero],
        format.param_dtype == "float32",
    )


def quantized_linear(
    x: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int], bias: Tensor | None = None
) -> Tensor:
    """`x @ weight.T + bias` with a packed weight.

    Args:
        x: `[..., in_features]`, floating.
        packed: uint8, see ops.packing.
        format: what is packed.
        shape: (out_features, in_features).
        bias: fp32 `[out_features]` or None.

    Returns:
        `[..., out_features]` in the dtype of `x`.

    It is the op `seed_oss::quantized_linear` while something records, and a direct call otherwise, see ops.recording.

    Raises:
        InputError: `x` has another number of columns or is not floating, the bias has another shape or dtype, or they
            are on several devices.
        CheckpointError: `packed` has another dtype or number of bytes.
    """
    packed, bias = _checked_weight(x, packed, format, shape, bias)
    if not x.dim() or x.shape[-1] != shape[1] or not x.is_floating_point():
        raise InputError(
            f"the input is {x.dtype} {list(x.shape)}; a weight {list(shape)} takes {shape[1]} columns of floats"
        )
    if can_run(x, packed):
        return _linear_on_device(x, packed, format, shape, bias)
    if (x.device.type != "cpu" and not x.is_cuda) or (torch.is_grad_enabled() and x.requires_grad):
        return _linear_of_numbers(x, packed, format, shape, bias)
    if is_recorded():
        return torch.ops.seed_oss.quantized_linear(x, packed, bias, list(shape), *_fields(format))
    if x.is_cuda:
        return _linear_of_numbers(x, packed, format, shape, bias)
    return _linear_on_cpu(x, packed, format, shape, bias)


def _checked_weight(
    x: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int], bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as the kernels may read them: of the right size, without gaps."""
    check_packed(packed, format, *shape)
    if bias is not None and (bias.dtype != torch.float32 or bias.shape != (shape[0],)):
        raise InputError(f"the bias is {bias.dtype} {list(bias.shape)}; give fp32 [{shape[0]}]")
    if packed.device != x.device or (bias is not None and bias.device != x.device):
        others = [str(one.device) for one in (packed, bias) if one is not None]
        raise InputError(f"the input is on {x.device}, the weight on {' and '.join(others)}; move them to one device")
    return packed.contiguous(), None if bias is None else bias.contiguous()


def _linear_on_cpu(
    x: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int], bias: Tensor | None
) -> Tensor:
    native = library()
    if native is None:
        return quantized_linear_reference(x, packed, format, shape, bias)
    rows = x.reshape(-1, shape[1]).to(torch.float32).contiguous()
    out = torch.empty(rows.shape[0], shape[0], dtype=torch.float32, device="cpu")
    weight = weight_struct(packed, format, *shape, bias)
    if rows.shape[0]:
        native.so_linear(byref(weight), rows.data_ptr(), rows.shape[0], out.data_ptr(), num_threads())
    return out.view(*x.shape[:-1], shape[0]).to(x.dtype)


def _linear_of_numbers(
    x: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int], bias: Tensor | None
) -> Tensor:
    weight = unpack(packed, format, *shape).dequantize(x.dtype)
    return F.linear(x, weight, None if bias is None else bias.to(x.dtype))


def _linear_on_device(
    x: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int], bias: Tensor | None
) -> Tensor:
    """Few rows: a kernel that reads the packed weight. More: all its numbers, then torch's product."""
    if x.numel() <= MAX_KERNEL_ROWS * shape[1]:

        def product() -> Tensor:
            from seed_oss.ops.triton import quantized

            return quantized.quantized_linear(x, packed, format, shape, bias)

        key = ("linear", format, shape, x.dtype, bias is None)
        return take_over(x.device, key, product, lambda: _linear_of_numbers(x, packed, format, shape, bias))

    def numbers() -> Tensor:
        from seed_oss.ops.triton import quantized

        return quantized.dequantized(packed, format, shape, x.dtype)

    key = ("dequantized", format, shape, x.dtype)
    weight = take_over(x.device, key, numbers, lambda: unpack(packed, format, *shape).dequantize(x.dtype))
    return F.linear(x, weight, None if bias is None else bias.to(x.dtype))


def quantized_linear_reference(
    x: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int], bias: Tensor | None = None
) -> Tensor:
    """The readable form of `quantized_linear` on the CPU."""
    rounded = round_activations(x.to(torch.float32), act_group(format))
    return _linear_of_numbers(rounded, packed, format, shape, bias).to(x.dtype)


def act_group(format: QuantFormat) -> int:
    """Columns of activations that share a scale."""
    return math.gcd(format.group_size, 32)


def round_activations(x: Tensor, group: int) -> Tensor:
    """Activations as the products see them: fp32 `[..., in_features]`, rounded to 8 bits per group of columns."""
    integers, scale = _rounded(x, group)
    return (integers * scale).flatten(-2)


def _rounded(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Numbers without a fraction `[..., groups, group]`, and scales `[..., groups, 1]`."""
    grouped = x.unflatten(-1, (-1, group))
    largest = grouped.abs().amax(-1, keepdim=True)
    inverse = 127.0 / largest
    inverse = torch.where(inverse.isfinite(), inverse, 0.0)  # zeros, and magnitudes below 4e-37, are rounded to zero
    return (grouped * inverse).round(), largest / 127.0


@torch.library.custom_op("seed_oss::round_rows", mutates_args=())
def round_rows(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Rows in 8 bits with a scale per group of columns, as the products take them.

    Args:
        x: fp32 `[rows, columns]`.
        group: columns that share a scale; divides the number of columns.

    Returns:
        int8 `[rows, columns]` and fp32 `[rows, columns / group]`.

    Raises:
        InputError: shape or dtype is another.
    """
    if x.dim() != 2 or x.dtype != torch.float32 or group < 1 or x.shape[1] % group:
        raise InputError(f"x is {x.dtype} {list(x.shape)}; it must be fp32 [rows, columns] in whole groups of {group}")
    native = library()
    if native is None or x.device.type != "cpu" or x.numel() == 0:
        return round_rows_reference(x, group)
    x, out = x.contiguous(), torch.empty(x.shape, dtype=torch.int8, device="cpu")
    scale = torch.empty(x.shape[0], x.shape[1] // group, dtype=torch.float32, device="cpu")
    sums = torch.empty(scale.shape, dtype=torch.int32, device="cpu")
    native.so_quantize(x.data_ptr(), *x.shape, group, out.data_ptr(), scale.data_ptr(), sums.data_ptr())
    return out, scale


@round_rows.register_fake
def _(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[0], x.shape[1] // group)


def round_rows_reference(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """The readable form of `round_rows`."""
    integers, scale = _rounded(x, group)
    return integers.flatten(-2).to(torch.int8), scale.flatten(-2)


def quantized_embedding(ids: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int]) -> Tensor:
    """Rows of a packed weight.

    Args:
        ids: integers, each from 0 to shape[0] - 1.
        packed: uint8, see ops.packing.
        format: what is packed.
        shape: (number of rows, columns).

    Returns:
        fp32 `[*ids.shape, columns]`.

    Raises:
        IndexError: (on the CPU) an id is out of range.
        InputError: `ids` are no integers, or on another device than `packed`.
        CheckpointError: `packed` has another dtype or number of bytes.
    """
    packed, _ = _checked_weight(ids, packed, format, shape)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InputError(f"ids are {ids.dtype}; they must be integers")
    if can_run(ids, packed):
        return _embedding_on_device(ids, packed, format, shape)
    if ids.is_cuda and not torch.compiler.is_compiling():
        return embedding_of_blocks(ids, packed, format, shape)
    if is_recorded() and ids.device.type == "cpu":
        return torch.ops.seed_oss.quantized_embedding(ids, packed, list(shape), *_fields(format))
    return _embedding_of_rows(ids, packed, format, shape)


def _embedding_of_rows(ids: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int]) -> Tensor:
    native = library()
    if native is None or ids.device.type != "cpu":
        return F.embedding(ids, unpack(packed, format, *shape).dequantize())
    wanted = ids.reshape(-1).to(torch.int64).contiguous()
    out = torch.empty(wanted.numel(), shape[1], dtype=torch.float32, device="cpu")
    weight = weight_struct(packed, format, *shape)
    if native.so_embedding(byref(weight), wanted.data_ptr(), wanted.numel(), out.data_ptr()) < wanted.numel():
        raise IndexError("index out of range in self")  # as torch's own embedding
    return out.view(*ids.shape, shape[1])


def _embedding_on_device(ids: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int]) -> Tensor:
    def rows() -> Tensor:
        from seed_oss.ops.triton import quantized

        return quantized.embedding(ids, packed, format, shape)

    key = ("embedding", format, shape)
    return take_over(ids.device, key, rows, lambda: embedding_of_blocks(ids, packed, format, shape))


def embedding_of_blocks(ids: Tensor, packed: Tensor, format: QuantFormat, shape: tuple[int, int]) -> Tensor:
    """`quantized_embedding` in torch's operations: unpacks the blocks of rows that are asked for, a few at a time."""
    blocks, wanted = packed.view(-(-shape[0] // BLOCK_ROWS), -1), ids.reshape(-1).to(torch.int64)
    out = torch.empty(wanted.shape[0], shape[1], dtype=torch.float32, device=packed.device)
    for start in range(0, wanted.shape[0], BLOCKS_AT_ONCE):
        some = wanted[start : start + BLOCKS_AT_ONCE]
        chosen = blocks[some // BLOCK_ROWS].flatten()
        numbers = unpack(chosen, format, BLOCK_ROWS * some.shape[0], shape[1]).dequantize()
        rows = torch.arange(some.shape[0], device=some.device) * BLOCK_ROWS + some % BLOCK_ROWS
        out[start : start + BLOCKS_AT_ONCE] = numbers[rows]
    return out.view(*ids.shape, shape[1])


def _fields(format: QuantFormat) -> tuple[int, int, str, str]:
    return format.bits, format.group_size, format.zero, format.param_dtype


@torch.library.custom_op("seed_oss::quantized_embedding", mutates_args=())
def _quantized_embedding_op(
    ids: Tensor, packed: Tensor, shape: list[int], bits: int, group_size: int, zero: str, param_dtype: str
) -> Tensor:
    format = QuantFormat(bits, group_size, zero, param_dtype)  # type: ignore[arg-type]
    packed, _ = _checked_weight(ids, packed, format, (shape[0], shape[1]))
    return _embedding_of_rows(ids, packed, format, (shape[0], shape[1]))


@_quantized_embedding_op.register_fake
def _(ids: Tensor, packed: Tensor, shape: list[int], bits: int, group_size: int, zero: str, param_dtype: str) -> Tensor:
    return ids.new_empty(*ids.shape, shape[1], dtype=torch.float32)


@torch.library.custom_op("seed_oss::quantized_linear", mutates_args=())
def _quantized_linear_op(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    shape: list[int],
    bits: int,
    group_size: int,
    zero: str,
    param_dtype: str,
) -> Tensor:
    format = QuantFormat(bits, group_size, zero, param_dtype)  # type: ignore[arg-type]
    packed, bias = _checked_weight(x, packed, format, (shape[0], shape[1]), bias)
    if x.device.type != "cpu":
        return quantized_linear(x, packed, format, (shape[0], shape[1]), bias).clone()
    return _linear_on_cpu(x, packed, format, (shape[0], shape[1]), bias).clone()


@_quantized_linear_op.register_fake
def _(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    shape: list[int],
    bits: int,
    group_size: int,
    zero: str,
    param_dtype: str,
) -> Tensor:
    return x.new_empty(*x.shape[:-1], shape[0])
