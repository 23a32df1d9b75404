"""`seed-oss quantize`, and `--quantization` of the commands that load a model."""

from pathlib import Path
from typing import Any

import pytest

from seed_oss import AutoModelForCausalLM
from tests.cli.conftest import Run

SHORT = ("--max-new-tokens", "8")


def test_quantizing_on_disk_and_on_the_way_answer_alike(run: Run, checkpoint: Path, tmp_path: Path):
    outcome = run("quantize", checkpoint, tmp_path / "small", "--scheme", "int8")
    assert outcome.code == 0
    assert f"Wrote {tmp_path / 'small'}. Try it: seed-oss generate --model {tmp_path / 'small'} Hello" in outcome.err
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "small").config.quantization_config["scheme"] == "int8"
    stored = run("generate", "--model", tmp_path / "small", *SHORT, "What is it?")
    on_the_way = run("generate", "--model", checkpoint, "--quantization", "int8", *SHORT, "What is it?")
    assert stored.code == on_the_way.code == 0
    assert stored.out == on_the_way.out != ""


def test_chat_takes_a_quantization(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []
    load = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda *args, **kwargs: asked.append(kwargs["quantization"]) or load(*args, **kwargs),
    )
    outcome = run("chat", "--model", checkpoint, "--quantization", "int4", *SHORT, stdin="Hello\n")
    assert outcome.code == 0
    assert asked == ["int4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["IN", "OUT", "--scheme", "int3"], "quantization is 'int3'; there are int4"),
        (["IN", "IN"], "is the source itself"),
        (["IN", "OUT", "--max-shard-size", "none"], "max_shard_size is 'none'"),
        (["nowhere", "OUT"], "is not a folder here"),
        (["IN", "OUT", "--strict"], "down_proj: groups of 24"),
    ],
)
def test_wrong_arguments(run: Run, checkpoint: Path, tmp_path: Path, arguments: list[str], message: str):
    places = {"IN": str(checkpoint), "OUT": str(tmp_path / "out")}
    outcome = run("quantize", *(places.get(one, one) for one in arguments))
    assert outcome.code == 1
    assert message in " ".join(outcome.err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_out(run: Run, checkpoint: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    outcome = run("quantize", checkpoint, tmp_path / "file")
    assert outcome.code == 2
    assert "is a file, not a folder" in " ".join(outcome.err.replace("│", " ").split())


def test_stopping_says_how_to_go_on(run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seed_oss.models.quantized_shards.write_file", stop)
    outcome = run("quantize", checkpoint, tmp_path / "out")
    assert outcome.code == 130
    assert "run the same command again to go on" in outcome.err
    monkeypatch.undo()
    assert run("quantize", checkpoint, tmp_path / "out").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_stopping_while_a_text_is_read(run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "text.txt").write_text("The capital of France is Paris. " * 60, encoding="utf-8")
    arguments = ("quantize", checkpoint, tmp_path / "out", "--calibrate", tmp_path / "text.txt")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seed_oss.quant.calibration._quantize_head", stop)
    outcome = run(*arguments)
    assert outcome.code == 130
    assert "run the same command again to go on" in outcome.err
    monkeypatch.undo()
    monkeypatch.setattr("seed_oss.quant.calibration.calibrate_layer", stop)  # all layers are done
    assert run(*arguments).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "text.txt"]


def test_a_quantization_that_does_not_exist(run: Run, checkpoint: Path):
    outcome = run("generate", "--model", checkpoint, "--quantization", "q4", *SHORT, "Hello")
    assert outcome.code == 1
    assert "quantization is 'q4'; there are int4" in outcome.err


def test_calibration(run: Run, checkpoint: Path, tmp_path: Path):
    (tmp_path / "text.txt").write_text("The capital of France is Paris. " * 60, encoding="utf-8")
    outcome = run("quantize", checkpoint, tmp_path / "out", "--calibrate", tmp_path / "text.txt")
    assert outcome.code == 0, outcome.err
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.quantization_config["is_calibrated"] is True
    assert run("generate", "--model", tmp_path / "out", *SHORT, "What is it?").code == 0
    assert run("quantize", checkpoint, tmp_path / "plain").code == 0
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "plain", "text.txt"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        path.name for path in (tmp_path / "plain").iterdir()
    }
    name = "model.layers.1.mlp.up_proj.packed"
    assert not model.state_dict(packed=True)[name].equal(plain.state_dict(packed=True)[name])


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"\xff\xfe", "is not UTF-8"), (b"short", "tokens; at least 512 are needed")],
)
def test_a_text_that_cannot_be_used(run: Run, checkpoint: Path, tmp_path: Path, content: bytes | None, message: str):
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    outcome = run("quantize", checkpoint, tmp_path / "out", "--calibrate", tmp_path / "text.txt")
    assert outcome.code in (1, 2)
    assert message in " ".join(outcome.err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()
