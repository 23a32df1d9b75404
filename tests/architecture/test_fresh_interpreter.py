"""What a fresh interpreter loads: nothing heavy before it is needed."""

import os
import resource
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

HEAVY = ("torch", "transformers", "numpy", "tokenizers", "huggingface_hub", "safetensors", "gguf", "jinja2", "fastapi")
TORCH_FREE = (
    *("seed_oss", "seed_oss.errors", "seed_oss.files", "seed_oss.config", "seed_oss.chat", "seed_oss.cli"),
    *("seed_oss.engine.scheduler", "seed_oss.engine.turn_memory", "seed_oss.engine.process_client"),
    *("seed_oss.server.app", "seed_oss.server.serve"),
)
HELP_SECONDS = 0.5


def run(*argv: str, **environment: str) -> str:
    """The output of a command in a fresh process; a non-zero exit fails with what it wrote."""
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "COLUMNS": "100"} | environment
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_after(statement: str, modules: Sequence[str]) -> list[str]:
    """Those of `modules` that a fresh interpreter holds once it has run `statement`."""
    code = f"import sys\n{statement}\nprint(*[name for name in {tuple(modules)!r} if name in sys.modules])"
    return run(sys.executable, "-c", code).split()


@pytest.mark.parametrize("module", TORCH_FREE)
def test_no_torch_on_import_of(module: str) -> None:
    assert not loaded_after(f"import {module}", ("torch", "transformers"))


def test_the_package_itself_loads_nothing_heavy() -> None:
    assert not loaded_after("import seed_oss; dir(seed_oss); seed_oss.__version__", HEAVY)


def test_configs_load_no_torch_by_their_public_names() -> None:
    assert not loaded_after("from seed_oss import SeedOssConfig, GenerationConfig; SeedOssConfig()", ("torch",))


def test_the_tokenizer_loads_no_torch() -> None:
    assert not loaded_after("from seed_oss import AutoTokenizer, SeedOssTokenizer", ("torch",))


def test_models_load_no_transformers() -> None:
    statement = "from seed_oss import *; import seed_oss.generation, seed_oss.models"
    assert loaded_after(statement, ("torch", "transformers")) == ["torch"]


def command_modules() -> list[str]:
    """Every file of the command line, as a module name."""
    folder = ROOT / "src" / "seed_oss" / "cli"
    return [f"seed_oss.cli.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


@pytest.mark.parametrize("module", command_modules())
def test_no_torch_at_the_top_of(module: str) -> None:
    statement = "pass" if module.endswith("__main__") else f"import {module}"
    assert not loaded_after(statement, ("torch", "transformers"))


def script() -> str:
    """The installed `seed-oss` command beside the running interpreter."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (name,) = project["project"]["scripts"]
    return str(Path(sys.executable).parent / name)


HELP = """
import contextlib, io, sys
from seed_oss.cli import main
sys.argv = ["seed-oss", "--help"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
"""


def test_help_loads_no_torch() -> None:
    assert not loaded_after(HELP, ("torch", "transformers"))


def cpu_seconds(*argv: str) -> float:
    """Processor time that a command takes. Unlike the wall clock it does not see the other tests' processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*argv)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["chat", "--help"]])
def test_help_answers_in_tenths_of_a_second(arguments: list[str]) -> None:
    run(script(), *arguments)
    seconds = statistics.median(cpu_seconds(script(), *arguments) for _ in range(5))
    assert seconds < HELP_SECONDS, f"seed-oss {' '.join(arguments)} took {seconds:.2f} s of processor time"
