"""Every script of examples/ runs on a tiny checkpoint, as its own docstring says it is started.

The one that asks a server is run in `test_server_examples.py`.
"""

import runpy
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, SERVER

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ARGUMENTS = {
    "generate.py": ["{tiny}", "What is the capital of France?", "--max-new-tokens", "8"],
    "classify.py": ["{tiny}", "{out}"],
    "read_the_model.py": ["{tiny}"],
    "openai_client.py": ["{tiny}", "How do birds fly?", "--max-tokens", "64"],  # a server's address, in this case
    "serve_many.py": ["{tiny}", "What is the capital of France?", "How do birds fly?", "--max-tokens", "8"],
    "teach_budget.py": ["{out}", *["--steps", "10", "--rows", "2", "--trials", "1", "--max-new-tokens", "64"]],
}
FIRST_ARGUMENT = {"teach_budget.py": "OUT_DIR", "openai_client.py": f"{SERVER}/v1"}  # the others take a model


def run_example(name: str, tiny: Path | str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs one script in this process with its arguments filled in."""
    words = [word.format(tiny=tiny, out=out / "out") for word in ARGUMENTS[name]]
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_every_example_is_run() -> None:
    assert [path.name for path in EXAMPLES] == sorted(ARGUMENTS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_docstring_shows_how_to_start_it(path: Path) -> None:
    first = FIRST_ARGUMENT.get(path.name, "demo")
    assert f"python examples/{path.name} {first}" in path.read_text(encoding="utf-8")


def test_generate(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("generate.py", tiny_directory, tmp_path, monkeypatch)
    assert capsys.readouterr().out.strip()


def test_classify_learns_and_saves(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match="score"):  # the head is new, and that is said
        run_example("classify.py", tiny_directory, tmp_path, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split("loss ")[1]) for line in lines if "loss" in line]
    assert losses[-1] < losses[0] / 2
    saved = {path.name for path in (tmp_path / "out").iterdir()}
    assert saved >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert "question: What is the capital of France?" in lines


def test_read_the_model_gets_the_same_numbers(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("read_the_model.py", tiny_directory, tmp_path, monkeypatch)
    difference = float(capsys.readouterr().out.split("largest difference ")[1].split()[0])
    assert difference < 1e-4


def test_serve_many_answers_all(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("serve_many.py", tiny_directory, tmp_path, monkeypatch)
    out = capsys.readouterr().out
    assert out.index("What is the capital of France?") < out.index("How do birds fly?")
    assert out.count("8 tokens, length") == 2
