"""benchmarks/gpu.py: what it does without a device, and its arithmetic on the CPU."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from seed_oss.bench.shapes import shape_config
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
    small = ("--shape", "tiny", "--prompt", "8", "--new-tokens", "8", "--trials", "2", "--no-peers")
    done = run("--device", "cpu", *small, "--weights", "bfloat16,int4")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert (results["work"]["layers"], results["work"]["layers_of_shape"]) == (3, 3)
    assert set(results["engines"]) == {"seed-oss bfloat16", "seed-oss int4"}
    plain, packed = results["engines"].values()
    assert plain["read_bytes_per_step"] > 2.5 * packed["read_bytes_per_step"]
    for row in (plain, packed):
        assert row["tokens_per_s"]["trials"] == 2
        assert row["layers"] == 3
        assert row["decode_share_of_read"] > 0


@pytest.mark.parametrize(
    ("gib", "weights", "no_peers", "least", "most"),
    [
        (126, "bfloat16,int4", False, 64, 64),
        (40, "int4", True, 64, 64),
        (40, "bfloat16,int4", True, 9, 63),
        (40, "int4", False, 9, 63),
    ],
)
def test_all_layers_are_measured_where_they_fit(
    monkeypatch: pytest.MonkeyPatch, gib: int, weights: str, no_peers: bool, least: int, most: int
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu  # pyright: ignore[reportMissingImports]

    work = SimpleNamespace(shape="36b", weights=weights, no_peers=no_peers, prompt=2048, new_tokens=256)
    assert least <= gpu.layers_that_fit(shape_config("36b"), work, gib * 2**30) <= most


def test_where_no_layer_fits_the_program_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu  # pyright: ignore[reportMissingImports]

    work = SimpleNamespace(shape="tiny", weights="bfloat16", no_peers=True, prompt=8, new_tokens=8)
    with pytest.raises(SystemExit, match="give --layers"):
        gpu.layers_that_fit(shape_config("tiny"), work, 1000)
