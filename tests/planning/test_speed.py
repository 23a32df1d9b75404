"""Expected speeds from given limits, and the measurement of the limits."""

import pytest
import torch

from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.planning import placing, roofline
from seed_oss.planning.devices import DeviceMemory
from seed_oss.planning.model import NAMED_SHAPES
from seed_oss.planning.placing import Candidate, place
from seed_oss.planning.result import ExpectedSpeed
from seed_oss.planning.roofline import AttentionKind, ProductSpeed, Speeds, measure, measured_kind
from seed_oss.planning.weights import plain_form, scheme_form
from seed_oss.planning.workspace import Load
from seed_oss.quant.schemes import SCHEMES
from tests.factory import tiny_config

CPU = DeviceMemory("cpu", 2**40)
CONFIG = tiny_config(**NAMED_SHAPES["36b"])
BANDWIDTH = 100e9
CACHE_PER_TOKEN = 256 * 1024


def expected(
    candidate: Candidate,
    load: Load,
    *,
    flop_per_s: float = 1e30,
    product_bytes: float = 50e9,
    attention: float = 1e30,
) -> ExpectedSpeed:
    """Its speed where memory is read at `BANDWIDTH`."""
    product = ProductSpeed(product_bytes, flop_per_s)
    products = {measured_kind(kind): product for kind in candidate.kinds().values()}
    speeds = Speeds(BANDWIDTH, 1, products, {candidate.attention("cpu"): attention})
    speed = place(candidate, CPU, load, speeds).speed
    assert speed is not None
    return speed


def plain() -> Candidate:
    return Candidate(CONFIG, plain_form(CONFIG, torch.bfloat16))


def quantized() -> Candidate:
    return Candidate(CONFIG, scheme_form(CONFIG, SCHEMES["int4"], torch.float32, torch.bfloat16))


def test_a_step_reads_layers_head_and_cache():
    weights, context = plain().form.weights, 10_000
    seconds = (weights.layers + weights.head) / 50e9 + context * CACHE_PER_TOKEN / BANDWIDTH
    assert expected(plain(), Load(1, context, 2048)).decode == pytest.approx(1 / seconds, abs=0.01)


def test_a_step_reads_as_fast_as_its_own_product(monkeypatch: pytest.MonkeyPatch):
    weights = quantized().form.weights
    for kernels in (object, lambda: None):
        monkeypatch.setattr(placing, "library", kernels)
        seconds = (weights.layers + weights.head) / 20e9
        assert expected(quantized(), Load(1, 1, 1), product_bytes=20e9).decode == pytest.approx(1 / seconds, abs=0.01)


def test_a_batch_shares_the_reading_until_arithmetic_is_the_limit():
    one, eight = (expected(plain(), Load(batch, 1, 1)).decode for batch in (1, 8))
    assert eight == pytest.approx(8 * one, rel=0.01)
    slow = [expected(plain(), Load(batch, 1, 1), flop_per_s=70e9).decode for batch in (8, 64)]
    assert slow == [pytest.approx(1.0, rel=0.05)] * 2


def test_prefill_is_products_and_attention_each_at_its_speed():
    in_layers = plain().form.weights.layers / 2
    attention = 2 * 64 * 80 * 128 * 4096  # half of two products over all keys, per token
    limits = {"flop_per_s": 1e12, "product_bytes": 1e15}
    speed = expected(plain(), Load(1, 4096, 2048), attention=1e11, **limits)
    assert speed.prefill == pytest.approx(1 / (2 * in_layers / 1e12 + attention / 1e11), rel=0.01)
    speed = expected(quantized(), Load(1, 4096, 2048), attention=1e30, **limits)
    assert speed.prefill == pytest.approx(1e12 / (2 * in_layers), rel=0.02)


def test_what_attends_is_what_the_layers_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placing, "library", object)
    assert quantized().attention("cpu") == AttentionKind(80, 8, 128, torch.bfloat16, is_native=True)
    assert plain().attention("cpu") == AttentionKind(80, 8, 128, torch.bfloat16, is_native=False)
    monkeypatch.setattr(placing, "library", lambda: None)
    assert quantized().attention("cpu") == AttentionKind(80, 8, 128, torch.float32, is_native=False)


KINDS = (torch.float32, torch.bfloat16, QuantFormat(4, 32, "point"), QuantFormat(8, 5120))
ATTENDING = tuple(AttentionKind(80, 8, 32, torch.bfloat16, is_native) for is_native in (False, True))


@pytest.fixture
def small_shapes(monkeypatch: pytest.MonkeyPatch):
    """So that nothing takes long, and the wait for one that is too slow never decides."""
    monkeypatch.setattr(roofline, "MATMUL_ROWS", 64)
    monkeypatch.setattr(roofline, "TOO_SLOW_S", 1e9)
    roofline._measure.cache_clear()
    yield
    roofline._measure.cache_clear()


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch, small_shapes: None):
    """One row with all of the buffer, many with a weight like a layer's, a prompt over itself."""
    products, attended = list[tuple[str, int, int]](), list[tuple[str, int, int, int]]()
    linear, quantized_linear, sdpa, cached = (
        getattr(roofline, name) for name in ("linear", "quantized_linear", "sdpa_attention", "attend_directly")
    )

    def spied_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        products.append((str(x.dtype), len(x), len(weight)))
        return linear(x, weight)

    def spied_quantized(x: torch.Tensor, data: torch.Tensor, format: QuantFormat, shape: tuple[int, int]):
        products.append((f"{format.bits} bits", len(x), shape[0]))
        return quantized_linear(x, data, format, shape)

    def spied_sdpa(query: torch.Tensor, key: torch.Tensor, *rest: object, **options: bool) -> torch.Tensor:
        assert options == {"is_causal": True}
        attended.append(("torch", query.shape[1], key.shape[1], query.shape[2]))
        return sdpa(query, key, *rest, **options)

    def spied_cached(query: torch.Tensor, keys: torch.Tensor, *rest: object) -> torch.Tensor:
        attended.append(("native", query.shape[1], keys.shape[1], query.shape[0]))
        return cached(query, keys, *rest)

    monkeypatch.setattr(roofline, "linear", spied_linear)
    monkeypatch.setattr(roofline, "quantized_linear", spied_quantized)
    monkeypatch.setattr(roofline, "sdpa_attention", spied_sdpa)
    monkeypatch.setattr(roofline, "attend_directly", spied_cached)
    measure(DeviceMemory("cpu", 2**24), KINDS, ATTENDING)
    rows = {"torch.float32": 256, "torch.bfloat16": 512, "4 bits": 1760, "8 bits": 992}  # of 4 MiB
    for kind, num_rows in rows.items():
        shapes = {(tokens, weight_rows) for name, tokens, weight_rows in products if name == kind}
        assert shapes == {(1, num_rows), (16, 64), (512, 64)}, kind
    for kind in ("torch", "native"):  # 32 heads at most, in whole groups
        assert {entry[1:] for entry in attended if entry[0] == kind} == {(30, 3, 64), (30, 3, 512)}


def test_a_first_call_that_loads_something_is_not_counted(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 0.5, 1.0, 1.1, 2.0, 2.3])  # half a second, then 0.1 and 0.3
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(clock))
    assert roofline._seconds(lambda: None, "cpu", budget_s=0.7) == pytest.approx(0.1)


def test_one_buffer_is_more_than_a_processor_keeps():
    assert roofline._buffer_bytes(DeviceMemory("cpu", 2**40)) >= 2**29
    assert roofline._buffer_bytes(DeviceMemory("cpu", 2**28)) == 2**26


def test_limits_are_measured_once(small_shapes: None):
    small = DeviceMemory("cpu", 2**24)
    speeds = measure(small, KINDS, ATTENDING)
    assert measure(small, KINDS, ATTENDING) is speeds
    assert speeds.read_bytes_per_s > 1e8
    for kind in KINDS:
        assert speeds.product(kind).bytes_per_s > 1e6
        assert speeds.product(kind).flop_per_s > 1e6
    assert all(speeds.attention[kind] > 1e6 for kind in ATTENDING)
