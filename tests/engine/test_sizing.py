"""How much memory an engine gives to keys and values."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from seed_oss import SeedOssForCausalLM
from seed_oss.engine import build
from seed_oss.engine.build import LoadedModel, build_core
from seed_oss.engine.sizing import RESERVE_BYTES, EngineSize, StepWork, mapped_bytes, size_engine, step_bytes
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import ConfigError
from seed_oss.planning.weights import plain_form
from seed_oss.planning.workspace import Load, workspace_bytes
from tests.factory import tiny_model

GIB = 2**30


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in int8."""
    folder = tmp_path_factory.mktemp("sizing")
    tiny_model(SeedOssForCausalLM).save_pretrained(folder / "plain")
    SeedOssForCausalLM.from_pretrained(folder / "plain", quantization="int8").save_pretrained(folder / "packed")
    return folder / "packed"


def packed_sizes(model: Any) -> int:
    return sum({one.data_ptr(): one.numel() for name, one in model.named_buffers() if name.endswith("packed")}.values())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is mapped")
def test_mapped_weights_are_no_free_memory(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped, read = (SeedOssForCausalLM.from_pretrained(packed, disable_mmap=one) for one in (False, True))
    assert mapped_bytes(mapped) == packed_sizes(mapped) > 0
    assert mapped_bytes(read) == mapped_bytes(tiny_model(SeedOssForCausalLM)) == 0
    asked = list[int]()

    def free(num_mapped: int = 0) -> tuple[int, int]:
        asked.append(num_mapped)
        return 2 * GIB, GIB

    monkeypatch.setattr(build, "memory_bytes", free)
    build_core(EngineSpec("(loaded)", max_model_len=64), LoadedModel(mapped, None))
    assert asked == [packed_sizes(mapped)]


CONFIG = tiny_model(SeedOssForCausalLM).config
WORK = StepWork(CONFIG, plain_form(CONFIG, torch.bfloat16), "cpu", True)


def sized(free_bytes: int | None, **settings: Any) -> EngineSize:
    spec = EngineSpec("(loaded)", **settings)
    return size_engine(spec, WORK, block_bytes=1000, block_len=32, free_bytes=free_bytes)


def test_what_is_left_beside_a_step_is_for_keys_and_values() -> None:
    room = RESERVE_BYTES + step_bytes(WORK, 512, 4)
    assert sized(room + 4999, max_num_seqs=4).num_blocks == 4
    assert sized(room + 10**9, max_num_seqs=4, max_model_len=64).num_blocks == 8  # as many as its rows can use
    assert sized(None, max_num_seqs=4, max_model_len=64).num_blocks == 8
    assert sized(room + 4000, max_num_seqs=4).max_model_len == min(128, CONFIG.max_position_embeddings)
    with pytest.raises(ConfigError, match="kv_cache_memory is 0 MiB"):
        sized(room - 1)


def test_a_step_takes_what_the_planner_says_and_a_row_of_logits_for_each_row() -> None:
    load = Load(1, 2048, 2048)
    planned = workspace_bytes(CONFIG, WORK.form, load, device="cpu", is_native=True, cache_bytes=0)
    assert step_bytes(WORK, 2048, 100) == planned.total + 99 * planned.logits
    assert step_bytes(WORK, 2048, 200) - step_bytes(WORK, 2048, 100) == 100 * planned.logits


MEASURE = """
from seed_oss import LLM, SamplingParams
from seed_oss.engine.sizing import StepWork, step_bytes

def made(hidden, inner, vocab):
    config = SeedOssConfig(vocab_size=vocab, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=2,
        num_attention_heads=16, num_key_value_heads=4, head_dim=64, max_position_embeddings=512)
    return LLM(SeedOssForCausalLM(config).to(torch.bfloat16).eval(), max_num_batched_tokens=2048)

def use(llm):
    params = SamplingParams(max_tokens=4, seed=1, top_p=0.9, prompt_logprobs=1, ignore_eos=True)
    llm.generate(torch.randint(3, 60, (8, 250)).tolist(), params)

torch.set_num_threads(1)
use(made(64, 64, 64))  # what is imported on first use
llm = made(1024, 4096, 8192)
model = llm.core._stepper._model
cache = model._cache
blocks = 8 * 8 * 2 * 2 * cache.rooms[0].keys[0].nbytes
with Peak() as peak:
    use(llm)
work = StepWork.of(model._decoder)
print(json.dumps({"peak": peak.growth, "planned": step_bytes(work, 2048, 16) + blocks}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc, which only Linux has")
@pytest.mark.xdist_group("measured memory")
def test_an_engine_takes_no_more_than_it_was_given(tmp_path: Path) -> None:
    from tests.models.test_pretrained_memory import PROLOGUE

    command = [sys.executable, "-c", PROLOGUE + MEASURE, str(tmp_path), "bfloat16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.4 * found["planned"] < found["peak"] < 1.1 * found["planned"], found
