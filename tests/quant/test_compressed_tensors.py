"""compressed-tensors' own compressors write, ours read: every value as theirs decompress it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from torch import Tensor

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat
from seed_oss.quant.compressed_tensors import IntegerLayout, PackedLayout
from seed_oss.quant.float8 import Float8Layout
from seed_oss.quant.scale_grid import ScaleGrid
from seed_oss.quant.stored_layout import StoredLayout, read_module

OUT, IN = 44, 96
GRIDS = {
    "tensor": (ScaleGrid(), {"strategy": "tensor"}),
    "channel": (ScaleGrid(1), {"strategy": "channel"}),
    "group": (ScaleGrid(1, 32), {"strategy": "group", "group_size": 32}),
    "block": (ScaleGrid(16, 32), {"strategy": "block", "block_structure": [16, 32]}),
}
# Their scales are [1], [out, 1], [out, groups], [blocks, blocks].
SCALE_SHAPES = {"tensor": (1,), "channel": (OUT, 1), "group": (OUT, 3), "block": (3, 3)}


def compressed(
    format: str, strategy: str, dtype: torch.dtype, *, seed: int = 0, **args: Any
) -> tuple[dict[str, Tensor], Tensor]:
    """What their compressor stores of a random weight, and what their decompressor makes of it."""
    generator = torch.Generator().manual_seed(seed)
    quantization = QuantizationArgs(**GRIDS[strategy][1], **args)
    scheme = QuantizationScheme(targets=["Linear"], weights=quantization)
    scale = (torch.rand(SCALE_SHAPES[strategy], generator=generator) * 0.01 + 0.001).to(dtype)
    high = 2 ** (quantization.num_bits - 1)
    weight = torch.randn(OUT, IN, generator=generator).to(dtype) * 0.006 * high
    state = {"weight": weight, "weight_scale": scale}
    if not quantization.symmetric:
        points = torch.randint(-high, high, SCALE_SHAPES[strategy], generator=generator)
        state["weight_zero_point"] = points.to(torch.int8)
    compressor: Any = BaseCompressor.get_value_from_registry(format)
    stored = compressor.compress(state, scheme)
    return stored, compressor.decompress(stored, scheme)["weight"]


def check(layout: StoredLayout, stored: dict[str, Tensor], expected: Tensor) -> GroupedWeight | Tensor:
    before = {name: tensor.clone() for name, tensor in stored.items()}
    result = read_module(layout, "m", (OUT, IN), stored, expected.dtype)
    assert len(expected.unique()) > 12
    assert torch.equal(result.dequantize(expected.dtype), expected)
    assert all(torch.equal(before[name].float(), tensor.float()) for name, tensor in stored.items())
    return result.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group"])
def test_packed(strategy: str, symmetric: bool, bits: int, dtype: torch.dtype) -> None:
    stored, expected = compressed("pack-quantized", strategy, dtype, num_bits=bits, symmetric=symmetric)
    weight = check(PackedLayout(bits, GRIDS[strategy][0], symmetric), stored, expected)
    assert isinstance(weight, GroupedWeight)
    group, params = 32 if strategy == "group" else IN, "float16" if dtype == torch.float16 else "float32"
    assert weight.format == QuantFormat(bits, group, "symmetric" if symmetric else "point", params)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group", "block"])
def test_integers(strategy: str, symmetric: bool, bits: int, dtype: torch.dtype) -> None:
    for format in ("int-quantized", "naive-quantized"):
        stored, expected = compressed(format, strategy, dtype, num_bits=bits, symmetric=symmetric)
        check(IntegerLayout(GRIDS[strategy][0], symmetric), stored, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("strategy", GRIDS)
def test_fp8(strategy: str, dtype: torch.dtype) -> None:
    stored, expected = compressed("float-quantized", strategy, dtype, num_bits=8, type="float")
    weight = check(Float8Layout(GRIDS[strategy][0]), stored, expected)
    assert isinstance(weight, Tensor)
    exact = read_module(Float8Layout(GRIDS[strategy][0]), "m", (OUT, IN), stored, torch.float32).dequantize()
    assert torch.equal(exact.to(dtype), expected)


def test_a_width_that_fills_no_word() -> None:
    """33 rows and 20 columns: words of 8 are filled up in both directions."""
    scheme = QuantizationScheme(targets=[], weights=QuantizationArgs(num_bits=4, symmetric=False, group_size=4))
    state = {
        "weight": torch.randn(33, 20),
        "weight_scale": torch.rand(33, 5) + 0.1,
        "weight_zero_point": torch.randint(-8, 8, (33, 5), dtype=torch.int8),
    }
    compressor: Any = BaseCompressor.get_value_from_registry("pack-quantized")
    stored = compressor.compress(state, scheme)
    assert stored["weight_packed"].shape == (33, 3)
    assert stored["weight_zero_point"].shape == (5, 5)
    result = read_module(PackedLayout(4, ScaleGrid(1, 4), False), "m", (33, 20), stored)
    assert torch.equal(result.dequantize(), compressor.decompress(stored, scheme)["weight"])


def test_by_hand() -> None:
    """Nibbles 0..7 stand for -8..-1."""
    stored = {
        "weight_packed": torch.tensor([[0x76543210]], dtype=torch.int32),
        "weight_scale": torch.tensor([[0.5, 2.0]]),
        "weight_shape": torch.tensor([1, 8]),
    }
    weight = read_module(PackedLayout(4, ScaleGrid(1, 4)), "m", (1, 8), stored).dequantize()
    assert weight.tolist() == [[-4, -3.5, -3, -2.5, -8, -6, -4, -2]]


def test_activation_order() -> None:
    """The package has dropped it; files have it. Column c belongs to group g_idx[c]."""
    order = torch.randperm(IN, generator=torch.Generator().manual_seed(1)) // 32
    for symmetric in (True, False):
        stored, _ = compressed("pack-quantized", "group", torch.float32, num_bits=4, symmetric=symmetric)
        layout = PackedLayout(4, ScaleGrid(1, 32), symmetric, needs_g_idx=True)
        stored["weight_g_idx"] = torch.full((IN,), -1, dtype=torch.int32)
        in_order = read_module(layout, "m", (OUT, IN), stored)
        assert in_order.column_order is None
        assert isinstance(in_order.weight, GroupedWeight)
        stored["weight_g_idx"] = order.int()
        result = read_module(layout, "m", (OUT, IN), stored)
        assert result.column_order is not None
        points = 8.0 if in_order.weight.zero_point is None else in_order.weight.zero_point.float()[:, order]
        expected = (in_order.weight.q.float() - points) * in_order.weight.scale[:, order]
        assert torch.equal(result.dequantize(), expected)
        del stored["weight_g_idx"]
        with pytest.raises(CheckpointError, match=r"m\.weight_g_idx is missing"):
            read_module(layout, "m", (OUT, IN), stored)


def test_zero_points_of_a_symmetric_weight() -> None:
    layout = PackedLayout(4, ScaleGrid(1, 32))
    stored, expected = compressed("pack-quantized", "group", torch.float32, num_bits=4)
    for points in (torch.zeros(OUT, 3, dtype=torch.int8), torch.full((6, 3), -0x77777778, dtype=torch.int32)):
        check(layout, {**stored, "weight_zero_point": points}, expected)
        points[-1, -1] = 1
        with pytest.raises(CheckpointError, match="says that the weights are symmetric"):
            check(layout, {**stored, "weight_zero_point": points}, expected)
    stored, _ = compressed("naive-quantized", "group", torch.float32, num_bits=8)
    stored["weight_zero_point"] = torch.ones(OUT, 3, dtype=torch.int8)
    with pytest.raises(CheckpointError, match="says that the weights are symmetric"):
        read_module(IntegerLayout(ScaleGrid(1, 32)), "m", (OUT, IN), stored)


@pytest.mark.parametrize("scale_name", ["weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_fp8_with_one_scale(scale_name: str, shape: tuple[int, ...]) -> None:
    weight = torch.tensor([[1.0, -448, 0.001953125, 2]]).to(torch.float8_e4m3fn)
    stored = {"weight": weight, scale_name: torch.full(shape, 0.25)}
    result = read_module(Float8Layout(ScaleGrid(), scale_name), "m", (1, 4), stored)
    assert result.dequantize().tolist() == [[0.25, -112, 0.00048828125, 0.5]]


@pytest.mark.parametrize("kind", [torch.uint8, torch.float8_e8m0fnu])
def test_fp8_scales_that_are_exponents(kind: torch.dtype) -> None:
    exponents = torch.tensor([[127, 120], [130, 1]], dtype=torch.uint8)
    stored = {"weight": torch.ones(3, 6).to(torch.float8_e4m3fn), "weight_scale_inv": exponents.view(kind)}
    layout = Float8Layout(ScaleGrid(2, 4), "weight_scale_inv")
    result = read_module(layout, "m", (3, 6), stored).dequantize()
    assert result[:, ::4].tolist() == [[1, 2**-7], [1, 2**-7], [8, 2.0**-126]]
    exponents[0, 0] = 255
    with pytest.raises(CheckpointError, match=r"m\.weight_scale_inv holds NaN"):
        read_module(layout, "m", (3, 6), stored)


def test_fp8_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, expected = compressed("float-quantized", "block", torch.bfloat16, num_bits=8, type="float")
    monkeypatch.setattr("seed_oss.quant.float8.PIECE_VALUES", 5 * IN)
    check(Float8Layout(GRIDS["block"][0]), stored, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_shape": torch.tensor([OUT, 95])}, r"m\.weight_shape holds \[44, 95\]; the model has \[44, 96\]"),
        ({"weight_shape": torch.tensor([-1, 2**62])}, r"m\.weight_shape holds"),
        (
            {"weight_shape": torch.zeros(3, dtype=torch.int64)},
            r"m\.weight_shape is int64 \[3\]; it must be int32 \[2\]",
        ),
        ({"weight_packed": torch.zeros(OUT, 24, dtype=torch.int32)}, r"m\.weight_packed is int32 \[44, 24\]"),
        ({"weight_packed": torch.zeros(OUT, 12, dtype=torch.int8)}, r"m\.weight_packed is int8"),
        ({"weight_scale": torch.full((OUT, 3), float("nan"))}, r"m\.weight_scale holds NaN"),
        (
            {"weight_scale": torch.full((OUT, 3), 2e36)},
            r"m\.weight_scale holds NaN or infinity, or numbers beyond 1e\+36",
        ),
        ({"weight_scale": torch.zeros(OUT, 6)}, r"m\.weight_scale is float32 \[44, 6\]"),
        ({"weight_zero_point": torch.zeros(OUT, 3, dtype=torch.int32)}, r"m\.weight_zero_point is int32 \[44, 3\]"),
        ({"weight_zero_point": torch.full((OUT, 3), 8, dtype=torch.int8)}, r"zero_point holds integers beyond -8 to 7"),
        ({"weight_g_idx": torch.full((IN,), 3, dtype=torch.int32)}, r"m\.weight_g_idx names group 3"),
    ],
)
def test_packed_refuses(change: dict[str, Tensor], message: str) -> None:
    stored, _ = compressed("pack-quantized", "group", torch.float32, num_bits=4, symmetric=False)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_module(PackedLayout(4, ScaleGrid(1, 32), False), "m", (OUT, IN), {**stored, **change})
    assert "fetch the folder again" in str(caught.value)


def test_others_refuse() -> None:
    stored, _ = compressed("naive-quantized", "group", torch.float32, num_bits=8)
    with pytest.raises(CheckpointError, match="cannot be cut into groups of 20 columns"):
        read_module(IntegerLayout(ScaleGrid(1, 20)), "m", (OUT, IN), stored)
    with pytest.raises(UnsupportedModelError, match="groups of 6 columns cannot be held"):
        read_module(
            IntegerLayout(ScaleGrid(1, 6)), "m", (OUT, IN), {**stored, "weight_scale": torch.ones(OUT, IN // 6)}
        )
    floats, _ = compressed("float-quantized", "group", torch.float32, num_bits=8, type="float")
    layout = Float8Layout(ScaleGrid(1, 32), zero_point_name="weight_zero_point")
    read_module(layout, "m", (OUT, IN), {**floats, "weight_zero_point": torch.zeros(OUT, 3, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match="fp8 has no zero point"):
        read_module(layout, "m", (OUT, IN), {**floats, "weight_zero_point": torch.ones(OUT, 3, dtype=torch.int8)})
    floats["weight_scale"][3, 1] = 1e6
    with pytest.raises(CheckpointError, match=r"m\.weight holds NaN, or values beyond torch\.float16"):
        read_module(layout, "m", (OUT, IN), floats, torch.float16)
    floats["weight"].view(torch.uint8)[0, 0] = 0x7F
    with pytest.raises(CheckpointError, match=r"m\.weight holds NaN"):
        read_module(layout, "m", (OUT, IN), floats)
