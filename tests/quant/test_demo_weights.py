"""The demo model's weights lie on the grid of Q4_1: groups of 32 with minimums hold them bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

import seed_oss
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.quant.quality import compare, reference_of
from seed_oss.quant.rounding import quantize_weight
from seed_oss.quant.schemes import SCHEMES, plan_tensors, weight_shapes
from seed_oss.weights.demo import prepare
from tests.parity.demo_oracle import demo_gguf

pytestmark = pytest.mark.xdist_group("demo")
MAX_INCREASE = 0.003
TEXT = Path(__file__).parents[2] / "LICENSE"


@pytest.fixture(scope="module")
def model() -> Any:
    demo_gguf()
    return seed_oss.SeedOssForCausalLM.from_pretrained(prepare()).eval()


@pytest.mark.parametrize("method", ["plain", "search"])
def test_layers_come_back_bit_for_bit(model: Any, method: Any) -> None:
    """The search takes longer, so it gets three layers; measured once on all thirty."""
    layers = model.model.layers
    for layer in layers if method == "plain" else (layers[0], layers[13], layers[29]):
        for name in weight_shapes(layer):
            weight = layer.get_submodule(name).weight.detach()
            format = plan_tensors(SCHEMES["int4-min"], {f"layers.{name}": weight.shape})[f"layers.{name}"].format
            assert format is not None
            assert torch.equal(quantize_weight(weight, format, method).dequantize(), weight)


def test_embedding_in_eight_bits_is_found_again(model: Any) -> None:
    """The file has it in Q8_0, whose grid is one of those that are tried."""
    weight = model.model.embed_tokens.weight.detach()[:2000]
    assert torch.equal(quantize_weight(weight, QuantFormat(8, 32)).dequantize(), weight)


def test_the_file_itself_stays_in_its_blocks(model: Any) -> None:
    """Every value that the converter computes, in the bytes that int4-min finds, so with the same logits."""
    packed = seed_oss.SeedOssForCausalLM.from_pretrained(demo_gguf())
    state, expected = packed.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []
    assert packed.lm_head.packed is packed.model.embed_tokens.packed
    found = seed_oss.SeedOssForCausalLM.from_pretrained(prepare(), quantization="int4-min")
    ids = torch.arange(1000, 1040).view(2, 20)
    with torch.no_grad():
        assert torch.equal(packed(ids).logits, found(ids).logits)


def test_perplexity_stays(model: Any) -> None:
    """With head and embedding in 8 bits."""
    tokenizer = seed_oss.AutoTokenizer.from_pretrained(prepare())
    ids = torch.tensor([tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"][:256]]).view(2, 128)
    reference = reference_of(model, ids)
    plans = plan_tensors(SCHEMES["int4-min"], weight_shapes(model), tied=True)
    with torch.no_grad():
        for name, plan in plans.items():
            weight = model.get_submodule(name).weight
            assert plan.format is not None
            if name != "lm_head":  # it is the embedding
                weight.copy_(quantize_weight(weight, plan.format, "plain", name=name).dequantize())
    assert abs(compare(model, reference).increase) < MAX_INCREASE
