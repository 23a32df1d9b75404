"""Runs every benchmark after the other and renders the README's numbers from the results."""

import subprocess
import sys
from pathlib import Path

PROGRAMS = (
    *("engines", "load", "first_token", "generate_vs_transformers", "prompt_lookup", "loss_memory"),
    *("log_probs_memory", "where_time_goes"),
)


def main() -> None:
    """Runs the programs; the first that fails ends the run."""
    here = Path(__file__).parent
    for program in PROGRAMS:
        print(f"== {program}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, str(here / f"{program}.py")], check=True)
    subprocess.run([sys.executable, str(here.parent / "tools" / "render.py")], check=True)


if __name__ == "__main__":
    main()
