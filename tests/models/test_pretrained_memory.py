"""Peak memory of loading and saving, in fresh processes: anonymous plus shared pages, not the file cache."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

if not Path("/proc/self/status").exists():
    pytest.skip("memory is read from /proc, which only Linux has", allow_module_level=True)

SLACK = 12 * 2**20
"""Beside the model: read buffers, thread stacks, Python objects. Less than the largest tensor (16 MiB)."""

PROLOGUE = """
import json, sys, threading
import torch
from seed_oss import SeedOssConfig, SeedOssForCausalLM

def resident():
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))

class Peak:
    def __enter__(self):
        self.start = self.highest = resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.0005):
            self.highest = max(self.highest, resident())

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.highest = max(self.highest, resident())

    @property
    def growth(self):
        return self.highest - self.start

folder, dtype = sys.argv[1], sys.argv[2]
"""

BUILD = """
config = SeedOssConfig(
    vocab_size=1024, hidden_size=1024, intermediate_size=4096, num_hidden_layers=4, num_attention_heads=16,
    num_key_value_heads=16, head_dim=64,
)
model = SeedOssForCausalLM(config)
with Peak() as peak:
    model.save_pretrained(folder, max_shard_size="90MB")
with Peak() as copying:
    copy = [parameter.detach().clone() for parameter in model.parameters()]
print(json.dumps({"growth": peak.growth, "copying": copying.growth, "model": 4 * model.num_parameters()}))
"""

LOAD = """
SeedOssForCausalLM(SeedOssConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    num_attention_heads=1, num_key_value_heads=1, head_dim=8)).save_pretrained(folder + "-tiny")
SeedOssForCausalLM.from_pretrained(folder + "-tiny", dtype=dtype)  # what is imported on first use is not counted
with Peak() as peak:
    model = SeedOssForCausalLM.from_pretrained(folder, dtype=dtype)
sizes = [parameter.numel() * parameter.element_size() for parameter in model.parameters()]
print(json.dumps({"growth": peak.growth, "model": sum(sizes), "largest": max(sizes)}))
"""


def run(code: str, folder: Path, dtype: str = "float32") -> dict[str, int]:
    result = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code, str(folder), dtype], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


pytestmark = pytest.mark.xdist_group("pretrained memory")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A sharded checkpoint of 276 MB, and what was measured while it was saved."""
    folder = tmp_path_factory.mktemp("memory") / "model"
    measured = run(BUILD, folder)
    assert len(list(folder.glob("model-*.safetensors"))) == 4
    return folder, measured


def test_saving_takes_at_most_one_tensor_above_the_model(saved: tuple[Path, dict[str, int]]) -> None:
    assert saved[1]["growth"] < SLACK


def test_the_measurement_sees_a_copy(saved: tuple[Path, dict[str, int]]) -> None:
    assert saved[1]["copying"] > 0.98 * saved[1]["model"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_takes_the_model_and_at_most_one_tensor(saved: tuple[Path, dict[str, int]], dtype: str) -> None:
    measured = run(LOAD, saved[0], dtype)
    assert measured["model"] == saved[1]["model"] // (2 if dtype == "bfloat16" else 1)
    assert 0.97 * measured["model"] < measured["growth"] < measured["model"] + SLACK
    assert SLACK < measured["largest"] * (2 if dtype == "bfloat16" else 1)
