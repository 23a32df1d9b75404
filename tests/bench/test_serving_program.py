"""benchmarks/serving.py: how servers are started and asked, what comes of their answers, and the table of it."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.source import ROOT
from tools import sections

PROGRAMS = ("serving", "load_client", "common", "run_all")


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The program; its neighbours go away with it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield import_module("serving")
    for name in PROGRAMS:
        sys.modules.pop(name, None)


class Handler(BaseHTTPRequestHandler):
    """Answers with three pieces, or with none where that is asked for."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        pieces = [] if body["prompt"] == "nothing" else ["a", "", "b", json.dumps(body["logit_bias"])]
        for piece in pieces:
            self.wfile.write(f"data: {json.dumps({'choices': [{'text': piece}]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_the_server_of_llama_cpp_python_waits_its_turn(serving: Any) -> None:
    one = serving.llama_cpp_python("PYTHON", Path("demo.gguf"), [0, 2])
    command = one.command(80)
    assert command[:2] == ["PYTHON", "-c"]
    assert f"use_extra_bufts = {serving.REPACKS}" in command[2]
    assert command[command.index("--interrupt_requests") + 1] == "False"
    assert command[command.index("--model") + 1] == "demo.gguf"
    body = serving.body_of("text", one.extra)
    assert (body["logit_bias"], body["max_tokens"]) == ({"0": -100.0, "2": -100.0}, serving.NUM_NEW)
    assert "logit_bias" not in serving.body_of("text", serving.own_server(Path("demo.gguf")).extra)


def test_pieces_are_counted_where_a_server_counts_no_tokens(serving: Any, port: int) -> None:
    answers = serving.burst(port, [serving.body_of("text", {"logit_bias": {"2": -1.0}})] * 2)
    assert [(one.num_tokens, one.text) for one in answers] == [(3, 'ab{"2": -1.0}')] * 2
    with pytest.raises(RuntimeError, match="ended before its first token"):
        serving.burst(port, [serving.body_of("nothing", {})])


def test_a_server_is_ready_where_it_says_so(serving: Any, port: int) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        serving._wait_ready(f"http://127.0.0.1:{port}/v1/models", alive)
        alive.communicate(b"\n")
    with pytest.raises(RuntimeError, match="ended with status 0"):
        serving._wait_ready(f"http://127.0.0.1:{port}/health", alive)


def trial(rate: float) -> dict[str, float]:
    waits = {"ttft_p50_s": 0.1, "ttft_p99_s": 0.2, "inter_token_p50_s": 0.01, "inter_token_p99_s": 0.02}
    return {"tokens_per_s": rate, **waits}


def test_the_table(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        level: {
            "seed-oss": [trial(100.0 * level), trial(120.0 * level)],
            "llama-cpp-python": [trial(50.0), trial(60.0)],
            "LLM.generate": [{"tokens_per_s": 200.0}] * 2,
        }
        for level in (1, 4)
    }
    document = {
        "results": json.loads(json.dumps(serving.compared(found, 20.0))),
        "machine": {"system": "Linux", "processor": "P", "cores": 2, "memory_gib": 23.5},
        "versions": {"torch": "2.13.0+cpu", "transformers": "5"},
        **{"date": "2026-01-01", "commit": "abc", "command": "python benchmarks/serving.py"},
    }
    assert document["results"]["levels"]["4"]["ratios"]["llama-cpp-python"]["median"] == 8
    monkeypatch.setattr(sections, "result", lambda name: document if name == "serving" else None)
    lines = sections.serving().splitlines()
    assert lines[0] == "| tokens/s | 1 at once | 4 at once |"
    assert "| seed-oss | 110 (100 to 120) | 440 (400 to 480) |" in lines
    assert "| llama-cpp-python | 0.20 s, 20 ms | 0.20 s, 20 ms |" in lines
    assert sum(line.startswith("| LLM.generate") for line in lines) == 1  # it has no first token over HTTP
    assert "llama-cpp-python is reported only: it serves one stream at a time." in lines[-1]
    monkeypatch.setattr(sections, "result", lambda name: None)
    assert "not measured yet" in sections.serving()


def test_results_name_no_folders(serving: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    common = import_module("common")
    monkeypatch.setattr(sys, "argv", ["serving.py", "--llama-server", "/home/me/llama-server", "--trials", "2"])
    monkeypatch.setattr(common, "version", lambda name: "1")
    options = common.arguments("text", 1).parse_args(["--no-save"])
    common.report("serving", {}, options)
    shown = json.loads(capsys.readouterr().out)["command"]
    assert shown == "python benchmarks/serving.py --llama-server llama-server --trials 2"


@pytest.mark.parametrize("available", [None, 10**9, 24 * 10**9])
def test_all_programs_run_and_serving_gets_its_peers(
    serving: Any, monkeypatch: pytest.MonkeyPatch, available: int | None
) -> None:
    run_all, started = import_module("run_all"), list[list[str]]()
    monkeypatch.setattr(run_all, "memory_bytes", lambda: (None, available))
    monkeypatch.setattr(run_all.subprocess, "run", lambda command, check: started.append(command[1:]))
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--llama-cpp-python", "PYTHON"])
    run_all.main()
    commands = [[Path(command[0]).name, *command[1:]] for command in started]
    assert commands[-2:] == [["serving.py", "--llama-cpp-python", "PYTHON"], ["render.py"]]
    full = ["engines.py", "--runs", "engines_36b", "--trials", "1"]
    assert (commands[1] == full) == (full in commands) == (available == 24 * 10**9)
    assert all(len(command) == 1 for command in commands[:-2] if command != full)
    programs = {one.name for one in Path(run_all.__file__).parent.glob("*.py") if "__main__" in one.read_text()}
    assert programs - {"run_all.py", "gpu.py"} == {command[0] for command in commands} - {"render.py"}
