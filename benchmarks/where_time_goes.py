"""Where the time of a prompt and of a decoding step goes: the native calls, and Python with torch.

The calls are timed inside `generate`, by a stand-in for the library of kernels. A step is one call; at two lengths of
context it tells weights from attention: with few keys it reads weights alone. A prompt is one call, too; its products
and its attention are measured once more by themselves, each a call of its own that rounds what it is given and waits
for threads, so together they may take longer than the whole. Beside them stands how long the machine takes to read
the weights, measured in the same run.
"""

import statistics
import time
from collections.abc import Callable
from ctypes import byref
from typing import Any

import torch
from common import arguments, note, report, rounded

STEP = "so_step"
CALLS = ("so_decoder", "so_linear", STEP)


class TimedLibrary:
    """The library of kernels, whose calls leave their seconds behind."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.seconds: dict[str, list[float]] = {name: [] for name in CALLS}

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.library, name)
        if name not in CALLS:
            return function

        def timed(*values: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*values)
            finally:
                self.seconds[name].append(time.perf_counter() - start)

        return timed

    def take(self) -> dict[str, list[float]]:
        """The seconds since the last time."""
        taken = {name: list(values) for name, values in self.seconds.items()}
        for values in self.seconds.values():
            values.clear()
        return taken


def milliseconds(seconds: float) -> float:
    """With three decimals."""
    return round(1e3 * seconds, 3)


def run(model: Any, timed: TimedLibrary, ids: torch.Tensor, new_tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """One generation: the parts of its prompt, and the medians of the parts of its steps."""

    def generate(num: int) -> float:
        start = time.perf_counter()
        mask = torch.ones_like(ids)
        answer = model.generate(ids, attention_mask=mask, max_new_tokens=num, do_sample=False)
        assert answer.shape[1] == ids.shape[1] + num
        return time.perf_counter() - start

    timed.take()
    prompt_seconds = generate(1)
    prompt = {"native calls": sum(sum(values) for values in timed.take().values())}
    step_seconds = (generate(new_tokens + 1) - prompt_seconds) / new_tokens
    steps = {"native calls": statistics.median(timed.take()[STEP])}
    for parts, total in ((prompt, prompt_seconds), (steps, step_seconds)):
        parts["python and torch"] = total - sum(parts.values())
        parts["all"] = total
    return prompt, steps


def seconds_of(work: Callable[[], Any]) -> float:
    """The median of three times."""
    times: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def products_alone(model: Any, native: Any, num_tokens: int, threads: int) -> float:
    """Seconds of the products of all layers with a prompt's rows, as native calls of their own."""
    from seed_oss.nn.quantized_linear import QuantizedLinear
    from seed_oss.ops.quantized import weight_struct

    calls: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
    for one in model.model.layers.modules():
        if isinstance(one, QuantizedLinear):
            x, out = torch.randn(num_tokens, one.shape[1]), torch.empty(num_tokens, one.shape[0])
            calls.append((weight_struct(one.packed, one.format, *one.shape, one.bias), x, out))

    def work() -> None:
        for struct, x, out in calls:
            native.so_linear(byref(struct), x.data_ptr(), num_tokens, out.data_ptr(), threads)

    return seconds_of(work)


def attention_alone(config: Any, num_tokens: int) -> float:
    """Seconds of the attention of all layers over a prompt, keys and values in bfloat16, by the op."""
    from seed_oss.ops.cached_attention import attend_cached

    num_blocks, block_len = -(-num_tokens // 16), 16
    query = torch.randn(num_tokens, config.num_attention_heads, config.head_dim)
    keys = torch.randn(num_blocks, config.num_key_value_heads, block_len, config.head_dim).bfloat16()
    table, starts, lengths = torch.arange(num_blocks)[None], torch.tensor([0]), torch.tensor([num_tokens])
    arguments = query, keys, keys.clone(), None, None, table, starts, lengths
    return seconds_of(lambda: [attend_cached(*arguments) for _ in range(config.num_hidden_layers)])


def medians(trials: list[dict[str, float]]) -> dict[str, float]:
    """Of each part, in milliseconds."""
    return {name: milliseconds(statistics.median(trial[name] for trial in trials)) for name in trials[0]}


def main() -> None:
    """Prints the parts in milliseconds."""
    parser = arguments(__doc__, trials=5)
    parser.add_argument("--quantization", default="int4-min")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    from seed_oss import AutoModelForCausalLM
    from seed_oss.bench.own_model import read_bytes
    from seed_oss.nn import fused, fused_step
    from seed_oss.ops import quantized
    from seed_oss.ops.native import library

    native = library()
    if native is None:
        raise SystemExit("there are no native kernels here; see seed-oss doctor")
    model = AutoModelForCausalLM.from_pretrained(options.model, quantization=options.quantization)
    model.generation_config.eos_token_id = None  # answers of one length, and no processor that sees to it
    timed = TimedLibrary(native)
    fused.library = fused_step.library = quantized.library = lambda: timed  # type: ignore[assignment]
    memory = torch.ones(1 << 28, dtype=torch.uint8)
    found: dict[str, list[dict[str, float]]] = {}
    speeds: list[float] = []
    for trial in range(options.trials + 1):
        start = time.perf_counter()
        native.so_read(memory.data_ptr(), memory.numel(), options.threads)
        read = memory.numel() / (time.perf_counter() - start)
        for length in (8, options.prompt_tokens):
            ids = torch.randint(10, 40000, (1, length), generator=torch.Generator().manual_seed(length))
            parts = run(model, timed, ids, options.new_tokens)
            alone = {
                "products alone": products_alone(model, native, length, options.threads),
                "attention alone": attention_alone(model.config, length),
            }
            parts = ({**alone, **parts[0]}, parts[1])
            for name, part in zip((f"prompt of {length}", f"step after {length}"), parts, strict=True):
                found.setdefault(name, []).append(part)
        speeds.append(read)
        note(f"trial {trial} of {options.trials}" if trial else "warm-up")
    parts_of = {name: medians(trials[1:]) for name, trials in found.items()}
    for name, parts in parts_of.items():
        note(f"{name}: " + ", ".join(f"{part} {value:.3f}" for part, value in parts.items()))
    speed = statistics.median(speeds[1:])
    limit = {"read_gb_per_s": rounded(speed / 1e9), "milliseconds": milliseconds(read_bytes(model) / speed)}
    note(f"reading the weights once: {limit['milliseconds']} ms at {limit['read_gb_per_s']} GB/s")
    results = {"weights": options.quantization, "milliseconds": parts_of, "reading_the_weights": limit}
    report("where_time_goes", results, options)


if __name__ == "__main__":
    main()
