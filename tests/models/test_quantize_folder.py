"""A checkpoint quantized on disk: what comes out, what a kill leaves, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seed_oss import AutoTokenizer, SeedOssForCausalLM, SeedOssForSequenceClassification, quantize_
from seed_oss.errors import CheckpointError, InputError, NumericalError
from seed_oss.models import quantize_folder as module
from seed_oss.models import quantized_shards
from seed_oss.models.quantize_folder import quantize_folder
from tests.chat.tokenizer_factory import write_tiny_tokenizer
from tests.factory import tiny_checkpoint, tiny_model


class Stop(BaseException):
    """A kill, as far as the code sees one."""


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def beside(folder: Path) -> list[str]:
    return [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("is_tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("scheme", ["int4", "int8-channel"])
def test_the_files_are_those_of_quantizing_in_memory(tmp_path: Path, is_tied: bool, scheme: str) -> None:
    source = tiny_checkpoint(tmp_path / "in", SeedOssForCausalLM, tie_word_embeddings=is_tied)
    quantize_folder(source, tmp_path / "out", scheme)
    quantize_(SeedOssForCausalLM.from_pretrained(source), scheme).save_pretrained(tmp_path / "memory")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "memory")
    assert beside(tmp_path / "out") == []


def test_another_head_shards_and_bfloat16(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForSequenceClassification).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "in", max_shard_size="20KB")
    quantize_folder(tmp_path / "in", tmp_path / "out", "int8", max_shard_size="10KB")
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 3
    stored = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert stored["score.weight"].dtype == torch.bfloat16
    assert torch.equal(stored["score.weight"], model.score.weight)
    loaded = SeedOssForSequenceClassification.from_pretrained(tmp_path / "out", dtype="float32", device="cpu")
    expected = SeedOssForSequenceClassification.from_pretrained(
        tmp_path / "in", dtype="float32", device="cpu", quantization="int8"
    )
    first, second = loaded.state_dict(packed=True), expected.state_dict(packed=True)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_tokenizer_comes_along_and_other_files_stay(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "in", SeedOssForCausalLM)
    write_tiny_tokenizer(source)
    out = tiny_checkpoint(tmp_path / "out", SeedOssForCausalLM, vocab_size=200)
    (out / "README.md").write_text("mine")
    quantize_folder(source, out)
    assert (out / "README.md").read_text() == "mine"
    assert SeedOssForCausalLM.from_pretrained(out).config.vocab_size == 160
    assert AutoTokenizer.from_pretrained(out)("abc") == AutoTokenizer.from_pretrained(source)("abc")


def test_a_tensor_that_needs_fp32_scales_changes_its_shard_alone(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1e7)
    model.save_pretrained(tmp_path / "in")
    quantize_folder(tmp_path / "in", tmp_path / "out", max_shard_size="10KB")
    loaded = SeedOssForCausalLM.from_pretrained(tmp_path / "out")
    formats = {name: one.format.param_dtype for name, one in loaded.named_modules() if hasattr(one, "packed")}
    assert [name for name, dtype in formats.items() if dtype == "float32"] == ["model.layers.1.mlp.up_proj"]
    quantize_(model, "int4")
    assert torch.equal(loaded.model.layers[1].mlp.up_proj.packed, model.model.layers[1].mlp.up_proj.packed)


def test_stopped_anywhere_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_checkpoint(tmp_path / "in", SeedOssForCausalLM)
    quantize_folder(source, tmp_path / "whole", max_shard_size="10KB")
    made: list[str] = []
    original = quantized_shards._tensor

    def counted(work: Any, name: str) -> torch.Tensor:
        made.append(name)
        if len(made) == stop_at:
            raise Stop
        return original(work, name)

    monkeypatch.setattr(quantized_shards, "_tensor", counted)
    stop_at = 12
    with pytest.raises(Stop):
        quantize_folder(source, tmp_path / "out", max_shard_size="10KB")
    assert not (tmp_path / "out").exists()
    before, stop_at = set(made[:-1]), 0
    made.clear()
    quantize_folder(source, tmp_path / "out", max_shard_size="10KB")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert before - set(made), "nothing was kept"
    assert beside(tmp_path / "out") == []


@pytest.mark.parametrize("damage", ["bytes", "size", "gone", "ledger", "source", "scheme"])
def test_what_was_left_is_only_used_if_it_is_whole_and_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    source = tiny_checkpoint(tmp_path / "in", SeedOssForCausalLM)
    monkeypatch.setattr(module, "put_in_place", lambda *_: (_ for _ in ()).throw(Stop()))
    with pytest.raises(Stop):
        quantize_folder(source, tmp_path / "out", max_shard_size="10KB")
    monkeypatch.undo()
    (left,) = [path for path in tmp_path.iterdir() if path.name.startswith(".out")]
    shard, scheme = sorted(left.glob("*.safetensors"))[1], "int4"
    if damage == "bytes":
        data = bytearray(shard.read_bytes())
        data[-5] ^= 1
        shard.write_bytes(data)
    elif damage == "size":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "gone":
        shard.unlink()
    elif damage == "ledger":
        (left / "ledger.json").write_text('{"purpose": 3, "done": [1]}')
    elif damage == "source":
        tiny_checkpoint(source, SeedOssForCausalLM, seed=5)
    else:
        scheme = "int4-min"
    quantize_folder(source, tmp_path / "out", scheme, max_shard_size="10KB")
    quantize_folder(source, tmp_path / "fresh", scheme, max_shard_size="10KB")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


WORKER = """
import sys
from seed_oss.models.quantize_folder import quantize_folder
print("ready", flush=True)
quantize_folder(sys.argv[1], sys.argv[2], max_shard_size="10KB", progress=lambda done, total: print(done, flush=True))
"""


def test_killed_while_at_work(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "in", SeedOssForCausalLM, num_hidden_layers=8)
    quantize_folder(source, tmp_path / "whole", max_shard_size="10KB")
    for lines in (2, 20):
        command = [sys.executable, "-c", WORKER, str(source), str(tmp_path / "out")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            for _ in range(lines):
                worker.stdout.readline()
            os.kill(worker.pid, signal.SIGKILL)
            worker.stdout.read()
        if (tmp_path / "out").exists():
            assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    begin = time.monotonic()
    quantize_folder(source, tmp_path / "out", max_shard_size="10KB")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert time.monotonic() - begin < 60


def test_wrong_arguments(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "in", SeedOssForCausalLM)
    with pytest.raises(InputError, match="there are int4"):
        quantize_folder(source, tmp_path / "out", "int5")
    with pytest.raises(InputError, match="is the source itself"):
        quantize_folder(source, f"{source}/../in")
    with pytest.raises(InputError, match="down_proj: groups of 24"):
        quantize_folder(source, tmp_path / "out", strict=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        quantize_folder(source, tmp_path / "file")
    quantize_folder(source, tmp_path / "out")
    with pytest.raises(InputError, match="quantized already"):
        quantize_folder(tmp_path / "out", tmp_path / "again")
    (tmp_path / "link").mkdir()
    (tmp_path / ".third.seed-oss-quantize").symlink_to(tmp_path / "link")
    with pytest.raises(InputError, match="is in the way"):
        quantize_folder(source, tmp_path / "third")


def test_a_damaged_source(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 4] = torch.nan
    model.save_pretrained(tmp_path / "in")
    with pytest.raises(NumericalError, match=r"layers\.2\.mlp\.up_proj"):
        quantize_folder(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    (tmp_path / "in" / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(CheckpointError, match="of another shape"):
        quantize_folder(tmp_path / "in", tmp_path / "out")


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_checkpoint(tmp_path / "in", SeedOssForCausalLM)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("seed_oss.weights.resumable.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"0\.00 GB free"):
        quantize_folder(source, tmp_path / "out")


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_checkpoint(tmp_path / "in", SeedOssForCausalLM)
    original = quantized_shards.write_file

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quantized_shards, "write_file", full)
    with pytest.raises(InputError, match="run the same command again"):
        quantize_folder(source, tmp_path / "out")
    monkeypatch.setattr(quantized_shards, "write_file", original)
    quantize_folder(source, tmp_path / "out")
    assert beside(tmp_path / "out") == []


def test_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_checkpoint(tmp_path / "in", SeedOssForCausalLM)

    def second(*_: Any) -> None:
        with pytest.raises(InputError, match="by another process"):
            quantize_folder(source, tmp_path / "out")
        raise Stop

    monkeypatch.setattr(module, "put_in_place", second)
    with pytest.raises(Stop):
        quantize_folder(source, tmp_path / "out")
