"""`seed-oss` itself, `doctor` and `convert`."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as T

import seed_oss
from seed_oss.cli import devices, entry, machine
from seed_oss.cli.terminal import printable, show_error, show_note
from seed_oss.errors import CheckpointError, ConfigError
from seed_oss.ops import memory
from tests.cli.conftest import Run
from tests.quant.gguf_factory import Recipe, file_name_of, random_weights, write_gguf

ROOT = Path(__file__).parents[2]


def test_version(run: Run):
    outcome = run("--version")
    assert (outcome.code, outcome.out) == (0, f"seed-oss {seed_oss.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_lists_the_commands(run: Run, arguments: list[str]):
    outcome = run(*arguments)
    assert outcome.code == 0
    for command in ("generate", "chat", "serve", "convert", "quantize", "plan", "bench", "doctor"):
        assert f"\n  {command} " in outcome.out
    assert "..." not in outcome.out.split("Commands:")[1]


@pytest.mark.parametrize("command", ["generate", "chat", "serve", "convert", "quantize", "plan", "bench", "doctor"])
def test_every_option_has_a_help_text(run: Run, command: str):
    outcome = run(command, "--help")
    assert outcome.code == 0
    listed = [line for line in outcome.out.splitlines() if line.startswith("  -")]
    assert listed
    text = outcome.out.split("Options:")[1]
    for line in listed:
        name = line.split()[0]
        following = text.split(name, 1)[1].split("\n  -")[0]
        assert sum(word.isalpha() for word in following.split()) > 2, name


def test_no_command_shows_the_help(run: Run):
    outcome = run()
    assert outcome.code == 2
    assert "Usage: " in outcome.out + outcome.err


def test_an_unknown_command(run: Run):
    outcome = run("fly")
    assert outcome.code == 2
    assert "fly" in outcome.err


def test_python_dash_m(tmp_path: Path):
    done = subprocess.run([sys.executable, "-m", "seed_oss", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"seed-oss {seed_oss.__version__}\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConfigError("x is 1; it must be 2"), "x is 1; it must be 2"),
        (PermissionError(13, "Permission denied", "/some/file"), "Permission denied: /some/file"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "not enough memory; try --dtype bfloat16"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "not enough memory"),
    ],
)
def test_errors_that_are_not_ours_are_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, error: Any, message: str):
    def fail() -> None:
        raise error

    monkeypatch.setattr(entry, "app", fail)
    outcome = run()
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {message}")
    assert outcome.err.count("\n") == 1


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(entry, "app", fail)
    monkeypatch.setattr("warnings.showwarning", None)
    with pytest.raises(RuntimeError, match="size mismatch"):
        entry.run()


def test_warnings_are_one_line(run: Run, monkeypatch: pytest.MonkeyPatch):
    import warnings

    def warn() -> None:
        warnings.warn("something is odd", UserWarning, stacklevel=1)
        sys.exit(0)

    monkeypatch.setattr(entry, "app", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(sys, "argv", ["seed-oss"])
        outcome = run()
    assert outcome.err == "warning: something is odd\n"


def test_a_model_cannot_command_the_terminal():
    assert printable("a\x1b]0;title\x07b\x1b[2Jc\r\n\td\x9b31mé🙂") == "a]0;titleb[2Jc\n\td31mé🙂"
    assert printable("plain") == "plain"


def test_messages_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]):
    show_error("\x1b]0;pwned\x07\u202eevil")
    show_note("\x9b31m")
    assert capsys.readouterr().err == "error: \\x1b]0;pwned\\x07\\u202eevil\n\\x9b31m\n"


def test_doctor(run: Run):
    outcome = run("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    for part in (seed_oss.__version__, torch.__version__, "memory", "GiB", "--device", "oneDNN", "gguf", "attention"):
        assert part in outcome.out


def test_doctor_as_json(run: Run):
    report = json.loads(run("doctor", "--json").out)
    assert report["problems"] == []
    assert report["packages"]["torch"] == torch.__version__
    assert {"machine", "devices", "fast parts", "extras", "environment"} <= report.keys()


def test_doctor_names_what_is_missing_and_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch):
    versions = {"torch": "2.9.1", "tokenizers": None, "gguf": None}
    monkeypatch.setattr(machine, "version_of", lambda name: versions.get(name, "99.0"))
    monkeypatch.setattr(machine, "has_module", lambda name: False)
    outcome = run("doctor")
    assert outcome.code == 1
    assert "error: torch 2.9.1 is too old; run: pip install 'torch>=2.11'" in outcome.err
    assert "error: tokenizers is not installed; run: pip install 'tokenizers>=" in outcome.err
    assert "not installed; run: pip install 'seed-oss[gguf]'" in outcome.out
    assert "weights not installed; run: pip install" in outcome.out


def test_doctor_without_a_working_torch(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "import_torch", lambda: "ImportError: libtorch.so is missing")
    outcome = run("doctor")
    assert outcome.code == 1
    assert "error: torch cannot be imported (ImportError: libtorch.so is missing)" in outcome.err
    assert "processor" in outcome.out


def test_doctor_on_a_bare_machine(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "_read", lambda path: "")
    monkeypatch.setattr(memory, "read_text", lambda path: "")
    monkeypatch.setattr(memory, "_posix_memory", lambda: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    outcome = run("doctor")
    assert outcome.code == 0
    assert "unknown, unknown available" in outcome.out
    assert "off: no C++ compiler found" in outcome.out


def test_extras_are_those_of_the_project():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for_users = {
        extra: tuple(package.split(">")[0] for package in packages)
        for extra, packages in declared.items()
        if extra not in ("dev", "docs")
    }
    assert for_users == machine.EXTRAS


def test_required_packages_are_those_of_the_project():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {f"{name}>={lowest}" for name, lowest in machine.required_packages().items()} == set(declared)


@pytest.mark.parametrize(
    ("version", "lowest", "older"),
    [("2.13.0+cpu", "2.11", False), ("2.9.1", "2.11", True), ("2.11", "2.11", False), ("0.29.2", "0.15", False)],
)
def test_versions_are_compared_by_number(version: str, lowest: str, older: bool):
    assert machine.is_older(version, lowest) is older


def fake_torch(*, num_gpus: int, cuda: str | None) -> Any:
    properties = SimpleNamespace(name="GPU", major=9, minor=0, total_memory=80 * 2**30)
    return SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda=cuda, hip=None),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False)),
        cuda=SimpleNamespace(
            is_available=lambda: num_gpus > 0,
            device_count=lambda: num_gpus,
            get_device_properties=lambda index: properties,
        ),
    )


def test_devices_of_a_machine_with_two_gpus():
    two = fake_torch(num_gpus=2, cuda="13.0")
    assert devices.device_names(two) == ["cpu", "cuda", "cuda:0", "cuda:1"]
    assert devices.describe_accelerator(two, "cuda")[1] == "cuda:1 GPU, 80.0 GiB, compute capability 9.0"


def test_why_there_is_no_cuda():
    assert "built without CUDA" in devices.why_no_cuda(fake_torch(num_gpus=0, cuda=None))
    assert "finds no GPU" in devices.why_no_cuda(fake_torch(num_gpus=0, cuda="13.0"))


def test_convert_calls_the_importer(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}

    def importer(path: Path, out_dir: Path, **kwargs: Any) -> Path:
        kwargs.pop("progress")(1, 2)
        seen.update(path=path, out_dir=out_dir, **kwargs)
        return out_dir

    monkeypatch.setattr("seed_oss.weights.gguf_import.convert_gguf", importer)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    out_dir = tmp_path / "my model"
    outcome = run("convert", file, out_dir, "--dtype", "bfloat16", "--max-shard-size", "1GB")
    assert outcome.code == 0
    assert seen == {"path": file, "out_dir": out_dir, "dtype": "bfloat16", "max_shard_size": "1GB"}
    assert f"seed-oss generate --model '{out_dir}'" in outcome.err


def test_convert_packed(run: Run, tmp_path: Path):
    weights = random_weights()
    types = {file_name_of(name, "seed_oss"): T.Q4_0 for name, values in weights.items() if values.ndim == 2}
    file = write_gguf(tmp_path / "model.gguf", Recipe(weights=weights, types=types))
    assert run("convert", file, tmp_path / "out", "--packed").code == 0
    assert "packed" in (tmp_path / "out" / "model.safetensors").read_bytes()[:2000].decode("ascii", "replace")
    answers = [run("generate", "--model", place, "--max-new-tokens", 3, "hello") for place in (tmp_path / "out", file)]
    assert [answer.code for answer in answers] == [0, 0]
    assert answers[0].out == answers[1].out


def test_convert_refuses_what_is_no_gguf(run: Run, tmp_path: Path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a GGUF file at all, but long enough to have a header")
    outcome = run("convert", file, tmp_path / "out")
    assert outcome.code == 1
    assert outcome.err.lstrip().startswith("error: ")
    assert "model.gguf" in outcome.err
    assert not (tmp_path / "out").exists()


def test_convert_with_wrong_paths(run: Run, tmp_path: Path):
    (tmp_path / "file.gguf").write_bytes(b"GGUF")
    assert "is not a file" in run("convert", tmp_path / "missing.gguf", tmp_path / "out").err
    outcome = run("convert", tmp_path / "file.gguf", tmp_path / "file.gguf")
    assert outcome.code == 2
    assert "is a file, not a folder" in " ".join(outcome.err.split())


def test_an_error_class_of_ours_keeps_its_message():
    assert entry._message(CheckpointError("it is damaged")) == "it is damaged"
