"""A whole model on the kernels: its operations think that the CPU is a device with kernels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import seed_oss
import seed_oss.generation.graph_runner as graph_runner
from seed_oss import SeedOssForCausalLM
from seed_oss.generation.step_graph import StepGraph
from seed_oss.ops.triton import builder, gate
from tests.factory import random_ids, tiny_model

IDS = random_ids(2, 5)
MASK = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])
NEW = 4


class SameStep(StepGraph):
    """Runs the step again: what the interpreter does cannot be recorded."""

    def __init__(self) -> None:
        self.num_replays = 0

    def capture(self, run: Callable[[], Tensor]) -> None:
        self.run = run

    def replay(self) -> Tensor:
        self.num_replays += 1
        return self.run()


def make_model(scheme: str | None) -> Any:
    model = tiny_model(SeedOssForCausalLM, num_hidden_layers=1)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 1
    return model if scheme is None else seed_oss.quantize_(model, scheme)


def use_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "is_on_device", lambda tensor: True)
    monkeypatch.setattr(gate, "why_not", lambda: None)
    builder.cache_clear()


def names_in_use() -> set[str]:
    return {key[0][0] for key in builder()._in_use}  # type: ignore[index]


def run(model: Any) -> tuple[Tensor, Tensor]:
    """Ids and logits `[steps, batch, vocab]` of a greedy generation."""
    out = model.generate(
        IDS,
        attention_mask=MASK,
        max_new_tokens=NEW,
        cache_implementation="static",
        return_dict_in_generate=True,
        output_logits=True,
    )
    return out.sequences, torch.stack(out.logits)


@pytest.mark.parametrize("scheme", [None, "int4", "int8"])
def test_generate(monkeypatch: pytest.MonkeyPatch, scheme: str | None) -> None:
    model = make_model(scheme)
    plain = tiny_model(SeedOssForCausalLM, num_hidden_layers=1)
    plain.generation_config = model.generation_config
    plain.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    wanted_ids, wanted = run(plain)  # products with all numbers, as torch computes them
    use_kernels(monkeypatch)
    monkeypatch.setattr(graph_runner, "graph_maker", lambda device: None)
    ids, logits = run(model)
    assert torch.equal(ids, wanted_ids)
    assert torch.allclose(logits, wanted, atol=2e-4, rtol=1e-4)
    assert not builder().failures
    quantized = set() if scheme is None else {"linear", "embedding"}
    assert names_in_use() == {"rms_norm", "rotate", "attention"} | quantized


def test_more_rows_than_a_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = make_model("int4"), random_ids(2, 9)
    with torch.no_grad():
        reference = tiny_model(SeedOssForCausalLM, num_hidden_layers=1)
        reference.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
        wanted = reference(ids).logits
        use_kernels(monkeypatch)
        assert torch.allclose(model(ids).logits, wanted, atol=2e-4, rtol=1e-4)
    assert "dequantized" in names_in_use()


def test_gradients_take_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernels(monkeypatch)
    model = make_model(None)
    model(IDS, labels=IDS).loss.backward()
    assert not names_in_use()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_graph_takes_over_after_a_step_on_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    model, graphs = make_model(None), list[SameStep]()
    wanted = model.generate(IDS, max_new_tokens=NEW + 2)

    def make() -> SameStep:
        graphs.append(SameStep())
        return graphs[-1]

    use_kernels(monkeypatch)
    monkeypatch.setattr(graph_runner, "graph_maker", lambda device: make)
    monkeypatch.setattr(graph_runner, "MIN_REPLAYS", 1)
    assert torch.equal(model.generate(IDS, max_new_tokens=NEW + 2), wanted)
    # behind the prompt: a step that asks for the decoding attention, one that runs on it, then the graph
    assert graphs[0].num_replays == NEW + 2 - 3
