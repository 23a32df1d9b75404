"""Many requests at once: `seed-oss serve` beside llama-server, both on the demo model's 4-bit file, bursts in turn.

A burst is a number of requests that are sent at once, each with a prompt of its own; tokens per second count from the
first one sent to the last token of all. `LLM.generate` on the same requests and a plain loop over transformers'
`generate` are measured in the same run. llama-server is built from the sources inside llama-cpp-python's sdist.
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
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import arguments, note, report, summary
from load_client import Answer, burst

from seed_oss.weights.demo import packed, prepare

LEVELS = (1, 4, 16, 64)
NUM_NEW = 64
TOPICS = ("a fox", "the sea", "a clock", "winter", "a lighthouse", "bread", "a train", "the moon")
LLAMA_OPTIONS = ("--no-repack",)  # repacked for AMX it ends with a protection fault on the machine of the figures
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
    print(json.dumps(count / (time.perf_counter() - start)), flush=True)
"""


def prompts_of(level: int, turn: int) -> list[str]:
    """Prompts that no cache has seen."""
    return [
        f"Story number {turn}-{level}-{index}. Write a long story about {TOPICS[index % len(TOPICS)]} and about what "
        f"happened {turn + index} years ago, when nobody was there to see it. Begin with the weather, take your time."
        for index in range(level)
    ]


def body_of(prompt: str) -> dict[str, Any]:
    """A request that both servers take."""
    return {
        "model": "demo",
        "prompt": prompt,
        "max_tokens": NUM_NEW,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def server(command: Callable[[int], list[str]]) -> Iterator[int]:
    """A server that runs as long as the context; gives its port once it is ready."""
    port = free_port()
    with subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_ready(port, process)
            yield port
        finally:
            process.terminate()


def _wait_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r:.200} ended with status {process.returncode}")
        for path in ("/ready", "/health"):
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
                return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args!r:.200} was not ready within {_STARTS_WITHIN_S:.0f} s")


def own_command(file: Path) -> Callable[[int], list[str]]:
    """Starts our server."""
    limits = ["--max-num-seqs", "64", "--max-model-len", "1024", "--served-model-name", "demo"]
    return lambda port: [sys.executable, "-m", "seed_oss", "serve", str(file), "--port", str(port), *limits]


def llama_command(binary: str, file: Path) -> Callable[[int], list[str]]:
    """Starts llama-server with 16 slots and continuous batching, which is its default."""
    how = ["--parallel", "16", "--ctx-size", str(16 * 1024), "--threads", "2", "--flash-attn", "on", *LLAMA_OPTIONS]
    return lambda port: [binary, "--model", str(file), "--host", "127.0.0.1", "--port", str(port), *how]


def measured(answers: Sequence[Answer]) -> dict[str, float]:
    """What a burst came to."""
    first = [answer.times[0] - answer.sent for answer in answers]
    between = [after - before for one in answers for before, after in pairwise(one.times)]
    wall = max(answer.times[-1] for answer in answers) - min(answer.sent for answer in answers)
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

    def run(self, prompts: Sequence[str]) -> float:
        """Tokens per second of these requests."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(prompts) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def transformers_loop(file_prompts: Sequence[str]) -> float:
    """Tokens per second of a loop over requests, one after the other."""
    command = [sys.executable, "-c", _LOOP, str(prepare()), json.dumps(list(file_prompts)), str(NUM_NEW)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def run_trials(ports: dict[str, int], own: Own, levels: Sequence[int], trials: int) -> dict[int, dict[str, list[Any]]]:
    """Bursts in turn: of every level, each server once a trial."""
    found: dict[int, dict[str, list[Any]]] = {
        level: {name: [] for name in (*ports, "LLM.generate")} for level in levels
    }
    for trial in range(-1, trials):  # one to warm up
        for level in levels:
            prompts = prompts_of(level, trial + 2)
            for name, port in ports.items():
                one = measured(burst(port, [body_of(prompt) for prompt in prompts]))
                note(f"  {level:3} at once, {name}: {one['tokens_per_s']:.0f} tokens/s")
                found[level][name] += [one] if trial >= 0 else []
            rate = own.run(prompts)
            note(f"  {level:3} at once, LLM.generate: {rate:.0f} tokens/s")
            found[level]["LLM.generate"] += [{"tokens_per_s": rate}] if trial >= 0 else []
    return found


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
    result["each_level_to_the_one_before"] = [round(b / a, 3) for a, b in pairwise(rates)]
    return result


def _ratios(by_name: dict[str, list[Any]], loop: float) -> dict[str, Any]:
    own = [one["tokens_per_s"] for one in by_name["seed-oss"]]
    ratios = {"transformers loop": summary([rate / loop for rate in own])}
    for name, trials in by_name.items():
        if name != "seed-oss" and trials:
            others = [one["tokens_per_s"] for one in trials]
            ratios[name] = summary([ours / theirs for ours, theirs in zip(own, others, strict=True)])
    return ratios


def main() -> None:
    """Measures every server that is there."""
    parser = arguments(__doc__, trials=3)
    parser.add_argument("--llama-server", metavar="BINARY", help="path of llama-server; left out without it")
    parser.add_argument("--levels", type=int, nargs="+", default=list(LEVELS))
    options: argparse.Namespace = parser.parse_args()
    file = packed()
    commands = {"seed-oss": own_command(file)}
    if options.llama_server:
        commands["llama-server"] = llama_command(options.llama_server, file)
    note("transformers, one request after the other")
    loop = transformers_loop(prompts_of(4, 0))
    own = Own(file)
    with contextlib.ExitStack() as stack:
        stack.callback(own.close)
        ports = {name: stack.enter_context(server(command)) for name, command in commands.items()}
        found = run_trials(ports, own, options.levels, options.trials)
    report("serving", compared(found, loop), options)


if __name__ == "__main__":
    main()
