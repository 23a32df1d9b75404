"""The demo model against transformers running the same GGUF file, which it reads with code of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import seed_oss
from seed_oss.weights.demo import prepare
from tests.parity.demo_oracle import Oracle, demo_gguf, load_oracle, random_texts, with_digits_apart

pytestmark = pytest.mark.xdist_group("demo")

PROMPTS = (
    "The history of the Roman empire begins with",
    "def fibonacci(n):\n    ",
    "1, 2, 3, 4, 5,",
    "Once upon a time, in a small village by the sea, there lived",
)
NEW_TOKENS = 200
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return load_oracle(demo_gguf())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A conversion of this run: one from the user's cache may be older than the code."""
    demo_gguf()
    cache = tmp_path_factory.mktemp("cache")
    yield prepare(cache_dir=cache)
    shutil.rmtree(cache)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return seed_oss.SeedOssForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return seed_oss.AutoTokenizer.from_pretrained(folder)


def test_weights_are_the_same_bits(oracle: Oracle, model: Any) -> None:
    theirs, ours = oracle.model.state_dict(), model.state_dict()
    assert set(ours) == set(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_config_says_the_same(oracle: Oracle, model: Any) -> None:
    theirs = oracle.model.config
    for name in (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "max_position_embeddings", "rope_parameters", "tie_word_embeddings"),
        *("attention_bias", "mlp_bias", "attention_dropout", "hidden_act"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
    ):
        assert getattr(model.config, name) == getattr(theirs, name), name
    eps = torch.tensor([model.config.rms_norm_eps, theirs.rms_norm_eps], dtype=torch.float32)
    assert eps[0] == eps[1]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_logits(attn: str, oracle: Oracle, model: Any, tokenizer: Any) -> None:
    """Measured: the same bits. The tolerance leaves room for another order of summation (logits reach 34)."""
    oracle.model.set_attn_implementation(attn)
    model.set_attn_implementation(attn)
    try:
        for prompt in PROMPTS:
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                torch.testing.assert_close(model(ids).logits, oracle.model(ids).logits, atol=1e-4, rtol=0)
    finally:
        oracle.model.set_attn_implementation("sdpa")
        model.set_attn_implementation("sdpa")


def test_logits_of_a_left_padded_batch(oracle: Oracle, model: Any, tokenizer: Any) -> None:
    batch = tokenizer(list(PROMPTS), return_tensors="pt", padding=True, padding_side="left")
    mask = batch["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        ours = model(batch["input_ids"], attention_mask=mask, position_ids=positions).logits
        theirs = oracle.model(batch["input_ids"], attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], atol=1e-4, rtol=0)


def oracles_choices(oracle: Oracle, prompt: torch.Tensor, continuation: torch.Tensor) -> list[int]:
    """The oracle's best token after the prompt and after each token of a continuation, end of text left out."""
    with torch.no_grad():
        logits = oracle.model(torch.cat([prompt, continuation])[None, :-1]).logits[0, len(prompt) - 1 :]
    logits[:, oracle.model.config.eos_token_id] = -torch.inf  # as min_new_tokens does
    return logits.argmax(-1).tolist()


def test_every_greedy_token(oracle: Oracle, model: Any, tokenizer: Any) -> None:
    """Each of our tokens is the oracle's best after the same beginning: so its greedy text is ours, token by token."""
    prompt = tokenizer(PROMPTS[-1], return_tensors="pt")["input_ids"]
    result = model.generate(prompt, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    new = result[0, prompt.shape[1] :]
    assert len(new) == NEW_TOKENS
    assert new.tolist() == oracles_choices(oracle, prompt[0], new)


def test_every_greedy_token_of_a_batch(oracle: Oracle, model: Any, tokenizer: Any) -> None:
    """Rows of different lengths; the oracle gets each without padding."""
    batch = tokenizer(list(PROMPTS), return_tensors="pt", padding=True, padding_side="left")
    result = model.generate(**batch, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    for row, prompt in zip(result, PROMPTS, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"][0]
        new = row[batch["input_ids"].shape[1] :]
        assert len(new) == NEW_TOKENS
        assert new.tolist() == oracles_choices(oracle, ids, new), prompt


def test_generate_is_the_oracles_generate(oracle: Oracle, model: Any, tokenizer: Any) -> None:
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    ours = model.generate(ids, max_new_tokens=24, do_sample=False)
    theirs = oracle.model.generate(ids, max_new_tokens=24, do_sample=False)
    assert ours.tolist() == theirs.tolist()


def test_the_capital_of_france(oracle: Oracle, model: Any, tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(FRANCE, add_generation_prompt=True, tokenize=False)
    assert text == oracle.tokenizer.apply_chat_template(FRANCE, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 37)
    assert ids[0].tolist() == oracle.tokenizer(text, add_special_tokens=False)["input_ids"]
    result = model.generate(ids, max_new_tokens=64, do_sample=False)
    assert result[0, -1] == tokenizer.eos_token_id
    answer = tokenizer.decode(result[0, ids.shape[1] :], skip_special_tokens=True)
    assert answer == "The capital of France is Paris."


def test_token_ids_on_random_text(oracle: Oracle, tokenizer: Any) -> None:
    """The oracle with the cut that the file names; without it, see the next test."""
    twin = with_digits_apart(oracle.tokenizer)
    texts = random_texts(4000, seed=1)
    expected = [encoding.ids for encoding in twin.encode_batch(texts)]
    found = tokenizer(texts)["input_ids"]
    assert [text for text, ours, theirs in zip(texts, found, expected, strict=True) if ours != theirs] == []
    assert [tokenizer.decode(ids) for ids in found] == [oracle.tokenizer.decode(ids) for ids in expected]
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in found] == [
        oracle.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected
    ]


def test_where_transformers_departs_from_the_files_tokenizer(oracle: Oracle, tokenizer: Any) -> None:
    """It passes over `smollm`, so spaces before a digit are cut otherwise; text without digits is the same."""
    texts = random_texts(4000, seed=2)
    theirs = oracle.tokenizer(texts)["input_ids"]
    ours = tokenizer(texts)["input_ids"]
    departing = [text for text, mine, other in zip(texts, ours, theirs, strict=True) if mine != other]
    assert departing
    assert [text for text in departing if not any(character.isnumeric() for character in text)] == []
    # two spaces before a digit: one token of two spaces in llama.cpp, and in the tokenizer the model was trained with
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  1")["input_ids"]) == ["a", "ĠĠ", "1"]
    assert oracle.tokenizer.convert_ids_to_tokens(oracle.tokenizer("a  1")["input_ids"]) == ["a", "Ġ", "Ġ", "1"]


def test_transformers_opens_the_converted_folder(folder: Path, oracle: Oracle, tokenizer: Any) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(theirs) is transformers.SeedOssForCausalLM
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = random_texts(500, seed=3)
    assert their_tokenizer(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert their_tokenizer.chat_template == oracle.tokenizer.chat_template
    ids = torch.tensor([their_tokenizer(PROMPTS[0])["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, oracle.model(ids).logits, atol=1e-4, rtol=0)


def test_the_name_demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_OSS_CACHE", str(folder.parent.parent))
    config = seed_oss.AutoConfig.from_pretrained("demo")
    assert config.to_dict() == seed_oss.SeedOssConfig.from_pretrained(folder).to_dict()
    model = seed_oss.AutoModelForCausalLM.from_pretrained("demo", dtype="bfloat16")
    assert (model.dtype, model.num_parameters()) == (torch.bfloat16, 134_515_008)
    tokenizer = seed_oss.AutoTokenizer.from_pretrained("demo")
    assert len(tokenizer) == json.loads((folder / "config.json").read_text())["vocab_size"]
