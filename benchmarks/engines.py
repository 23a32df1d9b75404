"""`seed-oss bench`, as it is run for the tables: the demo model in 4 bits, and a shape of 1.14 billion weights.

Every run is a command that anybody can type (see RUNS); its result goes to benchmarks/results with date and commit.
Peers come with the extra `bench`, or lie where `--peer-python` says; one that is not there is named in the result.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time

from common import RESULTS, arguments, commit, note
from goals import engine_goals, peer_goals, said

RUNS = {
    "engines_demo_int4": "--model {model} --quantization int4,int4-min --llm --peers transformers,llama.cpp,openvino",
    "engines_1b": "--shape 1b --synthetic --quantization int4-sym,int8,bfloat16 --head-bits 4 --llm "
    "--peers transformers,llama.cpp",
}
LARGE_RUNS = {"engines_36b": "--shape 36b --synthetic --quantization int4 --threads 2"}  # 22 GiB of memory


def run(name: str, options: argparse.Namespace, more: list[str]) -> dict[str, object]:
    """One run's result; what it says on the way goes through.

    Args:
        name: of the run.
        options: the parsed arguments.
        more: further options.
    """
    words = shlex.split({**RUNS, **LARGE_RUNS}[name].format(model=shlex.quote(options.model)))
    command = [sys.executable, "-m", "seed_oss", "bench", *words, "--trials", str(options.trials), *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Runs them in turn."""
    parser = arguments(__doc__, trials=5)
    parser.add_argument("--runs", nargs="+", choices=[*RUNS, *LARGE_RUNS], default=list(RUNS), help="which runs")
    parser.add_argument("--peer-python", help="another Python, which has peers that are not installed here")
    parser.add_argument("--plots", action="store_true", help="also draw each result, into benchmarks/results")
    options = parser.parse_args()
    document: dict[str, object] = {}
    for name in options.runs:
        note(f"== {name}")
        more = ["--peer-python", options.peer_python] if options.peer_python else []
        more += ["--plot", str(RESULTS / f"{name}.png")] if options.plots else []
        made = {"benchmark": name, "date": time.strftime("%Y-%m-%d", time.gmtime()), "commit": commit()}
        document = {**made, **run(name, options, more)}
        document["goals"] = goals = [*engine_goals(name, document), *peer_goals(name, document)]
        note(said(goals))
        if not options.no_save:
            text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
            (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    print(json.dumps(document, ensure_ascii=False))


if __name__ == "__main__":
    main()
