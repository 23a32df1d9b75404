"""The widened product beside torch's."""

import math
from ctypes import byref
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from seed_oss.nn.linear import Linear
from seed_oss.ops import linear as linear_op
from seed_oss.ops import native
from seed_oss.ops.linear import batch_invariant_linear, linear, linear_split, linear_vector, linear_widened
from seed_oss.ops.native.structs import BFLOAT16, WeightStruct


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 48), (2, 5, 48), (1, 48)])
def test_widened_is_the_exact_product_rounded_once(
    shape: tuple[int, ...], has_bias: bool, dtype: torch.dtype, monkeypatch: Any
) -> None:
    monkeypatch.setattr(linear_op, "BLOCK_ELEMENTS", 48 * 64)  # several blocks, the last one short
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(150, 48, generator=generator).to(dtype)
    bias = torch.randn(150, generator=generator).to(dtype) if has_bias else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    got = linear_widened(x, weight, bias)
    assert got.dtype == dtype
    assert got.shape == (*shape[:-1], 150)
    half_unit = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(got.double(), exact, atol=1e-4, rtol=1.01 * half_unit)


@pytest.mark.parametrize("helps", [True, False])
def test_same_layer_on_every_processor(helps: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(linear_op, "half_needs_help", lambda: helps)
    torch.manual_seed(0)
    layer = Linear(32, 40).to(torch.bfloat16)
    x = torch.randn(6, 32).to(torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=2e-2, rtol=2e-2)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert isinstance(layer, torch.nn.Linear)


@pytest.mark.parametrize(
    ("rows", "dtype", "has_gradient", "expected"),
    [
        (4, torch.bfloat16, False, "linear_widened"),
        (3, torch.bfloat16, False, None),
        (1, torch.bfloat16, False, "linear_vector"),
        (1, torch.float16, False, "linear_vector"),
        (1, torch.float32, False, "linear_split"),
        (5, torch.float32, False, None),
        (6, torch.bfloat16, True, None),
        (1, torch.float32, True, None),
    ],
)
def test_which_product_runs(
    rows: int, dtype: torch.dtype, has_gradient: bool, expected: str | None, monkeypatch: Any
) -> None:
    calls: list[str] = []
    for name in ("half_needs_help", "one_row_needs_help"):
        monkeypatch.setattr(linear_op, name, lambda: True)
    for name in ("linear_widened", "linear_vector", "linear_split"):
        monkeypatch.setattr(linear_op, name, lambda x, *_, name=name: calls.append(name) or x)
    linear(torch.zeros(rows, 8, dtype=dtype, requires_grad=has_gradient), torch.zeros(8, 8, dtype=dtype))
    assert calls == ([] if expected is None else [expected])


@pytest.mark.parametrize("twin", [linear_vector, linear_split])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("num_outputs", [40, 41])
@pytest.mark.parametrize("shape", [(32,), (1, 1, 32)])
def test_one_row(twin: Any, has_bias: bool, num_outputs: int, shape: tuple[int, ...], monkeypatch: Any) -> None:
    monkeypatch.setattr(linear_op, "MIN_SPLIT_ELEMENTS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    torch.manual_seed(0)
    layer = torch.nn.Linear(32, num_outputs, bias=has_bias)
    x = torch.randn(32, 2)[:, 0].reshape(shape)  # strided where the shape allows it
    got = twin(x, layer.weight, layer.bias)
    assert got.shape == (*shape[:-1], num_outputs)
    torch.testing.assert_close(got, layer(x))
    transposed = torch.randn(32, num_outputs).t()
    torch.testing.assert_close(twin(x, transposed, layer.bias), F.linear(x, transposed, layer.bias))


@pytest.mark.parametrize("needs_help", [linear_op.half_needs_help, linear_op.one_row_needs_help])
def test_the_reference_can_be_forced(needs_help: Any, monkeypatch: Any) -> None:
    needs_help.cache_clear()
    monkeypatch.setenv("SEED_OSS_OPS", "reference")
    assert not needs_help()
    needs_help.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("rows", "cols"), [(300, 1024), (39, 5003)])
def test_rows_of_the_invariant_product_do_not_depend_on_others(
    rows: int, cols: int, dtype: torch.dtype, threads: int
) -> None:
    """float16 goes through torch. 1,024 columns: there torch's bits depend on rows and threads. Beyond 4,096
    columns, a token by itself meets four rows at a time."""
    x, weight, bias = torch.randn(50, cols).to(dtype), torch.randn(rows, cols).to(dtype), torch.randn(rows).to(dtype)
    alone = torch.cat([batch_invariant_linear(row[None], weight, bias) for row in x])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    together = batch_invariant_linear(x, weight, bias)
    torch.set_num_threads(before)
    assert torch.equal(together, alone)
    expected = F.linear(x.double(), weight.double(), bias.double())
    assert float((together - expected).norm() / expected.norm()) < {torch.float32: 1e-6}.get(dtype, 3e-3)


def product_in_fp32(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, threads: int = 1) -> torch.Tensor:
    """As the fused layers have it: fp32 rows, the weight in bfloat16, and no rounding behind."""
    out, library = torch.empty(len(x), len(weight)), native.library()
    assert library is not None
    struct = WeightStruct(weight.data_ptr(), bias.data_ptr(), *weight.shape, BFLOAT16, 0, 0, 0)
    library.so_linear(byref(struct), x.data_ptr(), len(x), out.data_ptr(), threads)
    return out


@pytest.mark.parametrize("is_rounded", [True, False])
@pytest.mark.parametrize(("rows", "cols"), [(70, 1056), (39, 37), (33, 5003), (6, 20), (65, 32)])
def test_rows_have_the_same_bits_beside_any_others(instructions: str, rows: int, cols: int, is_rounded: bool) -> None:
    """Columns that are no whole vectors, rows that are no whole blocks, numbers of rows around those of a tile."""
    x, weight, bias = torch.randn(100, cols), torch.randn(rows, cols).bfloat16(), torch.randn(rows)
    x = x.bfloat16().float() if is_rounded else x
    alone = torch.cat([product_in_fp32(row[None], weight, bias) for row in x])
    for count, threads in product((1, 2, 3, 4, 5, 7, 16, 17, 100), (1, 2)):
        assert torch.equal(product_in_fp32(x[-count:], weight, bias, threads), alone[-count:]), (count, threads)
    exact = F.linear(x.double(), weight.double(), bias.double())
    added = F.linear(x.double().abs(), weight.double().abs(), bias.double().abs())
    rounding = 2**-8 if instructions in ("avx512_bf16", "amx") and not is_rounded else 0
    assert ((alone - exact).abs() <= added * (cols * 2**-24 + rounding)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("count", [1, 8, 40])
def test_what_is_no_number_stays_in_its_row_of_bfloat16(instructions: str, count: int, bad: float) -> None:
    x, weight = torch.randn(count, 70).bfloat16(), torch.randn(45, 70).bfloat16()
    expected, place = batch_invariant_linear(x, weight), count // 2
    x[place, 66] = bad
    got = batch_invariant_linear(x, weight)
    assert not got[place].isfinite().any()
    others = torch.arange(count) != place
    assert torch.equal(got[others], expected[others])
