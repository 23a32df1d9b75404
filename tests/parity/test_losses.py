"""Losses and gradients of every head, against transformers."""

from typing import Any

import pytest
import torch

from tests.factory import VOCAB_SIZE, random_ids
from tests.parity.oracle import pair


def assert_same_gradients(ours: Any, theirs: Any, atol: float = 1e-5) -> None:
    """Every parameter's gradient equal within `atol`."""
    other = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if other[name].grad is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, other[name].grad, atol=atol, rtol=1e-4, msg=name)


def compare(ours: Any, theirs: Any, *args: Any, **kwargs: Any) -> None:
    """Same loss, same gradients."""
    mine, other = ours(*args, **kwargs), theirs(*args, **kwargs)
    torch.testing.assert_close(mine.loss, other.loss, atol=1e-5, rtol=1e-5)
    mine.loss.backward()
    other.loss.backward()
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("return_logits", [None, True, False])
@pytest.mark.parametrize("num_items", [None, 5, torch.tensor(7)], ids=str)
def test_language_model(num_items: Any, return_logits: bool | None, tied: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr("seed_oss.ops.loss.CHUNK_ELEMENTS", 4 * VOCAB_SIZE)  # several chunks, the last one short
    ours, theirs = pair("SeedOssForCausalLM", tie_word_embeddings=tied)
    ids = random_ids(2, 7)
    labels = ids.clone()
    labels[0, :3] = -100
    mine = ours(ids, labels=labels, num_items_in_batch=num_items, return_logits=return_logits)
    other = theirs(ids, labels=labels, num_items_in_batch=num_items)
    torch.testing.assert_close(mine.loss, other.loss, atol=1e-5, rtol=1e-5)
    mine.loss.backward()
    other.loss.backward()
    assert_same_gradients(ours, theirs)


def test_shifted_labels() -> None:
    ours, theirs = pair("SeedOssForCausalLM")
    ids = random_ids(2, 7)
    compare(ours, theirs, ids, shift_labels=random_ids(2, 7, seed=3), labels=ids)


def test_no_label_counts() -> None:
    ours, theirs = pair("SeedOssForCausalLM")
    ids = random_ids(1, 4)
    labels = torch.full_like(ids, -100)
    assert ours(ids, labels=labels).loss.isnan()
    assert theirs(ids, labels=labels).loss.isnan()


@pytest.mark.parametrize(
    ("num_labels", "labels"),
    [
        (3, torch.tensor([0, 2, 1])),
        (3, torch.tensor([0, -100, 1])),
        (1, torch.tensor([0.5, -1.0, 2.0])),
        (1, torch.tensor([[0.5], [-1.0], [2.0]])),
        (3, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])),
    ],
    ids=["single", "single-ignored", "regression", "regression-column", "multi"],
)
def test_sequence_classification(num_labels: int, labels: torch.Tensor) -> None:
    ours, theirs = pair("SeedOssForSequenceClassification", num_labels=num_labels)
    ids = random_ids(3, 6)
    ids[1, :2] = ids[2, 4:] = ours.config.pad_token_id
    compare(ours, theirs, ids, attention_mask=(ids != ours.config.pad_token_id).long(), labels=labels)
    assert ours.config.problem_type == theirs.config.problem_type


def test_regression_on_several_numbers() -> None:
    ours, theirs = pair("SeedOssForSequenceClassification", num_labels=3, problem_type="regression")
    compare(ours, theirs, random_ids(2, 5), labels=torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))


def test_pooling_finds_the_last_real_token() -> None:
    ours, theirs = pair("SeedOssForSequenceClassification")
    pad = ours.config.pad_token_id
    ids = torch.tensor([[5, 6, pad, 7, pad], [pad, pad, pad, pad, pad], [pad, 5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_token_classification() -> None:
    ours, theirs = pair("SeedOssForTokenClassification")
    labels = random_ids(2, 6, low=0, high=3)
    labels[0, 2:] = -100
    compare(ours, theirs, random_ids(2, 6), labels=labels)


@pytest.mark.parametrize(
    ("starts", "ends"),
    [([0, 3], [2, 5]), ([0, 99], [6, 5]), ([-4, 1], [5, 99])],
    ids=["inside", "beyond", "clamped"],
)
def test_question_answering(starts: list[int], ends: list[int]) -> None:
    ours, theirs = pair("SeedOssForQuestionAnswering")
    positions = {"start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)[:, None]}
    compare(ours, theirs, random_ids(2, 6), **positions)


@pytest.mark.parametrize("num_items", [3, torch.tensor(3)], ids=str)
def test_question_answering_divides_by_the_items_given(num_items: Any) -> None:
    ours, theirs = pair("SeedOssForQuestionAnswering")
    positions = {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}
    compare(ours, theirs, random_ids(2, 6), **positions, num_items_in_batch=num_items)


@pytest.mark.parametrize("name", ["SeedOssForCausalLM", "SeedOssForTokenClassification"])
def test_dropout_stands_where_the_reference_has_it(name: str) -> None:
    """Same random numbers drawn in the same order: eager attention, then o_proj, then the MLP, layer by layer."""
    ours, theirs = pair(name, "eager", attention_dropout=0.3, residual_dropout=0.4)
    ids = random_ids(2, 6)
    outputs = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(7)
        outputs.append(model(ids).logits)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)


def test_gradients_reach_hidden_states_and_attentions() -> None:
    ours, theirs = pair("SeedOssForCausalLM", "eager")
    ids = random_ids(2, 5)
    grads = []
    for model in (ours, theirs):
        out = model(ids, output_hidden_states=True, output_attentions=True)
        out.hidden_states[0].retain_grad()
        out.attentions[0].retain_grad()
        out.logits.sum().backward()
        grads.append((out.hidden_states[0].grad, out.attentions[0].grad))
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
