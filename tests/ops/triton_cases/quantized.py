"""Kernels over packed weights against the numbers that the weights stand for."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.packing import pack
from seed_oss.ops.quantized import embedding_of_blocks
from seed_oss.ops.triton.quantized import MAX_ROWS, Tiling, dequantized, embedding, quantized_linear
from tests.ops.test_packing import random_weight

# group, columns: whole tiles, several groups in a tile, a group in several tiles, and what fits nothing
GROUPS = [(32, 96), (64, 320), (128, 256), (4, 12), (40, 40), (48, 144), (132, 264)]
CASES = [
    (bits, zero, param_dtype, *group)
    for (bits, zero, param_dtype), group in product(
        product((4, 8), ("symmetric", "minimum", "point"), ("float16", "float32")), GROUPS
    )
    if param_dtype == "float16" or group[0] in (32, 48)
]
RELATIVE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
DTYPES = list(RELATIVE)


def random_rows(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(dtype)


def is_close(out: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> bool:
    return bool((out.double() - wanted.double()).abs().max() <= RELATIVE[dtype] * wanted.abs().max())


@pytest.mark.parametrize(("bits", "zero", "param_dtype", "group", "columns"), CASES)
def test_every_format(bits: int, zero: str, param_dtype: str, group: int, columns: int) -> None:
    format, features = QuantFormat(bits, group, zero, param_dtype), 45  # type: ignore[arg-type]
    weight, shape = random_weight(format, features, columns), (features, columns)
    packed, numbers = pack(weight), weight.dequantize()
    assert torch.allclose(dequantized(packed, format, shape, torch.float32), numbers, rtol=1e-6, atol=1e-6)
    x, bias = random_rows(3, columns), random_rows(features)
    out = quantized_linear(x, packed, format, shape, bias)
    assert is_close(out, F.linear(x.double(), numbers.double(), bias.double()), torch.float32)
    ids = torch.tensor([[0, 15, 16], [31, 32, 44]])
    rows = embedding(ids, packed, format, shape)
    assert torch.allclose(rows, numbers[ids], rtol=1e-6, atol=1e-6)
    assert torch.equal(embedding_of_blocks(ids, packed, format, shape), numbers[ids])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 32), (33, 96), (130, 64)])
@pytest.mark.parametrize("num_rows", [1, 2, MAX_ROWS])
def test_shapes_and_dtypes(dtype: torch.dtype, shape: tuple[int, int], num_rows: int) -> None:
    format = QuantFormat(4, 32, "point")
    weight, x = random_weight(format, *shape), random_rows(num_rows, shape[1], dtype=dtype)
    out = quantized_linear(x, pack(weight), format, shape)
    assert out.dtype == dtype
    assert is_close(out, F.linear(x.double(), weight.dequantize(dtype).double()), dtype)
    assert is_close(dequantized(pack(weight), format, shape, dtype), weight.dequantize(), dtype)


def test_a_row_has_the_same_bits_in_any_batch() -> None:
    format = QuantFormat(4, 32, "minimum")
    packed, x = pack(random_weight(format, 70, 512)), random_rows(MAX_ROWS, 512)
    whole = quantized_linear(x, packed, format, (70, 512))
    for first, count in ((0, 1), (3, 2), (5, 11)):
        part = quantized_linear(x[first : first + count], packed, format, (70, 512))
        assert torch.equal(part, whole[first : first + count])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter's product
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_in_its_row(bad: float) -> None:
    format = QuantFormat(8, 48)
    packed, x = pack(random_weight(format, 40, 144)), random_rows(4, 144)
    clean = quantized_linear(x, packed, format, (40, 144))
    x[2, 143] = bad
    out = quantized_linear(x, packed, format, (40, 144))
    assert not out[2].isfinite().any()
    kept = [0, 1, 3]
    assert torch.equal(out[kept], clean[kept])


def test_no_rows_more_dimensions_and_a_transposed_input() -> None:
    format = QuantFormat(4, 32)
    weight = random_weight(format, 40, 64)
    packed = pack(weight)
    assert quantized_linear(torch.empty(0, 64), packed, format, (40, 64)).shape == (0, 40)
    assert embedding(torch.empty(0, dtype=torch.int64), packed, format, (40, 64)).shape == (0, 64)
    x = random_rows(64, 2, 3).permute(1, 2, 0)
    out = quantized_linear(x, packed, format, (40, 64))
    assert out.shape == (2, 3, 40)
    assert is_close(out, F.linear(x.double(), weight.dequantize().double()), torch.float32)


def test_an_id_that_is_out_of_range_shows() -> None:
    format = QuantFormat(4, 32)
    rows = embedding(torch.tensor([-1, 3, 40]), pack(random_weight(format, 40, 64)), format, (40, 64))
    assert rows[[0, 2]].isnan().all()
    assert rows[1].isfinite().all()


def test_programs_share_the_columns_of_a_real_weight() -> None:
    """q_proj and down_proj of Seed-OSS-36B: enough programs for every multiprocessor, and no tile is left out."""
    for shape in ((10240, 5120), (5120, 27648), (1024, 5120)):
        for format in (
            QuantFormat(4, 32, "point"),
            QuantFormat(8, shape[1]),
            QuantFormat(4, 48 if shape[1] % 48 == 0 else 40),
        ):
            tiling = Tiling.of(format, shape)
            assert tiling.splits * tiling.tiles_per_split >= tiling.tiles > (tiling.splits - 1) * tiling.tiles_per_split
            assert tiling.row_programs * tiling.splits >= 160
            assert tiling.tiles * tiling.pieces * tiling.span * 4 >= shape[1]
