"""The paged cache and attention over it in torch: the plain model's numbers, and equal bits in any batch."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from seed_oss import DynamicCache, SeedOssModel
from seed_oss.cache import (
    BlockTensors,
    PackedRows,
    PackedSequence,
    PagedCache,
    PagedContext,
    QuantizedCache,
    block_bytes,
)
from seed_oss.errors import InputError, StateError
from tests.factory import random_ids, tiny_config, tiny_model
from tests.packed import block_tables, num_different, run_alone, run_at_random, run_rows, sequences_of

LENGTHS = (1, 16, 17, 40, 300, 531)
WIDE = {"max_position_embeddings": 1024}
KINDS = (torch.float32, torch.bfloat16, torch.int8)


@pytest.fixture(params=(1, 2))
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def plain(model: Any, ids: torch.Tensor, cache: Any = None) -> torch.Tensor:
    with torch.no_grad():
        return model(ids[None], past_key_values=cache).last_hidden_state[0]


@pytest.mark.parametrize("heads", [(8, 2), (10, 2), (10, 1)])
def test_same_numbers_as_the_plain_model(heads: tuple[int, int]) -> None:
    model = tiny_model(SeedOssModel, num_attention_heads=heads[0], num_key_value_heads=heads[1], **WIDE)
    ids = sequences_of(LENGTHS)
    packed = run_at_random(model, ids, seed=1, dtype=torch.float32)
    for one, states in zip(ids, packed, strict=True):
        assert torch.allclose(states, plain(model, one, DynamicCache(config=model.config)), atol=1e-5)


def test_int8_is_what_the_quantized_cache_holds() -> None:
    model, ids = tiny_model(SeedOssModel, **WIDE), random_ids(300)
    expected = plain(model, ids, QuantizedCache(config=model.config))
    distance = (run_alone(model, ids, dtype=torch.int8) - expected).norm() / expected.norm()
    assert distance <= 1e-3  # a number on the edge between two integers falls to either side


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("block_len", [16, 64, 256])
def test_random_batches_change_no_bit(kind: torch.dtype, block_len: int, threads: int) -> None:
    model = tiny_model(SeedOssModel, hidden_size=40, intermediate_size=56, **WIDE)
    model = model.bfloat16() if kind == torch.bfloat16 else model
    ids = sequences_of(LENGTHS if block_len < 256 else LENGTHS[2:])
    settings = {"dtype": kind, "block_len": block_len}
    together = run_at_random(model, ids, seed=block_len + threads, **settings)
    torch.set_num_threads(1)
    assert num_different(together, [run_alone(model, one, **settings) for one in ids]) == 0


def test_sizes_at_which_torch_alone_changes_bits(threads: int) -> None:
    """Products of 1,024 columns: with two threads, or with 48 rows, torch sums in another order."""
    shape = {"hidden_size": 1024, "intermediate_size": 1536, "num_hidden_layers": 1, "head_dim": 128}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model(SeedOssModel, num_attention_heads=5, num_key_value_heads=1, **shape).to(dtype)
        ids = sequences_of((1, 3, 50))
        together = run_at_random(model, ids, seed=threads, dtype=dtype)
        torch.set_num_threads(1)
        assert num_different(together, [run_alone(model, one, dtype=dtype) for one in ids]) == 0


class WrongSlot(PagedCache):
    """Writes the second new token of a layer one slot too far."""

    def write(self, layer_idx: int, block_ids: Any, offsets: Any, key: Any, value: Any) -> None:
        """See PagedCache.write."""
        wrong = offsets.clone()
        wrong[1:2] = (wrong[1:2] + 1) % self.block_len
        super().write(layer_idx, block_ids, wrong, key, value)


def test_a_wrong_slot_is_seen() -> None:
    model, ids = tiny_model(SeedOssModel, **WIDE), random_ids(5)
    rows = PackedRows((PackedSequence(0, 5, [3]),))
    wrong = run_rows(model, WrongSlot(model.config, 4, dtype=torch.float32), [ids], rows)
    assert num_different(wrong, [run_alone(model, ids, dtype=torch.float32)]) > 0


def test_what_lies_in_blocks_of_others_is_not_read() -> None:
    model, ids = tiny_model(SeedOssModel, **WIDE), random_ids(35)
    cache = PagedCache(model.config, 8, dtype=torch.float32)
    for room in cache.rooms:
        room.keys.fill_(torch.nan)
        room.values.fill_(torch.nan)
    states = run_rows(model, cache, [ids], PackedRows((PackedSequence(0, 35, [5, 2, 7]),)))
    assert num_different(states, [run_alone(model, ids, dtype=torch.float32)]) == 0


def test_a_prefix_is_shared() -> None:
    model, ids = tiny_model(SeedOssModel, **WIDE), random_ids(40)
    cache = PagedCache(model.config, 8, dtype=torch.float32)
    run_rows(model, cache, [ids[:32]], PackedRows((PackedSequence(0, 32, [4]),)))
    rows = PackedRows((PackedSequence(32, 8, [4, 1]), PackedSequence(32, 3, [4, 6])))
    first, second = run_rows(model, cache, [ids, ids], rows)
    whole = run_alone(model, ids, dtype=torch.float32)
    assert num_different([first, second], [whole[32:], whole[32:35]]) == 0


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_blocks_go_out_and_come_back(kind: torch.dtype) -> None:
    model, ids = tiny_model(SeedOssModel, **WIDE), random_ids(40)
    first, second = (PagedCache(model.config, 4, dtype=kind) for _ in range(2))
    run_rows(model, first, [ids[:32]], PackedRows((PackedSequence(0, 32, [3]),)))
    second.write_block(1, first.read_block(3))
    states = run_rows(model, second, [ids], PackedRows((PackedSequence(32, 8, [1, 0]),)))
    assert num_different(states, [run_alone(model, ids, dtype=kind)[32:]]) == 0
    assert sum(one.nbytes for one in first.read_block(3) if one is not None) == block_bytes(model.config, dtype=kind)


def test_elsewhere_all_rows_run_at_once() -> None:
    """Only the CPU promises equal bits."""
    model = tiny_model(SeedOssModel).to("meta")
    cache = PagedCache(model.config, 4, dtype=torch.float32, device="meta")
    context = PagedContext(cache, PackedRows((PackedSequence(0, 20, [0]), PackedSequence(3, 1, [2]))))
    ids = torch.zeros(21, dtype=torch.int64, device="meta")
    assert model.run_packed(ids, ids, context).shape == (21, 32)


def test_blocks_of_another_kind_are_refused() -> None:
    cache, other = (PagedCache(tiny_config(), 2, dtype=dtype) for dtype in (torch.int8, torch.float32))
    with pytest.raises(InputError, match=r"keys of the block is torch\.float32 .* takes torch\.int8"):
        cache.write_block(0, other.read_block(0))
    with pytest.raises(InputError, match="key_scales of the block is missing"):
        cache.write_block(0, BlockTensors(*cache.read_block(0)[:2]))
    with pytest.raises(InputError, match=r"key_scales of the block is .* takes none"):
        other.write_block(0, other.read_block(0)._replace(key_scales=torch.ones(3, 2, 32)))
    with pytest.raises(InputError, match="block_id is 2; the cache has blocks 0 to 1"):
        cache.read_block(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_blocks": 0}, "num_blocks is 0"),
        ({"num_blocks": True}, "num_blocks is True"),
        ({"num_blocks": 1, "block_len": 24}, "block_len is 24; it must be a multiple of 16 that divides 256"),
        ({"num_blocks": 1, "block_len": 512}, "block_len is 512"),
        ({"num_blocks": 1, "block_len": 0}, "block_len is 0"),
        ({"num_blocks": 1, "dtype": torch.float16}, r"dtype is torch\.float16"),
    ],
)
def test_caches_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PagedCache(tiny_config(), **arguments)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ((), "0 sequences"),
        (((-1, 1, [0]),), "start -1"),
        (((0, 0, [0]),), "length 0"),
        (((31, 2, [0]),), "1 blocks of 32 tokens; 33 tokens need 2"),
        (((0, 1, [4]),), "block 4; the cache has blocks 0 to 3"),
        (((0, 1, [-1]),), "block -1"),
        (((0, 1, [0]), (0, 1, [0])), "belongs to two places"),
        (((32, 1, [0, 1]), (10, 3, [0])), r"blocks \[0, 1\] are written"),
        (((32, 1, [2, 2]),), r"blocks \[2\] are written"),
    ],
)
def test_rows_that_cannot_be(sequences: Any, message: str) -> None:
    rows = PackedRows(tuple(PackedSequence(*one) for one in sequences))
    with pytest.raises(InputError, match=message):
        PagedContext(PagedCache(tiny_config(), 4), rows)


def test_slabs_keep_order_and_places() -> None:
    rows = PackedRows((PackedSequence(5, 3, [0]), PackedSequence(0, 6, [1]), PackedSequence(2, 1, [2])))
    cut = [[(start, length) for start, length, _ in slab.sequences] for slab in rows.slabs(4)]
    assert cut == [[(5, 3), (0, 1)], [(1, 4)], [(5, 1), (2, 1)]]
    assert [slab.num_tokens for slab in rows.slabs(5)] == [5, 5]


def test_inputs_must_fit_the_rows() -> None:
    model = tiny_model(SeedOssModel)
    context = PagedContext(PagedCache(model.config, 4), PackedRows((PackedSequence(0, 3, [0]),)))
    with pytest.raises(InputError, match=r"input_ids is torch\.int64 \[2\]; it must be an integer tensor \[3\]"):
        model.run_packed(random_ids(2), torch.arange(3), context)
    with pytest.raises(InputError, match="position_ids"):
        model.run_packed(random_ids(3), torch.arange(3.0), context)
    with pytest.raises(StateError, match=r"call model\.eval"):
        model.train().run_packed(random_ids(3), torch.arange(3), context)


def test_lengths_are_asked_for_where_angles_depend_on_them() -> None:
    model = tiny_model(SeedOssModel, rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    cache = PagedCache(model.config, 4, dtype=torch.float32)
    context = PagedContext(cache, PackedRows((PackedSequence(0, 3, [0]),)))
    with pytest.raises(InputError, match=r"total_lens is None.*rope_type is 'dynamic'"):
        model.run_packed(random_ids(3), torch.arange(3), context)
    found = model.run_packed(random_ids(3), torch.arange(3), context, torch.full((3,), 9))
    torch.testing.assert_close(found, model(random_ids(3)[None]).last_hidden_state[0], atol=1e-5, rtol=0)


def test_block_tables_of_the_tests_have_each_block_once() -> None:
    tables = block_tables(PagedCache(tiny_config(), 9), (33, 64, 100), seed=1)
    assert sorted(block for table in tables for block in table) != list(range(9))
    assert len({block for table in tables for block in table}) == 8
