"""benchmarks/load.py: the row of a packed folder, and its place in the table."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from seed_oss import SeedOssForCausalLM
from tests.architecture.source import ROOT
from tests.factory import tiny_checkpoint
from tools import sections


@pytest.mark.skipif(find_spec("transformers") is None, reason="the program loads beside transformers")
def test_a_packed_folder_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_checkpoint(tmp_path / "tiny", SeedOssForCausalLM)
    command = [sys.executable, "benchmarks/load.py", "--no-save", "--model", str(model), "--trials", "1"]
    done = subprocess.run([*command, "--dtypes", "float32"], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["results"]["int4"]["seconds"]["trials"] == 1
    assert found["results"]["int4"]["seconds"]["median"] > 0
    monkeypatch.setattr(sections, "result", lambda name: found if name == "load" else None)
    assert "`from_pretrained`, saved in int4" in sections.benchmarks()
