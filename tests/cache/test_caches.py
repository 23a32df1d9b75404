"""Caches at the user's border: lengths, cropping, rows, tuples, continuing."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from seed_oss import DynamicCache, SeedOssForCausalLM, StaticCache
from seed_oss.errors import CacheFullError, InputError
from tests.factory import random_ids, tiny_model

LENGTH = 12


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(SeedOssForCausalLM)


def new_cache(kind: str, model: Any, room: int = 32) -> Any:
    """An empty cache of either kind."""
    return DynamicCache() if kind == "dynamic" else StaticCache(model.config, room)


def run(model: Any, ids: torch.Tensor, cache: Any) -> torch.Tensor:
    """Logits of `ids` after what is cached."""
    with torch.no_grad():
        return model(ids, past_key_values=cache).logits


both = pytest.mark.parametrize("kind", ["dynamic", "static"])
both_attn = pytest.mark.parametrize("attn", ["sdpa", "eager"])


@both
@both_attn
def test_any_chunking_is_the_whole(model: Any, kind: str, attn: str) -> None:
    model.set_attn_implementation(attn)
    ids = random_ids(2, LENGTH)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
    for cuts in ((1,) * LENGTH, (5, 7), (1, 10, 1), (LENGTH,)):
        cache, start = new_cache(kind, model), 0
        for size in cuts:
            got = run(model, ids[:, start : start + size], cache)
            torch.testing.assert_close(got, whole[:, start : start + size], atol=1e-5, rtol=1e-5)
            start += size
        assert cache.get_seq_length() == LENGTH
    model.set_attn_implementation("sdpa")


@both
@pytest.mark.parametrize("keep", [5, -7])
def test_crop_and_go_on(model: Any, kind: str, keep: int) -> None:
    ids = random_ids(2, LENGTH)
    cache = new_cache(kind, model)
    whole = run(model, ids, cache)
    cache.crop(keep)
    assert cache.get_seq_length() == 5
    torch.testing.assert_close(run(model, ids[:, 5:], cache), whole[:, 5:], atol=1e-5, rtol=1e-5)


@both
def test_crop_to_more_than_there_is_and_to_nothing(model: Any, kind: str) -> None:
    cache = new_cache(kind, model)
    run(model, random_ids(1, 4), cache)
    cache.crop(99)
    assert cache.get_seq_length() == 4
    cache.crop(-99)
    assert cache.get_seq_length() == 0


@both
def test_rows_follow_their_beams(model: Any, kind: str) -> None:
    ids = random_ids(3, LENGTH)
    cache = new_cache(kind, model)
    whole = run(model, ids, cache)
    cache.crop(LENGTH - 1)
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    got = run(model, ids[[2, 0, 0], -1:], cache)
    torch.testing.assert_close(got, whole[[2, 0, 0], -1:], atol=1e-5, rtol=1e-5)


@both
def test_repeating_and_selecting_rows(model: Any, kind: str) -> None:
    ids = random_ids(2, LENGTH)
    cache = new_cache(kind, model)
    run(model, ids, cache)
    cache.batch_repeat_interleave(2)
    assert list(cache[0][0][:, 0, 0, 0]) == [cache[0][0][i, 0, 0, 0] for i in (0, 0, 2, 2)]
    cache.batch_select_indices(torch.tensor([3]))
    assert cache[1][1].shape[0] == 1


@both
def test_reset_reuses_the_cache(model: Any, kind: str) -> None:
    ids = random_ids(2, 6)
    cache = new_cache(kind, model)
    first = run(model, ids, cache)
    cache.reset()
    assert cache.get_seq_length() == 0
    torch.testing.assert_close(run(model, ids, cache), first)


@both
def test_copies_go_their_own_way(model: Any, kind: str) -> None:
    ids = random_ids(2, LENGTH)
    cache = new_cache(kind, model)
    whole = run(model, ids[:, :6], cache)
    branch = copy.deepcopy(cache)
    run(model, random_ids(2, 6, seed=9), branch)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
    torch.testing.assert_close(run(model, ids[:, 6:], cache), expected[:, 6:], atol=1e-5, rtol=1e-5)
    assert whole.shape[1] == 6


def test_legacy_tuples_in_and_out(model: Any) -> None:
    ids = random_ids(2, LENGTH)
    cache = DynamicCache()
    whole = run(model, ids, cache)
    cache.crop(8)
    legacy = cache.to_legacy_cache()
    assert len(legacy) == len(cache) == model.config.num_hidden_layers
    assert legacy[0][0].shape == (2, 2, 8, 8)  # [batch, kv_heads, length, head_dim]
    before = legacy[0][0].clone()
    with torch.no_grad():
        out = model(ids[:, 8:], past_key_values=legacy)
    torch.testing.assert_close(out.logits, whole[:, 8:], atol=1e-5, rtol=1e-5)
    assert out.past_key_values.get_seq_length() == LENGTH
    torch.testing.assert_close(legacy[0][0], before, atol=0, rtol=0)


def test_memory_given_by_the_user_is_never_written(model: Any) -> None:
    cache = DynamicCache()
    run(model, random_ids(1, 6), cache)
    given = tuple((keys.clone(), values.clone()) for keys, values in cache)
    kept = [keys.clone() for keys, _ in given]
    taken = DynamicCache.from_legacy_cache(given)
    taken.crop(2)
    run(model, random_ids(1, 3, seed=4), taken)
    for (keys, _), before in zip(given, kept, strict=True):
        torch.testing.assert_close(keys, before, atol=0, rtol=0)


def test_a_cache_of_transformers_is_read(model: Any) -> None:
    import transformers

    ids = random_ids(1, 6)
    own = DynamicCache()
    whole = run(model, ids, own)
    foreign = transformers.DynamicCache()
    for layer_idx, (keys, values) in enumerate(own):
        foreign.update(keys[:, :, :4], values[:, :, :4], layer_idx)
    torch.testing.assert_close(run(model, ids[:, 4:], foreign), whole[:, 4:], atol=1e-5, rtol=1e-5)


def test_update_as_the_reference_calls_it() -> None:
    cache = DynamicCache()
    for step in range(3):
        new = torch.full((1, 2, 1, 4), float(step))
        keys, values = cache.update(new, new + 10, 0)
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2]
    assert values[0, 0, :, 0].tolist() == [10, 11, 12]
    assert cache.get_seq_length() == 3


def test_gradients_flow_through_a_dynamic_cache(model: Any) -> None:
    ids = random_ids(1, 6)
    first = model(ids[:, :3])
    second = model(ids[:, 3:], past_key_values=first.past_key_values)
    (first.logits.sum() + second.logits.sum()).backward()
    through_cache = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(ids).logits.sum().backward()
    for mine, whole in zip(through_cache, model.parameters(), strict=True):
        torch.testing.assert_close(mine, whole.grad, atol=1e-4, rtol=1e-4)
    model.zero_grad()


def test_made_under_inference_mode_used_outside(model: Any) -> None:
    ids = random_ids(1, 6)
    with torch.inference_mode():
        cache = model(ids[:, :3]).past_key_values
    got = run(model, ids[:, 3:], cache)
    with torch.no_grad():
        torch.testing.assert_close(got, model(ids).logits[:, 3:], atol=1e-5, rtol=1e-5)


def test_a_full_static_cache(model: Any) -> None:
    cache = StaticCache(model.config, 6)
    run(model, random_ids(1, 4), cache)
    with pytest.raises(CacheFullError, match=r"3 more tokens after 4 .* max_cache_len=6"):
        run(model, random_ids(1, 3), cache)
    assert cache.get_seq_length() == 4
    run(model, random_ids(1, 2), cache)
    with pytest.raises(InputError, match="batch of 2"):
        run(model, random_ids(2, 1), cache)


class DeviceReads(TorchDispatchMode):
    """Counts how often a value travels from the device to the host."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_with_a_static_cache_reads_nothing_from_the_device(model: Any) -> None:
    cache = StaticCache(model.config, 8)
    ids = random_ids(1, 5)
    run(model, ids[:, :4], cache)
    with DeviceReads() as reads, torch.no_grad():  # embeddings: ids on a CPU are checked, which reads them
        model(inputs_embeds=model.get_input_embeddings()(ids[:, 4:]), past_key_values=cache)
    assert reads.count == 0


def test_a_static_cache_knows_its_length_after_a_compiled_step(model: Any) -> None:
    cache = StaticCache(model.config, 6)
    ids = random_ids(1, 7)
    run(model, ids[:, :4], cache)
    step = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        step(ids[:, 4:5], past_key_values=cache)
    with pytest.raises(CacheFullError, match="2 more tokens after 5"):
        run(model, ids[:, 5:], cache)
    cache.crop(3)
    run(model, ids[:, 3:6], cache)
    cache.reset()
    assert cache.get_seq_length() == 0
    run(model, ids[:, :6], cache)


@pytest.mark.parametrize("bad", [0, -1, 2.5, "8"])
def test_static_cache_sizes(model: Any, bad: Any) -> None:
    with pytest.raises(InputError, match="max_cache_len"):
        StaticCache(model.config, bad)


def test_caches_of_other_models(model: Any) -> None:
    config = model.config
    fits = torch.zeros(1, config.num_key_value_heads, 2, config.head_dim)
    for num_layers in (1, config.num_hidden_layers + 6):
        with pytest.raises(InputError, match=f"has {num_layers} layers and the model {config.num_hidden_layers}"):
            model(random_ids(1, 2), past_key_values=[(fits, fits)] * num_layers)
    for shape in ((2, *fits.shape[1:]), (1, 1, 2, config.head_dim), (1, config.num_key_value_heads, 2, 3)):
        other = [(torch.zeros(shape), torch.zeros(shape))] * config.num_hidden_layers
        with pytest.raises(InputError, match="a cache of this model and this batch"):
            model(random_ids(1, 2), past_key_values=other)


@pytest.mark.parametrize("bad", [3, "cache", object(), (1, 2), [(1, 2)], [(torch.zeros(1, 1, 1, 1),)], [None]])
def test_things_that_are_no_cache(model: Any, bad: Any) -> None:
    with pytest.raises(InputError, match="past_key_values"):
        model(random_ids(1, 2), past_key_values=bad)


@both_attn
@both
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_equal_rows_alone(model: Any, kind: str, attn: str, side: str) -> None:
    model.set_attn_implementation(attn)
    ids, num_pads = random_ids(2, 8), 3
    mask = torch.ones(2, 8, dtype=torch.int64)
    pads = slice(0, num_pads) if side == "left" else slice(8 - num_pads, 8)
    mask[1, pads] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = new_cache(kind, model)
    with torch.no_grad():
        batched = model(ids, mask, position_ids=positions, past_key_values=cache).logits[1, mask[1].bool()]
        alone = model(ids[1:, mask[1].bool()]).logits[0]
    torch.testing.assert_close(batched, alone, atol=1e-5, rtol=1e-5)
    model.set_attn_implementation("sdpa")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["write", "crop", "drop"]), st.integers(1, 300)), max_size=12))
def test_growing_and_cropping_is_a_list(operations: list[tuple[str, int]]) -> None:
    """Whatever is written and cropped, the cache holds what a plain list would."""
    cache, expected, counter = DynamicCache(), [], 0
    for name, size in operations:
        if name == "write":
            new = torch.arange(counter, counter + size, dtype=torch.float32)
            counter += size
            expected = expected + new.tolist()
            keys, _ = cache.update(new.view(1, 1, -1, 1), new.view(1, 1, -1, 1), 0)
            assert keys.flatten().tolist() == expected
        else:
            length = size if name == "crop" else -size
            expected = expected[:length] if name == "crop" or size <= len(expected) else []
            cache.crop(length)
    assert cache.get_seq_length() == len(expected)
    if len(cache):
        assert cache[0][0].flatten().tolist() == expected


@both
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda cache: cache.crop(1.5), "max_length is 1.5; it must be an integer"),
        (lambda cache: cache.crop("2"), "max_length is '2'; it must be an integer"),
        (lambda cache: cache.crop(True), "max_length is True"),
        (lambda cache: cache.reorder_cache(torch.tensor([0, 7])), "row 7 is asked of a cache of 2 rows"),
        (lambda cache: cache.reorder_cache([0, -1]), "row -1 is asked of a cache of 2 rows"),
        (lambda cache: cache.reorder_cache(torch.tensor([True, False])), r"rows are torch.bool \[2\]"),
        (lambda cache: cache.reorder_cache(torch.tensor(1)), r"rows are torch.int64 \[\]"),
        (lambda cache: cache.batch_select_indices([]), r"rows are torch.float32 \[0\]; give at least one"),
        (lambda cache: cache.batch_select_indices("ab"), "rows are given as 'ab'"),
        (lambda cache: cache.batch_repeat_interleave(0), "repeats is 0; it must be an integer >= 1"),
        (lambda cache: cache.batch_repeat_interleave(-1), "repeats is -1"),
        (lambda cache: cache.batch_repeat_interleave(2.0), "repeats is 2.0"),
    ],
)
def test_wrong_arguments(model: Any, kind: str, call: Any, message: str) -> None:
    cache = new_cache(kind, model)
    run(model, random_ids(2, 4), cache)
    with pytest.raises(InputError, match=message):
        call(cache)
    assert cache.get_seq_length() == 4
    assert cache[0][0].shape[0] == 2


@both
def test_rows_as_a_list(model: Any, kind: str) -> None:
    cache, other = new_cache(kind, model), new_cache(kind, model)
    run(model, random_ids(2, 4), cache)
    run(model, random_ids(2, 4), other)
    cache.reorder_cache([1, 0])
    other.reorder_cache(torch.tensor([1, 0]))
    assert torch.equal(cache[0][0], other[0][0])
