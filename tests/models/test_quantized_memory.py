"""Peak memory of quantizing and of loading what is quantized, in fresh processes; see test_pretrained_memory.py."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from tests.models.test_pretrained_memory import SLACK, run
from tests.quant.gguf_factory import TOKEN_TYPES, TOKENS, UNUSED, Recipe, file_name_of, write_gguf

BUILD = """
config = SeedOssConfig(
    vocab_size=1024, hidden_size=1024, intermediate_size=4096, num_hidden_layers=2, num_attention_heads=16,
    num_key_value_heads=16, head_dim=64, dtype=dtype,
)
SeedOssForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="40MB")
print(json.dumps({}))
"""
WARM_UP = """
SeedOssForCausalLM(SeedOssConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    num_attention_heads=1, num_key_value_heads=1, head_dim=8)).save_pretrained(folder + "-tiny")
model = SeedOssForCausalLM.from_pretrained(folder + "-tiny", quantization=dtype)  # what is imported on first use
model.save_pretrained(folder + "-tinier")
model = SeedOssForCausalLM.from_pretrained(folder + "-tinier")
from seed_oss.models.quantize_folder import quantize_folder
quantize_folder(folder + "-tiny", folder + "-tiniest")
from seed_oss.nn.quantized_linear import stored_tensors
from dataclasses import replace
from seed_oss.quant.schemes import parse_scheme
scheme = replace(parse_scheme(dtype), method="plain")
size = lambda model: sum({t.data_ptr(): t.numel() * t.element_size() for t in stored_tensors(model).values()}.values())
"""
ON_THE_WAY = (
    WARM_UP
    + """
with Peak() as peak:
    model = SeedOssForCausalLM.from_pretrained(folder, quantization=scheme)
print(json.dumps({"growth": peak.growth, "model": size(model)}))
"""
)
ON_DISK = (
    WARM_UP
    + """
with Peak() as quantizing:
    quantize_folder(folder, folder + "-" + dtype, scheme)
with Peak() as loading:
    model = SeedOssForCausalLM.from_pretrained(folder + "-" + dtype)
with Peak() as copying:
    copy = SeedOssForCausalLM.from_pretrained(folder + "-" + dtype, disable_mmap=True)
print(json.dumps({"quantizing": quantizing.growth, "loading": loading.growth, "copying": copying.growth,
    "model": size(copy)}))
"""
)
BUILD_LAYERS = """
config = SeedOssConfig(
    vocab_size=512, hidden_size=512, intermediate_size=1024, num_hidden_layers=10, num_attention_heads=16,
    num_key_value_heads=16, head_dim=32,
)
model = SeedOssForCausalLM(config).to(getattr(torch, dtype))
model.save_pretrained(folder, max_shard_size="20MB")
print(json.dumps({"model": 2 * model.num_parameters()}))
"""
FOR_A_TEXT = (
    WARM_UP
    + """
from seed_oss.models import quantize_calibrated as module
from seed_oss.quant.error_feedback import FeedbackSettings
from seed_oss.quant.layer_calibration import CalibrationSettings

class Tokenizer:
    @classmethod
    def from_pretrained(cls, folder):
        return lambda text: {"input_ids": [ord(letter) % 8 for letter in text]}

module.SeedOssTokenizer, module.WINDOW_LEN = Tokenizer, 64
settings = CalibrationSettings(scaling=False, effort=FeedbackSettings(num_descents=0))  # what takes time, and no memory
module.CalibrationSettings = lambda: settings
module.quantize_calibrated(folder + "-tiny", folder + "-tiny-text", dtype, "text" * 64)
needed = []
module._check_memory = lambda parts, num_tokens: needed.append(module.needed_memory(parts, num_tokens))
with Peak() as peak:
    module.quantize_calibrated(folder, folder + "-text", "int4", "text" * 64)
print(json.dumps({"growth": peak.growth, "needed": needed[0]}))
"""
)
FROM_FLOAT8 = (
    WARM_UP
    + """
import warnings
warnings.simplefilter("ignore")  # that the CPU does not multiply such numbers
SeedOssForCausalLM(SeedOssConfig(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    num_attention_heads=1, num_key_value_heads=1, head_dim=16)).save_pretrained(folder + "-small")
for name in ("", "-small"):
    quantize_folder(folder + name, folder + name + "-fp8", "fp8")
SeedOssForCausalLM.from_pretrained(folder + "-small-fp8", device="cpu", dtype="bfloat16")
with Peak() as peak:
    model = SeedOssForCausalLM.from_pretrained(folder + "-fp8", device="cpu", dtype="bfloat16")
print(json.dumps({"growth": peak.growth, "model": size(model)}))
"""
)
FROM_BLOCKS = (
    WARM_UP
    + """
from seed_oss.models.gguf_folder import convert_gguf_packed
SeedOssForCausalLM.from_pretrained(folder + "/tiny.gguf")
convert_gguf_packed(folder + "/tiny.gguf", folder + "/tiny")
with Peak() as converting:
    convert_gguf_packed(folder + "/model.gguf", folder + "/model")
with Peak() as loading:
    model = SeedOssForCausalLM.from_pretrained(folder + "/model.gguf")
print(json.dumps({"converting": converting.growth, "loading": loading.growth, "model": size(model)}))
"""
)
LARGEST = 4096 * 1024 * 2
"""Bytes of the largest tensor as it is stored, in bfloat16."""


pytestmark = pytest.mark.xdist_group("quantized memory")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded checkpoint of 71 MB."""
    folder = tmp_path_factory.mktemp("memory") / "model"
    run(BUILD, folder, "bfloat16")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def test_quantizing_on_the_way_takes_the_model_and_one_tensor(saved: Path) -> None:
    measured = run(ON_THE_WAY, saved, "int8-channel")
    assert 30e6 < measured["model"] < measured["growth"] < measured["model"] + LARGEST + SLACK


def test_quantizing_on_disk_takes_one_tensor_and_loading_nothing(saved: Path) -> None:
    measured = run(ON_DISK, saved, "int8-channel")
    assert measured["quantizing"] < 2 * LARGEST + SLACK  # as stored, and packed
    assert measured["loading"] < 2**20
    assert 0.7 * measured["model"] < measured["copying"] < measured["model"] + SLACK  # into memory used before, too


def test_quantizing_for_a_text_takes_one_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")  # tensors this small are given back, too
    model = run(BUILD_LAYERS, tmp_path / "model", "bfloat16")["model"]
    measured = run(FOR_A_TEXT, tmp_path / "model", "int8-channel")
    assert 0.9 * measured["needed"] < measured["growth"] < measured["needed"] + SLACK < 0.95 * model


def test_numbers_of_an_fp8_folder_take_the_model_and_one_tensor(saved: Path) -> None:
    measured = run(FROM_FLOAT8, saved, "int8-channel")
    assert 70e6 < measured["model"] < measured["growth"] + SLACK  # into memory used before, too
    assert measured["growth"] < measured["model"] + LARGEST // 2 + SLACK < 1.3 * measured["model"]


def write_blocks(path: Path, hidden: int, inner: int, layers: int, kind: T) -> None:
    """A GGUF file of random blocks: as many keys and values as queries, heads of 64."""
    place = "model.layers."
    weights = {"model.embed_tokens.weight": (hidden, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        for name in ("q", "k", "v", "o"):
            weights[f"{place}{layer}.self_attn.{name}_proj.weight"] = (hidden, hidden)
        for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            weights[f"{place}{layer}.mlp.{name}_proj.weight"] = shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{place}{layer}.{name}.weight"] = (hidden,)
    sizes = {
        "block_count": layers,
        "embedding_length": hidden,
        "feed_forward_length": inner,
        "attention.head_count": hidden // 64,
        "attention.head_count_kv": hidden // 64,
    }
    num_more = hidden - len(TOKENS)
    tokens = {
        "tokenizer.ggml.tokens": [*TOKENS, *(f"[PAD{index + 10}]" for index in range(num_more))],
        "tokenizer.ggml.token_type": [np.int32(kind) for kind in (*TOKEN_TYPES, *[UNUSED] * num_more)],
    }
    types = {file_name_of(name, "seed_oss"): kind for name, shape in weights.items() if len(shape) == 2}
    write_gguf(
        path,
        Recipe(
            weights={name: np.ones(shape, np.float32) for name, shape in weights.items()},
            metadata={**{f"seed_oss.{key}": np.uint32(value) for key, value in sizes.items()}, **tokens},
            types=types,
        ),
    )


def test_blocks_of_a_gguf_file_take_the_model_and_converting_them_one_tensor(tmp_path: Path) -> None:
    write_blocks(tmp_path / "tiny.gguf", 512, 512, 1, T.Q4_K)
    write_blocks(tmp_path / "model.gguf", 1024, 4096, 3, T.Q4_K)
    measured = run(FROM_BLOCKS, tmp_path, "int8")
    assert 0.9 * measured["model"] < measured["loading"] < measured["model"] + SLACK  # into memory used before, too
    assert measured["converting"] < 4096 * 1024 + SLACK < 30e6 < measured["model"]  # a tensor takes 6 bits a number
