"""The Triton kernels without a GPU: run by Triton's interpreter, and compiled for devices that are not here.

Whether functions are interpreted is settled when triton is imported, so the cases run in processes of their own.
By hand: `TRITON_INTERPRET=1 python -m pytest tests/ops/triton_cases/attention.py`, and without it `compiled.py`.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.architecture.test_fresh_interpreter import loaded_after

CASES = Path(__file__).parent / "triton_cases"
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (extra: gpu)")


def passes(*cases: str, interpret: str) -> None:
    """Run files of cases; all of them pass."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *(str(CASES / one) for one in cases),
    ]
    root = CASES.parents[2]
    env = os.environ | {"TRITON_INTERPRET": interpret}
    env.pop("SEED_OSS_OPS", None)
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@needs_triton
def test_interpreted() -> None:
    passes("quantized.py", "attention.py", "norm_and_rope.py", "model.py", "paged.py", interpret="1")


@needs_triton
def test_compiled() -> None:
    passes("compiled.py", interpret="0")


def test_the_package_does_without_triton() -> None:
    statement = "import seed_oss, seed_oss.models, seed_oss.generation, seed_oss.ops.triton"
    assert "triton" not in loaded_after(statement, ("triton",))
