"""Every class x padding x cache use x attention implementation, against transformers."""

from typing import Any

import pytest
import torch

import seed_oss
from tests.factory import random_ids
from tests.parity.oracle import CLASSES, assert_close, assert_same_outputs, pair

LENGTH = 9


def padding_mask(kind: str) -> torch.Tensor | None:
    """`[3, LENGTH]`: none, or rows with 0, 2 and 4 pads on one side."""
    if kind == "none":
        return None
    mask = torch.ones(3, LENGTH, dtype=torch.int64)
    for row, num_pads in enumerate((0, 2, 4)):
        if num_pads:
            mask[row, :num_pads] = mask[row, -num_pads:] if kind == "both" else 0
        if kind == "right" and num_pads:
            mask[row, :num_pads], mask[row, -num_pads:] = 1, 0
    return mask


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", CLASSES)
def test_whole_sequence(name: str, padding: str, attn: str) -> None:
    ours, theirs = pair(name, attn)
    ids, mask = random_ids(3, LENGTH), padding_mask(padding)
    if mask is not None:
        ids = ids.masked_fill(mask == 0, ours.config.pad_token_id)
    with torch.no_grad():
        mine, other = ours(ids, mask), theirs(ids, attention_mask=mask)
    assert_same_outputs(mine, other, mask)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", ["SeedOssModel", "SeedOssForCausalLM", "SeedOssForSequenceClassification"])
@pytest.mark.parametrize("steps", [[1] * LENGTH, [4, 1, 4], [5, 4]], ids=["step-by-step", "chunked", "halves"])
def test_through_the_cache(name: str, padding: str, attn: str, steps: list[int]) -> None:
    ours, theirs = pair(name, attn)
    ids, mask = random_ids(3, LENGTH), padding_mask(padding)
    caches: dict[str, Any] = {"ours": seed_oss.DynamicCache(), "theirs": None}
    start = 0
    for num_tokens in steps:
        end = start + num_tokens
        seen = None if mask is None else mask[:, :end]
        with torch.no_grad():
            mine = ours(ids[:, start:end], seen, past_key_values=caches["ours"])
            other = theirs(ids[:, start:end], attention_mask=seen, past_key_values=caches["theirs"], use_cache=True)
        assert_same_outputs(mine, other, None if seen is None else seen[:, start:end])
        caches = {"ours": mine.past_key_values, "theirs": other.past_key_values}
        start = end
    assert caches["ours"].get_seq_length() == caches["theirs"].get_seq_length() == LENGTH
    for (keys, values), layer in zip(caches["ours"], caches["theirs"].layers, strict=True):
        rows = None if mask is None else mask.bool()
        for mine_kv, other_kv in ((keys, layer.keys), (values, layer.values)):
            mine_kv, other_kv = mine_kv.transpose(1, 2), other_kv.transpose(1, 2)
            assert_close(mine_kv, other_kv, rows, 1e-5)


@pytest.mark.parametrize("name", ["SeedOssModel", "SeedOssForCausalLM"])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied(name: str, tied: bool) -> None:
    ours, theirs = pair(name, tie_word_embeddings=tied)
    ids = random_ids(2, LENGTH)
    with torch.no_grad():
        assert_same_outputs(ours(ids), theirs(ids))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.num_parameters() == theirs.num_parameters()


@pytest.mark.parametrize(
    "overrides",
    [
        {"attention_bias": False},
        {"attention_out_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 8},
        {"num_key_value_heads": 1},
        {"head_dim": 4},
        {"hidden_act": "gelu"},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "relu2"},
        {"rms_norm_eps": 0.1},
        {"num_hidden_layers": 1},
    ],
    ids=str,
)
def test_config_fields_that_change_the_numbers(overrides: dict[str, Any]) -> None:
    ours, theirs = pair("SeedOssForCausalLM", **overrides)
    ids = random_ids(2, LENGTH)
    with torch.no_grad():
        assert_same_outputs(ours(ids), theirs(ids))


def test_every_shared_activation_is_the_references() -> None:
    from transformers.activations import ACT2FN

    from seed_oss.ops.activations import ACTIVATIONS

    x = torch.linspace(-6, 6, 101)
    for name, function in ACTIVATIONS.items():
        torch.testing.assert_close(
            function(x), ACT2FN[name](x), atol=2e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_embeddings_instead_of_ids_and_explicit_positions() -> None:
    ours, theirs = pair("SeedOssForCausalLM")
    embeds = torch.randn(2, LENGTH, ours.config.hidden_size, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(3, 3 + LENGTH)[None]
    with torch.no_grad():
        mine = ours(inputs_embeds=embeds, position_ids=positions)
        other = theirs(inputs_embeds=embeds, position_ids=positions)
    assert_same_outputs(mine, other)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_packed_sequences_stay_apart(attn: str) -> None:
    ours, theirs = pair("SeedOssForCausalLM", attn)
    ids = random_ids(1, 12)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]])
    with torch.no_grad():
        mine = ours(ids, position_ids=positions, use_cache=False)
        other = theirs(ids, position_ids=positions, use_cache=False)
        alone = ours(ids[:, 5:8], use_cache=False)
    assert_same_outputs(mine, other)
    torch.testing.assert_close(mine.logits[:, 5:8], alone.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_four_dimensional_masks(attn: str) -> None:
    ours, theirs = pair("SeedOssForCausalLM", attn)
    ids = random_ids(2, 6)
    allowed = torch.ones(6, 6, dtype=torch.bool).tril().expand(2, 1, 6, 6).clone()
    allowed[1, 0, 3:, 1] = False
    mask = allowed if attn == "sdpa" else torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        assert_same_outputs(ours(ids, mask), theirs(ids, attention_mask=mask))


@pytest.mark.parametrize("selection", [True, 0, -1, [0, 2], [-1, 1, 99]], ids=str)
def test_hidden_states_and_attentions(selection: Any) -> None:
    ours, theirs = pair("SeedOssForCausalLM", "eager")
    ids, mask = random_ids(3, LENGTH), padding_mask("left")
    with torch.no_grad():
        kwargs = {"output_hidden_states": selection, "output_attentions": True}
        mine, other = ours(ids, mask, **kwargs), theirs(ids, attention_mask=mask, **kwargs)
    assert mine.attentions[0].shape == (3, 8, LENGTH, LENGTH)
    assert_same_outputs(mine, other, mask)


def test_attentions_under_sdpa_are_empty_with_a_warning() -> None:
    ours, _ = pair("SeedOssForCausalLM", "sdpa")
    with pytest.warns(UserWarning, match="eager"):
        assert ours(random_ids(1, 4), output_attentions=True).attentions == ()


@pytest.mark.parametrize("is_causal", [True, False])
def test_bidirectional_by_config(is_causal: bool) -> None:
    ours, theirs = pair("SeedOssModel", is_causal=is_causal)
    ids, mask = random_ids(3, LENGTH), padding_mask("right")
    with torch.no_grad():
        assert_same_outputs(ours(ids, mask), theirs(ids, attention_mask=mask), mask)


@pytest.mark.parametrize("keep", [0, 1, 4, torch.tensor([0, 3]), torch.tensor([[0, 3], [2, 5], [1, 8]])], ids=str)
def test_logits_to_keep(keep: Any) -> None:
    ours, theirs = pair("SeedOssForCausalLM")
    ids = random_ids(3, LENGTH)
    with torch.no_grad():
        assert_same_outputs(ours(ids, logits_to_keep=keep), theirs(ids, logits_to_keep=keep))


def test_logits_to_keep_by_mask() -> None:
    ours, theirs = pair("SeedOssForCausalLM")
    ids, keep = random_ids(3, LENGTH), random_ids(3, LENGTH, seed=5) % 2 == 0
    with torch.no_grad():
        assert_same_outputs(ours(ids, logits_to_keep=keep), theirs(ids, logits_to_keep=keep))


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(attn: str, dtype: torch.dtype) -> None:
    ours, theirs = pair("SeedOssForCausalLM", attn)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    theirs.model.rotary_emb.inv_freq = ours.model.rotary_emb.inv_freq.clone()  # theirs would round it
    ids, mask = random_ids(3, LENGTH), padding_mask("left")
    with torch.no_grad():
        mine, other = ours(ids, mask), theirs(ids, attention_mask=mask)
    tolerance = 5e-2 if dtype == torch.bfloat16 else 1e-2
    assert_close(mine.logits, other.logits, mask, tolerance)


def test_tuples() -> None:
    ours, theirs = pair("SeedOssForCausalLM")
    ids = random_ids(2, LENGTH)
    with torch.no_grad():
        mine, other = ours(ids, return_dict=False), theirs(ids, return_dict=False)
    assert isinstance(mine, tuple)
    assert len(mine) == len(other)
    torch.testing.assert_close(mine[0], other[0], atol=1e-5, rtol=1e-5)
