"""`seed-oss bench`: what it takes, what it refuses before it measures, and the line that it ends with."""

import json
from pathlib import Path
from typing import Any

import pytest

from seed_oss.bench import engines, plot
from seed_oss.bench import run as run_module
from seed_oss.errors import MissingExtraError
from tests.cli.conftest import Run

DOCUMENT: dict[str, Any] = {
    "results": [
        {
            "engine": "seed_oss",
            "weights": "int4",
            "prefill_tokens_per_s": 1500.0,
            "decode_tokens_per_s": 250.0,
            "first_token_s": 2.5,
            "peak_rss_bytes": 2**29,
            "load_s": 0.1,
            "decode_share_of_read": 0.85,
            "decode_share_of_reading_its_weights": 0.9,
            "weights_read_gb_per_s": 28.5,
            "discarded_trials": 2,
            "is_disturbed": True,
        }
    ],
    "not_run": [{"engine": "openvino", "why": "not installed"}],
    "limits": {"read_gb_per_s": 30.0, "matmul_gflop_per_s": 400.0, "int8_gop_per_s": 700.0},
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options of each run, none of which measures."""
    found: list[Any] = []

    def record(options: Any, note: Any) -> dict[str, Any]:
        found.append(options)
        note("trial 1 of 1")
        return DOCUMENT

    monkeypatch.setattr(run_module, "run", record)
    return found


def test_the_last_line_is_the_result(run: Run, asked: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    outcome = run("bench", "--quantization", "int4,int8", "--peers", "openvino,llama.cpp:Q4_0", "--json", str(file))
    assert outcome.code == 0
    assert json.loads(outcome.out.splitlines()[-1]) == json.loads(file.read_text()) == DOCUMENT
    assert "85% of the read bandwidth, 90% of 28.5 GB/s where its weights lie" in outcome.out
    assert "2 trials discarded; disturbed by other programs" in outcome.out
    assert "openvino: not run, not installed" in outcome.out
    assert "trial 1 of 1" in outcome.err
    (options,) = asked
    assert options.quantizations == ("int4", "int8")
    assert [(wish.name, wish.weights) for wish in options.peers] == [("openvino", None), ("llama.cpp", "Q4_0")]
    assert options.model == "demo"
    assert options.thread_counts


def test_a_shape(run: Run, asked: list[Any]) -> None:
    outcome = run("bench", "--shape", "36b", "--synthetic", "--threads", "1,2", "--no-start-up", "--head-bits", "4")
    assert outcome.code == 0
    (options,) = asked
    assert (options.shape, options.threads, options.head_bits, options.measures_start) == ("36b", (1, 2), 4, False)


def test_a_gguf_file_is_measured_as_it_is(run: Run, asked: list[Any], tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    for model, weights in ((str(tmp_path / "a.gguf"), ("gguf",)), (str(tmp_path), ("int4",))):
        assert run("bench", "--model", model).code == 0
        assert (asked[-1].model, asked[-1].quantizations) == (model, weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shape", "1b"), "--synthetic go together"),
        (("--synthetic",), "--synthetic go together"),
        (("--threads", "two"), "'two' is no number"),
        (("--new-tokens", "1"), "--new-tokens"),
    ],
)
def test_wrong_arguments(run: Run, asked: list[Any], arguments: tuple[str, ...], message: str) -> None:
    outcome = run("bench", *arguments)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.replace("│", " ").split())
    assert not asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--peers", "vllm"), "peer is 'vllm'; there are transformers, llama.cpp, openvino"),
        (("--peers", "llama.cpp:Q2_K"), "weights of llama.cpp are 'Q2_K'"),
        (("--head-bits", "3"), "head_bits is 3; it must be 4 or 8"),
        (("--quantization", ""), "no quantization is given"),
        (("--plot", "plot.gif"), "the plot is 'plot.gif'; it is written as PNG"),
        (("--json", "no/such/folder/result.json"), "no/such/folder is not a folder"),
    ],
)
def test_names_that_nobody_knows(run: Run, asked: list[Any], arguments: tuple[str, ...], message: str) -> None:
    outcome = run("bench", *arguments)
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {message}")
    assert outcome.err.count("\n") == 1
    assert not asked


def test_an_unknown_shape_and_scheme(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.subprocess, "run", lambda *args, **kwargs: pytest.fail("something was started"))
    outcome = run("bench", "--shape", "70b", "--synthetic")
    assert (outcome.code, outcome.err) == (1, "error: shape is '70b'; there are 36b, 1b, tiny\n")
    outcome = run("bench", "--quantization", "int3")
    assert outcome.code == 1
    assert outcome.err.startswith("error: quantization is 'int3'; there are int4, ")


def test_a_plot_without_matplotlib_is_told_at_once(
    run: Run, asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(plot, "import_module", fail)
    outcome = run("bench", "--plot", str(tmp_path / "plot.png"))
    assert outcome.code == 1
    assert "pip install 'seed-oss[bench]'" in outcome.err
    assert not asked
    with pytest.raises(MissingExtraError):
        plot.write_plot({"results": []}, tmp_path / "plot.png")
