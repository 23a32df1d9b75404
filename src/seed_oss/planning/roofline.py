"""How fast this machine reads, multiplies and attends: a short measurement, kept for the life of the process.

one row     of activations with a weight that no cache holds: reading is the limit
many rows   with a weight that a layer could have: arithmetic is
attention   a prompt's, by the function that the layers call, which runs at a speed of its own
the rest    norms, rotation, the gate and what is added, where torch runs them one by one: a layer without its products

Each is measured with the kernel that a model would use. Nothing takes longer than a fraction of a second.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import nn

from seed_oss.cache import AttentionMask, DenseContext
from seed_oss.config import SeedOssConfig
from seed_oss.nn import SeedOssDecoderLayer, SeedOssRMSNorm
from seed_oss.nn.linear import Linear, linear
from seed_oss.ops.attention import sdpa_attention
from seed_oss.ops.cached_attention import attend_directly
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.native import library
from seed_oss.ops.packing import packed_bytes
from seed_oss.ops.quantized import quantized_linear
from seed_oss.planning.devices import DeviceMemory
from seed_oss.weights import on_meta_device

BUFFER_BYTES = 2**29  # servers keep 128 MiB and more in their caches
COLUMNS = 4096
MATMUL_ROWS = 2048  # of the weight
MANY_TOKENS = 512
FEW_TOKENS = 16
FEW_ATTENDING = 64
ATTENDING_HEADS = 32  # at most as many, so that nothing takes long
FILL = 0x3C  # a normal number in every dtype
BUDGET_S = 0.06  # of the trials of one measurement
READ_BUDGET_S = 0.15  # reading is what most other numbers hang on
TOO_SLOW_S = 1.0  # for the larger product: the processor has no such instructions

WeightKind = QuantFormat | torch.dtype


@dataclass(frozen=True, slots=True)
class ProductSpeed:
    """Products with weights of one kind.

    Attributes:
        bytes_per_s: of weights read, with one row of activations.
        flop_per_s: additions and multiplications, with many rows.
    """

    bytes_per_s: float
    flop_per_s: float


@dataclass(frozen=True, slots=True)
class LayerKind:
    """A decoder layer but for its weights.

    Attributes:
        heads, kv_heads, head_dim, hidden, inner: its sizes.
        dtype: of keys and values, and where torch runs it, of all the rest.
        is_native: it is part of one call of all layers, so that what is beside products and attention costs little.
    """

    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    inner: int
    dtype: torch.dtype
    is_native: bool


@dataclass(frozen=True, slots=True)
class LayerSpeed:
    """A layer but for its products with weights, while a prompt is read.

    Attributes:
        flop_per_s: of its products with keys and values, those with later keys not counted.
        rest_s: seconds for a token beside them.
    """

    flop_per_s: float
    rest_s: float


@dataclass(frozen=True, slots=True)
class Speeds:
    """What was measured on a device.

    Attributes:
        read_bytes_per_s: reading memory once, in order.
        read_threads: with how many threads that was fastest; 1 on accelerators.
        products: by kind of weight.
        layers: by kind of layer.
    """

    read_bytes_per_s: float
    read_threads: int
    products: Mapping[WeightKind, ProductSpeed]
    layers: Mapping[LayerKind, LayerSpeed]

    def product(self, kind: WeightKind) -> ProductSpeed:
        """Of weights of this kind."""
        return self.products[measured_kind(kind)]


def measure(device: DeviceMemory, kinds: Iterable[WeightKind], layers: Iterable[LayerKind]) -> Speeds:
    """Measure a device, once per process for the same kinds.

    Args:
        device: one that is here.
        kinds: formats and dtypes of the weights to multiply.
        layers: of the models.
    """
    wanted = tuple(dict.fromkeys(measured_kind(kind) for kind in kinds))
    distinct = tuple(dict.fromkeys(layers))
    return _measure(device.name, wanted, distinct, torch.get_num_threads(), _buffer_bytes(device))


def measured_kind(kind: WeightKind) -> WeightKind:
    """The kind that stands for this one: a scale per row has groups as wide as the measured weight."""
    if isinstance(kind, QuantFormat) and COLUMNS % kind.group_size:
        return QuantFormat(kind.bits, COLUMNS, kind.zero, kind.param_dtype)
    return kind


def _buffer_bytes(device: DeviceMemory) -> int:
    """Less where memory is short; a power of two, so that what was measured is found again."""
    size = BUFFER_BYTES
    while size > 2**22 and size > device.free_bytes // 4:
        size //= 2
    return size


@cache
def _measure(
    device: str, kinds: tuple[WeightKind, ...], layers: tuple[LayerKind, ...], threads: int, num_bytes: int
) -> Speeds:
    # numpy asks for huge pages, in which weights are read once a model decodes
    buffer = torch.from_numpy(np.full(num_bytes, FILL, np.uint8)).to(device)
    with torch.inference_mode():
        read, read_threads = _read_speed(buffer, device, threads)
        products = {kind: _product_speed(buffer, kind, device) for kind in kinds}
        return Speeds(read, read_threads, products, {kind: _layer_speed(kind, device) for kind in layers})


def _read_speed(buffer: torch.Tensor, device: str, threads: int) -> tuple[float, int]:
    native = library() if device == "cpu" else None
    if native is None:
        words = buffer.view(torch.int64)
        return buffer.numel() / _seconds(lambda: words.sum(), device, READ_BUDGET_S), threads if device == "cpu" else 1
    read, pointer, num_bytes = native.so_read, buffer.data_ptr(), buffer.numel()
    return max(
        (num_bytes / _seconds(lambda count=count: read(pointer, num_bytes, count), device, READ_BUDGET_S), count)
        for count in {threads, 1}
    )


def _product_speed(buffer: torch.Tensor, kind: WeightKind, device: str) -> ProductSpeed:
    rows = buffer.numel() // weight_bytes(kind, 32) * 32
    read = weight_bytes(kind, rows) / _seconds(_product(buffer, kind, rows, 1), device)
    rows = min(MATMUL_ROWS, rows)
    seconds = _seconds(_product(buffer, kind, rows, FEW_TOKENS), device)
    rate = 2 * rows * COLUMNS * FEW_TOKENS / seconds
    if seconds * MANY_TOKENS / FEW_TOKENS < TOO_SLOW_S:
        rate = max(rate, 2 * rows * COLUMNS * MANY_TOKENS / _seconds(_product(buffer, kind, rows, MANY_TOKENS), device))
    return ProductSpeed(read, rate)


def weight_bytes(kind: WeightKind, rows: int) -> int:
    """Bytes of a weight of `COLUMNS` columns."""
    return packed_bytes(kind, rows, COLUMNS) if isinstance(kind, QuantFormat) else rows * COLUMNS * kind.itemsize


def _product(buffer: torch.Tensor, kind: WeightKind, rows: int, tokens: int) -> Callable[[], object]:
    data = buffer[: weight_bytes(kind, rows)]
    if isinstance(kind, QuantFormat):
        x = torch.ones(tokens, COLUMNS, device=buffer.device)
        return lambda: quantized_linear(x, data, kind, (rows, COLUMNS))
    x = torch.ones(tokens, COLUMNS, dtype=kind, device=buffer.device)
    matrix = data.view(kind).view(rows, COLUMNS)
    return lambda: linear(x, matrix)


def _layer_speed(kind: LayerKind, device: str) -> LayerSpeed:
    flop_per_s = _attention_speed(kind, device)
    if kind.is_native:
        return LayerSpeed(flop_per_s, 0.0)
    attending = 2 * kind.heads * kind.head_dim * MANY_TOKENS**2 / flop_per_s
    whole = attending if attending > TOO_SLOW_S else _seconds(_without_products(kind, MANY_TOKENS, device), device)
    return LayerSpeed(flop_per_s, max(whole - attending, 0.0) / MANY_TOKENS)


def _attention_speed(kind: LayerKind, device: str) -> float:
    group = kind.heads // kind.kv_heads
    kv_heads = max(min(kind.kv_heads, ATTENDING_HEADS // group), 1)
    heads, tokens = kv_heads * group, FEW_ATTENDING
    seconds = _seconds(_attending(kind, heads, kv_heads, tokens, device), device)
    if seconds * (MANY_TOKENS / FEW_ATTENDING) ** 2 < TOO_SLOW_S:
        tokens = MANY_TOKENS
        seconds = _seconds(_attending(kind, heads, kv_heads, tokens, device), device)
    return 2 * heads * kind.head_dim * tokens**2 / seconds


def _attending(kind: LayerKind, heads: int, kv_heads: int, tokens: int, device: str) -> Callable[[], object]:
    """A prompt over itself."""
    keys = torch.ones(1, kv_heads, tokens, kind.head_dim, dtype=kind.dtype, device=device)
    if not kind.is_native:
        queries = torch.ones(1, heads, tokens, kind.head_dim, dtype=kind.dtype, device=device)
        return lambda: sdpa_attention(queries, keys, keys, None, kind.head_dim**-0.5, is_causal=True)
    rows, none, one = (
        torch.ones(tokens, heads, kind.head_dim),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, 1).long(),
    )
    return lambda: attend_directly(rows, keys, keys, None, None, one, none, none + tokens)


class _Given(nn.Module):
    """In the place of a linear layer: its output, made before."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.output


def _without_products(kind: LayerKind, tokens: int, device: str) -> Callable[[], object]:
    """A plain layer over a prompt, whose linear layers have nothing to do."""
    config = SeedOssConfig(
        hidden_size=kind.hidden,
        intermediate_size=kind.inner,
        num_attention_heads=kind.heads,
        num_key_value_heads=kind.kv_heads,
        head_dim=kind.head_dim,
    )
    with on_meta_device():
        layer = SeedOssDecoderLayer(config, 0)
    for name, module in list(layer.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if isinstance(module, Linear):
            output = torch.ones(1, tokens, module.out_features, dtype=kind.dtype, device=device)
            setattr(layer.get_submodule(parent), leaf, _Given(output))
        elif isinstance(module, SeedOssRMSNorm):
            module.weight = nn.Parameter(torch.ones(kind.hidden, dtype=kind.dtype, device=device), requires_grad=False)
    x = torch.ones(1, tokens, kind.hidden, dtype=kind.dtype, device=device)
    angles = torch.ones(1, tokens, kind.head_dim, dtype=kind.dtype, device=device)
    context = DenseContext(AttentionMask(None, is_causal=True), None, eager=False)
    layer.eval()
    return lambda: layer(x, angles, angles, context)


def _seconds(run: Callable[[], object], device: str, budget_s: float = BUDGET_S) -> float:
    """The shortest of the trials that fit the budget, after one that does not count; one of them always runs."""
    best, spent, num_trials = float("inf"), 0.0, 0
    while num_trials < 2 or spent < budget_s:
        start = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize(device)
        elapsed = time.perf_counter() - start
        best = elapsed if num_trials == 1 else min(best, elapsed)
        num_trials, spent = num_trials + 1, spent + elapsed
        if elapsed > TOO_SLOW_S or (num_trials > 1 and elapsed > TOO_SLOW_S / 4):
            break
    return max(best, 1e-9)
