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
        (["IN", "OUT", "--strict"], "down_proj: groups of 16"),
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

    monkeypatch.setattr("seed_oss.models.quantize_folder.write_file", stop)
    outcome = run("quantize", checkpoint, tmp_path / "out")
    assert outcome.code == 130
    assert "run the same command again to go on" in outcome.err
    monkeypatch.undo()
    assert run("quantize", checkpoint, tmp_path / "out").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_quantization_that_does_not_exist(run: Run, checkpoint: Path):
    outcome = run("generate", "--model", checkpoint, "--quantization", "q4", *SHORT, "Hello")
    assert outcome.code == 1
    assert "quantization is 'q4'; there are int4" in outcome.err
