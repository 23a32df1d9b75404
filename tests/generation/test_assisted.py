"""Assisted decoding: the same result as the model alone, whatever the assistant guesses."""

from typing import Any

import pytest
import torch

from seed_oss.errors import InputError
from seed_oss.generation import generate
from seed_oss.generation.row_control import FREE, Directive
from tests.factory import random_ids
from tests.generation.helpers import ScriptedModel, left_padded, models, quietly
from tests.generation.test_row_controls import Says


@pytest.fixture(scope="module")
def model() -> Any:
    return models()[0]


@pytest.fixture(scope="module", params=["itself", "another", "nearly the same"])
def assistant(request: pytest.FixtureRequest, model: Any) -> Any:
    if request.param == "itself":
        return model
    if request.param == "another":
        return models(seed=3, num_hidden_layers=1)[0]
    near = models()[0]
    with torch.no_grad():
        near.lm_head.weight.add_(0.02 * torch.randn(near.lm_head.weight.shape, generator=torch.manual_seed(0)))
    return near


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no threshold": {"assistant_confidence_threshold": 0.0},
    "few": {"assistant_confidence_threshold": 0.0, "num_assistant_tokens": 2},
    "one token": {"max_new_tokens": 1},
    "two tokens": {"max_new_tokens": 2},
    "seeded": {"do_sample": True, "seed": 3, "assistant_confidence_threshold": 0.0},
    "warpers and penalty": {"do_sample": True, "seed": 3, "top_k": 5, "temperature": 0.5, "repetition_penalty": 1.3},
    "eos": {"eos_token_id": [27, 99, 45, 134, *range(7, 16)], "min_new_tokens": 2},
    "static cache": {"cache_implementation": "static"},
    "several": {"do_sample": True, "seed": 1, "num_return_sequences": 2, "assistant_confidence_threshold": 0.0},
}
OUR_NAMES = ("assistant_confidence_threshold", "num_assistant_tokens")


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("lengths", [(9,), (9, 4, 6)])
def test_the_same_as_alone(model: Any, assistant: Any, case: str, lengths: tuple[int, ...]) -> None:
    how = {"max_new_tokens": 24, **SETTINGS[case]}
    plain = {name: value for name, value in how.items() if name not in OUR_NAMES}
    expected = quietly(model.generate, **left_padded(*lengths), **plain)
    assert torch.equal(quietly(model.generate, **left_padded(*lengths), assistant_model=assistant, **how), expected)


def test_the_reference_says_the_same() -> None:
    ours, theirs = models()
    helpers = models(seed=3, num_hidden_layers=1)
    ids = random_ids(1, 9)
    expected = quietly(theirs.generate, ids, max_new_tokens=24, assistant_model=helpers[1])
    assert torch.equal(ours.generate(ids, max_new_tokens=24, assistant_model=helpers[0]), expected)


def _lengths(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    lengths: list[int] = []
    forward = model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    return lengths


@pytest.mark.parametrize("how", [{}, {"do_sample": True}, {"do_sample": True, "seed": 7}])
def test_forwards_of_a_perfect_assistant(monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]) -> None:
    model, assistant = models()[0], models()[0]
    large, small = _lengths(model, monkeypatch), _lengths(assistant, monkeypatch)
    how = {"num_assistant_tokens": 5, "assistant_confidence_threshold": 0.0, "max_new_tokens": 20, **how}
    model.generate(random_ids(2, 8), assistant_model=assistant, **how)
    assert large == [8, 6, 6, 6, 1]  # the last one could only guess the last token
    assert sum(small) <= 8 + 20
    assert set(small[1:]) <= {1, 2}


def test_an_unsure_assistant_guesses_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model, assistant = models()[0], models()[0]
    lengths = _lengths(model, monkeypatch)
    model.generate(random_ids(1, 8), assistant_model=assistant, max_new_tokens=12, assistant_confidence_threshold=1.0)
    assert max(lengths[1:]) == 2


def test_settings_of_the_assistant_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model, assistant = models()[0], models()[0]
    assistant.generation_config.update(num_assistant_tokens=3, assistant_confidence_threshold=0.0)
    lengths = _lengths(model, monkeypatch)
    model.generate(random_ids(1, 8), assistant_model=assistant, max_new_tokens=12)
    assert max(lengths[1:]) == 4


def test_the_distribution_is_kept() -> None:
    """Two tokens over a vocabulary of eight, drawn many times, against the exact probabilities."""
    shape = {"vocab_size": 8, "initializer_range": 0.4}
    model, assistant = models(**shape)[0], models(seed=4, **shape)[0]
    prompt = torch.tensor([[3, 5, 6]])
    first = model(prompt).logits[0, -1].softmax(-1)
    texts = torch.cat((prompt.expand(8, -1), torch.arange(8)[:, None]), dim=1)
    joint = first[:, None] * model(texts).logits[:, -1].softmax(-1)
    how = {"do_sample": True, "top_k": 0, "max_new_tokens": 2, "assistant_confidence_threshold": 0.0}
    counts = torch.zeros(64)
    torch.manual_seed(0)
    for _ in range(10):
        rows = quietly(model.generate, prompt.repeat(500, 1), assistant_model=assistant, **how)
        counts += (8 * rows[:, 3] + rows[:, 4]).bincount(minlength=64)
    expected = joint.detach().flatten() * 5000
    often = expected >= 5
    chi_square = ((counts - expected)[often] ** 2 / expected[often]).sum()
    degrees = int(often.sum())
    assert degrees > 20
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5


def test_torch_state_and_generators_decide_the_draws(model: Any) -> None:
    assistant = models(seed=3)[0]
    how = {"do_sample": True, "max_new_tokens": 12, "assistant_model": assistant}
    draws = [
        model.generate(random_ids(1, 6), generator=torch.Generator().manual_seed(seed), **how) for seed in (1, 1, 2)
    ]
    torch.manual_seed(1)
    assert torch.equal(model.generate(random_ids(1, 6), **how), draws[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_row_controls(model: Any, assistant: Any) -> None:
    bans = [Directive(banned=frozenset(range(0, 150, step))) for step in (2, 3, 2, 5, 2)]
    control = Says(*bans, *[FREE] * 3, Directive(forced=9), Directive(forced=10), *[FREE] * 4, Directive(stop="enough"))
    how = {"max_new_tokens": 24, "row_controls": [control, None], "return_dict_in_generate": True}
    plain = model.generate(**left_padded(8, 5), **how)
    helped = model.generate(**left_padded(8, 5), **how, assistant_model=assistant)
    assert torch.equal(helped.sequences, plain.sequences)
    assert torch.equal(helped.forced, plain.forced)
    assert helped.finish_reasons == plain.finish_reasons == ["enough", "length"]


def test_own_processors_see_every_token_once(model: Any, assistant: Any) -> None:
    lengths: list[int] = []

    def watch(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        lengths.append(ids.shape[1])
        return scores

    model.generate(random_ids(1, 6), max_new_tokens=10, assistant_model=assistant, logits_processor=[watch])
    assert lengths == list(range(6, 16))


def test_a_cache_of_the_user(model: Any, assistant: Any) -> None:
    ids = random_ids(2, 12)
    past = model(ids[:, :7], use_cache=True).past_key_values
    expected = model.generate(ids, max_new_tokens=15)
    assert torch.equal(
        model.generate(ids, max_new_tokens=15, past_key_values=past, assistant_model=assistant), expected
    )


class TestRefused:
    ids = random_ids(1, 5)

    def _check(self, model: Any, message: str, *args: Any, **how: Any) -> None:
        with pytest.raises(InputError, match=message):
            quietly(model.generate, *args, max_new_tokens=3, **how)

    def test_what_is_no_model(self, model: Any) -> None:
        self._check(model, "assistant_model is a int; it must be", self.ids, assistant_model=3)

    def test_another_vocabulary(self, model: Any) -> None:
        other = models(vocab_size=170)[0]
        self._check(model, "170 tokens and the model one of 160", self.ids, assistant_model=other)

    def test_both(self, model: Any) -> None:
        how = {"assistant_model": model, "prompt_lookup_num_tokens": 3}
        self._check(model, "are both given", self.ids, **how)

    def test_embeddings(self, model: Any) -> None:
        embeds = model.get_input_embeddings()(self.ids)
        self._check(model, "whole prompt as input_ids", inputs_embeds=embeds, assistant_model=model)

    def test_no_cache(self, model: Any) -> None:
        self._check(model, "use_cache is False", self.ids, assistant_model=model, use_cache=False)

    def test_another_tokenizer(self, model: Any) -> None:
        self._check(model, "assistant_tokenizer: an assistant_model must have", self.ids, assistant_tokenizer=object())

    def test_another_device(self) -> None:
        model = ScriptedModel([[9]], vocab_size=160)
        model.device = torch.device("meta")
        with pytest.raises(InputError, match="on meta and the model on cpu"):
            generate(ScriptedModel([[9]], vocab_size=160), self.ids, assistant_model=model, max_new_tokens=2)
