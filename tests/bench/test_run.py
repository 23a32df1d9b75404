"""Whole runs on tiny models, with no peer installed that is asked for."""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as T

from seed_oss import SeedOssForCausalLM
from seed_oss.bench import engines
from seed_oss.bench import run as run_module
from seed_oss.bench.cpu_time import CpuTime
from seed_oss.bench.engines import OWN, OWN_LLM, EngineSpec, Interpreter, Workshop
from seed_oss.bench.options import BenchOptions, PeerWish, parse_peers
from seed_oss.bench.process import EngineProcess, environment_for
from seed_oss.bench.report import EngineResult, Limit, command, limits_of, result_row
from seed_oss.bench.run import run
from seed_oss.bench.shapes import shape_config
from seed_oss.bench.trials import Measured, Trial
from seed_oss.errors import InputError, StateError
from seed_oss.ops.native import library
from seed_oss.planning.model import find_model
from tests.factory import tiny_checkpoint
from tests.quant.gguf_factory import Recipe, file_name_of, random_weights, write_gguf
from tools import sections

ROW = {"engine", "weights", "prefill_tokens_per_s", "decode_tokens_per_s", "first_token_s", "peak_rss_bytes"}


def check_document(document: dict[str, Any]) -> None:
    """The form that the issue asks for, and nothing that JSON cannot hold."""
    assert json.loads(json.dumps(document, allow_nan=False))
    assert {"results", "limits", "machine", "versions", "command"} <= document.keys()
    assert {"read_gb_per_s", "matmul_gflop_per_s"} <= document["limits"].keys()
    assert all(value > 0 for value in document["limits"].values())
    for row in document["results"]:
        assert row.keys() >= ROW
        assert row["prefill_tokens_per_s"] > 0
        assert row["decode_tokens_per_s"] > 0
        spread = row["spread"]["decode_tokens_per_s"]
        assert spread["min"] <= spread["median"] <= spread["max"]
        assert 0 < row["decode_share_of_read"]
        is_read = row["engine"] in (OWN, OWN_LLM) and library() is not None
        assert (row["weights_read_gb_per_s"] or 0) > 0 if is_read else row["weights_read_gb_per_s"] is None


@pytest.fixture
def _small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_buffer_bytes", lambda live: 2**22)
    monkeypatch.setattr(run_module, "_wait", lambda failures: None)


@pytest.mark.usefixtures("_small_buffer")
def test_a_shape_beside_peers_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "find_peer", lambda name, other: None)
    notes: list[str] = []
    options = BenchOptions(
        shape="tiny",
        quantizations=("int4",),
        head_bits=4,
        peers=parse_peers(["transformers", "llama.cpp", "openvino"]),
        prompt_tokens=24,
        new_tokens=4,
        threads=(1,),
        trials=2,
        max_repeats=0,
        with_llm=True,
    )
    document = run(options, notes.append)
    check_document(document)
    rows = [(row["engine"], row["weights"], row["first_token_s"]) for row in document["results"]]
    assert rows == [(engine, "int4, 4-bit head", None) for engine in ("seed_oss", "seed_oss LLM")]
    assert [one["engine"] for one in document["not_run"]] == ["transformers", "llama.cpp", "openvino"]
    assert all("pip install 'seed-oss[bench]'" in one["why"] for one in document["not_run"])
    assert any("transformers is left out" in note for note in notes)
    assert "trial 2 of 2" in notes
    shown = sections._engine_table({**document, "date": "2026-01-01", "commit": "abc"})
    assert "| seed_oss int4, 4-bit head" in shown
    assert "openvino was not run: not installed" in shown


@pytest.mark.usefixtures("_small_buffer")
def test_a_gguf_file_is_measured_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights()
    types = {file_name_of(name, "seed_oss"): T.Q4_0 for name, values in weights.items() if values.ndim == 2}
    file = write_gguf(tmp_path / "tiny.gguf", Recipe(weights=weights, types=types))
    monkeypatch.setattr(run_module, "find_peer", lambda name, other: Interpreter(sys.executable, "1.0"))
    monkeypatch.setattr(run_module.Run, "_start", own_alone(run_module.Run._start))
    options = BenchOptions(
        model=str(file),
        quantizations=("gguf",),
        peers=parse_peers(["transformers", "llama.cpp", "openvino"]),
        prompt_tokens=12,
        new_tokens=4,
        threads=(1,),
        trials=1,
        max_repeats=0,
        measures_start=False,
    )
    document = run(options)
    check_document(document)
    (row,) = document["results"]
    assert (row["engine"], row["weights"], document["work"]["model"]) == ("seed_oss", "gguf", "tiny.gguf")
    why = "it does not read tiny.gguf; give a checkpoint folder to compare it"
    assert document["not_run"] == [{"engine": name, "why": why} for name in ("transformers", "openvino")]


def own_alone(start: Any) -> Any:
    """Peers are asked for, and not started; they would get the very file."""

    def started(self: Any, specs: list[EngineSpec], stack: Any) -> Any:
        peers = [spec for spec in specs if spec.engine != "seed_oss"]
        assert [spec.label for spec in peers] == ["llama.cpp gguf", "llama.cpp gguf flash_attn"]
        assert {spec.load["file"] for spec in peers} == {self.options.model}
        assert {spec.bits for spec in specs} == {4}
        return start(self, [spec for spec in specs if spec.engine == "seed_oss"], stack)

    return started


def test_a_gguf_file_has_no_other_weights(tmp_path: Path) -> None:
    (tmp_path / "any.gguf").touch()
    with pytest.raises(InputError, match="'int4,int8', and a GGUF file is measured as it is; leave it out"):
        run(BenchOptions(model=str(tmp_path / "any.gguf"), quantizations=("int4", "int8")))
    folder = tiny_checkpoint(tmp_path / "folder", SeedOssForCausalLM)
    with pytest.raises(InputError, match=r"'gguf', which is for --model FILE\.gguf"):
        run(BenchOptions(model=str(folder), quantizations=("gguf",)))
    with pytest.raises(InputError, match=r"'fp8', and engines are compared on the CPU"):
        run(BenchOptions(model=str(folder), quantizations=("fp8",)))


def test_the_large_shape_is_the_one_that_is_planned() -> None:
    assert shape_config("36b").to_dict() == {**find_model("36b").config.to_dict(), "dtype": None}


def test_unknown_names_are_told_before_anything_starts() -> None:
    for wrong, message in (
        ({"shape": "huge"}, "shape is 'huge'"),
        ({"quantizations": ("int3",)}, "quantization is 'int3'"),
    ):
        with pytest.raises(InputError, match=message):
            run(BenchOptions(**wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trials": 0}, "trials is 0; it must be from 1"),
        ({"new_tokens": 1}, "new_tokens is 1; it must be from 2"),
        ({"head_bits": 3}, "head_bits is 3; it must be 4 or 8"),
        ({"quantizations": ()}, "no quantization is given"),
        ({"threads": (0,)}, "each must be at least 1"),
    ],
)
def test_options_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchOptions(**wrong)


def test_peers_by_name() -> None:
    assert parse_peers(["llama.cpp:Q4_0", "openvino"]) == (PeerWish("llama.cpp", "Q4_0"), PeerWish("openvino"))
    with pytest.raises(InputError, match=r"peer is .vllm.; there are transformers, llama.cpp, openvino"):
        parse_peers(["vllm"])
    with pytest.raises(InputError, match=r"weights of llama.cpp are 'Q2_K'; there are Q4_1, Q4_0, Q8_0"):
        parse_peers(["llama.cpp:Q2_K"])


def test_a_peer_that_is_not_here_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.PACKAGES, "openvino", "no_such_package_anywhere")
    assert engines.find_peer("openvino", None) is None


def test_each_peer_gets_its_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workshop, "_export", lambda self, kind, name, model, type_=None: tmp_path / name)
    options = BenchOptions(shape="1b", quantizations=("int4-sym", "int8"), head_bits=4)
    workshop = Workshop(options, shape_config("1b"), None, tmp_path)
    here = engines.Interpreter("python", "1.0")

    def labels(name: str, weights: str | None = None) -> list[str]:
        return [spec.label for spec in workshop.peer(PeerWish(name, weights), here)]

    assert labels("llama.cpp") == ["llama.cpp Q4_0 flash_attn", "llama.cpp Q8_0 flash_attn"]
    assert labels("llama.cpp", "Q4_1") == ["llama.cpp Q4_1"]
    assert labels("transformers") == ["transformers bfloat16"]
    assert [label.rpartition(" ")[2] for label in labels("openvino")] == ["bf16", "f32"]
    assert workshop.own("int4-sym").label == "seed_oss int4-sym, 4-bit head"
    assert workshop.own("int8").label == "seed_oss int8"


def test_our_engine_gets_a_checkpoint_that_is_quantized(tmp_path: Path) -> None:
    directory = tiny_checkpoint(tmp_path / "model", SeedOssForCausalLM)
    options = BenchOptions(model=str(directory), quantizations=("int4",))
    workshop = Workshop(options, shape_config("tiny"), directory, tmp_path)
    spec = workshop.own("int4")
    assert spec.load["is_quantized"]
    config = json.loads((Path(spec.load["directory"]) / "config.json").read_text())
    assert config["quantization_config"]["scheme"] == "int4"


def test_an_engine_that_fails_is_told_with_its_words() -> None:
    process = EngineProcess("ours", "seed_oss.bench.peers.llama_cpp_engine", sys.executable, {})
    try:
        with pytest.raises(StateError, match=r"ours: (ModuleNotFoundError|KeyError)"):
            process.ask({"do": "load"})
    finally:
        process.close()
    gone = EngineProcess("nothing", "seed_oss.bench.no_such_module", sys.executable, {})
    try:
        with pytest.raises(StateError, match=r"nothing ended with status 1: .*no_such_module"):
            gone.ask({"do": "load"})
    finally:
        gone.close()


def test_another_interpreter_gets_a_link_to_the_package_alone(tmp_path: Path) -> None:
    environment = environment_for("/elsewhere/python", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["seed_oss"]
    assert environment["PYTHONPATH"] == str(tmp_path)
    assert "PYTHONPATH" not in environment_for(sys.executable, tmp_path)


def test_a_row_says_what_was_measured() -> None:
    spec = EngineSpec("llama.cpp", "Q4_0", "python", bits=4)
    measured = {
        1: Measured((Trial(2.0, 1.0, 0.0, 10e9), Trial(2.0, 1.0, 0.0, 15e9)), 1, False),
        2: Measured((Trial(1.0, 2.0),), 2, True),
    }
    limits = limits_of([Limit(30e9, 400e9, 800e9), Limit(20e9, 200e9, 400e9), Limit(10e9, 100e9, 100e9)])
    assert limits == {"read_gb_per_s": 20.0, "matmul_gflop_per_s": 200.0, "int8_gop_per_s": 400.0}
    work = {"prompt_tokens": 100, "new_tokens": 11, "product_weights": 10**8, "token_cache_bytes": 10**6}
    row = result_row(EngineResult(spec, measured, [0.5], 895 * 10**6, 123, [1.0, 3.0, 2.0]), limits, work)
    assert (row["prefill_tokens_per_s"], row["prefill_threads"]) == (100.0, 2)
    assert (row["decode_tokens_per_s"], row["decode_threads"]) == (10.0, 1)
    assert (row["decode_share_of_read"], row["prefill_share_of_matmul"], row["prefill_share_of_int8"]) == (
        0.5,
        0.1,
        0.05,
    )
    assert (row["decode_share_of_reading_its_weights"], row["weights_read_gb_per_s"]) == (0.8, 12.5)
    assert (row["first_token_s"], row["discarded_trials"], row["is_disturbed"]) == (2.0, 3, True)


def test_the_start_of_a_child_is_our_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([CpuTime(0.0, 0.0, 0.0), CpuTime(1.0, 1.5, 0.0)])
    monkeypatch.setattr(run_module, "read_cpu_time", lambda wall, processes: next(times))
    monkeypatch.setattr(run_module, "seconds_to_first_byte", lambda command, environment: (0.9, 1.5))
    assert run_module._started(["x"], {}) == Trial(0.9, 0.0, 0.0)


def test_a_plot_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
    from seed_oss.bench.plot import write_plot

    row = {
        "engine": "seed_oss",
        "weights": "int4",
        "prefill_tokens_per_s": 10.0,
        "decode_tokens_per_s": 2.0,
        "spread": {name: {"min": 1.0, "max": 12.0} for name in ("prefill_tokens_per_s", "decode_tokens_per_s")},
    }
    document = {
        "results": [row],
        "work": {"model": "demo", "prompt_tokens": 4, "new_tokens": 2},
        "machine": {"processor": "a", "cores": 2},
    }
    write_plot(document, tmp_path / "plot.png")
    head = (tmp_path / "plot.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I", head[16:20])[0] == 1200


def test_the_command_is_shown_without_folders_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["/somewhere/bin/seed-oss", "bench", "--peer-python", "/somewhere/python", "--trials", "2"]
    monkeypatch.setattr(sys, "argv", typed)
    assert command() == "seed-oss bench --trials 2"


def test_an_engine_that_does_not_start_by_itself_costs_only_its_own_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
        if "bad" in command:
            raise StateError("a process ended with status 1: no reason")
        return 0.5, 0.1

    monkeypatch.setattr(run_module, "seconds_to_first_byte", seconds)
    monkeypatch.setattr(run_module, "_wait", lambda failures: None)
    monkeypatch.setattr(run_module.Run, "_question_ids", lambda self: [1])
    monkeypatch.setattr(run_module, "first_token_command", lambda python, *rest, **more: [python])
    notes: list[str] = []
    options = BenchOptions(model=str(tmp_path), trials=2)
    config = shape_config("tiny")
    started = run_module.Run(options, config, tmp_path, Workshop(options, config, tmp_path, tmp_path), notes.append)
    specs = [EngineSpec("llama.cpp", "Q4_0", "bad"), EngineSpec("openvino", "int4", "good")]
    found = started._first_tokens(specs)
    assert {label: len(seconds) for label, seconds in found.items()} == {specs[1].label: 2}
    assert any("does not start by itself" in one for one in notes)
