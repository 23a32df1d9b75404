"""ModelOutput as dict, tuple, object and pytree."""

import pytest
import torch
import torch.utils._pytree as pytree

from seed_oss.nn.outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, Deferred


def test_absent_fields() -> None:
    out = CausalLMOutputWithPast(logits=torch.ones(1))
    assert out.loss is None
    assert "loss" not in out
    assert out.get("loss", 3) == 3
    assert out.to_tuple() == (out.logits,) == out[:]
    with pytest.raises(AttributeError, match="nothing"):
        _ = out.nothing
    with pytest.raises(KeyError):
        _ = out["loss"]


def test_positional_mapping_and_pairs() -> None:
    one, two = torch.ones(1), torch.zeros(2)
    for out in (
        CausalLMOutputWithPast(one, two),
        CausalLMOutputWithPast({"loss": one, "logits": two}),
        CausalLMOutputWithPast([("loss", one), ("logits", two)]),
        CausalLMOutputWithPast(loss=one, logits=two),
    ):
        assert out.loss is one
        assert out[1] is two
    with pytest.raises(TypeError, match="unknown"):
        CausalLMOutputWithPast(unknown=one)


def test_setting_and_clearing() -> None:
    out = BaseModelOutputWithPast(last_hidden_state=torch.ones(1))
    out.attentions = (torch.zeros(1),)
    assert out["attentions"][0].item() == 0
    out.attentions = None
    assert "attentions" not in out


def test_pytree_round_trip() -> None:
    out = CausalLMOutputWithPast(loss=torch.ones(1), logits=torch.zeros(2), hidden_states=(torch.ones(3),))
    doubled = pytree.tree_map(lambda leaf: leaf * 2, out)
    assert isinstance(doubled, CausalLMOutputWithPast)
    assert doubled.loss.item() == 2
    assert doubled.hidden_states[0].sum() == 6


def test_printing_does_not_compute() -> None:
    calls: list[int] = []
    out = CausalLMOutputWithPast(logits=Deferred(lambda: calls.append(1)))
    assert "logits" in repr(out)
    assert not calls
