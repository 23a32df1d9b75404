"""Expected speeds from given limits, and the measurement of the limits."""

import pytest
import torch

from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.planning import placing, roofline
from seed_oss.planning.devices import DeviceMemory
from seed_oss.planning.model import NAMED_SHAPES
from seed_oss.planning.placing import Candidate, place
from seed_oss.planning.result import ExpectedSpeed
from seed_oss.planning.roofline import ProductSpeed, Speeds, measure, measured_kind
from seed_oss.planning.weights import plain_form, scheme_form
from seed_oss.planning.workspace import Load
from seed_oss.quant.schemes import SCHEMES
from tests.factory import tiny_config

CPU = DeviceMemory("cpu", 2**40)
CONFIG = tiny_config(**NAMED_SHAPES["36b"])
BANDWIDTH = 100e9
CACHE_PER_TOKEN = 256 * 1024


def expected(
    candidate: Candidate, load: Load, *, flop_per_s: float = 1e30, product_bytes: float = 50e9
) -> ExpectedSpeed:
    """Its speed where memory is read at `BANDWIDTH`."""
    product = ProductSpeed(product_bytes, flop_per_s)
    speeds = Speeds(BANDWIDTH, 1, {measured_kind(kind): product for kind in candidate.kinds().values()})
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


def test_native_steps_read_as_fast_as_memory_is_read(monkeypatch: pytest.MonkeyPatch):
    weights = quantized().form.weights
    monkeypatch.setattr(placing, "library", object)
    fused = expected(quantized(), Load(1, 1, 1)).decode
    assert fused == pytest.approx(BANDWIDTH / (weights.layers + weights.head), abs=0.01)
    monkeypatch.setattr(placing, "library", lambda: None)
    assert expected(quantized(), Load(1, 1, 1)).decode == pytest.approx(fused / 2, abs=0.02)


def test_a_batch_shares_the_reading_until_arithmetic_is_the_limit():
    one, eight = (expected(plain(), Load(batch, 1, 1)).decode for batch in (1, 8))
    assert eight == pytest.approx(8 * one, rel=0.01)
    slow = [expected(plain(), Load(batch, 1, 1), flop_per_s=70e9).decode for batch in (8, 64)]
    assert slow == [pytest.approx(1.0, rel=0.05)] * 2


def test_prefill_is_arithmetic():
    in_layers = plain().form.weights.layers / 2
    attention = 2 * 64 * 80 * 128 * 4096  # half of two products over all keys, per token
    speed = expected(plain(), Load(1, 4096, 2048), flop_per_s=1e12, product_bytes=1e15)
    assert speed.prefill == pytest.approx(1e12 / (2 * in_layers + attention), rel=0.01)


def test_limits_are_measured_once():
    roofline._measure.cache_clear()
    kinds = [torch.float32, QuantFormat(4, 32, "point"), QuantFormat(8, 5120)]
    small = DeviceMemory("cpu", 2**24)
    speeds = measure(small, kinds)
    assert measure(small, kinds) is speeds
    assert speeds.read_bytes_per_s > 1e8
    for kind in kinds:
        assert speeds.product(kind).bytes_per_s > 1e6
        assert speeds.product(kind).flop_per_s > 1e6
    roofline._measure.cache_clear()
