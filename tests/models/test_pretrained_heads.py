"""One class's checkpoint in another class: base tensors found under every prefix, heads skipped and made anew."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import seed_oss
from seed_oss import (
    SeedOssForCausalLM,
    SeedOssForQuestionAnswering,
    SeedOssForSequenceClassification,
    SeedOssForTokenClassification,
    SeedOssModel,
)
from seed_oss.errors import CheckpointError
from tests.factory import random_ids, tiny_config, tiny_model
from tests.models.test_pretrained import assert_same_state
from tests.parity.oracle import CLASSES, oracle_config

NEW = {
    "SeedOssModel": set(),
    "SeedOssForCausalLM": {"lm_head.weight"},
    "SeedOssForSequenceClassification": {"score.weight"},
    "SeedOssForTokenClassification": {"score.weight", "score.bias"},
    "SeedOssForQuestionAnswering": {"qa_outputs.weight", "qa_outputs.bias"},
}


def base(model: Any) -> Any:
    return getattr(model, model.base_model_prefix, model)


def load(cls: Any, folder: Path, **kwargs: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """Model, loading info, and the texts of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, info = cls.from_pretrained(folder, output_loading_info=True, **kwargs)
    return model, info, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("saved_by", ["ours", "theirs"])
@pytest.mark.parametrize("source", CLASSES)
@pytest.mark.parametrize("target", CLASSES)
def test_every_class_into_every_other(tmp_path: Path, source: str, target: str, saved_by: str) -> None:
    if saved_by == "ours":
        saved = tiny_model(getattr(seed_oss, source))
    else:
        torch.manual_seed(1)
        saved = getattr(transformers, source)(oracle_config(tiny_config()))
    saved.save_pretrained(tmp_path)
    model, info, messages = load(getattr(seed_oss, target), tmp_path)
    assert_same_state(base(model), base(saved))
    stored_head, own_head = NEW[source], NEW[target]
    assert info["missing_keys"] == own_head - stored_head
    assert info["unexpected_keys"] == stored_head - own_head
    assert len(messages) == (1 if stored_head != own_head else 0)
    for name in (own_head - stored_head) | (stored_head - own_head):
        assert name in messages[0]
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_a_new_head_is_initialised_as_in_a_new_model(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path)
    model, _, messages = load(SeedOssForTokenClassification, tmp_path, num_labels=50, initializer_range=0.5)
    assert messages == [
        f"SeedOssForTokenClassification from {tmp_path}: not used: lm_head.weight; new and random, train before use: "
        "score.weight, score.bias"
    ]
    assert model.score.weight.shape == (50, 32)
    assert model.score.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert model.score.bias.abs().sum() == 0
    assert model.dtype == torch.float32


def test_a_new_head_follows_seed_and_dtype(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path)
    heads: list[torch.Tensor] = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(load(SeedOssForSequenceClassification, tmp_path, dtype="bfloat16")[0].score.weight)
    assert heads[0].dtype == torch.bfloat16
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_question_answering_uses_the_weights_of_a_language_model(tmp_path: Path) -> None:
    """Where transformers silently starts from random weights."""
    language_model = tiny_model(SeedOssForCausalLM)
    language_model.save_pretrained(tmp_path)
    model, _, _ = load(SeedOssForQuestionAnswering, tmp_path)
    ids = random_ids(1, 7)
    expected = language_model(ids, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(model.transformer(ids).last_hidden_state, expected)


def test_a_question_answering_checkpoint_is_one_for_transformers_too(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path / "lm")
    model, _, _ = load(SeedOssForQuestionAnswering, tmp_path / "lm")
    model.save_pretrained(tmp_path / "qa")
    assert_same_state(transformers.SeedOssForQuestionAnswering.from_pretrained(tmp_path / "qa"), model)


def test_a_tied_language_model_from_a_bare_one_has_no_new_head(tmp_path: Path) -> None:
    bare = tiny_model(SeedOssModel, tie_word_embeddings=True)
    bare.save_pretrained(tmp_path)
    model, info, messages = load(SeedOssForCausalLM, tmp_path)
    assert messages == []
    assert not any(info.values())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, bare.embed_tokens.weight)


@pytest.mark.parametrize("kept", ["both", "lm_head.weight", "model.embed_tokens.weight"])
def test_tied_files_with_either_or_both_names(tmp_path: Path, kept: str) -> None:
    model = tiny_model(SeedOssForCausalLM, tie_word_embeddings=True)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        if kept not in ("both", name):
            del state[name]
    model.save_pretrained(tmp_path, state_dict=state)
    loaded, info, messages = load(SeedOssForCausalLM, tmp_path)
    assert_same_state(loaded, model)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert messages == []
    assert not any(info.values())


def test_tied_in_the_config_but_not_in_the_file(tmp_path: Path) -> None:
    """As in transformers 5: both are kept, with a warning."""
    model = tiny_model(SeedOssForCausalLM)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    loaded, _, messages = load(SeedOssForCausalLM, tmp_path)
    assert len(messages) == 1
    assert "tie_word_embeddings" in messages[0]
    assert_same_state(loaded, model)
    assert loaded.config.tie_word_embeddings is False
    ids = random_ids(1, 5)
    reference = transformers.SeedOssForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(loaded(ids).logits, reference(ids).logits, atol=1e-5)
    loaded.save_pretrained(tmp_path / "again")
    assert_same_state(load(SeedOssForCausalLM, tmp_path / "again")[0], model)


def test_old_rotary_buffers_are_ignored(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM)
    extra = {f"model.layers.{index}.self_attn.rotary_emb.inv_freq": torch.ones(4) for index in range(3)}
    model.save_pretrained(
        tmp_path, state_dict={**model.state_dict(), **extra, "model.rotary_emb.inv_freq": torch.ones(4)}
    )
    loaded, info, messages = load(SeedOssForCausalLM, tmp_path)
    assert_same_state(loaded, model)
    assert messages == []
    assert info["unexpected_keys"] == set()


# what is not another class's checkpoint


@pytest.mark.parametrize(
    ("cls", "lost"), [(SeedOssForCausalLM, "lm_head.weight"), (SeedOssForTokenClassification, "score.bias")]
)
def test_a_class_needs_its_own_head_in_its_own_checkpoint(tmp_path: Path, cls: Any, lost: str) -> None:
    model = tiny_model(cls)
    model.save_pretrained(tmp_path, state_dict={name: t for name, t in model.state_dict().items() if name != lost})
    with pytest.raises(CheckpointError, match=rf"missing: {lost}"):
        cls.from_pretrained(tmp_path)


def without_architectures(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))


def test_without_architectures_a_part_of_a_head_is_not_enough(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForTokenClassification)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "score.bias"}
    model.save_pretrained(tmp_path, state_dict=state)
    without_architectures(tmp_path)
    with pytest.raises(CheckpointError, match=r"missing: score\.bias"):
        SeedOssForTokenClassification.from_pretrained(tmp_path)
    del state["score.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    without_architectures(tmp_path)
    assert load(SeedOssForTokenClassification, tmp_path)[1]["missing_keys"] == {"score.weight", "score.bias"}


# heads of another size


def test_another_number_of_labels_is_an_error(tmp_path: Path) -> None:
    tiny_model(SeedOssForSequenceClassification).save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"score\.weight is \[3, 32\], the model needs \[5, 32\].*\n.*ignore_mism"
    ):
        SeedOssForSequenceClassification.from_pretrained(tmp_path, num_labels=5)


def test_another_number_of_labels_can_be_asked_for(tmp_path: Path) -> None:
    saved = tiny_model(SeedOssForTokenClassification)
    saved.save_pretrained(tmp_path)
    arguments = {"num_labels": 5, "ignore_mismatched_sizes": True}
    model, info, messages = load(SeedOssForTokenClassification, tmp_path, **arguments)
    assert_same_state(model.model, saved.model)
    assert info["mismatched_keys"] == {("score.weight", (3, 32), (5, 32)), ("score.bias", (3,), (5,))}
    assert len(messages) == 1
    assert "score.weight (stored [3, 32], needed [5, 32])" in messages[0]
    assert model.score.bias.abs().sum() == 0
    reference = transformers.SeedOssForTokenClassification.from_pretrained(
        tmp_path, output_loading_info=True, **arguments
    )[1]
    assert {(name, tuple(have), tuple(want)) for name, have, want in reference["mismatched_keys"]} == info[
        "mismatched_keys"
    ]


def test_loading_info_has_the_keys_of_the_reference(tmp_path: Path) -> None:
    tiny_model(SeedOssForCausalLM).save_pretrained(tmp_path)
    _, info, _ = load(SeedOssForTokenClassification, tmp_path)
    reference = transformers.SeedOssForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)[1]
    assert {key: set(value) for key, value in info.items()} == {key: set(value) for key, value in reference.items()}
