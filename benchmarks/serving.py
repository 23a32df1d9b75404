"""Many requests at once: `seed-oss serve` beside other servers, all on the demo model's 4-bit file, bursts in turn.

A burst is a number of requests that are sent at once, each with a prompt of its own; tokens per second count from the
first one sent to the last token of all. One of few requests is over within half a second, so a trial has several of
them. `LLM.generate` on the same requests and a plain loop over transformers' `generate` are measured in the same run.

It needs the demo model and transformers. Two peers are optional, and left out where they are not named:

    --llama-server BINARY        llama.cpp's server, built from the sources inside llama-cpp-python's sdist
    --llama-cpp-python PYTHON    an interpreter with llama-cpp-python[server]; reported only: one stream at a time
"""

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import arguments, note, report, summary
from goals import said, serving_goals
from load_client import Answer, burst

from seed_oss.weights.demo import packed, prepare

LEVELS = (1, 4, 16, 64)
NUM_REQUESTS = 16  # of a trial at least, at any level
NUM_NEW = 64
TOPICS = ("a fox", "the sea", "a clock", "winter", "a lighthouse", "bread", "a train", "the moon")
REPACKS = "amx_tile" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")  # for AMX llama.cpp ends with a fault
LLAMA_OPTIONS = () if REPACKS else ("--no-repack",)
LLAMA_CPP_PYTHON = "llama-cpp-python"
REPORTED_ONLY = {LLAMA_CPP_PYTHON: "it serves one stream at a time"}
ENDS = ("<|endoftext|>", "<|im_end|>")  # tokens at which llama.cpp ends the demo model's text
_STARTS_WITHIN_S = 120.0
_LOOP = """
import json, sys, time, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompts, new = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained(folder)
how = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
run = lambda text: model.generate(**tokenizer(text, return_tensors="pt"), **how)
run(prompts[0])
start = time.perf_counter()
for prompt in prompts:
    run(prompt)
print(json.dumps(new * len(prompts) / (time.perf_counter() - start)))
"""
# `python -m llama_cpp.server`, whose options do not reach repacking.
_LLAMA_CPP_SERVER = f"""
from llama_cpp import llama_cpp
default = llama_cpp.llama_model_default_params
def params():
    found = default()
    found.use_extra_bufts = {REPACKS}
    return found
llama_cpp.llama_model_default_params = params
from llama_cpp.server.__main__ import main
main()
"""
_LLM = """
import json, sys, time
from seed_oss import LLM, SamplingParams
llm = LLM(sys.argv[1], max_num_seqs=64, max_model_len=1024)
params = SamplingParams(max_tokens=int(sys.argv[2]), temperature=0, ignore_eos=True)
for line in sys.stdin:
    prompts = json.loads(line)
    start = time.perf_counter()
    outputs = llm.generate(prompts, params)
    count = sum(len(one.outputs[0].token_ids) for one in outputs)
    print(json.dumps([count, time.perf_counter() - start]), flush=True)
"""


def prompts_of(level: int, turn: int) -> list[str]:
    """Prompts that no cache has seen."""
    return [
        f"Story number {turn}-{level}-{index}. Write a long story about {TOPICS[index % len(TOPICS)]} and about what "
        f"happened {turn + index} years ago, when nobody was there to see it. Begin with the weather, take your time."
        for index in range(level)
    ]


@dataclass(frozen=True, slots=True)
class Served:
    """A server.

    Attributes:
        command: what starts it on a port.
        ready: the path that answers once it can serve.
        extra: what its requests have beside those of the others.
    """

    command: Callable[[int], list[str]]
    ready: str
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


def body_of(prompt: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """A request for as many tokens as are measured, whatever they say."""
    return {
        "model": "demo",
        "prompt": prompt,
        "max_tokens": NUM_NEW,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **extra,
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def server(served: Served) -> Iterator[int]:
    """A server that runs as long as the context; gives its port once it is ready."""
    port = free_port()
    command = served.command(port)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_ready(f"http://127.0.0.1:{port}{served.ready}", process)
            yield port
        finally:
            process.terminate()


def _wait_ready(address: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r:.200} ended with status {process.returncode}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(address, timeout=5).close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args!r:.200} was not ready within {_STARTS_WITHIN_S:.0f} s")


def own_server(file: Path) -> Served:
    """Our server."""
    limits = ["--max-num-seqs", "64", "--max-model-len", "1024", "--served-model-name", "demo"]
    start = [sys.executable, "-m", "seed_oss", "serve", str(file)]
    return Served(lambda port: [*start, "--port", str(port), *limits], "/ready")


def llama_server(binary: str, file: Path) -> Served:
    """llama-server with 16 slots and continuous batching, which is its default."""
    how = ["--parallel", "16", "--ctx-size", str(16 * 1024), "--threads", "2", "--flash-attn", "on", *LLAMA_OPTIONS]
    start = [binary, "--model", str(file), "--host", "127.0.0.1"]
    return Served(lambda port: [*start, "--port", str(port), *how], "/health")


def llama_cpp_python(python: str, file: Path, end_ids: Sequence[int]) -> Served:
    """llama-cpp-python's own server; requests wait for each other instead of interrupting the one that runs.

    Args:
        python: an interpreter that has it.
        file: the model.
        end_ids: tokens that its requests rule out, since it knows no `ignore_eos`.
    """
    how = ["--n_ctx", "1024", "--n_threads", "2", "--flash_attn", "True", "--logits_all", "False"]
    start = [python, "-c", _LLAMA_CPP_SERVER, "--model", str(file), "--model_alias", "demo", "--host", "127.0.0.1"]
    wait = ["--interrupt_requests", "False", "--verbose", "False"]
    never = {"logit_bias": {str(one): -100.0 for one in end_ids}}
    return Served(lambda port: [*start, "--port", str(port), *how, *wait], "/v1/models", never)


def end_ids(file: Path) -> list[int]:
    """The tokens at which llama.cpp would end a text."""
    from seed_oss import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(file)
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in ENDS]


def measured(bursts: Sequence[Sequence[Answer]]) -> dict[str, float]:
    """What bursts one after the other came to."""
    answers = [answer for answers in bursts for answer in answers]
    first = [answer.times[0] - answer.sent for answer in answers]
    between = [after - before for one in answers for before, after in pairwise(one.times)]
    wall = sum(max(one.times[-1] for one in some) - min(one.sent for one in some) for some in bursts)
    return {
        "tokens_per_s": sum(answer.num_tokens for answer in answers) / wall,
        "ttft_p50_s": _share(first, 0.5),
        "ttft_p99_s": _share(first, 0.99),
        "inter_token_p50_s": _share(between, 0.5),
        "inter_token_p99_s": _share(between, 0.99),
    }


def _share(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


class Own:
    """`LLM.generate` in a process of its own."""

    def __init__(self, file: Path) -> None:
        command = [sys.executable, "-c", _LLM, str(file), str(NUM_NEW)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, prompts: Sequence[str]) -> tuple[int, float]:
        """New tokens of these requests, and the seconds that they took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(prompts) + "\n")
        self._process.stdin.flush()
        num_tokens, seconds = json.loads(self._process.stdout.readline())
        return num_tokens, seconds

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def transformers_loop(file_prompts: Sequence[str]) -> float:
    """Tokens per second of a loop over requests, one after the other."""
    command = [sys.executable, "-c", _LOOP, str(prepare()), json.dumps(list(file_prompts)), str(NUM_NEW)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def run_trials(
    ports: Mapping[str, int], servers: Mapping[str, Served], own: Own, levels: Sequence[int], trials: int
) -> dict[int, dict[str, list[Any]]]:
    """Bursts in turn: of every level, each server in each trial; those that are only reported in the first one."""
    names = ("LLM.generate", *ports)
    found: dict[int, dict[str, list[Any]]] = {level: {name: [] for name in names} for level in levels}
    for trial in range(-1, trials):  # one to warm up
        for level in levels:
            taking_part = [name for name in names if trial == 0 or name not in REPORTED_ONLY]
            for name, one in _trial(taking_part, ports, servers, own, level, trial + 2).items():
                note(f"  {level:3} at once, {name}: {one['tokens_per_s']:.0f} tokens/s")
                found[level][name] += [one] if trial >= 0 else []
    return found


def _trial(
    names: Sequence[str], ports: Mapping[str, int], servers: Mapping[str, Served], own: Own, level: int, turn: int
) -> dict[str, dict[str, float]]:
    answers: dict[str, list[list[Answer]]] = {name: [] for name in names if name in ports}
    runs: list[tuple[int, float]] = []
    for number in range(max(1, NUM_REQUESTS // level)):
        prompts = prompts_of(level, 100 * turn + number)
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            if name in ports:
                answers[name].append(burst(ports[name], [body_of(one, servers[name].extra) for one in prompts]))
            else:
                runs.append(own.run(prompts))
    rate = sum(num_tokens for num_tokens, _ in runs) / sum(seconds for _, seconds in runs)
    return {"LLM.generate": {"tokens_per_s": rate}} | {name: measured(bursts) for name, bursts in answers.items()}


def compared(found: dict[int, dict[str, list[Any]]], loop: float) -> dict[str, Any]:
    """Medians, and the ratios within each trial."""
    result: dict[str, Any] = {"transformers_loop_tokens_per_s": round(loop, 1), "levels": {}}
    for level, by_name in found.items():
        engines = {
            name: {key: summary([trial[key] for trial in trials]) for key in trials[0]}
            for name, trials in by_name.items()
            if trials
        }
        result["levels"][str(level)] = {"engines": engines, "ratios": _ratios(by_name, loop)}
    rates = [statistics.median(one["tokens_per_s"] for one in found[level]["seed-oss"]) for level in found]
    named = {name for by_name in found.values() for name in by_name}
    result["reported_only"] = {name: why for name, why in REPORTED_ONLY.items() if name in named}
    result["each_level_to_the_one_before"] = [round(b / a, 3) for a, b in pairwise(rates)]
    return result


def _ratios(by_name: dict[str, list[Any]], loop: float) -> dict[str, Any]:
    own = [one["tokens_per_s"] for one in by_name["seed-oss"]]
    ratios = {"transformers loop": summary([rate / loop for rate in own])}
    for name, trials in by_name.items():
        if name != "seed-oss" and trials:
            others = [one["tokens_per_s"] for one in trials]
            ratios[name] = summary([ours / theirs for ours, theirs in zip(own, others, strict=False)])
    return ratios


def main() -> None:
    """Measures every server that is there."""
    parser = arguments(__doc__, trials=3)
    parser.add_argument("--llama-server", metavar="BINARY", help="path of llama-server; left out without it")
    parser.add_argument(
        "--llama-cpp-python", metavar="PYTHON", help="a Python with llama-cpp-python[server]; left out without it"
    )
    parser.add_argument("--levels", type=int, nargs="+", default=list(LEVELS))
    options: argparse.Namespace = parser.parse_args()
    file = packed()
    servers = {"seed-oss": own_server(file)}
    if options.llama_server:
        servers["llama-server"] = llama_server(options.llama_server, file)
    if options.llama_cpp_python:
        servers[LLAMA_CPP_PYTHON] = llama_cpp_python(options.llama_cpp_python, file, end_ids(file))
    note("transformers, one request after the other")
    loop = transformers_loop(prompts_of(4, 0))
    own = Own(file)
    with contextlib.ExitStack() as stack:
        stack.callback(own.close)
        ports = {name: stack.enter_context(server(served)) for name, served in servers.items()}
        found = run_trials(ports, servers, own, options.levels, options.trials)
    results = compared(found, loop)
    results["goals"] = serving_goals(results)
    note(said(results["goals"]))
    report("serving", results, options)


if __name__ == "__main__":
    main()
