"""Perplexity, divergence and agreement, against their definitions written out."""

import copy
import math

import pytest
import torch

import seed_oss
from seed_oss.errors import InputError, NumericalError
from seed_oss.quant.quality import compare, reference_of
from tests.factory import random_ids, tiny_model


def test_a_model_is_itself() -> None:
    model = tiny_model(seed_oss.SeedOssForCausalLM)
    same = compare(model, reference_of(model, random_ids(2, 20)))
    assert same.increase == 0
    assert same.kl == 0
    assert same.top1 == 1


def test_against_the_definitions() -> None:
    model, ids = tiny_model(seed_oss.SeedOssForCausalLM), random_ids(3, 20)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight += 0.05 * torch.randn(160, 32, generator=torch.Generator().manual_seed(0))
        first, second = model(ids).logits.double().log_softmax(-1), other(ids).logits.double().log_softmax(-1)
    ticks: list[int] = []
    found = compare(other, reference_of(model, ids), lambda: ticks.append(1))
    losses = [-each[:, :-1].gather(-1, ids[:, 1:, None]).mean() for each in (first, second)]
    assert found.perplexity == pytest.approx(math.exp(losses[1]), rel=1e-5)
    assert found.increase == pytest.approx(math.exp(losses[1] - losses[0]) - 1, rel=1e-3)
    assert found.kl == pytest.approx(float((first.exp() * (first - second)).sum(-1).mean()), rel=1e-3)
    assert found.top1 == pytest.approx(float((first.argmax(-1) == second.argmax(-1)).double().mean()))
    assert 0.5 < found.top1 < 1
    assert len(ticks) == 3


def test_what_is_refused() -> None:
    model = tiny_model(seed_oss.SeedOssForCausalLM)
    with pytest.raises(InputError, match=r"input_ids is \[2, 1\]"):
        reference_of(model, random_ids(2, 1))
    reference = reference_of(model, random_ids(1, 4))
    with torch.no_grad():
        model.lm_head.weight[:] = torch.nan
    with pytest.raises(NumericalError, match="NaN"):
        compare(model, reference)
