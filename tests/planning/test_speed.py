"""Expected speeds from given limits, and the measurement of the limits."""

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.planning import placing, roofline
from seed_oss.planning.devices import DeviceMemory
from seed_oss.planning.model import NAMED_SHAPES
from seed_oss.planning.placing import Candidate, place
from seed_oss.planning.result import ExpectedSpeed
from seed_oss.planning.roofline import LayerKind, LayerSpeed, ProductSpeed, Speeds, measure, measured_kind
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
    rest_s: float = 0.0,
) -> ExpectedSpeed:
    """Its speed where memory is read at `BANDWIDTH`."""
    product = ProductSpeed(product_bytes, flop_per_s)
    products = {measured_kind(kind): product for kind in candidate.kinds().values()}
    speeds = Speeds(BANDWIDTH, 1, products, {candidate.layer("cpu"): LayerSpeed(attention, rest_s)})
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


def test_prefill_is_products_attention_and_the_rest_each_at_its_speed():
    in_layers = plain().form.weights.layers / 2
    attention = 2 * 64 * 80 * 128 * 4096  # half of two products over all keys, per token
    limits = {"flop_per_s": 1e12, "product_bytes": 1e15}
    speed = expected(plain(), Load(1, 4096, 2048), attention=1e11, **limits)
    assert speed.prefill == pytest.approx(1 / (2 * in_layers / 1e12 + attention / 1e11), rel=0.01)
    speed = expected(plain(), Load(1, 4096, 2048), rest_s=0.01, **limits)
    assert speed.prefill == pytest.approx(1 / (2 * in_layers / 1e12 + 64 * 0.01), rel=0.01)
    speed = expected(quantized(), Load(1, 4096, 2048), **limits)
    assert speed.prefill == pytest.approx(1e12 / (2 * in_layers), rel=0.02)


def test_layers_are_measured_as_they_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placing, "library", object)
    assert quantized().layer("cpu") == LayerKind(80, 8, 128, 5120, 27648, torch.bfloat16, is_native=True)
    assert plain().layer("cpu") == LayerKind(80, 8, 128, 5120, 27648, torch.bfloat16, is_native=False)
    monkeypatch.setattr(placing, "library", lambda: None)
    assert quantized().layer("cpu") == LayerKind(80, 8, 128, 5120, 27648, torch.float32, is_native=False)


KINDS = (torch.float32, torch.bfloat16, QuantFormat(4, 32, "point"), QuantFormat(8, 5120))
LAYERS = tuple(LayerKind(80, 8, 32, 64, 96, torch.bfloat16, is_native) for is_native in (False, True))


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
    measure(DeviceMemory("cpu", 2**24), KINDS, LAYERS)
    rows = {"torch.float32": 256, "torch.bfloat16": 512, "4 bits": 1760, "8 bits": 992}  # of 4 MiB
    for kind, num_rows in rows.items():
        shapes = {(tokens, weight_rows) for name, tokens, weight_rows in products if name == kind}
        assert shapes == {(1, num_rows), (16, 64), (512, 64)}, kind
    for kind in ("torch", "native"):  # 32 heads at most, in whole groups
        assert {entry[1:] for entry in attended if entry[0] == kind} == {(30, 3, 64), (30, 3, 512)}


def test_the_rest_of_a_layer_is_measured_at_its_own_widths(small_shapes: None):
    run = roofline._without_products(LAYERS[0], 32, "cpu")
    seen: list[tuple[str, tuple[int, ...]]] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append((func.__name__, tuple(args[0].shape) if args and isinstance(args[0], torch.Tensor) else ()))
            return func(*args, **(kwargs or {}))

    with Watch(), torch.inference_mode():
        output = run()
    assert isinstance(output, torch.Tensor)
    assert output.shape == (1, 32, 64)
    assert ("scaled_dot_product_attention", (1, 80, 32, 32)) in seen
    assert ("silu", (1, 32, 96)) in seen
    assert not {name for name, _ in seen} & {"linear", "matmul", "addmm"}


def test_the_rest_is_what_attention_leaves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(roofline, "_attention_speed", lambda kind, device: 2 * 80 * 32 * 512**2 / 0.1)
    monkeypatch.setattr(roofline, "_seconds", lambda run, device: 0.3)
    torch_layer, native_layer = (roofline._layer_speed(kind, "cpu") for kind in LAYERS)
    assert torch_layer.rest_s == pytest.approx(0.2 / 512)
    assert native_layer.rest_s == 0


def test_a_first_call_that_loads_something_is_not_counted(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 0.5, 1.0, 1.1, 2.0, 2.3])  # half a second, then 0.1 and 0.3
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(clock))
    assert roofline._seconds(lambda: None, "cpu", budget_s=0.7) == pytest.approx(0.1)


def test_one_buffer_is_more_than_a_processor_keeps():
    assert roofline._buffer_bytes(DeviceMemory("cpu", 2**40)) >= 2**29
    assert roofline._buffer_bytes(DeviceMemory("cpu", 2**28)) == 2**26


def test_limits_are_measured_once(small_shapes: None):
    small = DeviceMemory("cpu", 2**24)
    speeds = measure(small, KINDS, LAYERS)
    assert measure(small, KINDS, LAYERS) is speeds
    assert speeds.read_bytes_per_s > 1e8
    for kind in KINDS:
        assert speeds.product(kind).bytes_per_s > 1e6
        assert speeds.product(kind).flop_per_s > 1e6
    torch_layer, native_layer = (speeds.layers[kind] for kind in LAYERS)
    assert torch_layer.flop_per_s > 1e6
    assert native_layer.flop_per_s > 1e6
    assert 0 <= torch_layer.rest_s < 1
    assert native_layer.rest_s == 0
