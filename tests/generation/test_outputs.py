"""What return_dict_in_generate returns, field by field beside the oracle's."""

from typing import Any

import pytest
import torch

from seed_oss.generation import GenerateDecoderOnlyOutput
from tests.generation.helpers import left_padded, models, quietly

BATCH = left_padded(7, 4)
ALL = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
}


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    return models(attn="eager")


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    "how",
    [{}, {"repetition_penalty": 1.4}, {"do_sample": True, "top_k": 7}, {"do_sample": True, "num_return_sequences": 2}],
)
def test_every_field(both: tuple[Any, Any], use_cache: bool, how: dict[str, Any]) -> None:
    results = []
    for model in both:
        torch.manual_seed(2)
        results.append(quietly(model.generate, **BATCH, max_new_tokens=5, use_cache=use_cache, **ALL, **how))
    ours, theirs = results
    assert isinstance(ours, GenerateDecoderOnlyOutput)
    assert list(ours.keys()) == [*theirs.keys(), "finish_reasons"]
    assert torch.equal(ours.sequences, theirs.sequences)
    for name in ("scores", "logits"):
        assert isinstance(ours[name], tuple)
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5)
    for name in ("hidden_states", "attentions"):
        assert len(ours[name]) == len(theirs[name]) == 5
        for step, (mine, other) in enumerate(zip(ours[name], theirs[name], strict=True)):
            _same_where_tokens_count(mine, other, BATCH["attention_mask"], step, use_cache, name)


def _same_where_tokens_count(mine: Any, other: Any, mask: torch.Tensor, step: int, cached: bool, name: str) -> None:
    assert len(mine) == len(other)
    for left, right in zip(mine, other, strict=True):
        assert left.shape == right.shape
        num_padded = int((mask[1] == 0).sum())
        if step and cached:
            num_padded = 0  # the new token only
        axis = 2 if name == "attentions" else 1
        left, right = (tensor.narrow(axis, num_padded, tensor.shape[axis] - num_padded) for tensor in (left, right))
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


def test_only_what_was_asked_for(both: tuple[Any, Any]) -> None:
    result = both[0].generate(**BATCH, max_new_tokens=3, return_dict_in_generate=True)
    assert list(result.keys()) == ["sequences", "past_key_values", "finish_reasons"]
    assert result.scores is None
    assert result[0] is result.sequences


def test_outputs_are_not_kept_without_the_dict(both: tuple[Any, Any]) -> None:
    result = both[0].generate(**BATCH, max_new_tokens=3, output_scores=True)
    assert isinstance(result, torch.Tensor)


def test_raw_logits_are_safe_from_a_processor_that_writes_in_place(both: tuple[Any, Any]) -> None:
    def in_place(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.fill_(0.0)

    plain = both[0].generate(**BATCH, max_new_tokens=1, return_dict_in_generate=True, output_logits=True)
    result = both[0].generate(
        **BATCH, max_new_tokens=1, return_dict_in_generate=True, output_logits=True, logits_processor=[in_place]
    )
    assert torch.equal(result.logits[0], plain.logits[0])


def test_generated_ids_can_be_trained_on(both: tuple[Any, Any]) -> None:
    model = both[0]
    result = model.generate(**BATCH, max_new_tokens=3, return_dict_in_generate=True, output_logits=True)
    loss = model(result.sequences, labels=result.sequences).loss
    loss.backward()
    assert not result.logits[0].requires_grad
    model.zero_grad()


def test_the_input_is_left_alone(both: tuple[Any, Any]) -> None:
    before = BATCH["input_ids"].clone()
    result = both[0].generate(BATCH["input_ids"], max_new_tokens=1)
    result.zero_()
    assert torch.equal(BATCH["input_ids"], before)
