"""What a plan says, against the measured peak of loading and running the planned context, in fresh processes.

Memory is anonymous plus shared pages, see tests/models/test_pretrained_memory.py. The heap of a process is not the same
twice, so a plan may be a little below what one run takes, never by more than a tenth.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from tests.models.test_pretrained_memory import PROLOGUE
from tests.quant.gguf_factory import INNER, Recipe, file_name_of, random_weights, write_gguf

if not Path("/proc/self/status").exists():
    pytest.skip("memory is read from /proc, which only Linux has", allow_module_level=True)

Q8_0 = GGMLQuantizationType.Q8_0

BUILD = """
config = SeedOssConfig(
    vocab_size=16384, hidden_size=1024, intermediate_size=4096, num_hidden_layers=6, num_attention_heads=16,
    num_key_value_heads=4, head_dim=128, max_position_embeddings=8192,
)
torch.set_default_dtype(torch.bfloat16)
model = SeedOssForCausalLM(config)
model.save_pretrained(folder)
if dtype != "none":
    SeedOssForCausalLM.from_pretrained(folder, quantization=dtype).save_pretrained(folder + "-" + dtype)
print("{}")
"""

RUN = """
import seed_oss
options = json.loads(dtype)
torch.set_num_threads(1)
context, batch, chunk = options["context"], options["batch"], options["chunk"]
given, is_mapped = {"dtype": options["dtype"]}, options.get("mapped", False)

def resident():
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    names = ["RssAnon", "RssShmem"] + ["RssFile"] * is_mapped
    return sum(int(fields[name].split()[0]) * 1024 for name in names)

SeedOssForCausalLM(SeedOssConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16)).save_pretrained(folder + "-tiny")

def forward(model, context, batch, chunk):
    ids, cache = torch.randint(3, 60, (batch, context)), None
    with torch.inference_mode():
        for start in range(0, context, chunk):
            piece = ids[:, start:start + chunk]
            output = model(piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
    return cache

def generate(model, context):  # as it is without any argument
    return model.generate(torch.randint(3, 60, (1, context - 1)), max_new_tokens=2, min_new_tokens=2)

tiny = SeedOssForCausalLM.from_pretrained(folder + "-tiny", **given)  # what is imported on first use
forward(tiny, 64, 1, 32), generate(tiny, 64)
plan = seed_oss.plan(folder, context=context, batch=batch, prefill_chunk=chunk, device="cpu", measure_speed=False,
    quantization=options["quantization"], **given).placements[0]
with Peak() as peak:
    model = SeedOssForCausalLM.from_pretrained(folder, device_map="auto", disable_mmap=not is_mapped, **given,
        quantization=options["quantization"] if options.get("on_the_way") else None)
    loaded = resident() - peak.start
    cache = forward(model, context, batch, chunk) if chunk else generate(model, context)
print(json.dumps({"peak": peak.growth, "loaded": loaded, "plan": plan.total_bytes, "weights": plan.weights.total,
    "cache": plan.cache.total}))
"""


def run(code: str, folder: Path, argument: str) -> dict[str, int]:
    """The last line that a fresh process prints."""
    command = [sys.executable, "-c", PROLOGUE + code, str(folder), argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


pytestmark = pytest.mark.xdist_group("measured memory")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 0.27 GB in bfloat16, and beside it the same in int8."""
    folder = tmp_path_factory.mktemp("planned") / "model"
    run(BUILD, folder, "int8")
    return folder


CASES = {
    "bfloat16": {"dtype": "bfloat16", "context": 512},
    "float32": {"dtype": "float32", "context": 512},
    "a batch": {"dtype": "bfloat16", "context": 256, "batch": 3},
    "chunks": {"dtype": "bfloat16", "context": 1024, "chunk": 256},
}


@pytest.mark.parametrize("case", CASES)
def test_the_peak_is_what_was_planned(saved: Path, case: str) -> None:
    options: dict[str, Any] = {"batch": 1, "chunk": 2048, "quantization": "none", **CASES[case]}
    check(run(RUN, saved, json.dumps(options)))


@pytest.mark.parametrize("chunk", [2048, None])
def test_the_peak_of_a_quantized_folder_is_what_was_planned(saved: Path, chunk: int | None) -> None:
    options = {"dtype": "auto", "context": 512 if chunk else 4096, "batch": 1, "chunk": chunk, "quantization": None}
    check(run(RUN, saved.with_name("model-int8"), json.dumps(options)))


def test_the_peak_of_quantizing_on_the_way_is_what_was_planned(saved: Path) -> None:
    options = {"dtype": "auto", "context": 512, "batch": 1, "chunk": 2048, "quantization": "int4", "on_the_way": True}
    check(run(RUN, saved, json.dumps(options)))


def test_a_mapped_folder_is_loaded_without_its_pages_and_stays_within_the_plan(saved: Path) -> None:
    """With the pages of its file, of which running touches those that it reads, and loading almost none."""
    options = {"dtype": "auto", "context": 512, "batch": 1, "chunk": 2048, "quantization": None, "mapped": True}
    measured = run(RUN, saved.with_name("model-int8"), json.dumps(options))
    assert measured["loaded"] < 0.05 * measured["weights"]
    assert 0.9 * measured["weights"] < measured["peak"] < measured["plan"]


def test_the_peak_of_a_gguf_file_is_what_was_planned(tmp_path: Path) -> None:
    rng, weights = np.random.default_rng(0), random_weights()
    inner = 64 * INNER
    for name, values in weights.items():
        if ".mlp." in name:
            rows, columns = (inner if size == INNER else size for size in values.shape)
            weights[name] = rng.standard_normal((rows, columns), dtype=np.float32)
    types = {file_name_of(name, "seed_oss"): Q8_0 for name, values in weights.items() if values.ndim == 2}
    recipe = Recipe(weights=weights, types=types, metadata={"seed_oss.feed_forward_length": np.uint32(inner)})
    path = write_gguf(tmp_path / "model.gguf", recipe)
    options = {"dtype": "auto", "context": 256, "batch": 1, "chunk": 2048, "quantization": None}
    check(run(RUN, path, json.dumps(options)))


FLOATS = """
from safetensors.torch import load_file, save_file
from seed_oss.models.quantize_folder import quantize_folder
config = SeedOssConfig(
    vocab_size=64, hidden_size=1024, intermediate_size=49152, num_hidden_layers=1, num_attention_heads=8,
    num_key_value_heads=2, head_dim=128, max_position_embeddings=512,
)
torch.set_default_dtype(torch.bfloat16)
model = SeedOssForCausalLM(config)
if dtype == "ours":
    model.save_pretrained(folder + "-plain")
    quantize_folder(folder + "-plain", folder, "fp8")
else:
    config.quantization_config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    model.save_pretrained(folder)
    file, tensors = folder + "/model.safetensors", load_file(folder + "/model.safetensors")
    for name in [name for name in tensors if "_proj.weight" in name]:
        rows, columns = tensors[name].shape
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[name + "_scale_inv"] = torch.ones(rows // 128, columns // 128, dtype=torch.float32)
    save_file(tensors, file, metadata={"format": "pt"})
    content = json.loads(open(folder + "/config.json").read()) | {"quantization_config": config.quantization_config}
    open(folder + "/config.json", "w").write(json.dumps(content))
print("{}")
"""


@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_floats_in_8_bits_take_a_tensor_more_while_they_become_numbers(tmp_path: Path, kind: str) -> None:
    """The largest of them, 48 MiB, is a sixth of all weights in bfloat16."""
    run(FLOATS, tmp_path / "model", kind)
    options = {"dtype": "bfloat16", "context": 16, "batch": 1, "chunk": 2048, "quantization": None}
    measured = run(RUN, tmp_path / "model", json.dumps(options))
    check(measured)
    assert measured["plan"] > measured["weights"] + 48 * 2**20


def check(measured: dict[str, int]) -> None:
    """The peak is within a tenth of the plan, and the plan is more than weights and cache."""
    assert measured["weights"] + measured["cache"] < measured["plan"]
    assert 0.97 * measured["weights"] < measured["loaded"]
    check_peak(measured)


def check_peak(measured: dict[str, int]) -> None:
    """It is within a tenth of the plan."""
    assert 0.9 < measured["peak"] / measured["plan"] < 1.1, measured
