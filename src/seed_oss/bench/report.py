"""The result as plain data: `{"results": [...], "limits": {...}, "machine": ..., "versions": ..., "command": ...}`."""

import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from seed_oss.bench.engines import EngineSpec
from seed_oss.bench.trials import Measured, Spread, best_of
from seed_oss.config import SeedOssConfig

PACKAGES = ("seed-oss", "torch", "safetensors", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Limit:
    """What the hardware allowed in one round.

    Attributes:
        read_bytes: per second.
        float_ops: per second, of the better of bf16 and fp32 products.
        byte_ops: per second, of products of 8-bit integers.
    """

    read_bytes: float
    float_ops: float
    byte_ops: float


@dataclass(frozen=True, slots=True)
class EngineResult:
    """Everything that was measured of one engine.

    Attributes:
        spec: which one.
        measured: number of threads to trials.
        load_s: seconds to load the model, per process.
        weight_bytes: of weights that a step reads, or None.
        peak_rss_bytes: of its process, or None.
        first_token_s: from process start to first token, per trial; empty where it was not measured.
    """

    spec: EngineSpec
    measured: Mapping[int, Measured]
    load_s: Sequence[float]
    weight_bytes: int | None
    peak_rss_bytes: int | None
    first_token_s: Sequence[float]


def result_row(found: EngineResult, limits: Mapping[str, float], work: Mapping[str, int]) -> dict[str, Any]:
    """One engine's entry of `results`.

    Args:
        found: what was measured.
        limits: as in the report.
        work: `prompt_tokens`, `new_tokens`, `product_weights` (of the layers' products), `token_cache_bytes` (keys and
            values of a token).
    """
    prompt, new = work["prompt_tokens"], work["new_tokens"]
    prefill = best_of({count: [prompt / t.prefill_s for t in m.trials] for count, m in found.measured.items()})
    decode = best_of({count: [(new - 1) / t.decode_s for t in m.trials] for count, m in found.measured.items()})
    starts = Spread.of(found.first_token_s) if found.first_token_s else None
    rates = [t.weights_read / 1e9 for t in found.measured[decode.threads].trials if t.weights_read is not None]
    read = Spread.of(rates).median if rates else None
    ops = 2.0 * work["product_weights"] * prefill.speed.median
    step_bytes = (
        0 if found.weight_bytes is None else found.weight_bytes + work["token_cache_bytes"] * (prompt + new // 2)
    )
    return {
        "engine": found.spec.engine,
        "weights": found.spec.weights,
        "prefill_tokens_per_s": prefill.speed.median,
        "decode_tokens_per_s": decode.speed.median,
        "first_token_s": None if starts is None else starts.median,
        "peak_rss_bytes": found.peak_rss_bytes,
        "load_s": Spread.of(found.load_s).median,
        "prefill_threads": prefill.threads,
        "decode_threads": decode.threads,
        "weight_bytes": found.weight_bytes,
        "decode_share_of_read": _share(decode.speed.median * step_bytes, limits["read_gb_per_s"]),
        "decode_share_of_reading_its_weights": None if read is None else _share(decode.speed.median * step_bytes, read),
        "weights_read_gb_per_s": read,
        "prefill_share_of_matmul": _share(ops, limits["matmul_gflop_per_s"]),
        "prefill_share_of_int8": _share(ops, limits["int8_gop_per_s"]) if found.spec.bits <= 8 else None,
        "spread": {
            "prefill_tokens_per_s": asdict(prefill.speed),
            "decode_tokens_per_s": asdict(decode.speed),
            "first_token_s": None if starts is None else asdict(starts),
        },
        "discarded_trials": sum(one.num_discarded for one in found.measured.values()),
        "is_disturbed": any(found.measured[one.threads].is_disturbed for one in (prefill, decode)),
    }


def _share(amount: float, limit_giga: float) -> float | None:
    return round(amount / (limit_giga * 1e9), 3) if amount and limit_giga else None


def limits_of(found: Sequence[Limit]) -> dict[str, float]:
    """Medians over the rounds, in thousand millions per second."""
    parts = {
        "read_gb_per_s": [one.read_bytes for one in found],
        "matmul_gflop_per_s": [one.float_ops for one in found],
        "int8_gop_per_s": [one.byte_ops for one in found],
    }
    return {name: float(f"{statistics.median(values) / 1e9:.4g}") for name, values in parts.items()}


def product_weights(config: SeedOssConfig) -> int:
    """Weights of the layers' products: what every token of a prompt is multiplied with."""
    attended = config.num_attention_heads * config.head_dim
    shared = config.num_key_value_heads * config.head_dim
    layer = config.hidden_size * (2 * attended + 2 * shared + 3 * config.intermediate_size)
    return layer * config.num_hidden_layers


def token_cache_bytes(config: SeedOssConfig) -> int:
    """Keys and values of a token in 16 bits, which a step reads of every token before it."""
    return 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def machine() -> dict[str, Any]:
    """The machine in words and numbers; nothing that names it."""
    memory = _proc_value("/proc/meminfo", "MemTotal").split()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _proc_value("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[0]) / 2**20, 1) if memory else None,
        "python": platform.python_version(),
    }


def _proc_value(path: str, key: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
    found = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in found if name.strip() == key), "")


def versions() -> dict[str, str]:
    """Of the packages that our own engine uses."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def command() -> str:
    """What was typed, without the folders of programs."""
    words, shown = iter(sys.argv[1:]), ["seed-oss"]
    for word in words:
        if word == "--peer-python":
            next(words, None)  # where somebody keeps an interpreter says nothing about the numbers
        elif not word.startswith("--peer-python="):
            shown.append(word)
    return " ".join(shown)
