"""benchmarks/gpu.py: what it does without a device, and its arithmetic on the CPU."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.architecture.source import ROOT


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--no-save", *arguments]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


def test_no_device_is_a_status_of_its_own() -> None:
    done = run()
    assert done.returncode == 2, done.stderr
    assert "no CUDA device" in done.stderr
    assert not done.stdout


@pytest.mark.skipif(find_spec("transformers") is None, reason="results name the version of transformers")
def test_the_program_itself() -> None:
    small = ("--shape", "tiny", "--layers", "2", "--prompt", "8", "--new-tokens", "8", "--trials", "2", "--no-peers")
    done = run("--device", "cpu", *small, "--weights", "bfloat16,int4")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert set(results["engines"]) == {"seed-oss bfloat16", "seed-oss int4"}
    plain, packed = results["engines"].values()
    assert plain["read_bytes_per_step"] > 2.5 * packed["read_bytes_per_step"]
    for row in (plain, packed):
        assert row["tokens_per_s"]["trials"] == 2
        assert row["decode_share_of_read"] > 0
