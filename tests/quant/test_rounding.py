"""Rounding: never worse than plain, as good as an exhaustive search, exact on numbers that lie on a grid."""

from itertools import product
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_oss.errors import InputError, NumericalError
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat
from seed_oss.quant.grids import find_grid
from seed_oss.quant.rounding import BLOCK_ELEMENTS, quantize_weight

KINDS = ("symmetric", "minimum", "point")
FORMATS = [QuantFormat(bits, group, zero) for bits, group, zero in product((4, 8), (8, 32, 640), KINDS)]  # type: ignore[arg-type]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def group_errors(weight: torch.Tensor, rounded: GroupedWeight, importance: torch.Tensor | float = 1.0) -> torch.Tensor:
    wrong = (rounded.dequantize().double() - weight.double()) ** 2 * importance
    return wrong.unflatten(-1, (-1, rounded.format.group_size)).sum(-1)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_search_is_better_than_plain(format: QuantFormat) -> None:
    weight = normal(7, 2 * format.group_size)
    plain, searched = (group_errors(weight, quantize_weight(weight, format, method)) for method in ("plain", "search"))  # type: ignore[arg-type]
    assert (searched <= plain * (1 + 1e-5)).all()
    assert searched.sum() < plain.sum() * (0.97 if format.bits == 4 else 1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    bits=st.sampled_from([4, 8]),
    zero=st.sampled_from(KINDS),
    method=st.sampled_from(["plain", "search"]),
    scale=st.floats(-20, 20),
    shift=st.floats(-3, 3),
    spikes=st.booleans(),
)
def test_no_number_is_further_than_the_grid_allows(
    seed: int, bits: int, zero: Any, method: Any, scale: float, shift: float, spikes: bool
) -> None:
    """Whatever the numbers are: finite, integers in range, and no group's error above that of writing zeros.

    Groups that are tiny beside the tensor's largest number have scales at the end of fp16: wrong by 2^-25 a step.
    """
    format = QuantFormat(bits, 16, zero)
    weight = (normal(5, 48, seed=seed) + shift) * 2.0**scale
    if spikes:
        weight[normal(5, 48, seed=seed + 1) > 2] *= 50
    rounded = quantize_weight(weight, format, method)
    assert int(rounded.q.max()) < 2**bits
    assert rounded.dequantize().isfinite().all()
    zeros = (weight.double() ** 2).unflatten(-1, (-1, 16)).sum(-1)
    end_of_fp16 = 0.0 if rounded.format.param_dtype == "float32" else 16 * 2.0 ** (2 * bits - 50)
    assert (group_errors(weight, rounded) <= zeros * 1.001 + end_of_fp16).all()
    plain = quantize_weight(weight, format, "plain")
    assert (group_errors(weight, rounded) <= group_errors(weight, plain) * (1 + 1e-4) + 1e-14).all()


@pytest.mark.parametrize("zero", KINDS)
def test_search_comes_near_an_exhaustive_one(zero: Any) -> None:
    """Every scale in fine steps, with every zero point, or with minimums in fine steps."""
    format, numbers = QuantFormat(4, 32, zero), normal(32, 300)
    found = float(find_grid(numbers, format).error(numbers, None).mean())
    low, high = numbers.amin(0), numbers.amax(0)
    best = torch.full_like(low, torch.inf)
    widest = torch.maximum(-low, high)
    for share in torch.arange(0.5, 1.2, 0.01):
        scale = (widest / 8 if zero == "symmetric" else (high - low) / 15) * share
        offsets = {
            "symmetric": [-8 * scale, -7 * scale],
            "point": [-point * scale for point in range(16)],
            "minimum": [low + scale * step for step in torch.arange(-0.5, 2, 0.1)],
        }[zero]
        for offset in offsets:
            q = ((numbers - offset) / scale).round().clamp(0, 15)
            best = torch.minimum(best, ((q * scale + offset - numbers) ** 2).sum(0))
    assert found < 1.06 * float(best.mean())


@pytest.mark.parametrize("zero", KINDS)
def test_errors_go_where_they_count_least(zero: Any) -> None:
    weight, importance = normal(16, 64), normal(64, seed=1).exp()
    format = QuantFormat(4, 32, zero)
    plain = group_errors(weight, quantize_weight(weight, format), importance).sum()
    weighted = group_errors(weight, quantize_weight(weight, format, importance=importance), importance).sum()
    assert weighted < 0.97 * plain
    same = quantize_weight(weight, format, importance=torch.full((64,), 2.0))
    assert torch.equal(same.q, quantize_weight(weight, format).q)


@pytest.mark.parametrize("method", ["plain", "search"])
@pytest.mark.parametrize("group", [32, 512])
def test_numbers_on_a_grid_come_back_bit_for_bit(method: Any, group: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(0, 16, (9, 2 * group), generator=generator, dtype=torch.uint8)
    q[:, ::group], q[:, 1::group] = 0, 15
    params = [(normal(9, 2, seed=seed) * 0.01).abs().half() for seed in (1, 2)]
    weight = GroupedWeight(QuantFormat(4, group, "minimum"), q, params[0], -params[1])
    rounded = quantize_weight(weight.dequantize(), weight.format, method)
    assert torch.equal(rounded.q, q)
    assert torch.equal(rounded.scale, params[0])
    assert rounded.minimum is not None
    assert torch.equal(rounded.minimum, -params[1])


@pytest.mark.parametrize(
    ("name", "zero", "bits"), [("Q4_0", "symmetric", 4), ("Q4_1", "minimum", 4), ("Q8_0", "symmetric", 8)]
)
def test_plain_is_the_gguf_packages_rounding(name: str, zero: Any, bits: int) -> None:
    """An oracle of its own. Theirs picks integers for the unrounded scale; Q8_0 leaves -128 unused."""
    weight = normal(64, 256) * 0.05
    kind = gguf.GGMLQuantizationType[name]
    theirs = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind))
    ours = quantize_weight(weight, QuantFormat(bits, 32, zero), "plain").dequantize()
    assert float((ours - weight).square().mean()) < 1.005 * float((theirs - weight).square().mean())
    if bits == 4:
        assert float((ours - theirs).abs().gt(1e-6).float().mean()) < 0.01


@pytest.mark.parametrize("format", FORMATS[:3] + FORMATS[6:9], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zeros_stay_zeros(format: QuantFormat, dtype: torch.dtype) -> None:
    weight = torch.zeros(3, 2 * format.group_size, dtype=dtype)
    weight[1, 0] = 1
    rounded = quantize_weight(weight, format).dequantize()
    assert (rounded[[0, 2]] == 0).all()
    assert (rounded[1] - weight[1].float()).abs().max() < 0.01


@pytest.mark.parametrize("size", [1e6, 1e30, 1e-5, 1e-30])
@pytest.mark.parametrize("zero", KINDS)
def test_sizes_that_fp16_has_no_place_for_get_fp32_scales(size: float, zero: Any) -> None:
    weight = normal(4, 64) * 0.3 * size
    rounded = quantize_weight(weight, QuantFormat(4, 32, zero))
    assert rounded.format.param_dtype == "float32"
    wrong = rounded.dequantize().double() - weight.double()
    assert float(wrong.norm() / weight.double().norm()) < 0.15
    for bits, largest in ((4, 3.2e-5), (8, 5e-4), (8, 6.5e4)):
        weight = normal(4, 64) / normal(4, 64).abs().max() * largest
        rounded = quantize_weight(weight, QuantFormat(bits, 32, zero))
        assert rounded.format.param_dtype == "float16"
        wrong = rounded.dequantize().double() - weight.double()
        assert float(wrong.norm() / weight.double().norm()) < (0.15 if bits == 4 else 0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(bad: float) -> None:
    weight = normal(8, 64)
    weight[5, 3] = bad
    with pytest.raises(NumericalError, match=r"q_proj.*NaN or infinity, first in row 5"):
        quantize_weight(weight, QuantFormat(4, 32), name="layers.0.q_proj")


def test_what_does_not_fit_is_refused() -> None:
    weight, format = normal(8, 64), QuantFormat(4, 32)
    with pytest.raises(InputError, match=r"torch.int64 \[8\]; a matrix"):
        quantize_weight(torch.arange(8), format)
    with pytest.raises(InputError, match="groups of 32"):
        quantize_weight(normal(8, 48), format)
    with pytest.raises(InputError, match=r"importance is \[3\]"):
        quantize_weight(weight, format, importance=torch.ones(3))
    with pytest.raises(InputError, match="none negative"):
        quantize_weight(weight, format, importance=-torch.ones(64))
    with pytest.raises(NumericalError, match="the importance for"):
        quantize_weight(weight, format, importance=torch.full((64,), torch.nan))


@pytest.mark.parametrize("zero", KINDS)
def test_each_group_is_rounded_for_itself(zero: Any) -> None:
    """However a weight is cut into pieces: here into single groups, and by the function into blocks of rows."""
    weight, importance, format = (
        normal(BLOCK_ELEMENTS // 96 + 9, 96),
        normal(96, seed=1).exp(),
        QuantFormat(4, 32, zero),
    )
    whole = quantize_weight(weight, format, importance=importance).dequantize()
    for row in (0, BLOCK_ELEMENTS // 96 - 1, BLOCK_ELEMENTS // 96, len(weight) - 1):
        for columns in (slice(0, 32), slice(64, 96)):
            piece = weight[row : row + 1, columns]
            alone = quantize_weight(piece, format, importance=importance[columns]).dequantize()
            torch.testing.assert_close(whole[row, columns], alone[0], atol=1e-6, rtol=0)


def test_a_parameter_leaves_no_graph_behind() -> None:
    rounded = quantize_weight(torch.nn.Parameter(normal(4, 32)), QuantFormat(4, 32))
    assert not rounded.scale.requires_grad
