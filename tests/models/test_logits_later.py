"""Logits next to a chunked loss: computed when looked at, the same numbers and gradients as at once."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree

from seed_oss import SeedOssForCausalLM
from seed_oss.errors import StateError
from seed_oss.nn.outputs import CausalLMOutputWithPast, Deferred
from tests.factory import VOCAB_SIZE, random_ids, tiny_model


@pytest.fixture
def model() -> Any:
    return tiny_model(SeedOssForCausalLM)


@pytest.fixture
def ids() -> torch.Tensor:
    return random_ids(2, 7)


def is_deferred(output: Any) -> bool:
    """Whether nobody has looked at the logits."""
    return isinstance(dict.__getitem__(output, "logits"), Deferred)


ACCESSES = {
    "attribute": lambda out: out.logits,
    "key": lambda out: out["logits"],
    "index": lambda out: out[1],
    "slice": lambda out: out[:2][1],
    "get": lambda out: out.get("logits"),
    "items": lambda out: dict(out.items())["logits"],
    "values": lambda out: list(out.values())[1],
    "dict": lambda out: dict(out)["logits"],
    "unpack": lambda out: {**out}["logits"],
    "rebuilt": lambda out: type(out)(dict(out)).logits,
    "pairs": lambda out: type(out)((key, out[key]) for key in out).logits,
    "tuple": lambda out: out.to_tuple()[1],
    "copy": lambda out: copy.copy(out).logits,
    "pytree": lambda out: pytree.tree_flatten(out)[0][1],
}


@pytest.mark.parametrize("access", ACCESSES.values(), ids=ACCESSES.keys())
def test_every_access_gives_the_logits(model: Any, ids: torch.Tensor, access: Any) -> None:
    out = model(ids, labels=ids)
    assert is_deferred(out)
    assert out.loss is out["loss"] is out[0]
    assert "logits" in out
    assert list(out) == list(out.keys()) == ["loss", "logits", "past_key_values"]
    assert is_deferred(out)
    torch.testing.assert_close(access(out), model(ids).logits, atol=0, rtol=0)


def test_a_loss_on_deferred_logits_trains_the_same(model: Any, ids: torch.Tensor) -> None:
    gradients = []
    for return_logits in (None, True):
        out = model(ids, labels=ids, return_logits=return_logits)
        (out.loss + out.logits.square().mean()).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        model.zero_grad()
    for later, now in zip(*gradients, strict=True):
        torch.testing.assert_close(later, now, atol=1e-6, rtol=1e-4)


def test_logits_after_the_backward_of_the_loss(model: Any, ids: torch.Tensor) -> None:
    out = model(ids, labels=ids)
    out.loss.backward()
    torch.testing.assert_close(out.logits, model(ids).logits, atol=0, rtol=0)


def test_a_changed_head_is_an_error(model: Any, ids: torch.Tensor) -> None:
    out = model(ids, labels=ids)
    out.loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with pytest.raises(StateError, match="return_logits=True"):
        _ = out.logits
    out = model(ids, labels=ids)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with pytest.raises(StateError, match="changed since"):
        _ = out["logits"]


def test_grad_mode_and_autocast_are_the_forwards(model: Any, ids: torch.Tensor) -> None:
    with torch.no_grad():
        out = model(ids, labels=ids)
    assert not out.logits.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, at_once = model(ids, labels=ids), model(ids)
    assert out.logits.dtype == at_once.logits.dtype == torch.bfloat16


def test_now_and_never(model: Any, ids: torch.Tensor) -> None:
    assert not is_deferred(model(ids, labels=ids, return_logits=True))
    out = model(ids, labels=ids, return_logits=False)
    assert out.logits is None
    assert "logits" not in out
    assert "logits" not in model(ids, return_logits=False)
    assert isinstance(model(ids, labels=ids, return_dict=False)[1], torch.Tensor)


def test_a_head_with_dropout_computes_at_once(model: Any, ids: torch.Tensor) -> None:
    model.lm_head = torch.nn.Sequential(torch.nn.Dropout(0.5), model.lm_head)
    assert not is_deferred(model.train()(ids, labels=ids))
    assert is_deferred(model.eval()(ids, labels=ids))


def test_the_head_module_is_called_on_chunks(model: Any, ids: torch.Tensor, monkeypatch: Any) -> None:
    monkeypatch.setattr("seed_oss.ops.loss.CHUNK_ELEMENTS", 4 * VOCAB_SIZE)
    shapes: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))
    model(ids, labels=ids).loss.backward()
    assert shapes[:4] == [(4, VOCAB_SIZE), (4, VOCAB_SIZE), (4, VOCAB_SIZE), (2, VOCAB_SIZE)]


def test_pickling_keeps_the_logits(model: Any, ids: torch.Tensor) -> None:
    with torch.no_grad():
        out = model(ids, labels=ids, use_cache=False)
    again = pickle.loads(pickle.dumps(out))  # noqa: S301 - our own bytes
    assert isinstance(again, CausalLMOutputWithPast)
    torch.testing.assert_close(again.logits, out.logits, atol=0, rtol=0)


def test_accelerates_fp32_wrapper(model: Any, ids: torch.Tensor) -> None:
    from accelerate.utils import convert_outputs_to_fp32

    def forward() -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(ids, labels=ids, use_cache=False)

    out = convert_outputs_to_fp32(forward)()
    assert isinstance(out, CausalLMOutputWithPast)
    assert out.logits.dtype == torch.float32
    (out.loss + out.logits.mean()).backward()
    assert model.lm_head.weight.grad is not None


def _ddp_worker(rank: int, store: str, results: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(tiny_model(SeedOssForCausalLM))
    ids = random_ids(1, 7, seed=rank)
    out = model(ids, labels=ids)
    plain = not is_deferred(out)
    out.loss.backward()
    chunked = model(ids, labels=ids, return_logits=False)
    chunked.loss.backward()
    results.put((rank, plain, [parameter.grad.tolist() for parameter in model.parameters()][-1]))
    torch.distributed.destroy_process_group()


def test_two_processes_under_ddp(tmp_path: Any) -> None:
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_ddp_worker, args=(rank, str(tmp_path / "store"), results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    got = sorted(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert all(plain for _, plain, _ in got)
    single = tiny_model(SeedOssForCausalLM)
    loss = sum(single(random_ids(1, 7, seed=rank), labels=random_ids(1, 7, seed=rank)).loss for rank in range(2))
    loss.backward()  # twice the mean over two processes, as two backwards of the mean are
    expected = list(single.parameters())[-1].grad
    for _, _, gradient in got:
        torch.testing.assert_close(torch.tensor(gradient), expected, atol=1e-5, rtol=1e-4)
