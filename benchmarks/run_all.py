"""Runs every benchmark after the other and renders the README's numbers from the results.

All need the demo model and transformers. `serving` compares with llama-server and llama-cpp-python's server as well
where they are named: `python benchmarks/run_all.py --llama-server BINARY --llama-cpp-python PYTHON`; without them it
measures our server and the loop over transformers alone.
"""

import argparse
import subprocess
import sys
from pathlib import Path

PROGRAMS = (
    *("engines", "load", "first_token", "generate_vs_transformers", "prompt_lookup", "loss_memory"),
    *("log_probs_memory", "where_time_goes", "sampling", "serving"),
)


def main() -> None:
    """Runs the programs; the first that fails ends the run."""
    peers = _peers()
    here = Path(__file__).parent
    for program in PROGRAMS:
        print(f"== {program}", file=sys.stderr, flush=True)
        more = peers if program == "serving" else []
        subprocess.run([sys.executable, str(here / f"{program}.py"), *more], check=True)
    subprocess.run([sys.executable, str(here.parent / "tools" / "render.py")], check=True)


def _peers() -> list[str]:
    """What `serving` is told of its peers."""
    parser = argparse.ArgumentParser(description="Runs every benchmark and renders the tables from the results.")
    for option, what in (("--llama-server", "BINARY"), ("--llama-cpp-python", "PYTHON")):
        parser.add_argument(option, metavar=what, help="for serving, see there; left out without it")
    given = {f"--{name.replace('_', '-')}": value for name, value in vars(parser.parse_args()).items()}
    return [part for option, value in given.items() if value for part in (option, value)]


if __name__ == "__main__":
    main()
