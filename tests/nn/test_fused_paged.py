"""The native layers on packed sequences: the bits of a cache that is not paged, and of each sequence alone."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from seed_oss import DynamicCache, SeedOssForCausalLM, SeedOssModel, StaticCache
from seed_oss.cache import PackedRows, PackedSequence, PagedCache, PagedContext, QuantizedCache
from seed_oss.errors import InputError, StateError
from seed_oss.nn.fused import FusedLayers, fuse_, logits_of_rows, unfuse_
from seed_oss.nn.linear import Linear
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.logits import argmax_rows
from seed_oss.ops.native import library, why_not
from tests.factory import random_ids, tiny_config, tiny_model
from tests.nn.test_fused import quantized
from tests.packed import block_tables, cache_for, num_different, run_alone, run_at_random, run_rows, sequences_of

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "max_position_embeddings": 1024}
SHAPES = {
    "tiny": SHAPE,
    "64x5": {**SHAPE, "head_dim": 64, "num_attention_heads": 10, "num_hidden_layers": 2},
    "128x10": {**SHAPE, "head_dim": 128, "num_attention_heads": 10, "num_key_value_heads": 1, "num_hidden_layers": 1},
}
WEIGHTS = ("int4", "int8", "bfloat16", "float32")
CACHES = (torch.bfloat16, torch.float32, torch.int8)
LENGTHS = (1, 2, 16, 17, 40, 256, 300, 531)
pytestmark = pytest.mark.skipif(library() is None, reason=f"no native kernels: {why_not()}")


@pytest.fixture
def restores_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def model_of(weights: str, shape: str = "tiny") -> Any:
    model = tiny_model(SeedOssModel, **SHAPES[shape])
    if weights.startswith("int"):
        model = quantized(model, QuantFormat(int(weights[3:]), 32))
    model = fuse_(model.to(getattr(torch, weights)) if hasattr(torch, weights) and "float" in weights else model)
    assert isinstance(model.layers, FusedLayers)
    return model.requires_grad_(False)


def dense(model: Any, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Hidden states through a cache in one piece, eight tokens at a time: as many as always run natively."""
    cache: Any = StaticCache(model.config, len(ids), 1, "cpu", dtype) if dtype != torch.int8 else QuantizedCache()
    with torch.no_grad():
        parts = [model(part[None], past_key_values=cache).last_hidden_state[0] for part in ids.split(8)]
    return torch.cat(parts)


@pytest.mark.parametrize("kind", CACHES, ids=str)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_pages_change_no_bit(weights: str, kind: torch.dtype, instructions: str) -> None:
    model, ids = model_of(weights), random_ids(300)
    assert num_different([run_alone(model, ids, dtype=kind)], [dense(model, ids, kind)]) == 0


def test_weights_of_several_kinds_in_one_layer_change_no_bit(instructions: str) -> None:
    """Products that share their rows want them in 8 bits, in bfloat16 and in fp32 at once."""
    model, ids = tiny_model(SeedOssModel, **SHAPE), random_ids(40)
    plain = {name: child for name, child in model.layers.named_modules() if isinstance(child, Linear)}
    quantized(model, QuantFormat(8, 32))
    for name, child in plain.items():
        if name.endswith(("k_proj", "up_proj", "down_proj")):
            model.layers.set_submodule(name, child.bfloat16())
        if name.endswith(("v_proj", "o_proj")):
            model.layers.set_submodule(name, child)
    model = fuse_(model.requires_grad_(False))
    paged = run_alone(model, ids, dtype=torch.float32)
    assert num_different([paged], [dense(model, ids, torch.float32)]) == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", CACHES, ids=str)
def test_pages_change_no_bit_at_other_shapes(shape: str, kind: torch.dtype) -> None:
    model, ids = model_of("int4", shape), random_ids(270)
    for block_len in (16, 128, 256):
        paged = run_alone(model, ids, dtype=kind, block_len=block_len)
        assert num_different([paged], [dense(model, ids, kind)]) == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("weights", "kind", "block_len", "shape"),
    [
        ("int4", torch.bfloat16, 32, "64x5"),
        ("int4", torch.int8, 16, "128x10"),
        ("int8", torch.int8, 64, "tiny"),
        ("bfloat16", torch.bfloat16, 16, "128x10"),
        ("float32", torch.float32, 256, "64x5"),
    ],
)
def test_random_batches_change_no_bit(
    weights: str, kind: torch.dtype, block_len: int, shape: str, threads: int, restores_threads: None
) -> None:
    model, settings = model_of(weights, shape), {"dtype": kind, "block_len": block_len}
    ids = sequences_of(LENGTHS if block_len < 256 else LENGTHS[3:])
    torch.set_num_threads(threads)
    together = [run_at_random(model, ids, seed=seed, **settings) for seed in (threads, threads + 3)]
    torch.set_num_threads(1)
    alone = [run_alone(model, one, **settings) for one in ids]
    assert [num_different(one, alone) for one in together] == [0, 0]


@pytest.mark.parametrize("threads", [1, 3, 5])
def test_a_long_sequence_among_short_ones_is_cut_into_its_chunks(threads: int, restores_threads: None) -> None:
    model = model_of("int4")
    ids = sequences_of((900, *[5] * 12))
    cache = PagedCache(model.config, 64)
    tables = block_tables(cache, [len(one) for one in ids], seed=3)
    before = [PackedSequence(0, len(one) - 1, table) for one, table in zip(ids, tables, strict=True)]
    run_rows(model, cache, ids, PackedRows(tuple(before)))
    torch.set_num_threads(threads)
    step = [PackedSequence(len(one) - 1, 1, table) for one, table in zip(ids, tables, strict=True)]
    states = run_rows(model, cache, ids, PackedRows(tuple(step)))
    assert num_different(states, [run_alone(model, one)[-1:] for one in ids]) == 0


def test_a_wrong_slot_is_seen() -> None:
    model, ids = model_of("int4"), random_ids(40)
    cache, table = PagedCache(model.config, 4), [2, 1]
    run_rows(model, cache, [ids], PackedRows((PackedSequence(0, 39, table),)))
    right = run_rows(model, cache, [ids], PackedRows((PackedSequence(39, 1, table),)))
    assert num_different(right, [run_alone(model, ids)[-1:]]) == 0
    for room in cache.rooms:
        room.keys[1, :, [3, 4]] = room.keys[1, :, [4, 3]]
    wrong = run_rows(model, cache, [ids], PackedRows((PackedSequence(39, 1, table),)))
    assert num_different(wrong, right) > 0


def test_what_lies_in_other_places_is_not_read() -> None:
    model, ids = model_of("int4"), random_ids(300)
    cache = PagedCache(model.config, 32)
    for room in cache.rooms:
        room.keys.fill_(torch.nan)
        room.values.fill_(torch.nan)
    table = list(range(20, 30))
    states = run_rows(model, cache, [ids], PackedRows((PackedSequence(0, 300, table),)))
    assert num_different(states, [run_alone(model, ids)]) == 0


def test_close_to_torch() -> None:
    """fp32 throughout: what remains is the order of sums."""
    model, ids = model_of("float32"), sequences_of((3, 40, 300))
    native = run_at_random(model, ids, seed=0, dtype=torch.float32)
    unfuse_(model)
    for one, other in zip(native, run_at_random(model, ids, seed=0, dtype=torch.float32), strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-5)


def test_a_dense_call_between_packed_ones_changes_nothing() -> None:
    model, ids = model_of("int4"), random_ids(20)
    cache, table = PagedCache(model.config, 4), [3]
    whole = run_alone(model, ids)
    run_rows(model, cache, [ids], PackedRows((PackedSequence(0, 19, table),)))
    with torch.no_grad():
        model(ids[None], past_key_values=DynamicCache(config=model.config))
    states = run_rows(model, cache, [ids], PackedRows((PackedSequence(19, 1, table),)))
    assert num_different(states, [whole[-1:]]) == 0


@pytest.mark.parametrize("weights", WEIGHTS)
def test_logits_of_a_row_do_not_depend_on_others(weights: str, restores_threads: None) -> None:
    model = tiny_model(SeedOssForCausalLM, **SHAPE)
    model = quantized(model, QuantFormat(int(weights[3:]), 32)) if weights.startswith("int") else model
    dtype = torch.bfloat16 if weights == "bfloat16" else torch.float32
    head: Any = model.to(dtype).requires_grad_(False).lm_head
    states = torch.randn(37, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.set_num_threads(1)
    alone = torch.cat([logits_of_rows(head, row[None]) for row in states])
    torch.set_num_threads(3)
    assert num_different([logits_of_rows(head, states)], [alone]) == 0
    assert torch.allclose(alone, head(states).float(), atol=1e-5 if dtype == torch.float32 else 0.02)


def greedy_together(model: Any, prompts: list[Tensor], num_new: int, dtype: torch.dtype) -> list[Tensor]:
    """Prompts with their next tokens, from packed forwards of all of them."""
    lengths = [len(one) + num_new for one in prompts]
    cache = cache_for(model, lengths, dtype=dtype)
    tables, ids, done = block_tables(cache, lengths, seed=1), prompts, [0] * len(prompts)
    for _ in range(num_new):
        parts = zip(done, ids, tables, strict=True)
        rows = [PackedSequence(start, len(one) - start, table) for start, one, table in parts]
        last = [states[-1] for states in run_rows(model.model, cache, ids, PackedRows(tuple(rows)))]
        done = [len(one) for one in ids]
        new = argmax_rows(logits_of_rows(model.lm_head, torch.stack(last)))
        ids = [torch.cat((one, new[row, None])) for row, one in enumerate(ids)]
    return ids


@pytest.mark.parametrize("kind", ["plain", "fused", "int4"])
def test_greedy_tokens_are_those_of_generate(kind: str) -> None:
    model: Any = tiny_model(SeedOssForCausalLM, **SHAPE).requires_grad_(False)
    model = quantized(model, QuantFormat(4, 32)) if kind == "int4" else model
    if kind != "plain":
        fuse_(model)
    model.generation_config.eos_token_id = None
    prompts = sequences_of((3, 20, 7))
    together = greedy_together(model, prompts, 25, torch.bfloat16 if kind == "int4" else torch.float32)
    for prompt, one in zip(prompts, together, strict=True):
        expected = model.generate(prompt[None], max_new_tokens=25, do_sample=False)
        assert one.tolist() == expected[0].tolist()


def test_logits_with_a_gradient_are_refused() -> None:
    head = tiny_model(SeedOssForCausalLM).lm_head
    with pytest.raises(StateError, match="hidden_states need a gradient"):
        logits_of_rows(head, torch.ones(1, 32, requires_grad=True))


def test_hooks_are_called() -> None:
    """A layer that somebody listens to is run by itself, for packed rows too."""
    model, ids, seen = model_of("int4"), random_ids(20), list[int]()
    model.layers[1].register_forward_hook(lambda *_: seen.append(1))
    states = run_alone(model, ids)
    assert len(seen) == 2  # slabs of 16 rows
    assert torch.isfinite(states).all()


def test_a_cache_of_another_model_is_refused() -> None:
    model = model_of("int4")
    context = PagedContext(PagedCache(tiny_config(), 4), PackedRows((PackedSequence(0, 3, [0]),)))
    with pytest.raises(InputError, match=r"head_dim 8; this model has 3, 2 and 16"):
        model.run_packed(random_ids(3), torch.arange(3), context)
