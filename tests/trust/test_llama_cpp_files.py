"""Files that llama.cpp itself writes, loaded in their blocks, beside their dequantized values and llama.cpp's answers.

`SEED_OSS_TRUST_LLAMA=<a Python that has llama-cpp-python>` runs these tests; without it they are skipped.
"""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from seed_oss import AutoTokenizer, SeedOssForCausalLM
from seed_oss.models.gguf_folder import convert_gguf_packed
from seed_oss.weights.gguf_import import convert_gguf
from seed_oss.weights.gguf_source import GGUFSource
from tests.parity.demo_oracle import demo_gguf
from tests.quant.gguf_factory import Recipe, random_weights, write_gguf

PYTHON = os.environ.get("SEED_OSS_TRUST_LLAMA", "")
DRIVER = Path(__file__).with_name("llama_driver.py")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="on demand: SEED_OSS_TRUST_LLAMA names no Python with llama-cpp-python"),
    pytest.mark.xdist_group("llama"),
]

KINDS = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
PROMPTS = (
    "The history of the Roman empire begins with",
    "1, 2, 3, 4, 5,",
    "Once upon a time, in a small village by the sea, there lived",
    "The capital of France is",
)
NEW_TOKENS = 40
MAX_KL = 0.02
"""Mean over positions, in nats, of packed weights from their own numbers: activations are rounded to 8 bits. Measured:
0.004 at most."""
NEAR, MIN_SAME = 0.6, 0.8
"""Logits that far apart may change places: llama.cpp rounds activations, too, in another way. Measured: 0.40, 0.875."""


def llama(*words: object) -> str:
    done = subprocess.run([PYTHON, str(DRIVER), *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(place: Path) -> Any:
    return SeedOssForCausalLM.from_pretrained(place, device="cpu", dtype=torch.float32)


def assert_equal_values(packed: Any, numbers: Any) -> None:
    state, expected = packed.state_dict(), numbers.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    """Random weights with rows of 256, so that all of llama.cpp's K-quants fit."""
    source = write_gguf(tmp_path / "source.gguf", Recipe("llama", weights=random_weights("llama")))
    llama("quantize", source, tmp_path / "model.gguf", kind)
    types = Counter(GGUFSource(tmp_path / "model.gguf").type_name(name) for name in GGUFSource(source).specs)
    assert types[kind.removesuffix("_M")] > 3, types
    packed, numbers = load(tmp_path / "model.gguf"), load(convert_gguf(tmp_path / "model.gguf", tmp_path / "numbers"))
    assert_equal_values(packed, numbers)
    assert_equal_values(load(convert_gguf_packed(tmp_path / "model.gguf", tmp_path / "packed")), numbers)


@pytest.fixture(scope="module")
def q4_k_m(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo in Q4_K_M; where its rows of 576 hold no blocks of 256, llama.cpp takes Q5_0 and Q8_0."""
    path = tmp_path_factory.mktemp("llama") / "demo-Q4_K_M.gguf"
    llama("quantize", demo_gguf(), path, "Q4_K_M")
    return path


def test_the_demo_in_q4_k_m_end_to_end(q4_k_m: Path, tmp_path: Path) -> None:
    source = GGUFSource(q4_k_m)
    assert set(map(source.type_name, source.blocks)) == {"Q4_K", "Q5_0", "Q6_K", "Q8_0"}
    packed, numbers = load(q4_k_m), load(convert_gguf(q4_k_m, tmp_path / "numbers"))
    assert_equal_values(packed, numbers)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "numbers")
    scores: list[float] = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        theirs = json.loads(llama("continue", q4_k_m, NEW_TOKENS, *ids))
        row = torch.tensor([ids + theirs])
        with torch.no_grad():
            ours, exact = packed(row).logits[0], numbers(row).logits[0]
        scores.append(kl(exact, ours))
        assert_near(exact[len(ids) - 1 : -1], theirs)
        assert_near(ours[len(ids) - 1 : -1], theirs)
    assert max(scores) < MAX_KL


def kl(exact: torch.Tensor, other: torch.Tensor) -> float:
    """Mean divergence of rows of logits, in nats."""
    first, second = exact.log_softmax(-1), other.log_softmax(-1)
    return float((first.exp() * (first - second)).sum(-1).mean())


def assert_near(logits: torch.Tensor, chosen: list[int]) -> None:
    """Every token that llama.cpp has chosen is the best, or as good as."""
    behind = logits.amax(-1) - logits.gather(-1, torch.tensor(chosen)[:, None])[:, 0]
    assert float(behind.max()) < NEAR, behind
    assert float((behind == 0).float().mean()) > MIN_SAME, behind
