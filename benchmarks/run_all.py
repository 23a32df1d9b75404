"""Runs every benchmark after the other and renders the README's numbers from the results.

All need the demo model and transformers, and together they take long. The full shape runs where there are 23 GB of
memory; what GPUs do is measured by `gpu.py`, where one is. `serving` compares with llama-server and llama-cpp-python's
server as well where they are named: `python benchmarks/run_all.py --llama-server BINARY --llama-cpp-python PYTHON`;
without them it measures our server and the loop over transformers alone.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from seed_oss.ops.memory import memory_bytes

PROGRAMS = (
    *("engines", "load", "first_token", "generate_vs_transformers", "prompt_lookup", "loss_memory"),
    *("log_probs_memory", "where_time_goes", "sampling", "quality", "serving"),
)
FULL_SHAPE = ("--runs", "engines_36b", "--trials", "1")
FULL_SHAPE_BYTES = 23 * 10**9


def main() -> None:
    """Runs the programs; the first that fails ends the run."""
    peers = _peers()
    for program in PROGRAMS:
        _run(program, *(peers if program == "serving" else []))
        if program == "engines" and _has_room():
            _run(program, *FULL_SHAPE)
    subprocess.run([sys.executable, str(Path(__file__).parents[1] / "tools" / "render.py")], check=True)


def _run(program: str, *options: str) -> None:
    print("==", program, *options, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, str(Path(__file__).with_name(f"{program}.py")), *options], check=True)


def _has_room() -> bool:
    available = memory_bytes()[1]
    return available is not None and available >= FULL_SHAPE_BYTES


def _peers() -> list[str]:
    """What `serving` is told of its peers."""
    parser = argparse.ArgumentParser(description="Runs every benchmark and renders the tables from the results.")
    for option, what in (("--llama-server", "BINARY"), ("--llama-cpp-python", "PYTHON")):
        parser.add_argument(option, metavar=what, help="for serving, see there; left out without it")
    given = {f"--{name.replace('_', '-')}": value for name, value in vars(parser.parse_args()).items()}
    return [part for option, value in given.items() if value for part in (option, value)]


if __name__ == "__main__":
    main()
