"""The cache in 8 bits: what it holds, and what models make of it, fused and plain."""

from typing import Any

import pytest
import torch

from seed_oss import DynamicCache, QuantizedCache, SeedOssForCausalLM
from seed_oss.cache.quantized_layer import rounded
from seed_oss.errors import InputError
from seed_oss.nn.fused import fuse_
from seed_oss.ops.native import library, why_not
from tests.factory import random_ids, tiny_model
from tests.nn.test_fused import SHAPE, distance, quantized


def random_kv(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 2, length, 16, generator=torch.Generator().manual_seed(seed))


def test_values_within_half_a_step() -> None:
    x = random_kv(2, 50) * torch.logspace(-6, 6, 50)[:, None]
    integers, scales = rounded(x)
    assert integers.dtype == torch.int8
    error = (integers.float() * scales[..., None] - x).abs()
    assert bool((error <= 0.5001 * scales[..., None]).all())
    assert torch.equal(rounded(torch.zeros(1, 4))[0], torch.zeros(1, 4, dtype=torch.int8))


@pytest.mark.parametrize("largest", [1e-45, 1e-39, 3e-37])
def test_numbers_that_are_next_to_nothing(largest: float) -> None:
    """127 / largest is infinite; NaN as an integer is whatever the processor makes of it."""
    integers, scales = rounded(torch.tensor([[0.0, largest, -largest, 0.0]]))
    assert integers.tolist() == [[0, 0, 0, 0]]
    assert scales.item() <= largest


def test_pieces_grow_crop_and_reorder() -> None:
    cache, keys, values = QuantizedCache(), random_kv(2, 700), random_kv(2, 700, seed=1)
    for start, end in ((0, 3), (3, 4), (4, 300), (300, 700)):
        got_keys, got_values = cache.update(keys[:, :, start:end], values[:, :, start:end], 0)
    assert distance(got_keys, keys) < 0.01
    assert distance(got_values, values) < 0.01
    assert torch.equal(got_keys, cache[0][0])
    cache.crop(-100)
    assert cache.get_seq_length() == 600
    cache.reorder_cache([1, 1, 0])
    assert torch.equal(cache[0][0][2], got_keys[0, :, :600])
    assert torch.equal(cache[0][1][0], got_values[1, :, :600])
    again = cache.update(keys[:1].expand(3, -1, -1, -1)[:, :, :5], values[:1].expand(3, -1, -1, -1)[:, :, :5], 0)
    assert again[0].shape == (3, 2, 605, 16)
    assert torch.equal(again[0][2, :, :600], got_keys[0, :, :600])
    cache.reset()
    assert cache.get_seq_length() == 0


def test_half_the_bytes_of_bfloat16() -> None:
    cache = QuantizedCache()
    cache.update(random_kv(1, 1000), random_kv(1, 1000), 0)
    room = cache.layers[0].room(0, random_kv(1, 0))
    assert room is not None
    assert room.key_scales is not None
    assert room.keys.element_size() == 1
    assert room.key_scales[0, 0, 0].numel() == 1


def test_another_batch_is_refused() -> None:
    cache = QuantizedCache()
    cache.update(random_kv(2, 5), random_kv(2, 5), 0)
    with pytest.raises(InputError, match="must be equal"):
        cache.update(random_kv(3, 5), random_kv(3, 5), 0)


def test_a_plain_model_generates_with_it() -> None:
    model = tiny_model(SeedOssForCausalLM, **SHAPE)
    model.generation_config.eos_token_id = None
    ids = random_ids(2, 12)
    with torch.no_grad():
        whole = model(ids).logits
        cache = QuantizedCache(model.config)
        parts = [model(part, past_key_values=cache).logits for part in ids.split((7, 1, 4), dim=1)]
    assert distance(torch.cat(parts, dim=1), whole) < 0.04
    out = model.generate(ids, max_new_tokens=5, cache_implementation="quantized", return_dict_in_generate=True)
    assert isinstance(out.past_key_values, QuantizedCache)
    assert out.sequences.shape == (2, 17)
    beams = model.generate(ids, max_new_tokens=5, cache_implementation="quantized", num_beams=3)
    assert beams.shape == (2, 17)


@pytest.mark.skipif(library() is None, reason=f"no native kernels: {why_not()}")
def test_fused_layers_read_and_write_it() -> None:
    model: Any = quantized(tiny_model(SeedOssForCausalLM, **SHAPE))
    ids = random_ids(2, 300)

    def logits(cache: Any, *lengths: int) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([model(part, past_key_values=cache).logits for part in ids.split(lengths, dim=1)], dim=1)

    plain = logits(QuantizedCache(), 200, 100)
    fuse_(model)
    whole = logits(QuantizedCache(), 300)
    assert distance(whole, plain) < 0.04
    assert distance(whole, logits(DynamicCache(config=model.config), 300)) < 0.06
    assert torch.equal(logits(QuantizedCache(), 5, 1, 260, 34), whole)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    assert torch.equal(logits(QuantizedCache(), 299, 1), whole)
    torch.set_num_threads(before)
