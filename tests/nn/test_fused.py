"""The fused stack against the plain layers, and its own promise: equal bits for any batch, chunks, threads, padding."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seed_oss import DynamicCache, SeedOssForCausalLM, SeedOssForSequenceClassification, StaticCache
from seed_oss.errors import StateError
from seed_oss.nn.fused import FusedLayers, fuse_, unfuse_
from seed_oss.nn.layers import SeedOssLayers
from seed_oss.nn.linear import Linear
from seed_oss.nn.quantized_linear import QuantizedLinear
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat
from seed_oss.ops.native import library, why_not
from tests.factory import random_ids, tiny_model

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "max_position_embeddings": 1024}
FORMAT = QuantFormat(8, 32)
CLOSE = 0.04  # a cache in bfloat16, and roundings that fall otherwise; structure is held by the test in fp32
pytestmark = pytest.mark.skipif(library() is None, reason=f"no native kernels: {why_not()}")


def rounded(weight: Tensor, format: QuantFormat) -> GroupedWeight:
    """Round to the nearest, symmetrically."""
    grouped, middle = weight.detach().unflatten(-1, (-1, format.group_size)), 2 ** (format.bits - 1)
    scale = (grouped.abs().amax(-1) / (middle - 1)).half()
    q = (grouped / scale[..., None]).round().clamp(-middle, middle - 1) + middle
    return GroupedWeight(format, q.to(torch.uint8).flatten(1), scale)


def quantized(model: Any, format: QuantFormat = FORMAT) -> Any:
    """Every projection of the layers in 8 bits."""
    for parent in list(model.base_model.layers.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is Linear:
                setattr(parent, name, QuantizedLinear.of(rounded(child.weight, format), child.bias))
    if isinstance(model, SeedOssForCausalLM):
        model.lm_head = QuantizedLinear.of(rounded(model.lm_head.weight, format))
    return model.requires_grad_(False)


@pytest.fixture
def model() -> Any:
    return fuse_(quantized(tiny_model(SeedOssForCausalLM, **SHAPE)))


def logits(model: Any, ids: Tensor, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        return model(ids, **kwargs).logits


def distance(one: Tensor, other: Tensor) -> float:
    """Relative, over all numbers."""
    return float((one - other).norm() / other.norm())


def test_close_to_the_plain_layers(instructions: str) -> None:
    """What the plain layers give differs by the cache in bfloat16 and the order of sums."""
    model = quantized(tiny_model(SeedOssForCausalLM, **SHAPE))
    for length in (1, 7, 40):
        ids = random_ids(2, length)
        plain = logits(model, ids)
        fused = logits(fuse_(model), ids)
        unfuse_(model)
        assert distance(fused, plain) <= CLOSE


def test_plain_fp32_layers_are_exact(instructions: str) -> None:
    """No rounding at all here: what remains is the order of sums."""
    model = tiny_model(SeedOssForCausalLM, **SHAPE).requires_grad_(False)
    ids = random_ids(1, 5)
    plain = logits(model, ids)
    assert torch.allclose(logits(fuse_(model), ids), plain, atol=1e-4, rtol=1e-5)
    with torch.no_grad():
        cache = DynamicCache(config=model.config)
        model(random_ids(1, 300, seed=1), past_key_values=cache)  # through the plain layers: too many tokens
        assert cache.layers[0].keys.dtype == torch.float32
        fused = model(ids, past_key_values=cache).logits
        unfuse_(model)
        cache.crop(300)
        assert torch.allclose(fused, model(ids, past_key_values=cache).logits, atol=1e-4, rtol=1e-5)


def test_chunks_batches_and_threads_change_no_bit(instructions: str, model: Any) -> None:
    ids = random_ids(1, 600)
    whole = logits(model, ids)
    before = torch.get_num_threads()
    for threads, ends in ((1, (5, 6, 14, 250, 256, 257, 600)), (3, (300, 301, 600))):
        torch.set_num_threads(threads)
        cache, parts, start = DynamicCache(config=model.config), [], 0
        for end in ends:
            parts.append(logits(model, ids[:, start:end], past_key_values=cache))
            start = end
        assert torch.equal(torch.cat(parts, dim=1), whole)
    torch.set_num_threads(before)
    both = logits(model, torch.cat((random_ids(1, 600, seed=5), ids)))
    assert torch.equal(both[1:], whole)


def test_generating_in_a_batch_gives_the_tokens_of_each_alone(model: Any) -> None:
    prompts = [random_ids(1, length, seed=length) for length in (3, 9, 20)]
    padded = torch.cat([torch.nn.functional.pad(ids, (20 - ids.shape[1], 0), value=1) for ids in prompts])
    mask = torch.cat([torch.nn.functional.pad(torch.ones_like(i), (20 - i.shape[1], 0)) for i in prompts])
    settings = {"max_new_tokens": 30, "do_sample": True, "temperature": 1.0}
    model.generation_config.eos_token_id = None
    together = model.generate(padded, attention_mask=mask, do_sample=False, max_new_tokens=30)
    for row, ids in enumerate(prompts):
        alone = model.generate(ids, do_sample=False, max_new_tokens=30)
        assert (together[row, 20:] == alone[0, ids.shape[1] :]).float().mean() >= 0.9  # padding moves chunks of keys
    first, again = (model.generate(prompts[0], seed=3, **settings) for _ in range(2))
    assert torch.equal(first, again)


def test_padding_on_the_left_is_not_looked_at(model: Any) -> None:
    ids = random_ids(1, 30)
    mask = torch.ones(1, 37, dtype=torch.long)
    mask[:, :7] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    first, second = (
        logits(model, torch.cat((random_ids(1, 7, seed=seed), ids), 1), attention_mask=mask, position_ids=positions)
        for seed in (1, 2)
    )
    assert torch.equal(first[:, 7:], second[:, 7:])
    assert distance(first[:, 7:], logits(model, ids)) <= CLOSE
    assert not first.isnan().any()


def test_a_static_cache(model: Any) -> None:
    ids = random_ids(1, 20)
    whole = logits(model, ids)
    cache = StaticCache(config=model.config, max_cache_len=32)
    parts = [logits(model, part, past_key_values=cache) for part in ids.split((12, 1, 7), dim=1)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_a_cache_goes_from_fused_to_plain_layers_and_back(model: Any) -> None:
    ids = random_ids(1, 20)
    whole = logits(model, ids)
    cache = DynamicCache(config=model.config)
    parts = [logits(model, ids[:, :8], past_key_values=cache)]
    unfuse_(model)
    parts.append(logits(model, ids[:, 8:9], past_key_values=cache))
    fuse_(model)
    parts.append(logits(model, ids[:, 9:], past_key_values=cache))
    assert distance(torch.cat(parts, dim=1), whole) <= CLOSE


def test_what_the_native_call_cannot_do_runs_the_layers(model: Any) -> None:
    ids = random_ids(1, 12)
    with torch.no_grad():
        output = model(ids, output_hidden_states=True)
    assert len(output.hidden_states) == 4
    assert distance(output.logits, logits(model, ids)) <= CLOSE
    embeds = model.get_input_embeddings()(ids).requires_grad_()
    model(inputs_embeds=embeds).logits.sum().backward()
    assert embeds.grad is not None


def test_bidirectional(model: Any) -> None:
    ids = random_ids(1, 12)
    fused = logits(model, ids, is_causal=False, use_cache=False)
    assert distance(fused, logits(unfuse_(model), ids, is_causal=False, use_cache=False)) <= CLOSE
    assert distance(fused[:, 0], logits(model, ids)[:, 0]) > 0.05


def test_names_do_not_change(model: Any) -> None:
    assert type(model.model.layers) is FusedLayers
    fused = list(model.state_dict())
    assert type(unfuse_(model).model.layers) is SeedOssLayers
    assert list(model.state_dict()) == fused == list(tiny_model(SeedOssForCausalLM, **SHAPE).state_dict())


def test_new_weights_are_noticed(model: Any) -> None:
    ids = random_ids(1, 5)
    before = logits(model, ids)
    layer = model.model.layers[1]
    layer.input_layernorm.weight = torch.nn.Parameter(2 * layer.input_layernorm.weight, requires_grad=False)
    after = logits(model, ids)
    assert not torch.equal(before, after)
    layer.mlp.down_proj = layer.mlp.down_proj.__class__(
        layer.mlp.down_proj.shape, layer.mlp.down_proj.format, layer.mlp.down_proj.packed.clone()
    )
    assert torch.equal(logits(model, ids), after)


def bfloat16_model() -> Any:
    return fuse_(tiny_model(SeedOssForCausalLM, **SHAPE).to(torch.bfloat16).requires_grad_(False))


def changed_state(model: Any) -> dict[str, Tensor]:
    """Everything the native call points to, in other numbers."""
    return {
        name: 1.5 * value if name.startswith("model.layers") else value for name, value in model.state_dict().items()
    }


def load_in_place(model: Any, state: dict[str, Tensor]) -> None:
    model.load_state_dict(state)


def assign(model: Any, state: dict[str, Tensor]) -> None:
    model.load_state_dict(state, assign=True)


def copy_(model: Any, state: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(state[name])


def copy_to_data(model: Any, state: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.data.copy_(state[name])  # which torch counts nowhere


def set_data(model: Any, state: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.data = state[name]


def make(dtype: torch.dtype, state: dict[str, Tensor]) -> Any:
    model = fuse_(tiny_model(SeedOssForCausalLM, **SHAPE).to(dtype).requires_grad_(False))
    model.load_state_dict(state)
    return model


CHANGES = (load_in_place, assign, copy_, copy_to_data, set_data)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("length", [1, 5])
def test_weights_that_change_in_place_are_noticed(dtype: torch.dtype, change: Any, length: int) -> None:
    model, ids = fuse_(tiny_model(SeedOssForCausalLM, **SHAPE).to(dtype).requires_grad_(False)), random_ids(1, length)
    before, state = logits(model, ids), changed_state(model)
    expected = logits(make(dtype, state), ids)
    assert not torch.equal(before, expected)
    with torch.no_grad():
        change(model, state)
    assert torch.equal(logits(model, ids), expected)


@pytest.mark.parametrize("change", [load_in_place, assign, copy_])
def test_they_are_noticed_in_a_step_behind_older_tokens(change: Any) -> None:
    model, ids = bfloat16_model(), random_ids(1, 5)
    caches = [DynamicCache(config=model.config) for _ in range(2)]
    for cache in caches:
        logits(model, ids, past_key_values=cache)
    state = changed_state(model)
    expected = logits(make(torch.bfloat16, state), ids[:, :1], past_key_values=caches[0])
    with torch.no_grad():
        change(model, state)
    assert torch.equal(logits(model, ids[:, :1], past_key_values=caches[1]), expected)


def test_an_optimizer_and_a_model_of_inference_tensors_are_noticed() -> None:
    ids, model = random_ids(1, 5), fuse_(tiny_model(SeedOssForCausalLM, **SHAPE).to(torch.bfloat16))
    before = logits(model, ids)
    model.train()(ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    after = logits(model.eval(), ids)
    assert not torch.equal(after, before)
    assert torch.equal(after, logits(make(torch.bfloat16, model.state_dict()), ids))
    with torch.inference_mode():
        model = bfloat16_model()
        before, state = logits(model, ids), changed_state(model)
        load_in_place(model, state)
    assert torch.equal(logits(model, ids), logits(make(torch.bfloat16, state), ids))


def test_threads_share_a_model(model: Any) -> None:
    prompts = [random_ids(1, length) for length in (3, 60, 17, 130)]

    def answer(ids: Tensor) -> list[int]:
        return model.generate(ids, max_new_tokens=12, do_sample=False)[0].tolist()

    alone = [answer(ids) for ids in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        for _ in range(3):
            assert list(pool.map(answer, prompts)) == alone


def test_a_copy_runs_by_itself(model: Any) -> None:
    ids = random_ids(1, 5)
    expected = logits(model, ids)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.base_model.layers[0].self_attn.q_proj.packed.zero_()
    assert not torch.equal(logits(other, ids), expected)
    assert torch.equal(logits(model, ids), expected)


def test_training_runs_the_layers() -> None:
    """A model that was fused when it was loaded is trained like any other."""
    plain, ids = tiny_model(SeedOssForCausalLM, **SHAPE), random_ids(2, 6)
    fused = fuse_(copy.deepcopy(plain))
    for model in (plain, fused):
        model.train()
        torch.manual_seed(0)  # dropout
        model(ids, labels=ids).loss.backward()
    for one, other in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    with pytest.raises(StateError, match=r"model\.eval"):
        fuse_(plain)


@pytest.mark.parametrize("path", ["model.layers.1", "model.layers.1.mlp", "model.layers.2.self_attn.q_proj"])
def test_hooks_are_called(model: Any, path: str) -> None:
    ids, calls = random_ids(1, 5), list[str]()
    handle = model.get_submodule(path).register_forward_hook(lambda *_: calls.append(path))
    logits(model, ids)
    assert calls == [path]
    handle.remove()
    logits(model, ids)
    assert calls == [path]


def test_a_hook_on_a_layer_is_called_in_steps(model: Any) -> None:
    cache, calls = DynamicCache(config=model.config), list[int]()
    logits(model, random_ids(1, 5), past_key_values=cache)
    model.model.layers[1].register_forward_hook(lambda *_: calls.append(1))
    logits(model, random_ids(1, 1), past_key_values=cache)
    assert calls == [1]


class Doubling(torch.nn.Module):
    """As adapters do: a layer around a layer."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 2


@pytest.mark.parametrize("path", ["mlp.down_proj", "self_attn.o_proj", "mlp"])
def test_adapters_are_noticed(model: Any, path: str) -> None:
    ids, layer = random_ids(1, 5), model.model.layers[1]
    before = logits(model, ids)
    parent, _, name = path.rpartition(".")
    inner = layer.get_submodule(path)
    setattr(layer.get_submodule(parent), name, Doubling(inner))
    adapted = logits(model, ids)
    assert distance(adapted, before) > 0.1
    assert distance(adapted, logits(unfuse_(model), ids)) <= 1e-5  # the last norm adds up in another order
    setattr(layer.get_submodule(parent), name, inner)
    assert torch.equal(logits(fuse_(model), ids), before)


def test_a_replaced_forward_is_called(model: Any) -> None:
    ids, layer = random_ids(1, 5), model.model.layers[1]
    before = logits(model, ids)
    layer.forward = lambda hidden_states, *_: hidden_states
    assert distance(logits(model, ids), before) > 0.01
    del layer.forward
    assert torch.equal(logits(model, ids), before)


def test_a_loaded_model_in_bfloat16_is_fused(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM, **SHAPE).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = SeedOssForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert isinstance(loaded.model.layers, FusedLayers)
    assert type(SeedOssForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).model.layers) is SeedOssLayers
    ids = random_ids(2, 12)
    assert distance(logits(loaded, ids).float(), logits(model, ids).float()) <= CLOSE
    loaded.train()(ids, labels=ids).loss.backward()


def test_other_heads(instructions: str) -> None:
    model = quantized(tiny_model(SeedOssForSequenceClassification, **SHAPE))
    ids = random_ids(3, 9)
    plain = logits(model, ids)
    assert distance(logits(fuse_(model), ids), plain) <= CLOSE


@pytest.mark.parametrize("change", [{"hidden_act": "gelu"}, {"head_dim": 24}])
def test_other_models_stay_as_they_are(change: dict[str, Any]) -> None:
    model = fuse_(tiny_model(SeedOssForCausalLM, **{**SHAPE, **change}))
    assert type(model.model.layers) is SeedOssLayers
