"""Choosing a token from one row of scores: by the kernels and in the readable form, in turn, by one thread.

Temperature 1.1, top-p 0.95 and a seed, as Seed-OSS comes. Rows are random: flat ones, three quarters in the
nucleus (the worst case), and sharp ones. The limit beside the numbers is a copy of the row, which a filter has to make.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import arguments, note, report, rounded, summary
from torch import Tensor

from seed_oss.ops.sampling import draw_rows, draw_rows_reference, top_p_rows, top_p_rows_reference

KEY = (7, 0)
SPREADS = {"flat": 1.0, "sharp": 6.0}


def by_kernels(scores: Tensor) -> Tensor:
    """A token from `[1, vocab]`."""
    return draw_rows(top_p_rows(scores / 1.1, 0.95), KEY, 0, 3)


def in_readable_form(scores: Tensor) -> Tensor:
    """A token from `[1, vocab]`."""
    return draw_rows_reference(top_p_rows_reference(scores / 1.1, 0.95), KEY, 0, 3)


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "kernels": by_kernels,
    "readable": in_readable_form,
    "copy": torch.clone,
}


def microseconds(way: Callable[[Tensor], Tensor], scores: Tensor) -> float:
    """Of one call, the median of five."""
    times: list[float] = []
    for _ in range(5):
        begin = time.perf_counter()
        way(scores)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


def measure(scores: Tensor, trials: int) -> dict[str, Any]:
    """All ways in turn; the first trial is a warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for trial in range(trials + 1):
        for name, way in WAYS.items():
            taken[name].append(microseconds(way, scores) if trial else 0.0)
    results: dict[str, Any] = {f"{name}_us": summary(values[1:]) for name, values in taken.items()}
    ratio = results["readable_us"]["median"] / results["kernels_us"]["median"]
    return {**results, "times_faster": rounded(ratio)}


def main() -> None:
    """Measures each size of the vocabulary."""
    parser = arguments(__doc__, trials=30)
    parser.add_argument("--vocab", type=int, nargs="+", default=[49_152, 155_136])
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for vocab_size in options.vocab:
        for name, spread in SPREADS.items():
            note(f"{vocab_size} entries, {name}")
            scores = spread * torch.randn(1, vocab_size, generator=torch.Generator().manual_seed(0))
            results[f"{name}_{vocab_size}"] = measure(scores, options.trials)
    report("sampling", results, options)


if __name__ == "__main__":
    main()
