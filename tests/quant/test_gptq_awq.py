"""GPTQ and AWQ against numpy written from the formats' descriptions, and against words written by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat
from seed_oss.quant.awq import AWQLayout
from seed_oss.quant.gptq import GPTQLayout
from seed_oss.quant.stored_layout import ForeignWeight, StoredLayout, read_module, with_float16_params
from tests.quant.foreign_files import Numbers, awq_tensors, gptq_tensors, random_numbers


def grouped(result: ForeignWeight) -> GroupedWeight:
    assert isinstance(result.weight, GroupedWeight)
    return result.weight


def check(layout: StoredLayout, tensors: dict[str, Tensor], numbers: Numbers) -> ForeignWeight:
    """Read, and compare every value; the kept tensors stay as they are."""
    expected = numbers.weight()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    result = read_module(layout, "m", expected.shape, tensors)
    assert np.array_equal(result.dequantize().numpy(), expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors.items())
    format = layout.quant_format(expected.shape[1], tensors)
    assert grouped(result).format == format
    return result


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("columns", "group_size"), [(64, 16), (64, None), (96, 32), (64, 128)])
@pytest.mark.parametrize("shuffled", [False, True])
def test_gptq(bits: int, version: int, columns: int, group_size: int | None, shuffled: bool) -> None:
    numbers = random_numbers(40, columns, group_size or columns, bits=bits, shuffled=shuffled)
    assert (numbers.zero == 0).any() or bits == 8 or group_size is None or group_size == 128
    layout = GPTQLayout(bits, group_size, is_version_2=version == 2)
    result = check(layout, gptq_tensors(numbers, bits=bits, version=version), numbers)
    is_reordered = shuffled and (group_size or columns) < columns
    assert (result.column_order is not None) == is_reordered
    x = torch.randn(3, columns, dtype=torch.float64)
    if result.column_order is not None:
        sorted_weight = grouped(result).dequantize().double()
        assert torch.allclose(
            x[:, result.column_order] @ sorted_weight.T, x @ torch.from_numpy(numbers.weight()).double().T
        )


@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_symmetric_of_either_version(bits: int) -> None:
    numbers = random_numbers(16, 32, 16, bits=bits, symmetric=True)
    for version in (1, 2):  # whatever config.json says
        for says_2 in (False, True):
            layout = GPTQLayout(bits, 16, is_symmetric=True, is_version_2=says_2)
            result = check(layout, gptq_tensors(numbers, bits=bits, version=version, g_idx=False), numbers)
            assert grouped(result).format == QuantFormat(bits, 16)
    numbers.zero[1, 3] = 3
    with pytest.raises(CheckpointError, match=r"m\.qzeros must hold .* set sym to false"):
        check(layout, gptq_tensors(numbers, bits=bits, version=2), numbers)
    numbers.zero[:] = 3
    with pytest.raises(CheckpointError, match="set sym to false"):
        check(layout, gptq_tensors(numbers, bits=bits, version=2), numbers)


@pytest.mark.parametrize("shuffled", [False, True])
def test_gptq_last_group_is_shorter(shuffled: bool) -> None:
    numbers = random_numbers(8, 80, 32, shuffled=shuffled)
    result = check(GPTQLayout(4, 32), gptq_tensors(numbers), numbers)
    assert grouped(result).format == QuantFormat(4, 16, "point")


def test_gptq_groups_without_a_common_width() -> None:
    numbers = random_numbers(8, 40, 18)
    with pytest.raises(UnsupportedModelError, match="groups of 18 in rows of 40 columns"):
        read_module(GPTQLayout(4, 18), "m", (8, 40), gptq_tensors(numbers))


def test_gptq_by_hand() -> None:
    """Output 0 has the inputs 0..7 in its word; zero points 8 - k are stored as 7 - k; scale 0.5."""
    columns = torch.tensor([0x76543210] + [0x11111111] * 7, dtype=torch.int32)
    tensors = {
        "qweight": columns[None],
        "qzeros": torch.tensor([[0x01234567]], dtype=torch.int32),
        "scales": torch.full((1, 8), 0.5, dtype=torch.float16),
    }
    weight = read_module(GPTQLayout(4, None), "m", (8, 8), tensors).dequantize()
    assert weight[0].tolist() == [-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5]
    assert weight[:, 1].tolist() == [-3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0]


def test_gptq_stored_15_is_a_zero_point_of_0_that_borrowed() -> None:
    """The word 0x01F00850 minus 0x11111111 is 0xF0DEF73F: 15 for 0, and one less in the next number."""
    numbers = Numbers(
        np.arange(64).reshape(8, 8) % 16,
        np.array([[0, 5, 8, 0, 0, 15, 1, 0]]),
        np.ones((1, 8), np.float16),
        np.zeros(8, np.int64),
    )
    tensors = gptq_tensors(numbers)
    assert tensors["qzeros"].view(torch.uint8).tolist() == [[0x3F, 0xF7, 0xDE, 0xF0]]
    check(GPTQLayout(4, None), tensors, numbers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scales_of_other_dtypes_stay_exact(dtype: torch.dtype) -> None:
    numbers = random_numbers(8, 32, 16)
    tensors = gptq_tensors(numbers)
    tensors["scales"] = tensors["scales"].to(dtype)
    numbers.scale = tensors["scales"].float().numpy()
    weight = grouped(check(GPTQLayout(4, 16), tensors, numbers))
    assert weight.format.param_dtype == "float32"
    narrow = with_float16_params(weight)
    assert narrow is not None
    assert narrow.format == QuantFormat(4, 16, "point")
    assert torch.equal(narrow.dequantize(), weight.dequantize())
    tensors["scales"][0, 0] = 1e-9
    assert with_float16_params(grouped(read_module(GPTQLayout(4, 16), "m", (8, 32), tensors))) is None


@pytest.mark.parametrize("group_size", [16, 32, None])
def test_awq(group_size: int | None) -> None:
    numbers = random_numbers(40, 64, group_size or 64)
    check(AWQLayout(group_size), awq_tensors(numbers), numbers)


def test_awq_by_hand() -> None:
    """Outputs 0..7 hold 0..7: the word's nibbles are outputs 0 2 4 6 1 3 5 7, lowest first."""
    tensors = {
        "qweight": torch.tensor([[0x75316420]] * 4, dtype=torch.int32),
        "qzeros": torch.tensor([[0x00000001]], dtype=torch.int32),
        "scales": torch.arange(1, 9, dtype=torch.float16)[None],
    }
    weight = read_module(AWQLayout(None), "m", (8, 4), tensors).dequantize()
    assert weight.T.tolist() == [[-1, 2, 6, 12, 20, 30, 42, 56]] * 4


def test_awq_sizes() -> None:
    tensors = awq_tensors(random_numbers(8, 32, 16))
    for shape, size in (((12, 32), 16), ((8, 32), 24)):
        with pytest.raises(CheckpointError, match="does not fill words of 8 outputs"):
            read_module(AWQLayout(size), "m", shape, tensors)
    with pytest.raises(UnsupportedModelError, match="groups of 2 columns cannot be held"):
        read_module(AWQLayout(2), "m", (8, 32), awq_tensors(random_numbers(8, 32, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qweight": None}, r"m\.qweight is missing \(GPTQ, 4 bits, groups of 16, a weight \[8, 32\]\)"),
        ({"scales": None}, r"m\.scales is missing"),
        ({"qweight": torch.zeros(4, 8)}, r"m\.qweight is float32 \[4, 8\]; it must be int32 \[4, 8\]"),
        ({"qweight": torch.zeros(8, 8, dtype=torch.int32)}, r"m\.qweight is int32 \[8, 8\]; it must be int32 \[4, 8\]"),
        ({"qzeros": torch.zeros(1, 1, dtype=torch.int32)}, r"m\.qzeros is int32 \[1, 1\]"),
        ({"scales": torch.full((2, 8), float("nan"), dtype=torch.float16)}, r"m\.scales holds NaN or infinity"),
        ({"scales": torch.full((2, 8), float("inf"), dtype=torch.float16)}, r"m\.scales holds NaN or infinity"),
        ({"g_idx": torch.tensor([2] + [0] * 31, dtype=torch.int32)}, r"m\.g_idx names group 2; 32 columns"),
        ({"g_idx": torch.tensor([-1] + [0] * 31, dtype=torch.int32)}, r"m\.g_idx names group -1"),
        ({"g_idx": torch.tensor([1] + [0] * 31, dtype=torch.int32)}, r"m\.g_idx puts 31 columns into group 0; .*be 16"),
        ({"g_idx": torch.zeros(31, dtype=torch.int32)}, r"m\.g_idx is int32 \[31\]"),
    ],
)
def test_gptq_refuses(change: dict[str, Tensor | None], message: str) -> None:
    tensors = {**gptq_tensors(random_numbers(8, 32, 16)), **change}
    with pytest.raises(CheckpointError, match=message) as caught:
        read_module(GPTQLayout(4, 16), "m", (8, 32), {name: one for name, one in tensors.items() if one is not None})
    assert "fetch the folder again" in str(caught.value)


def test_gptq_needs_the_order_it_announces() -> None:
    tensors = gptq_tensors(random_numbers(8, 32, 16), g_idx=False)
    read_module(GPTQLayout(4, 16), "m", (8, 32), tensors)
    with pytest.raises(CheckpointError, match=r"m\.g_idx is missing"):
        read_module(GPTQLayout(4, 16, needs_g_idx=True), "m", (8, 32), tensors)


def test_gptq_words_must_be_full() -> None:
    with pytest.raises(CheckpointError, match="does not fill words of 8 numbers"):
        read_module(GPTQLayout(4, 16), "m", (8, 36), gptq_tensors(random_numbers(8, 32, 16)))


def test_a_default_device_does_not_matter() -> None:
    numbers = random_numbers(16, 32, 16, shuffled=True)
    for layout, tensors in ((GPTQLayout(4, 16), gptq_tensors(numbers)), (AWQLayout(16), awq_tensors(numbers))):
        with torch.device("meta"):
            result = read_module(layout, "m", (16, 32), tensors)
        assert grouped(result).q.device.type == "cpu"
