"""Adapters beside a model: peft's numbers, and a base that notices nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch

from seed_oss import quantize_
from seed_oss.cache import PackedRows, PackedSequence, PagedCache, PagedContext
from seed_oss.nn.fused import FusedLayers, fuse_
from seed_oss.nn.linear import Linear
from seed_oss.nn.lora import LoraLayers, LoraLinear, LowRank, adapted
from seed_oss.ops.native import library
from seed_oss.weights.lora import read_lora
from tests.factory import random_ids
from tests.lora import saved, small_model

IDS = random_ids(2, 21)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True},
    {"target_modules": ["q_proj", "down_proj"]},
    {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7}, "alpha_pattern": {"up_proj": 3}, "use_rslora": True},
    {"layers_to_transform": [1]},
    {"target_modules": r".*\.(k|v)_proj"},
]


def fused(kind: str = "float32") -> Any:
    model = small_model()
    return fuse_(quantize_(model, kind) if kind.startswith("int") else model.to(getattr(torch, kind)))


def hidden_of(decoder: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return decoder(ids).last_hidden_state


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: next(iter(one), "all"))
def test_the_numbers_are_those_of_peft(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder, wrapped = saved(tmp_path, 1, **settings)
    model = fused()
    before = hidden_of(model.model)
    twin = adapted(model.model, read_lora(folder, model.config).low_ranks)
    expected = hidden_of(wrapped.get_base_model().model)
    torch.testing.assert_close(hidden_of(twin), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, expected, atol=1e-2)
    assert torch.equal(hidden_of(model.model), before)


def test_weights_are_shared_and_the_base_stays_as_it_is(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, 1)
    model = fused()
    names = [name for name, _ in model.named_modules()]
    twin = adapted(model.model, read_lora(folder, model.config).low_ranks)
    assert [name for name, _ in model.named_modules()] == names
    assert isinstance(model.model.layers, FusedLayers) or library() is None
    assert {one.data_ptr() for one in twin.parameters()} == {one.data_ptr() for one in model.model.parameters()}


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_beside_quantized_weights(tmp_path: Path, scheme: str) -> None:
    folder, _ = saved(tmp_path, 1)
    model = fused(scheme)
    adapter = read_lora(folder, model.config)
    ours = hidden_of(adapted(model.model, adapter.low_ranks))
    merged = small_model()
    with torch.no_grad():
        for name, quantized in model.model.named_modules():
            if hasattr(quantized, "packed"):
                merged.model.get_submodule(name).weight.copy_(quantized.weight)
    # peft refuses quantized layers of ours: it takes the numbers they stand for, whose activations are not rounded.
    _, wrapped = saved(tmp_path / "again", 1, merged)
    expected = hidden_of(wrapped.get_base_model().model)
    error = (ours - expected).norm() / expected.norm()
    plain = (hidden_of(model.model) - expected).norm() / expected.norm()
    assert error < 0.05 < 0.3 < plain


def packed_hidden(decoder: Any, rows: list[list[int]], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    cache = PagedCache(decoder.config, 32, 32, dtype)
    sequences = [PackedSequence(0, len(row), (2 * index, 2 * index + 1)) for index, row in enumerate(rows)]
    positions = torch.tensor([place for row in rows for place in range(len(row))])
    ids = torch.tensor([token for row in rows for token in row])
    found = decoder.run_packed(ids, positions, PagedContext(cache, PackedRows(tuple(sequences))))
    return list(found.split([len(row) for row in rows]))


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
def test_the_bits_of_a_row_do_not_depend_on_the_others(tmp_path: Path, kind: str) -> None:
    folder, _ = saved(tmp_path, 1)
    model = fused(kind)
    twin = adapted(model.model, read_lora(folder, model.config).low_ranks)
    rows = [random_ids(length, seed=length).tolist() for length in (1, 2, 16, 17, 40)]
    together = packed_hidden(twin, rows)
    assert all(torch.equal(one, packed_hidden(twin, [row])[0]) for row, one in zip(rows, together, strict=True))
    if kind == "float32":
        expected = [hidden_of(twin, torch.tensor([row]))[0] for row in rows]
        torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(library() is None, reason="the kernels are not built")
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: next(iter(one), "all"))
@pytest.mark.parametrize("lengths", [(1, 1, 1), (40, 3, 17)], ids=["few", "many"])
def test_the_kernels_give_what_the_layers_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, settings: dict[str, Any], lengths: tuple[int, ...]
) -> None:
    folder, _ = saved(tmp_path, 1, **settings)
    model = fused(kind)
    twin = adapted(model.model, read_lora(folder, model.config).low_ranks)
    rows = [random_ids(length, seed=length + index).tolist() for index, length in enumerate(lengths)]
    monkeypatch.setattr(LoraLayers, "forward", None)  # the kernels never come here
    native, plain = (torch.cat(packed_hidden(one, rows)).float() for one in (twin, model.model))
    monkeypatch.undo()
    monkeypatch.setattr(FusedLayers, "run_natively", lambda *_: None)
    by_layer = torch.cat(packed_hidden(twin, rows)).float()
    most = {"float32": 1e-4, "bfloat16": 0.15}.get(kind, 0.03)  # by layer, bfloat16 rounds after each product
    error, change = ((one - by_layer).norm() / by_layer.norm() for one in (native, plain))
    assert error < most < change


@pytest.mark.parametrize("hidden", [48, 1000, 1536])
def test_products_of_any_width_keep_their_bits(hidden: int) -> None:
    torch.manual_seed(0)
    base = Linear(hidden, 96).eval().requires_grad_(False)
    layer = LoraLinear(base, LowRank(torch.randn(3, hidden), torch.randn(96, 3), 0.5))
    x = torch.randn(37, hidden)
    whole = layer(x)
    assert torch.equal(whole, torch.cat([layer(one[None]) for one in x]))
    expected = base(x) + 0.5 * (x @ layer.low_rank.a.T) @ layer.low_rank.b.T  # type: ignore[union-attr]
    torch.testing.assert_close(whole, expected, atol=2e-3, rtol=1e-4)
