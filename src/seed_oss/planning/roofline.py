"""How fast this machine reads, multiplies and attends: a short measurement, kept for the life of the process.

one row     of activations with a weight that no cache holds: reading is the limit
many rows   with a weight that a layer could have: arithmetic is
attention   a prompt's, by the function that the layers call, which runs at a speed of its own

Each is measured with the kernel that a model would use. Nothing takes longer than a fraction of a second.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from seed_oss.nn.linear import linear
from seed_oss.ops.attention import sdpa_attention
from seed_oss.ops.cached_attention import attend_directly
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.native import library
from seed_oss.ops.packing import packed_bytes
from seed_oss.ops.quantized import quantized_linear
from seed_oss.planning.devices import DeviceMemory

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
class AttentionKind:
    """What attends.

    Attributes:
        heads, kv_heads, head_dim: of a layer.
        dtype: of keys and values.
        is_native: in the call of all layers, not by torch.
    """

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    is_native: bool


@dataclass(frozen=True, slots=True)
class Speeds:
    """What was measured on a device.

    Attributes:
        read_bytes_per_s: reading memory once, in order.
        read_threads: with how many threads that was fastest; 1 on accelerators.
        products: by kind of weight.
        attention: additions and multiplications per second of a prompt's two products with keys and values, those with
            later keys not counted.
    """

    read_bytes_per_s: float
    read_threads: int
    products: Mapping[WeightKind, ProductSpeed]
    attention: Mapping[AttentionKind, float]

    def product(self, kind: WeightKind) -> ProductSpeed:
        """Of weights of this kind."""
        return self.products[measured_kind(kind)]


def measure(device: DeviceMemory, kinds: Iterable[WeightKind], attention: Iterable[AttentionKind]) -> Speeds:
    """Measure a device, once per process for the same kinds.

    Args:
        device: one that is here.
        kinds: formats and dtypes of the weights to multiply.
        attention: what attends.
    """
    wanted = tuple(dict.fromkeys(measured_kind(kind) for kind in kinds))
    attending = tuple(dict.fromkeys(attention))
    return _measure(device.name, wanted, attending, torch.get_num_threads(), _buffer_bytes(device))


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
    device: str, kinds: tuple[WeightKind, ...], attending: tuple[AttentionKind, ...], threads: int, num_bytes: int
) -> Speeds:
    buffer = torch.full((num_bytes,), FILL, dtype=torch.uint8, device=device)
    with torch.inference_mode():
        read, read_threads = _read_speed(buffer, device, threads)
        products = {kind: _product_speed(buffer, kind, device) for kind in kinds}
        return Speeds(read, read_threads, products, {kind: _attention_speed(kind, device) for kind in attending})


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


def _attention_speed(kind: AttentionKind, device: str) -> float:
    group = kind.heads // kind.kv_heads
    kv_heads = max(min(kind.kv_heads, ATTENDING_HEADS // group), 1)
    heads, tokens = kv_heads * group, FEW_ATTENDING
    seconds = _seconds(_attending(kind, heads, kv_heads, tokens, device), device)
    if seconds * (MANY_TOKENS / FEW_ATTENDING) ** 2 < TOO_SLOW_S:
        tokens = MANY_TOKENS
        seconds = _seconds(_attending(kind, heads, kv_heads, tokens, device), device)
    return 2 * heads * kind.head_dim * tokens**2 / seconds


def _attending(kind: AttentionKind, heads: int, kv_heads: int, tokens: int, device: str) -> Callable[[], object]:
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
