"""torch.compile(fullgraph=True) of the forward: one graph for every RoPE type, cached steps included."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from seed_oss import SeedOssForCausalLM, StaticCache
from tests.factory import random_ids, tiny_model
from tests.parity.test_rope import ROPES

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def rope_model(name: str, num_layers: int = 1) -> Any:
    """A tiny model with 32 trained positions."""
    return tiny_model(
        SeedOssForCausalLM, rope_parameters=ROPES[name], max_position_embeddings=32, num_hidden_layers=num_layers
    )


@pytest.mark.parametrize("name", ["default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"])
def test_every_rope_type_is_one_graph(name: str) -> None:
    model, plain = rope_model(name), rope_model(name)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    for length in (10, 40, 10):  # up, past the switch, and back: the state is in buffers, not in the graph
        ids = random_ids(2, length, seed=length)
        with torch.no_grad():
            mine, expected = compiled(ids, use_cache=False), plain(ids, use_cache=False)
        torch.testing.assert_close(mine.logits, expected.logits, atol=1e-5, rtol=1e-5)


def test_symbolic_lengths() -> None:
    model = rope_model("dynamic")
    compiled = torch.compile(model.model, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (10, 40):
        ids = random_ids(2, length, seed=length)
        with torch.no_grad():
            mine, expected = compiled(ids, use_cache=False), rope_model("dynamic").model(ids, use_cache=False)
        torch.testing.assert_close(mine.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_with_padding_and_a_returned_cache(attn: str) -> None:
    model = rope_model("default")
    model.set_attn_implementation(attn)
    ids, mask = random_ids(2, 8), torch.ones(2, 8, dtype=torch.int64)
    mask[1, :3] = 0
    with torch.no_grad():
        out = torch.compile(model, fullgraph=True, backend="aot_eager")(ids, mask)
        expected = model(ids, mask)
    torch.testing.assert_close(out.logits[mask.bool()], expected.logits[mask.bool()], atol=1e-5, rtol=1e-5)
    assert out.past_key_values.get_seq_length() == 8


def test_static_cache_steps_share_one_graph() -> None:
    model = rope_model("default", num_layers=2)
    ids = random_ids(2, 8)
    cache = StaticCache(model.config, 16, max_batch_size=2, device="cpu", dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected = model(ids).logits
        model(ids[:, :4], past_key_values=cache)
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for step in range(4, 8):
            logits = compiled(ids[:, step : step + 1], past_key_values=cache).logits
            torch.testing.assert_close(logits[:, 0], expected[:, step], atol=1e-5, rtol=1e-5)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 1


def test_loss_and_gradients() -> None:
    model, plain = rope_model("default"), rope_model("default")
    ids = random_ids(2, 8)
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(ids, labels=ids, use_cache=False).loss
    loss.backward()
    plain(ids, labels=ids).loss.backward()
    for (name, mine), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_inductor_for_one() -> None:
    model = rope_model("default")
    ids = random_ids(1, 8)
    with torch.no_grad():
        out = torch.compile(model, fullgraph=True)(ids, use_cache=False)
        torch.testing.assert_close(out.logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_export() -> None:
    model = rope_model("default")
    ids = random_ids(1, 8)
    with torch.no_grad():
        exported = torch.export.export(model, (ids,), {"use_cache": False}, strict=False)
        torch.testing.assert_close(exported.module()(ids, use_cache=False).logits, model(ids).logits)
