"""Load time and peak memory of `from_pretrained`, beside transformers', each load in a fresh process.

Then the same weights saved in 4 bits, which are mapped from their file: what a second load takes.

The limits beside the numbers: for time, reading the same weight files once from the page cache into memory that is
already there (and, in bf16, converting them); for memory, the finished model itself.
"""

import tempfile
import time
from pathlib import Path

from common import Child, arguments, model_directory, note, report, summary, weight_bytes

PACKED_LOADER = """
import time, torch
from seed_oss import AutoModelForCausalLM
torch.set_num_threads(2)
say(ready=True)
hear()
start = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained({directory!r})
say(seconds=time.perf_counter() - start)
hear()
"""
LOADER = """
import time, torch
from {package} import {kind}
torch.set_num_threads(2)
say(ready=True)
hear()
start = time.perf_counter()
model = {kind}.from_pretrained({directory!r}, dtype=torch.{dtype})
seconds = time.perf_counter() - start
unique = {{p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}}
say(seconds=seconds, model_bytes=sum(unique.values()), largest_bytes=max(unique.values()))
hear()
"""
ENGINES = {
    "seed_oss": {"package": "seed_oss", "kind": "AutoModelForCausalLM"},
    "transformers": {"package": "transformers", "kind": "AutoModelForCausalLM"},
}


def load_once(engine: str, dtype: str, directory: Path) -> dict[str, float]:
    """Seconds, peak bytes above the imported libraries, and the model's own bytes of one load."""
    return measured_load(LOADER.format(directory=str(directory), dtype=dtype, **ENGINES[engine]))


def measured_load(program: str) -> dict[str, float]:
    """What a child says of its load, and its peak bytes above the imported libraries, without those of mapped files."""
    child = Child(program, HF_HUB_OFFLINE="1")
    child.read()
    before = child.memory_bytes()
    child.watch()
    answer = child.ask(go=True)
    peak = child.peak_bytes() - before
    child.close()
    return {**answer, "peak_bytes": peak}


def read_seconds(directory: Path) -> float:
    """Seconds to read the weight files once into one buffer that is already there."""
    buffer = bytearray(64 * 2**20)
    start = time.perf_counter()
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def measure(engine_trials: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """Median and spread of each engine's trials of one dtype."""
    result: dict[str, object] = {}
    for engine, trials in engine_trials.items():
        result[engine] = {
            "seconds": summary([trial["seconds"] for trial in trials]),
            "peak_mb": summary([trial["peak_bytes"] / 1e6 for trial in trials]),
            "model_mb": round(trials[0]["model_bytes"] / 1e6, 1),
            "largest_tensor_mb": round(trials[0]["largest_bytes"] / 1e6, 1),
        }
    return result


def packed_loads(directory: Path, num_trials: int) -> dict[str, object]:
    """Loads of the model saved in 4 bits; the first one, which warms up, does not count."""
    from seed_oss.models.quantize_folder import quantize_folder

    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "int4"
        quantize_folder(directory, packed, "int4")
        trials = [measured_load(PACKED_LOADER.format(directory=str(packed))) for _ in range(num_trials + 1)][1:]
        return {
            "seconds": summary([trial["seconds"] for trial in trials]),
            "peak_mb": summary([trial["peak_bytes"] / 1e6 for trial in trials]),
            "file_mb": round(weight_bytes(packed) / 1e6, 1),
            "limit_read_seconds": summary([read_seconds(packed) for _ in range(num_trials + 1)][1:]),
        }


def main() -> None:
    """Runs the loads, engines in turn within each trial."""
    parser = arguments(__doc__, trials=5)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    directory = model_directory(options.model)
    results: dict[str, object] = {"file_mb": round(weight_bytes(directory) / 1e6, 1)}
    results["limit_read_seconds"] = summary([read_seconds(directory) for _ in range(options.trials + 1)][1:])
    for dtype in options.dtypes:
        trials: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
        for trial in range(options.trials + 1):
            for engine in ENGINES:
                measured = load_once(engine, dtype, directory)
                note(f"{dtype} {engine}: {measured['seconds']:.2f} s, peak {measured['peak_bytes'] / 1e6:.0f} MB")
                trials[engine] += [measured] if trial else []
        results[dtype] = measure(trials)
    results["int4"] = packed_loads(directory, options.trials)
    report("load", results, options)


if __name__ == "__main__":
    main()
