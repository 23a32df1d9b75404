"""From process start to the first token, beside transformers and beside `python -c "import torch"`.

Every trial starts fresh processes in turn: a bare `import torch` (the limit: neither engine can start without it), a
program with seed_oss, the same program with transformers, and the `seed-oss generate` command. The question goes
through the checkpoint's chat template; the weight files are in the page cache after the warm-up.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from common import QUESTION, arguments, model_directory, note, report, summary

PROGRAM = """
import sys, torch
from {package} import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads({threads})
class First:
    calls = 0
    def put(self, value):
        First.calls += 1
        if First.calls == 2:
            print("first", flush=True)
    def end(self): pass
tokenizer = AutoTokenizer.from_pretrained({directory!r})
model = AutoModelForCausalLM.from_pretrained({directory!r}, dtype=torch.{dtype})
inputs = tokenizer.apply_chat_template(
    [{{"role": "user", "content": {question!r}}}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(inputs["input_ids"].shape[1], file=sys.stderr, flush=True)
model.generate(**inputs, max_new_tokens=8, do_sample=False, streamer=First())
"""


def commands(options: argparse.Namespace, directory: Path) -> dict[str, list[str]]:
    """What is started in each trial, by name."""
    fill = {"directory": str(directory), "dtype": options.dtype, "threads": options.threads, "question": QUESTION}
    command = str(Path(sys.executable).parent / "seed-oss")
    return {
        "import_torch": [sys.executable, "-c", "import torch; print('first', flush=True)"],
        "seed_oss": [sys.executable, "-c", PROGRAM.format(package="seed_oss", **fill)],
        "transformers": [sys.executable, "-c", PROGRAM.format(package="transformers", **fill)],
        "seed_oss_command": [
            *(command, "generate", "--model", str(directory), "--dtype", options.dtype),
            *("--max-new-tokens", "8", QUESTION),
        ],
    }


def seconds_to_first_byte(command: list[str], threads: int) -> float:
    """Seconds from starting the process to the first byte of its standard output."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.stdout.read()
        errors = process.stderr.read().decode(errors="replace")
    if not first or process.returncode:
        raise SystemExit(f"{command[0]} ended with status {process.returncode}:\n{errors}")
    return seconds


def main() -> None:
    """Starts the processes in turn and compares their medians."""
    parser = arguments(__doc__, trials=7)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    started = commands(options, model_directory(options.model))
    trials: dict[str, list[float]] = {name: [] for name in started}
    for trial in range(options.trials + 1):
        for name, command in started.items():
            seconds = seconds_to_first_byte(command, options.threads)
            note(f"{name}: {seconds:.2f} s")
            trials[name] += [seconds] if trial else []
    over_torch = [a - b for a, b in zip(trials["seed_oss"], trials["import_torch"], strict=True)]
    over_peer = [a / b for a, b in zip(trials["seed_oss"], trials["transformers"], strict=True)]
    results = {
        "dtype": options.dtype,
        "threads": options.threads,
        "seconds": {name: summary(values) for name, values in trials.items()},
        "limit": "import_torch",
        "seed_oss_seconds_above_import_torch": summary(over_torch),
        "seed_oss_over_transformers": summary(over_peer),
    }
    report("first_token", results, options)


if __name__ == "__main__":
    main()
