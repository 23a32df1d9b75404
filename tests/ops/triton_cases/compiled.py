"""Every kernel compiled to machine code for devices that are not here, with shapes of Seed-OSS-36B."""

from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.packing import packed_bytes
from seed_oss.ops.triton.attention import CachedKeys, attention_launches
from seed_oss.ops.triton.launch import Launch
from seed_oss.ops.triton.norm import norm_launch
from seed_oss.ops.triton.quantized import dequantize_launch, embedding_launch, linear_launches
from seed_oss.ops.triton.rope import rotate_launch

SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
SMALL_SHARED_BYTES = 99 * 1024  # of devices for workstations, which run the same code
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


def compiled(launch: Launch, capability: int) -> Any:
    """A launch's kernel for its arguments."""
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(launch.kernel.arg_names):
        given = launch.constants[name] if name in launch.constants else launch.arguments[name]
        if name in launch.constants or given is None:
            signature[name], constants[name] = "constexpr", given
        elif isinstance(given, Tensor):
            signature[name], attributes[(index,)] = TYPES[given.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = "i32" if isinstance(given, int) else "fp32"
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def check(launch: Launch, capability: int) -> str:
    """Compile; return the assembly."""
    made = compiled(launch, capability)
    assert made.asm["cubin"]
    assert made.metadata.shared <= min(SMALL_SHARED_BYTES, SHARED_BYTES[capability])
    return made.asm["ptx"]


@pytest.mark.parametrize(
    ("format", "capability"),
    [(QuantFormat(4, 32, "point"), 80), (QuantFormat(8, 5120), 90), (QuantFormat(4, 40, "minimum", "float32"), 90)],
    ids=str,
)
def test_quantized(format: QuantFormat, capability: int) -> None:
    shape, dtype = (10240, 5120), torch.bfloat16
    packed, bias = torch.empty(packed_bytes(format, *shape), dtype=torch.uint8), torch.empty(shape[0])
    x, out = torch.empty(1, shape[1], dtype=dtype), torch.empty(1, shape[0], dtype=dtype)
    product, *sums = linear_launches(x, packed, format, shape, bias, out)
    assembly = check(product, capability)
    assert "mma.sync" in assembly  # tensor cores
    assert "cp.async" in assembly  # loads that run ahead
    for launch in sums:
        check(launch, capability)
    check(dequantize_launch(packed, format, shape, torch.empty(1, dtype=dtype)), capability)
    check(embedding_launch(torch.empty(1, dtype=torch.int64), packed, format, shape, torch.empty(1)), capability)


@pytest.mark.parametrize(
    ("dtype", "cache_dtype", "has_table", "has_mask", "capability"),
    [
        (torch.bfloat16, torch.bfloat16, True, False, 90),
        (torch.float16, torch.int8, True, True, 80),
        (torch.float32, torch.float32, False, True, 90),
    ],
)
def test_attention(
    dtype: torch.dtype, cache_dtype: torch.dtype, has_table: bool, has_mask: bool, capability: int
) -> None:
    query, keys = torch.empty(2, 80, 128, dtype=dtype), torch.empty(40, 8, 16, 128, dtype=cache_dtype)
    table = torch.empty(2, 20, dtype=torch.int32) if has_table else None
    mask = torch.empty(1, 16 * (20 if has_table else 1), dtype=torch.bool) if has_mask else None
    scales = torch.empty(40, 8, 16) if cache_dtype == torch.int8 else None
    cached = CachedKeys(keys, keys, torch.empty(2, dtype=torch.int64), 1, table, mask, scales, scales)
    cached.check(query)
    for launch in attention_launches(query, cached, 0.1, torch.empty_like(query)):
        check(launch, capability)


@pytest.mark.parametrize("capability", [90])
def test_norm_and_rotation(capability: int) -> None:
    x = torch.empty(1, 5120, dtype=torch.bfloat16)
    check(norm_launch(x, None, x[0], 1e-6, None, x), capability)
    check(norm_launch(x, x, x[0].float(), 1e-6, x, x.float()), capability)
    query, key = torch.empty(1, 80, 1, 128, dtype=torch.bfloat16), torch.empty(1, 8, 1, 128, dtype=torch.bfloat16)
    check(rotate_launch(query, key, query[:, 0], query[:, 0], query, key), capability)
