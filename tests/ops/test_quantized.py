"""Products with quantized weights: every instruction set against the readable form; equal bits for any batch."""

from itertools import product

import pytest
import torch

from seed_oss.errors import CheckpointError, InputError
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.packing import pack
from seed_oss.ops.quantized import (
    act_group,
    quantized_embedding,
    quantized_linear,
    quantized_linear_reference,
    round_activations,
    round_rows,
    round_rows_reference,
)
from tests.ops.test_packing import random_weight

FORMATS = list(product((4, 8), ("symmetric", "minimum", "point"), ("float16", "float32")))
# group, columns
GROUPS = [(32, 128), (64, 128), (128, 128), (16, 48), (40, 40), (4, 12), (24, 48), (96, 192), (100, 300)]
RELATIVE = 2e-6  # fp32 sums of up to 300 numbers


def random_rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("bits", "zero", "dtype"), FORMATS)
@pytest.mark.parametrize(("group", "columns"), GROUPS)
def test_products_equal_the_readable_form(
    instructions: str, bits: int, zero: str, dtype: str, group: int, columns: int
) -> None:
    format = QuantFormat(bits, group, zero, dtype)  # type: ignore[arg-type]
    for rows in (5, 32, 77):
        packed = pack(random_weight(format, rows, columns))
        x, bias = random_rows(23, columns), random_rows(rows, seed=1)
        out = quantized_linear(x, packed, format, (rows, columns), bias)
        wanted = quantized_linear_reference(x.double(), packed, format, (rows, columns), bias)
        assert (out - wanted).abs().max() <= RELATIVE * wanted.abs().max()


@pytest.mark.parametrize(("bits", "zero", "dtype"), FORMATS)
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_threads(
    instructions: str, bits: int, zero: str, dtype: str
) -> None:
    format = QuantFormat(bits, 32, zero, dtype)  # type: ignore[arg-type]
    packed, x = pack(random_weight(format, 77, 128)), random_rows(205, 128)
    whole = quantized_linear(x, packed, format, (77, 128))
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        for first, count in ((0, 1), (1, 2), (5, 5), (9, 8), (20, 9), (100, 105)):
            part = quantized_linear(x[first : first + count], packed, format, (77, 128))
            assert torch.equal(part, whole[first : first + count])
    torch.set_num_threads(before)


def test_activations_are_rounded_to_the_nearest(instructions: str) -> None:
    """A weight of ones and a scale of one adds up what the kernel makes of the activations."""
    format = QuantFormat(8, 32)
    weight = random_weight(format, 1, 64)
    weight.q.fill_(129)
    weight.scale.fill_(1.0)
    x = random_rows(50, 64) * torch.logspace(-20, 20, 50)[:, None]
    out = quantized_linear(x, pack(weight), format, (1, 64))
    wanted = round_activations(x, 32).double().sum(-1, keepdim=True)
    assert torch.allclose(out.double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_stays_in_its_row(instructions: str, bad: float) -> None:
    format = QuantFormat(4, 32)
    packed, x = pack(random_weight(format, 40, 64)), random_rows(12, 64)
    clean = quantized_linear(x, packed, format, (40, 64))
    x[3, 50] = bad
    out = quantized_linear(x, packed, format, (40, 64))
    assert out[3].isnan().all()
    kept = torch.arange(12) != 3
    assert torch.equal(out[kept], clean[kept])


def test_zeros_give_zero(instructions: str) -> None:
    format = QuantFormat(4, 32, "minimum")
    packed = pack(random_weight(format, 33, 64))
    assert torch.equal(quantized_linear(torch.zeros(2, 64), packed, format, (33, 64)), torch.zeros(2, 33))


@pytest.mark.parametrize("largest", [1e-45, 1e-39, 1e-38, 3e-37, 1e-36])
def test_activations_that_are_next_to_nothing_give_next_to_nothing(instructions: str, largest: float) -> None:
    """127 / largest is infinite below 3.7e-37."""
    for zero in ("symmetric", "minimum", "point"):
        format = QuantFormat(4, 32, zero)  # type: ignore[arg-type]
        packed, x = pack(random_weight(format, 33, 64)), torch.zeros(2, 64)
        x[0, 3], x[0, 40] = largest, 1.0
        out = quantized_linear(x, packed, format, (33, 64))
        assert (out - quantized_linear_reference(x, packed, format, (33, 64))).abs().max() < 1e-6
        x[0, 40] = 0
        for product_of in (quantized_linear, quantized_linear_reference):
            assert product_of(x, packed, format, (33, 64)).abs().max() < 1e-28
    for form in (round_rows, round_rows_reference):
        integers, scale = form(x, 32)
        assert (integers.view(2, 2, 32) * scale[..., None]).abs().max() <= 2 * largest


def test_values_at_the_ends_of_their_range_do_not_overflow(instructions: str) -> None:
    format = QuantFormat(8, 1024)
    weight = random_weight(format, 32, 1024)
    for q, x in product((0, 255), (-1.0, 1.0)):
        weight.q.fill_(q)
        out = quantized_linear(torch.full((7, 1024), x), pack(weight), format, (32, 1024))
        wanted = quantized_linear_reference(torch.full((7, 1024), x), pack(weight), format, (32, 1024))
        assert torch.allclose(out, wanted, rtol=1e-5)


def test_no_rows_and_other_dtypes() -> None:
    format = QuantFormat(4, 32)
    packed = pack(random_weight(format, 40, 64))
    assert quantized_linear(torch.empty(0, 64), packed, format, (40, 64)).shape == (0, 40)
    x = random_rows(2, 3, 64)
    out = quantized_linear(x.bfloat16(), packed, format, (40, 64))
    assert out.dtype == torch.bfloat16
    assert out.shape == (2, 3, 40)
    assert torch.equal(out, quantized_linear(x.bfloat16().float(), packed, format, (40, 64)).bfloat16())


def test_a_gradient_goes_through() -> None:
    format = QuantFormat(4, 32)
    weight = random_weight(format, 40, 64)
    x = random_rows(3, 64).requires_grad_()
    quantized_linear(x, pack(weight), format, (40, 64)).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, weight.dequantize().sum(0).expand(3, -1), atol=1e-5)


def test_wrong_width_is_told() -> None:
    format = QuantFormat(4, 32)
    with pytest.raises(InputError, match=r"takes 64 columns"):
        quantized_linear(torch.zeros(2, 32), pack(random_weight(format, 8, 64)), format, (8, 64))
    for wrong in (torch.tensor(1.0), torch.zeros(2, 64, dtype=torch.int64)):
        with pytest.raises(InputError, match=r"takes 64 columns of floats"):
            quantized_linear(wrong, pack(random_weight(format, 8, 64)), format, (8, 64))


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", ["shorter", "empty", "floats", "more rows", "elsewhere"])
def test_a_packed_weight_that_is_none_is_not_read(instructions: str, name: str, gradient: bool) -> None:
    """By direct calls, too, on whatever way the product takes."""
    format, shape = QuantFormat(4, 32), (8, 64)
    whole = pack(random_weight(format, *shape))
    wrong = {"shorter": whole[:-1], "empty": whole[:0], "floats": whole.float(), "elsewhere": whole.to("meta")}
    packed, shape = wrong.get(name, whole), (40, 64) if name == "more rows" else shape
    error = InputError if name == "elsewhere" else CheckpointError
    with pytest.raises(error):
        quantized_linear(torch.zeros(2, 64, requires_grad=gradient), packed, format, shape)
    with pytest.raises(error):
        quantized_embedding(torch.tensor([0]), packed, format, shape)


@pytest.mark.parametrize("bias", [torch.zeros(7), torch.zeros(8, dtype=torch.bfloat16), torch.zeros(1, 8)])
def test_a_bias_that_is_none_is_not_read(instructions: str, bias: torch.Tensor) -> None:
    format = QuantFormat(4, 32)
    with pytest.raises(InputError, match=r"give fp32 \[8\]"):
        quantized_linear(torch.zeros(2, 64), pack(random_weight(format, 8, 64)), format, (8, 64), bias)


def test_weight_and_bias_may_lie_with_gaps(instructions: str) -> None:
    format, x, bias = QuantFormat(4, 32), random_rows(3, 64), random_rows(40, seed=1)
    packed = pack(random_weight(format, 40, 64))
    wanted = quantized_linear(x, packed, format, (40, 64), bias)
    gaps = packed.repeat_interleave(2)[::2], bias.repeat_interleave(2)[::2]
    assert torch.equal(quantized_linear(x, gaps[0], format, (40, 64), gaps[1]), wanted)


def test_ids_are_integers() -> None:
    format = QuantFormat(4, 32)
    for wrong in (torch.zeros(2), torch.zeros(2, dtype=torch.bool)):
        with pytest.raises(InputError, match="they must be integers"):
            quantized_embedding(wrong, pack(random_weight(format, 8, 64)), format, (8, 64))


@pytest.mark.parametrize(("bits", "zero", "dtype"), FORMATS)
def test_embedding_rows(bits: int, zero: str, dtype: str) -> None:
    format = QuantFormat(bits, 16, zero, dtype)  # type: ignore[arg-type]
    weight = random_weight(format, 70, 48)
    ids = torch.tensor([[0, 15, 16, 31], [32, 69, 47, 0]])
    rows = quantized_embedding(ids, pack(weight), format, (70, 48))
    wanted = weight.dequantize()[ids]
    assert (rows - wanted).abs().max() <= 1e-6 * wanted.abs().max()
    for wrong in (-1, 70):
        with pytest.raises(IndexError):
            quantized_embedding(torch.tensor([wrong]), pack(weight), format, (70, 48))


def test_compiled_and_eager_agree() -> None:
    format = QuantFormat(4, 32)
    packed, x = pack(random_weight(format, 40, 64)), random_rows(3, 64)

    def run(x: torch.Tensor) -> torch.Tensor:
        return quantized_linear(x, packed, format, (40, 64)) * 2

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), run(x))


def test_groups_of_activations() -> None:
    assert [act_group(QuantFormat(4, size)) for size in (4, 16, 32, 40, 96, 128)] == [4, 16, 32, 8, 32, 32]
