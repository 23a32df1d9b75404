"""Packed bytes: the layout that the module describes, byte by byte, and back."""

import math
from itertools import product

import pytest
import torch

from seed_oss.errors import CheckpointError, InputError
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat, dividing_group
from seed_oss.ops.packing import has_finite_params, pack, packed_bytes, record_bytes, unpack

FORMATS = [
    QuantFormat(bits, group, zero, dtype)  # type: ignore[arg-type]
    for bits, group, zero, dtype in product(
        (4, 8), (4, 16, 32, 64), ("symmetric", "minimum", "point"), ("float16", "float32")
    )
]


def random_weight(format: QuantFormat, rows: int, columns: int, seed: int = 0) -> GroupedWeight:
    generator = torch.Generator().manual_seed(seed)
    groups = (rows, columns // format.group_size)
    dtype = getattr(torch, format.param_dtype)

    def integers(*shape: int) -> torch.Tensor:
        return torch.randint(0, 2**format.bits, shape, generator=generator, dtype=torch.uint8)

    def params() -> torch.Tensor:
        return (0.1 * torch.randn(groups, generator=generator)).to(dtype)

    return GroupedWeight(
        format,
        integers(rows, columns),
        params(),
        params() if format.zero == "minimum" else None,
        integers(*groups) if format.zero == "point" else None,
    )


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("rows", [1, 32, 45])
def test_back_and_forth(format: QuantFormat, rows: int) -> None:
    weight = random_weight(format, rows, 2 * format.group_size)
    packed = pack(weight)
    assert packed.numel() == packed_bytes(format, rows, 2 * format.group_size)
    again = unpack(packed, format, rows, 2 * format.group_size)
    for name in ("q", "scale", "minimum", "zero_point"):
        first, second = getattr(weight, name), getattr(again, name)
        assert (first is None and second is None) or torch.equal(first, second)


def test_every_byte_stands_where_the_layout_says() -> None:
    format = QuantFormat(4, 8, "point")
    weight = random_weight(format, 40, 24)
    packed = pack(weight).tolist()
    size = record_bytes(format)
    assert size == 64 + 16 + 128
    for row, column in ((0, 0), (7, 13), (16, 3), (31, 23), (39, 8)):
        block, in_block = divmod(row, 32)
        group, in_group = divmod(column, 8)
        quad, j = divmod(in_group, 4)
        record = (block * 3 + group) * size
        byte = packed[record + 80 + 64 * quad + 4 * (in_block % 16) + j]
        assert (byte >> 4 if in_block >= 16 else byte & 15) == int(weight.q[row, column])
        point = packed[record + 64 + in_block % 16]
        assert weight.zero_point is not None
        assert (point >> 4 if in_block >= 16 else point & 15) == int(weight.zero_point[row, group])
        scale = torch.tensor(packed[record + 2 * in_block : record + 2 * in_block + 2], dtype=torch.uint8)
        assert torch.equal(scale.view(torch.float16), weight.scale[row, group : group + 1])


@pytest.mark.parametrize(
    ("zero", "wanted"),
    [("symmetric", (5 - 8) * 0.5), ("minimum", 5 * 0.5 - 2.0), ("point", (5 - 3) * 0.5)],
)
def test_what_an_integer_means(zero: str, wanted: float) -> None:
    format = QuantFormat(4, 4, zero)  # type: ignore[arg-type]
    weight = GroupedWeight(
        format,
        torch.full((1, 4), 5, dtype=torch.uint8),
        torch.full((1, 1), 0.5, dtype=torch.float16),
        torch.full((1, 1), -2.0, dtype=torch.float16) if zero == "minimum" else None,
        torch.full((1, 1), 3, dtype=torch.uint8) if zero == "point" else None,
    )
    assert weight.dequantize().tolist() == [[wanted] * 4]


def test_bits_per_weight() -> None:
    assert QuantFormat(4, 32).bits_per_weight == 4.5
    assert QuantFormat(4, 32, "minimum").bits_per_weight == 5.0
    assert QuantFormat(4, 32, "point").bits_per_weight == 4.625
    assert QuantFormat(8, 32).bits_per_weight == 8.5


def test_groups_that_do_not_divide() -> None:
    assert dividing_group(32, 64) == 32
    assert dividing_group(128, 96) == 96
    assert dividing_group(128, 192) == 96
    assert dividing_group(64, 96) == 48
    assert dividing_group(32, 48) == 24
    assert dividing_group(30, 56) == 28
    assert dividing_group(128, 1000) == 100
    assert dividing_group(32, 37) is None
    assert dividing_group(None, 40) == 40
    with pytest.raises(InputError, match="48 columns cannot be cut into groups of 32"):
        packed_bytes(QuantFormat(4, 32), 8, 48)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="4 or 8 bits"):
        QuantFormat(3, 32)
    with pytest.raises(InputError, match="multiple of 4"):
        QuantFormat(4, 6)
    format = QuantFormat(4, 32)
    with pytest.raises(CheckpointError, match="takes 576 bytes, and 575"):
        unpack(torch.zeros(575, dtype=torch.uint8), format, 1, 32)
    with pytest.raises(InputError, match="minimum is missing"):
        GroupedWeight(
            QuantFormat(4, 4, "minimum"), torch.zeros(1, 4, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.float16)
        )


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("zero", ["symmetric", "minimum", "point"])
@pytest.mark.parametrize("bits", [4, 8])
def test_params_that_are_no_numbers_are_found(bits: int, zero: str, dtype: str) -> None:
    """Anywhere, wherever the bytes begin; integers and zero points may look like them."""
    format = QuantFormat(bits, 8, zero, dtype)  # type: ignore[arg-type]
    weight = random_weight(format, 70, 24)
    weight.q.fill_(2**bits - 1)
    if weight.zero_point is not None:
        weight.zero_point.fill_(2**bits - 1)
    for part in (weight.scale, weight.minimum):
        if part is None:
            continue
        for place, bad in ((0, math.nan), (-1, math.inf), (100, -math.inf)):
            packed = pack(weight)
            assert has_finite_params(torch.cat((packed[:1], packed))[1:], format)
            part.view(-1)[place], kept = bad, part.view(-1)[place].clone()
            assert not has_finite_params(pack(weight), format)
            part.view(-1)[place] = kept
