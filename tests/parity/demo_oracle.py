"""The demo model opened by transformers from the GGUF file itself, and random text to compare tokenizers with."""

from __future__ import annotations

import importlib.util
import json
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers

from seed_oss.weights.demo import INSTALL_COMMAND, PACKAGE

_PIECES = (
    *"abcdefghijklmnopqrstuvwxyzABCXYZ éßñıİſßœΩλдж中文字日本語한글עבערعربहिन्दी",
    *"0123456789٣½Ⅻ²०۵",
    *"'’`\".,;:!?-_/\\()[]{}<>|@#$%^&*+=~…—«»“”€£¥",
    *" \t\n\r\x0b\x0c\x85\xa0\u2003\u2028\u3000\u200b\u200d\ufeff\u0301",
    *("'s", "'re", "'LL", "n't", "  ", "    ", "\n\n", "\r\n", " the", "ing", "🙂", "👨‍👩‍👧", "🇫🇷"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start", "<repo_name>"),
)


@dataclass(frozen=True)
class Oracle:
    """transformers' reading of the GGUF file: a fp32 LlamaForCausalLM in eval mode, and a tokenizer."""

    model: Any
    tokenizer: Any


def demo_gguf() -> Path:
    """The GGUF file in the demo package; skips the test where the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the demo weights are not installed: {INSTALL_COMMAND}")
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return path


def load_oracle(path: Path) -> Oracle:
    """Open the file with transformers (tens of seconds)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return Oracle(model.eval(), tokenizer)


def with_digits_apart(tokenizer: Any) -> Tokenizer:
    """The oracle's tokenizer with the cut that the file names: `smollm`, which transformers passes over.

    The file's own tokenizer.json, and llama.cpp, first set every digit apart and then cut as GPT-2 does; transformers
    only does the second when it opens a GGUF file. Vocabulary, merges and added tokens stay the oracle's.
    """
    twin = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    assert json.loads(twin.to_str())["pre_tokenizer"]["type"] == "ByteLevel"
    twin.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return twin


def random_texts(count: int, seed: int) -> list[str]:
    """Text of many scripts, spaces, digits, marks, special tokens, and any character now and then."""
    rng = random.Random(seed)
    return ["".join(_random_piece(rng) for _ in range(rng.randrange(40))) for _ in range(count)]


def _random_piece(rng: random.Random) -> str:
    if rng.random() < 0.95:
        return rng.choice(_PIECES)
    return chr(rng.choice((rng.randrange(0x20, 0x300), rng.randrange(0x300, 0xD800), rng.randrange(0xE000, 0x110000))))
