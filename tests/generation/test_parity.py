"""The same ids as transformers' generate, for the same weights, arguments and torch seed."""

from typing import Any

import pytest
import torch

from tests.factory import random_ids
from tests.generation.helpers import left_padded, models, quietly

BATCH = left_padded(9, 3, 6)
MANY_EOS = [27, 99, 45, 134, *range(7, 16)]  # some row meets one of them within a few tokens

GREEDY: dict[str, dict[str, Any]] = {
    "plain": {},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "no cache": {"use_cache": False},
    "one eos": {"eos_token_id": 99},
    "eos list": {"eos_token_id": MANY_EOS},
    "eos list and min_new_tokens": {"eos_token_id": MANY_EOS, "min_new_tokens": 5},
    "eos list and min_length": {"eos_token_id": MANY_EOS, "min_length": 14},
    "pad is eos": {"eos_token_id": MANY_EOS, "pad_token_id": None},
    "repetition penalty": {"repetition_penalty": 1.5},
    "repetition reward": {"repetition_penalty": 0.7},
    "chunked prefill": {"prefill_chunk_size": 4},
    "custom positions": {"position_ids": torch.arange(9)[None].expand(3, -1) + 3},
    "logits of all positions": {"logits_to_keep": 0},
}

SAMPLING: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.6, "top_k": 0},
    "top_k": {"top_k": 5},
    "top_k None": {"top_k": None},
    "top_p": {"top_p": 0.9, "top_k": 0},
    "min_p": {"min_p": 0.1, "top_k": 0},
    "all": {"temperature": 1.3, "top_k": 30, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2},
    "several sequences": {"num_return_sequences": 3},
    "several sequences without cache": {"num_return_sequences": 2, "use_cache": False},
    "several sequences, static cache": {
        "num_return_sequences": 2,
        "cache_implementation": "static",
        "disable_compile": True,
    },
    "eos list": {"eos_token_id": MANY_EOS},
}


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return models(attn=request.param)


def _same(both: tuple[Any, Any], **arguments: Any) -> torch.Tensor:
    results = []
    for model in both:
        torch.manual_seed(11)
        results.append(quietly(model.generate, **arguments))
    assert torch.equal(*results)
    return results[0]


@pytest.mark.parametrize("case", GREEDY)
def test_greedy(both: tuple[Any, Any], case: str) -> None:
    result = _same(both, **BATCH, **{"max_new_tokens": 20, **GREEDY[case]})
    assert result.shape[1] > 12


@pytest.mark.parametrize("case", SAMPLING)
def test_sampling_under_the_same_torch_seed(both: tuple[Any, Any], case: str) -> None:
    _same(both, **BATCH, max_new_tokens=25, do_sample=True, **SAMPLING[case])


def test_one_unpadded_row(both: tuple[Any, Any]) -> None:
    assert _same(both, inputs=random_ids(1, 7), max_new_tokens=25).shape == (1, 32)


def test_max_length_counts_the_prompt(both: tuple[Any, Any]) -> None:
    assert _same(both, **BATCH, max_length=12).shape == (3, 12)


def test_twenty_new_tokens_by_default(both: tuple[Any, Any]) -> None:
    assert _same(both, **BATCH).shape == (3, 29)


def test_padding_is_found_without_a_mask(both: tuple[Any, Any]) -> None:
    without = _same(both, input_ids=BATCH["input_ids"], max_new_tokens=15)
    assert torch.equal(without, both[0].generate(**BATCH, max_new_tokens=15))


def test_right_padding(both: tuple[Any, Any]) -> None:
    flipped = {name: tensor.flip(1) for name, tensor in BATCH.items()}
    _same(both, **flipped, max_new_tokens=10)


def test_start_from_bos(both: tuple[Any, Any]) -> None:
    result = _same(both, max_new_tokens=10)
    assert result[0, 0] == both[0].config.bos_token_id


class TestEmbeddings:
    ids = random_ids(3, 9)

    @pytest.fixture
    def embeds(self, both: tuple[Any, Any]) -> torch.Tensor:
        return both[0].get_input_embeddings()(self.ids).detach()

    def test_new_tokens_only(self, both: tuple[Any, Any], embeds: torch.Tensor) -> None:
        result = _same(both, inputs_embeds=embeds, max_new_tokens=10)
        assert torch.equal(result, both[0].generate(self.ids, max_new_tokens=10)[:, 9:])

    def test_use_cache_false_is_overruled(self, both: tuple[Any, Any], embeds: torch.Tensor) -> None:
        _same(both, inputs_embeds=embeds, max_new_tokens=10, use_cache=False)

    def test_max_length_counts_the_embeddings(self, both: tuple[Any, Any], embeds: torch.Tensor) -> None:
        assert _same(both, inputs_embeds=embeds, max_length=15).shape == (3, 6)

    def test_min_length_counts_the_embeddings(self, both: tuple[Any, Any], embeds: torch.Tensor) -> None:
        _same(both, inputs_embeds=embeds, max_length=19, min_length=12, eos_token_id=MANY_EOS)

    def test_left_padding(self, both: tuple[Any, Any], embeds: torch.Tensor) -> None:
        _same(both, inputs_embeds=embeds, attention_mask=BATCH["attention_mask"], max_new_tokens=10)

    def test_with_ids(self, both: tuple[Any, Any], embeds: torch.Tensor) -> None:
        assert _same(both, inputs_embeds=embeds, input_ids=self.ids, max_new_tokens=10).shape == (3, 19)

    def test_with_fewer_ids(self, both: tuple[Any, Any], embeds: torch.Tensor) -> None:
        mask = torch.ones_like(self.ids)
        _same(both, inputs_embeds=embeds, input_ids=self.ids[:, :4], attention_mask=mask, max_length=18)

    def test_repetition_penalty_sees_new_tokens_only(self, both: tuple[Any, Any], embeds: torch.Tensor) -> None:
        _same(both, inputs_embeds=embeds, max_new_tokens=12, repetition_penalty=1.5)

    def test_several_sequences(self, both: tuple[Any, Any], embeds: torch.Tensor) -> None:
        _same(both, inputs_embeds=embeds, max_new_tokens=12, do_sample=True, num_return_sequences=2)

    def test_chunked(self, both: tuple[Any, Any], embeds: torch.Tensor) -> None:
        whole = both[0].generate(inputs_embeds=embeds, max_new_tokens=10)
        assert torch.equal(both[0].generate(inputs_embeds=embeds, max_new_tokens=10, prefill_chunk_size=4), whole)


def test_user_processors_and_criteria_come_in_the_same_order(both: tuple[Any, Any]) -> None:
    class Ban:
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores.index_fill(1, input_ids[0, -3:], -10.0)

    class AtLength:
        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return input_ids[:, -1] % 3 == 0

    results = _same(
        both,
        **BATCH,
        max_new_tokens=20,
        do_sample=True,
        top_k=4,
        repetition_penalty=1.3,
        eos_token_id=99,
        logits_processor=[Ban()],
        stopping_criteria=[AtLength()],
    )
    assert results.shape[1] < 29


@pytest.mark.parametrize("overrides", [{"tie_word_embeddings": True}, {"attention_bias": False}, {"head_dim": 4}])
def test_other_shapes(overrides: dict[str, Any]) -> None:
    _same(models(**overrides), **BATCH, max_new_tokens=12)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12},
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [1.5, 2.0, 2.5, 3.0],
            "original_max_position_embeddings": 12,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_rope_that_changes_on_the_way(rope: dict[str, Any]) -> None:
    both = models(rope_parameters={"rope_theta": 10000.0, **rope}, max_position_embeddings=12)
    _same(both, **BATCH, max_new_tokens=20)
