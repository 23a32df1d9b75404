"""What the benchmarks share: child processes and their memory, statistics, machine and versions, the result file."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("seed-oss", "torch", "transformers", "safetensors", "tokenizers", "numpy")
QUESTION = "What is the capital of France?"


def arguments(description: str | None, trials: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes.

    Args:
        description: The program's docstring.
        trials: Default number of measured trials; one more is run first as a warm-up.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=trials, help="measured trials, after one warm-up")
    parser.add_argument("--model", default="demo", help="a model directory or name (default: the demo model)")
    parser.add_argument("--no-save", action="store_true", help="print only, leave benchmarks/results alone")
    return parser


def summary(values: Sequence[float]) -> dict[str, float | int]:
    """Median and spread of the trials."""
    return {
        "median": rounded(statistics.median(values)),
        "min": rounded(min(values)),
        "max": rounded(max(values)),
        "trials": len(values),
    }


def rounded(value: float) -> float:
    """Four digits that count, however small the number is."""
    return float(f"{value:.4g}")


def machine() -> dict[str, Any]:
    """The machine in words and numbers; nothing that names it."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _proc_value("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gib": round(int(_proc_value("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        "python": platform.python_version(),
    }


def _proc_value(path: str, key: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "0"


def commit() -> str:
    """The commit that was measured, with `+` where tracked source files differ from it."""
    short = _git("rev-parse", "--short", "HEAD")
    return short + ("+" if _git("status", "--porcelain", "--untracked-files=no", "src", "benchmarks/*.py") else "")


def _git(*command: str) -> str:
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def report(name: str, results: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Prints the result as JSON on the last line and writes it to benchmarks/results.

    Args:
        name: The benchmark's name, which is its file's too.
        results: What was measured, with the hardware's limit beside each number.
        options: The parsed arguments; `no_save` keeps the file as it is.
    """
    document = {
        "benchmark": name,
        "command": " ".join(["python", f"benchmarks/{name}.py", *map(_without_folders, sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "machine": machine(),
        "versions": {package: version(package) for package in PACKAGES},
        "results": dict(results),
    }
    if not options.no_save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        target = RESULTS / f"{name}.json"
        target.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(document, ensure_ascii=False))


def _without_folders(argument: str) -> str:
    """An argument as a result shows it: where a program or model lies here is nobody's business."""
    path = Path(argument)
    return path.name if path.is_absolute() else argument


def note(text: str) -> None:
    """A line on the way, kept apart from the JSON."""
    print(text, file=sys.stderr, flush=True)


class Clock:
    """A streamer that notes the time at which the prompt and each token arrive."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        """One step's tokens; the first call is the prompt's own."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """The last token has arrived."""


class Child:
    """A fresh Python process that runs one program text and answers in lines of JSON.

    The program talks through `say(**values)` and `hear()`, which this class defines before it. Between `watch()` and
    `peak_bytes()` the process's memory is sampled from outside: anonymous plus shared pages, as files that are only
    mapped can be dropped at any time and are nobody's cost.
    """

    PRELUDE = (
        "import json, sys\n"
        "def say(**values): print(json.dumps(values), flush=True)\n"
        "def hear(): return json.loads(sys.stdin.readline() or 'null')\n"
    )

    def __init__(self, program: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.PRELUDE + program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | environment,
        )
        self._stop = threading.Event()
        self._peak = 0
        self._sampler: threading.Thread | None = None

    def ask(self, **values: Any) -> dict[str, Any]:
        """Sends one line and waits for the next one."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(values) + "\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """Waits for the next line of the child."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the measured process ended with status {self._process.wait()}")
        return json.loads(line)

    def memory_bytes(self) -> int:
        """Anonymous and shared memory of the process now."""
        fields = dict.fromkeys(("RssAnon", "RssShmem"), 0)
        for line in Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name in fields:
                fields[name] = int(value.split()[0]) * 1024
        return sum(fields.values())

    def watch(self) -> None:
        """Starts sampling the memory every two milliseconds."""
        self._peak = self.memory_bytes()
        self._stop.clear()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def _sample(self) -> None:
        while not self._stop.wait(0.002):
            self._peak = max(self._peak, self.memory_bytes())

    def peak_bytes(self) -> int:
        """Stops sampling and gives the highest sample since `watch()`."""
        self._stop.set()
        if self._sampler is not None:
            self._sampler.join()
        return self._peak

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def model_directory(name: str) -> Path:
    """The local directory of a model name, converted once where it is a named model."""
    from seed_oss.files import resolve_model

    return Path(resolve_model(name))


def weight_bytes(directory: Path) -> int:
    """Size of a checkpoint's weight files."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
