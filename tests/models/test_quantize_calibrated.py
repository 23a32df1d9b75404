"""A checkpoint quantized on disk for a text: what comes out, what a kill leaves, what is refused."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seed_oss import AutoTokenizer, SeedOssForCausalLM, SeedOssForSequenceClassification, SeedOssModel, quantize_
from seed_oss.errors import CheckpointError, InputError, NumericalError
from seed_oss.models import quantize_calibrated as module
from seed_oss.models.quantize_calibrated import quantize_calibrated
from seed_oss.models.quantized_shards import CLASSES
from seed_oss.quant import calibration
from tests.chat.tokenizer_factory import write_tiny_tokenizer
from tests.factory import tiny_checkpoint, tiny_model
from tests.models.test_quantize_folder import Stop, beside, files_of

TEXT = "The capital of France is Paris. " * 60
OTHER_TEXT = "What is the capital of Spain? " * 60
NUM_PARTS = 5  # embedding, three layers, head


def checkpoint(folder: Path, cls: type[Any] = SeedOssForCausalLM, **overrides: Any) -> Path:
    tiny_checkpoint(folder, cls, vocab_size=512, **overrides)
    write_tiny_tokenizer(folder)
    return folder


def in_memory(cls: type[Any], source: Path, folder: Path, scheme: str = "int4", size: str = "5GB") -> Any:
    """The same with the whole model in memory, saved."""
    ids = AutoTokenizer.from_pretrained(source)(TEXT)["input_ids"]
    num_windows = len(ids) // module.WINDOW_LEN
    windows = torch.tensor(ids[: num_windows * module.WINDOW_LEN]).view(num_windows, module.WINDOW_LEN)
    model = cls.from_pretrained(source, dtype=torch.float32, device="cpu")
    quantize_(model, scheme, calibration=windows).save_pretrained(folder, max_shard_size=size)
    write_tiny_tokenizer(folder)
    return model


def workshop_of(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.seed-oss-quantize"


def stop_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> list[int]:
    """Stop at the n-th call of a function; the result holds their number."""
    original, calls = getattr(owner, name), [0]

    def counted(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise Stop
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)
    return calls


def stopped_run(source: Path, out: Path, owner: Any, name: str, call: int, **options: Any) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_at(monkeypatch, owner, name, call)
        with pytest.raises(Stop):
            quantize_calibrated(source, out, "int4", TEXT, **options)
    assert not out.exists()


def parts_made_by(source: Path, out: Path, scheme: str = "int4", text: str = TEXT, **options: Any) -> list[int]:
    """Quantize; the indices of the parts that were computed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        made: list[int] = []
        original = module._Run._keep
        monkeypatch.setattr(
            module._Run, "_keep", lambda self, part, done: made.append(part.index) or original(self, part, done)
        )
        quantize_calibrated(source, out, scheme, text, **options)
    return made


@pytest.mark.parametrize("cls", list(CLASSES.values()))
def test_the_files_are_those_of_every_class_quantized_in_memory(tmp_path: Path, cls: type[Any]) -> None:
    source = checkpoint(tmp_path / "in", cls)
    quantize_calibrated(source, tmp_path / "out", "int4", TEXT)
    in_memory(cls, source, tmp_path / "memory")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "memory")
    assert beside(tmp_path / "out") == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a head that is left out, or new and random
        model, plain = cls.from_pretrained(tmp_path / "out"), cls.from_pretrained(source)
    assert model.config.architectures == [cls.__name__]
    assert model.config.quantization_config["is_calibrated"] is True
    kept = [name for name, _ in plain.named_parameters() if name.startswith(("score", "qa_outputs"))]
    assert all(torch.equal(model.get_parameter(name), plain.get_parameter(name)) for name in kept)
    assert bool(kept) is ("Classification" in cls.__name__ or "Answering" in cls.__name__)


@pytest.mark.parametrize("scheme", ["int4-min", "int8-channel"])
def test_tied_embeddings_shards_and_bfloat16(tmp_path: Path, scheme: str) -> None:
    overrides = {"tie_word_embeddings": True, "attention_out_bias": True, "mlp_bias": True, "vocab_size": 512}
    model = tiny_model(SeedOssForCausalLM, **overrides).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "in", max_shard_size="20KB")
    write_tiny_tokenizer(tmp_path / "in")
    quantize_calibrated(tmp_path / "in", tmp_path / "out", scheme, TEXT, max_shard_size="10KB")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 3
    assert max(path.stat().st_size for path in (tmp_path / "out").glob("model-*.safetensors")) < 30_000
    in_memory(SeedOssForCausalLM, tmp_path / "in", tmp_path / "memory", scheme, "10KB")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "memory")
    loaded = SeedOssForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.packed is loaded.model.embed_tokens.packed


def test_embeddings_that_are_not_as_tied_as_the_config_says(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in", tie_word_embeddings=True)
    tensors = load_file(source / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    save_file({**tensors, "lm_head.weight": table.clone()}, source / "model.safetensors", {"format": "pt"})
    quantize_calibrated(source, tmp_path / "same", "int4", TEXT)
    assert SeedOssForCausalLM.from_pretrained(tmp_path / "same").config.tie_word_embeddings is True
    save_file({**tensors, "lm_head.weight": table + 1}, source / "model.safetensors", {"format": "pt"})
    with pytest.warns(match=r"lm_head.weight differs .* tie_word_embeddings is now False"):
        quantize_calibrated(source, tmp_path / "out", "int4", TEXT)
    with pytest.warns(match="tie_word_embeddings is now False"):
        in_memory(SeedOssForCausalLM, source, tmp_path / "memory")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "memory")


def test_formats_that_turn_out_otherwise(tmp_path: Path) -> None:
    model = tiny_model(SeedOssForCausalLM, vocab_size=512)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1e7)
    model.save_pretrained(tmp_path / "in")
    write_tiny_tokenizer(tmp_path / "in")
    quantize_calibrated(tmp_path / "in", tmp_path / "out", "int4", TEXT, max_shard_size="10KB")
    in_memory(SeedOssForCausalLM, tmp_path / "in", tmp_path / "memory", size="10KB")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "memory")
    record = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert record["modules"]["model.layers.1.mlp.down_proj"]["param_dtype"] == "float32"


@pytest.mark.parametrize("done", range(1, NUM_PARTS))
def test_it_goes_on_behind_the_last_part(tmp_path: Path, done: int) -> None:
    source, out = checkpoint(tmp_path / "in"), tmp_path / "out"
    quantize_calibrated(source, tmp_path / "whole", "int4", TEXT)
    stopped_run(source, out, module._Run, "_keep", done + 1)
    hidden = [path.name for path in workshop_of(out).glob("hidden-*")]
    assert hidden == [f"hidden-{done - 1:05d}.safetensors"]
    told: list[tuple[int, int]] = []
    assert parts_made_by(source, out, progress=lambda *now: told.append(now)) == list(range(done, NUM_PARTS))
    assert told[0][0] > 0
    assert len(told) == NUM_PARTS - done + 1
    assert files_of(out) == files_of(tmp_path / "whole")
    assert beside(out) == []


@pytest.mark.parametrize("call", [1, 2, 3, 4, 8, 9])
def test_stopped_between_the_files_of_a_part(tmp_path: Path, call: int) -> None:
    source = checkpoint(tmp_path / "in")
    quantize_calibrated(source, tmp_path / "whole", "int4", TEXT)
    stopped_run(source, tmp_path / "out", module, "write_tensors", call)
    assert len(parts_made_by(source, tmp_path / "out")) == NUM_PARTS - (call - 1) // 2
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_stopped_between_shards(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in")
    quantize_calibrated(source, tmp_path / "whole", "int4", TEXT, max_shard_size="10KB")
    stopped_run(source, tmp_path / "out", module._Run, "release", 4, max_shard_size="10KB")
    left = workshop_of(tmp_path / "out")
    assert len(list(left.glob("model-*"))) == 3
    assert not (left / "calibrated-00000.safetensors").exists(), "nothing will be read from it"
    assert parts_made_by(source, tmp_path / "out", max_shard_size="10KB") == []
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["part", "hidden", "gone", "ledger", "text", "scheme", "source"])
def test_what_was_left_is_only_used_if_it_is_whole_and_fits(tmp_path: Path, damage: str) -> None:
    source, scheme, text = checkpoint(tmp_path / "in"), "int4", TEXT
    stopped_run(source, tmp_path / "out", module._Run, "_keep", 4)
    left = workshop_of(tmp_path / "out")
    if damage in ("part", "hidden"):
        path = left / ("calibrated-00001.safetensors" if damage == "part" else "hidden-00002.safetensors")
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
    elif damage == "gone":
        (left / "calibrated-00000.safetensors").unlink()
    elif damage == "ledger":
        (left / "ledger.json").write_text("{}")
    elif damage == "source":
        tiny_checkpoint(source, SeedOssForCausalLM, vocab_size=512, seed=5)
    else:
        scheme, text = ("int8", text) if damage == "scheme" else (scheme, OTHER_TEXT)
    assert parts_made_by(source, tmp_path / "out", scheme, text) == list(range(NUM_PARTS))
    quantize_calibrated(source, tmp_path / "fresh", scheme, text)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


@pytest.mark.parametrize("damaged", ["model-00002-of", "calibrated-00004"])
def test_damage_between_shards_starts_anew(tmp_path: Path, damaged: str) -> None:
    source = checkpoint(tmp_path / "in")
    quantize_calibrated(source, tmp_path / "whole", "int4", TEXT, max_shard_size="10KB")
    stopped_run(source, tmp_path / "out", module._Run, "release", 4, max_shard_size="10KB")
    (path,) = workshop_of(tmp_path / "out").glob(f"{damaged}*")
    path.write_bytes(path.read_bytes()[:-1])
    made = parts_made_by(source, tmp_path / "out", max_shard_size="10KB")
    assert made == list(range(NUM_PARTS))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


WORKER = """
import sys
from seed_oss.models.quantize_calibrated import quantize_calibrated
print("ready", flush=True)
quantize_calibrated(*sys.argv[1:], max_shard_size="10KB", progress=lambda done, total: print(done, flush=True))
"""


def test_killed_while_at_work(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in", num_hidden_layers=6)
    quantize_calibrated(source, tmp_path / "whole", "int4", TEXT, max_shard_size="10KB")
    command = [sys.executable, "-c", WORKER, str(source), str(tmp_path / "out"), "int4", TEXT]
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            for _ in range(4):
                worker.stdout.readline()
            os.kill(worker.pid, signal.SIGKILL)
            worker.stdout.read()
        assert not (tmp_path / "out").exists()
    made = parts_made_by(source, tmp_path / "out", max_shard_size="10KB")
    assert len(made) < 6
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_head_that_is_missing(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in", SeedOssModel)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "architectures": None}))
    with pytest.raises(CheckpointError, match=r"does not fit SeedOssForCausalLM:\n  missing: lm_head\.weight"):
        quantize_calibrated(source, tmp_path / "out", "int4", TEXT)


def test_it_says_how_far_it_is(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in")
    told: list[tuple[int, int]] = []
    quantize_calibrated(source, tmp_path / "out", text=TEXT, scheme="int4", progress=lambda *now: told.append(now))
    assert len(told) == NUM_PARTS
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    num_weights = SeedOssForCausalLM.from_pretrained(source).num_parameters()
    assert {total for _, total in told} == {4 * num_weights}
    assert 0.9 < told[-1][0] / told[-1][1] <= 1


def test_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint(tmp_path / "in")
    monkeypatch.setattr(module, "memory_bytes", lambda: (10**12, 10**5))
    monkeypatch.setattr(module, "calibrated_parts", None)  # before anything is computed
    with pytest.raises(InputError, match=r"at least 0\.00 GB of memory.*leave out the text"):
        quantize_calibrated(source, tmp_path / "out", "int4", TEXT)
    assert not (tmp_path / "out").exists()


def test_memory_of_the_released_shape() -> None:
    """16,384 tokens through the 36B model, which takes 144 GB in fp32."""
    fields = {"hidden_size": 5120, "intermediate_size": 27648, "num_attention_heads": 80, "num_key_value_heads": 8}
    config = SeedOssForCausalLM.config_class(**fields, head_dim=128, vocab_size=155136, num_hidden_layers=64)

    class Parts:
        def __init__(self, model: Any) -> None:
            self.model = model

        def num_bytes(self, name: str) -> int:
            return 2 * self.model.get_parameter(name).numel()

    from seed_oss.weights import on_meta_device

    with on_meta_device():
        parts: Any = Parts(SeedOssForCausalLM(config))
    assert 10e9 < module.needed_memory(parts, 16384) < 18e9


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint(tmp_path / "in")
    free = [1000]
    usage = lambda _: type("Usage", (), {"free": free[0]})  # noqa: E731
    monkeypatch.setattr("seed_oss.weights.resumable.shutil.disk_usage", usage)
    with pytest.raises(InputError, match=r"0\.00 GB free"):
        quantize_calibrated(source, tmp_path / "out", "int4", TEXT)
    stopped = tmp_path / "stopped"
    free[0] = 10**9
    stopped_run(source, stopped, module._Run, "_keep", 4)
    kept = sum(path.stat().st_size for path in workshop_of(stopped).glob("*.safetensors"))
    needed: list[int] = []
    monkeypatch.setattr(module, "check_room", lambda _, num_bytes: needed.append(num_bytes))
    quantize_calibrated(source, tmp_path / "out", "int4", TEXT)
    quantize_calibrated(source, stopped, "int4", TEXT)
    assert needed[0] - needed[1] == kept > 10_000, "what is there needs no room"
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    hidden = 4 * 32 * 512
    assert 2 * size - 10_000 < needed[0] - 2 * hidden < 2 * size


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint(tmp_path / "in")
    quantize_calibrated(source, tmp_path / "whole", "int4", TEXT)
    original, calls = module.write_tensors, [0]

    def full(*arguments: Any) -> None:
        calls[0] += 1
        if calls[0] > 5:
            raise OSError(28, "No space left on device")
        original(*arguments)

    monkeypatch.setattr(module, "write_tensors", full)
    with pytest.raises(InputError, match=r"what is finished is kept there.*run the same command again"):
        quantize_calibrated(source, tmp_path / "out", "int4", TEXT)
    monkeypatch.undo()
    assert parts_made_by(source, tmp_path / "out") == [2, 3, 4]
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_numbers_that_are_none_are_named_and_what_was_done_before_is_kept(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(NumericalError, match=r"model\.layers\.1\.mlp\.up_proj.*NaN or infinity, first in row 3"):
        quantize_calibrated(source, tmp_path / "out", "int4", TEXT)
    assert not (tmp_path / "out").exists()
    assert (workshop_of(tmp_path / "out") / "calibrated-00001.safetensors").exists()


def test_a_source_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint(tmp_path / "in")
    original = calibration._calibrated_layer

    def changing(*arguments: Any) -> Any:
        tiny_checkpoint(source, SeedOssForCausalLM, vocab_size=512, seed=7)
        return original(*arguments)

    monkeypatch.setattr(calibration, "_calibrated_layer", changing)
    with pytest.raises(CheckpointError, match="was changed while it was being loaded"):
        quantize_calibrated(source, tmp_path / "out", "int4", TEXT)


def test_wrong_arguments(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in", SeedOssForSequenceClassification)
    with pytest.raises(InputError, match="tokens; at least 512 are needed"):
        quantize_calibrated(source, tmp_path / "out", "int4", "short")
    with pytest.raises(InputError, match="down_proj: groups of 24"):
        quantize_calibrated(source, tmp_path / "out", "int4", TEXT, strict=True)
    with pytest.raises(InputError, match="is the source itself"):
        quantize_calibrated(source, source, "int4", TEXT)
    quantize_calibrated(source, tmp_path / "out", "int4", TEXT)
    with pytest.raises(InputError, match="quantized already"):
        quantize_calibrated(tmp_path / "out", tmp_path / "again", "int4", TEXT)
