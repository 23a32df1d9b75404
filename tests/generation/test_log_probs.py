"""Log-probabilities of prompts and perplexity, beside the plain form over all logits."""

from typing import Any

import pytest
import torch

import seed_oss.generation.log_probs as log_probs_module
from seed_oss import SeedOssForCausalLM, SeedOssForTokenClassification
from seed_oss.errors import InputError
from seed_oss.generation import perplexity, prompt_log_probs
from tests.factory import VOCAB_SIZE, random_ids, tiny_model
from tests.generation.helpers import left_padded

BATCH = left_padded(9, 3, 6)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(SeedOssForCausalLM)


def plain(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """All log-probabilities `[batch, length - 1, vocab]` of the next token."""
    positions = None if mask is None else (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(ids, attention_mask=mask, position_ids=positions).logits[:, :-1].log_softmax(-1)


@pytest.mark.parametrize("chunk_len", [None, 1, 4, 9, 100])
@pytest.mark.parametrize("elements", [1, 3 * VOCAB_SIZE, 1 << 23])
def test_equal_to_the_softmax_of_all_logits(
    model: Any, chunk_len: int | None, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_probs_module, "CHUNK_ELEMENTS", elements)
    ids = random_ids(2, 9)
    found, expected = prompt_log_probs(model, ids, top_n=5, chunk_len=chunk_len), plain(model, ids)
    chosen = expected.gather(2, ids[:, 1:, None])
    torch.testing.assert_close(found.log_probs, chosen.squeeze(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.top_log_probs, expected.topk(5).values, atol=1e-5, rtol=0)
    assert torch.equal(found.top_ids, expected.topk(5).indices)
    assert torch.equal(found.ranks, (expected > chosen).sum(-1) + 1)


@pytest.mark.parametrize("chunk_len", [None, 2, 5])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_about_the_rest(model: Any, side: str, chunk_len: int | None) -> None:
    ids, mask = (tensor if side == "left" else tensor.flip(1) for tensor in BATCH.values())
    found = prompt_log_probs(model, ids, mask, top_n=2, chunk_len=chunk_len)
    together = perplexity(model, ids, mask, chunk_len=chunk_len)
    for row in range(3):
        own = ids[row][mask[row] != 0][None]
        alone = prompt_log_probs(model, own, top_n=2)
        counts = (mask[row, 1:] != 0) & (mask[row, :-1] != 0)
        torch.testing.assert_close(found.log_probs[row][counts], alone.log_probs[0], atol=1e-5, rtol=0)
        assert torch.equal(found.top_ids[row][counts], alone.top_ids[0])
        assert torch.equal(found.ranks[row][counts], alone.ranks[0])
        assert bool(found.log_probs[row][~counts].isnan().all())
        assert bool(found.top_log_probs[row][~counts].isnan().all())
        assert bool((found.ranks[row][~counts] == 0).all())
        torch.testing.assert_close(together[row], (-alone.log_probs.mean()).exp(), rtol=1e-5, atol=0)


def test_perplexity_is_what_the_loss_says(model: Any) -> None:
    ids = random_ids(1, 12)
    loss = model(ids, labels=ids).loss.detach()
    assert float(perplexity(model, ids)) == pytest.approx(float(loss.exp()), rel=1e-5)


def test_more_of_the_most_probable_than_there_are(model: Any) -> None:
    assert prompt_log_probs(model, random_ids(1, 3), top_n=10**6).top_ids.shape == (1, 2, VOCAB_SIZE)
    assert prompt_log_probs(model, random_ids(1, 3)).top_ids.shape == (1, 2, 0)


def test_half_precision_is_summed_in_fp32() -> None:
    model = tiny_model(SeedOssForCausalLM).to(torch.bfloat16)
    ids = random_ids(1, 8)
    found = prompt_log_probs(model, ids).log_probs
    with torch.no_grad():
        expected = model(ids).logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("num_layers", "saves"), [(2, True), (60, False)])
def test_chunks_where_the_cache_is_smaller_than_activations(num_layers: int, saves: bool) -> None:
    model = tiny_model(SeedOssForCausalLM, num_hidden_layers=2)
    model.config.num_hidden_layers = num_layers
    assert log_probs_module.chunks_save_memory(model.config) is saves


def test_no_chunks_where_rotation_depends_on_the_length() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    model = tiny_model(SeedOssForCausalLM, num_hidden_layers=1, rope_parameters=rope)
    assert log_probs_module.chunks_save_memory(model.config) is False


def test_long_prompts_run_in_chunks(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    handle = model.base_model.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    monkeypatch.setattr(log_probs_module, "WHOLE_LEN", 9)
    monkeypatch.setattr(log_probs_module, "default_chunk_len", lambda length: 4)
    monkeypatch.setattr(log_probs_module, "chunks_save_memory", lambda config: True)
    prompt_log_probs(model, random_ids(1, 9))
    prompt_log_probs(model, random_ids(1, 10))
    handle.remove()
    assert lengths == [9, 4, 4, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": [[3, 4]]}, "input_ids is list; it must be an integer tensor"),
        ({"input_ids": torch.zeros(2, 4)}, r"input_ids is \[2, 4\]"),
        ({"input_ids": torch.zeros(2, 1, dtype=torch.int64)}, r"input_ids is \[2, 1\]; give at least one row and two"),
        ({"input_ids": torch.tensor([[3, VOCAB_SIZE]])}, f"contain {VOCAB_SIZE}; allowed are 0 to {VOCAB_SIZE - 1}"),
        ({"input_ids": torch.tensor([[3, -1]])}, "contain -1"),
        ({"attention_mask": torch.ones(2, 5)}, r"attention_mask is \[2, 5\]; it must be a tensor \[2, 4\]"),
        ({"top_n": -1}, "top_n is -1; it must be an integer >= 0"),
        ({"chunk_len": 0}, "chunk_len is 0; it must be an integer >= 1"),
    ],
)
def test_wrong_arguments(model: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prompt_log_probs(model, **{"input_ids": random_ids(2, 4), **arguments})


def test_a_row_without_anything_to_predict(model: Any) -> None:
    mask = torch.tensor([[1, 1, 1], [0, 0, 1]])
    with pytest.raises(InputError, match="row 1 has fewer than two tokens"):
        perplexity(model, random_ids(2, 3), mask)


def test_a_model_without_a_head() -> None:
    with pytest.raises(InputError, match="SeedOssForTokenClassification has no language-model head"):
        prompt_log_probs(tiny_model(SeedOssForTokenClassification), random_ids(1, 3))
