"""Models of random bytes: as large as the plan says, finite, and able to generate."""

from pathlib import Path

import pytest
import torch

from seed_oss import SeedOssConfig
from seed_oss.bench.export import gguf_blocks
from seed_oss.bench.own_model import load_model, read_bytes
from seed_oss.bench.schemes import check_weights, scheme_of
from seed_oss.bench.shapes import SHAPES, shape_config
from seed_oss.bench.synthetic import random_packed, synthetic_model, weight_bytes
from seed_oss.errors import InputError
from seed_oss.nn.quantized_linear import QuantizedLinear, QuantizedModule
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.packing import pack, unpack
from seed_oss.quant.rounding import quantize_weight

GIB = 2**30
FORMATS = [
    QuantFormat(4, 32, "point"),
    QuantFormat(4, 32, "minimum"),
    QuantFormat(4, 64, "symmetric"),
    QuantFormat(8, 32),
    QuantFormat(8, 16, "point", "float32"),
]


@pytest.mark.parametrize("name", ["int4", "int4-min", "int4-sym-g64", "int8"])
def test_its_bytes_are_what_the_plan_says(name: str) -> None:
    config, scheme = shape_config("tiny"), scheme_of(name, 4)
    model = synthetic_model(config, scheme)
    packed = {id(one): one.packed.nbytes for one in model.modules() if isinstance(one, QuantizedModule)}
    assert sum(packed.values()) == weight_bytes(config, scheme)
    assert sum(isinstance(one, QuantizedLinear) for one in model.modules()) == 3 * 7 + 1
    logits = model(torch.arange(3, 60)[None]).logits
    assert logits.isfinite().all()
    assert 0.1 < float(logits.std()) < 10


def test_the_full_shape_fits_a_small_machine() -> None:
    """Issue: at most 20.3 GiB, embedding and head included."""
    config = shape_config("36b")
    assert 20.0 * GIB < weight_bytes(config, scheme_of("int4", None)) <= 20.3 * GIB
    assert weight_bytes(config, scheme_of("int4-sym", None)) <= 19.8 * GIB
    assert (config.hidden_size, config.num_attention_heads * config.head_dim) == (5120, 10240)


def test_the_same_seed_gives_the_same_bytes() -> None:
    config, scheme = shape_config("tiny"), scheme_of("int4", None)
    one, other = (synthetic_model(config, scheme, seed=3).lm_head.packed for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, synthetic_model(config, scheme, seed=4).lm_head.packed)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [64, 40])
def test_random_bytes_are_a_packed_weight(format: QuantFormat, rows: int) -> None:
    packed = random_packed((rows, 128), format, torch.Generator().manual_seed(0), size=0.5)
    weight = unpack(packed, format, rows, 128)
    numbers = weight.dequantize()
    assert numbers.isfinite().all()
    assert abs(float(numbers.mean())) < 0.1
    assert 0.35 < float(numbers.std()) < 0.7
    again = unpack(pack(weight), format, rows, 128)
    assert torch.equal(again.q, weight.q)
    assert torch.equal(again.scale, weight.scale)


def test_what_a_step_reads_leaves_out_the_embedding() -> None:
    model = synthetic_model(shape_config("tiny"), scheme_of("int8", None))
    total = sum(one.packed.nbytes for one in model.modules() if isinstance(one, QuantizedModule))
    plain = sum(one.nbytes for one in model.parameters())
    assert read_bytes(model) == total + plain - model.model.embed_tokens.packed.nbytes


def test_plain_shapes_generate() -> None:
    model = load_model({"shape": "tiny", "weights": "bfloat16", "head_bits": None})
    assert model.lm_head.weight.dtype == torch.bfloat16
    answer = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert answer.shape == (1, 6)  # the weights are random: any token may come first, the end as well


def test_a_tied_head_is_refused() -> None:
    config = SeedOssConfig(**{**SHAPES["tiny"], "tie_word_embeddings": True})
    with pytest.raises(InputError, match="tie_word_embeddings is true"):
        synthetic_model(config, scheme_of("int4", None))


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="shape is 'huge'; there are 36b, 1b, tiny"):
        shape_config("huge")
    with pytest.raises(InputError, match=r"quantization is 'int3'; there are int4, .*float32"):
        check_weights("int3")
    assert check_weights("INT4_SYM") == "int4-sym"


@pytest.mark.parametrize(
    ("format", "kind"),
    [(QuantFormat(4, 32), "Q4_0"), (QuantFormat(4, 32, "minimum"), "Q4_1"), (QuantFormat(8, 32), "Q8_0")],
)
def test_blocks_for_llama_cpp_hold_the_same_numbers(format: QuantFormat, kind: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the oracle for blocks is the gguf package")
    weight = quantize_weight(torch.randn(6, 64, generator=torch.Generator().manual_seed(1)), format)
    found, blocks = gguf_blocks(weight)
    assert found == kind
    numbers = gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[kind])
    assert torch.equal(torch.from_numpy(numbers), weight.dequantize())


def test_groups_that_llama_cpp_lacks_are_refused() -> None:
    weight = quantize_weight(torch.randn(4, 64), QuantFormat(4, 64))
    with pytest.raises(InputError, match="has no equal in GGUF"):
        gguf_blocks(weight)
