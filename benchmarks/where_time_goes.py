"""Where the time of a prompt and of a decoding step goes: the native calls, and Python with torch.

The calls are timed inside `generate` and the engine, by a stand-in for the library of kernels. A step is one call; at
two lengths of context it tells weights from attention: with few keys it reads weights alone. A prompt is one call of
`generate`, too; its products and its attention are measured once more by themselves, each a call of its own that rounds
what it is given and waits for threads, so together they may take longer than the whole. Beside them stands how long the
machine takes to read the weights, measured in the same run.

Between two steps Python finds nothing in the processor's caches, through which all weights have passed. What it takes
where the kernels do nothing is what it takes by itself.
"""

import random
import statistics
import time
from collections.abc import Callable
from ctypes import byref
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from common import arguments, note, report, rounded

STEP = "so_step"
CALLS = ("so_decoder", "so_linear", STEP)
ENGINES = "generate()", "LLM"
Generate = Callable[[list[int], int], list[int]]


class Call(NamedTuple):
    """When a native call began and ended."""

    start: float
    end: float


class TimedLibrary:
    """The library of kernels, whose calls leave their times behind.

    Attributes:
        skips_steps: steps do nothing, so that what Python and torch hold stays in the processor's caches.
    """

    def __init__(self, library: Any) -> None:
        self.library, self.skips_steps = library, False
        self.calls: dict[str, list[Call]] = {name: [] for name in CALLS}

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.library, name)
        if name not in CALLS:
            return function

        def timed(*values: Any) -> Any:
            start = time.perf_counter()
            try:
                return 1 if name == STEP and self.skips_steps else function(*values)
            finally:
                self.calls[name].append(Call(start, time.perf_counter()))

        return timed

    def take(self) -> dict[str, list[Call]]:
        """The calls since the last time."""
        taken = {name: list(values) for name, values in self.calls.items()}
        for values in self.calls.values():
            values.clear()
        return taken


def milliseconds(seconds: float) -> float:
    """With three decimals."""
    return round(1e3 * seconds, 3)


def prompt_parts(generate: Generate, timed: TimedLibrary, ids: list[int]) -> dict[str, float]:
    """One token behind a prompt."""
    timed.take()
    start = time.perf_counter()
    assert len(generate(ids, 1)) == 1
    total = time.perf_counter() - start
    native = sum(call.end - call.start for calls in timed.take().values() for call in calls)
    return {"native calls": native, "python and torch": total - native, "all": total}


def step_parts(generate: Generate, timed: TimedLibrary, ids: list[int], new_tokens: int) -> dict[str, float]:
    """The means over the tokens of one generation, and of what lies between calls where they do nothing.

    Means, since the engine does several tokens at once, and most of what it does beside the kernels in between: as many
    as fit into a time, and the most there are where the kernels do nothing.
    """
    steps = steps_of(generate, timed, ids, new_tokens)
    found = {
        "native calls": statistics.mean(one.end - one.start for one in steps),
        "python and torch": between(steps),
        "all": statistics.mean(after.start - before.start for before, after in pairwise(steps)),
    }
    timed.skips_steps = True
    found["python and torch, kernels skipped"] = between(steps_of(generate, timed, ids, new_tokens))
    timed.skips_steps = False
    return found


def steps_of(generate: Generate, timed: TimedLibrary, ids: list[int], num: int) -> list[Call]:
    """The calls of so many steps."""
    timed.take()
    assert len(generate(ids, num + 1)) == num + 1
    steps = timed.take()[STEP]
    assert len(steps) == num
    return steps


def between(steps: list[Call]) -> float:
    """The mean of the seconds from one call to the next."""
    return statistics.mean(after.start - before.end for before, after in pairwise(steps))


def generators(model: Any, threads: int) -> dict[str, Generate]:
    """By the name of who generates: from a prompt and a number of tokens to the new tokens."""
    from seed_oss import LLM, SamplingParams

    llm = LLM(model, max_num_seqs=1, max_model_len=2048)
    torch.set_num_threads(threads)

    def by_model(ids: list[int], num: int) -> list[int]:
        tensor = torch.tensor([ids])
        answer = model.generate(tensor, attention_mask=torch.ones_like(tensor), max_new_tokens=num, do_sample=False)
        return answer[0, len(ids) :].tolist()

    def by_llm(ids: list[int], num: int) -> list[int]:
        params = SamplingParams(temperature=0, max_tokens=num, ignore_eos=True)
        return list(llm.generate([ids], params, show_progress=False)[0].outputs[0].token_ids)

    return dict(zip(ENGINES, (by_model, by_llm), strict=True))


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
    from seed_oss.nn import fused, fused_step, told_step
    from seed_oss.ops import quantized
    from seed_oss.ops.native import library

    native = library()
    if native is None:
        raise SystemExit("there are no native kernels here; see seed-oss doctor")
    model = AutoModelForCausalLM.from_pretrained(options.model, quantization=options.quantization)
    model.generation_config.eos_token_id = None  # answers of one length, and no processor that sees to it
    timed = TimedLibrary(native)
    for module in (fused, fused_step, told_step, quantized):
        module.library = lambda: timed  # type: ignore[assignment]
    generate = generators(model, options.threads)
    memory = torch.ones(1 << 28, dtype=torch.uint8)
    found: dict[str, list[dict[str, float]]] = {}
    speeds: list[float] = []
    for trial in range(options.trials + 1):
        start = time.perf_counter()
        native.so_read(memory.data_ptr(), memory.numel(), options.threads)
        read = memory.numel() / (time.perf_counter() - start)
        for name, length in product(ENGINES, (8, options.prompt_tokens)):
            ids = random.Random(f"{name} {length} {trial}").choices(range(10, 40000), k=length)  # none comes twice
            parts: dict[str, float] = {}
            if name == ENGINES[0]:
                parts["products alone"] = products_alone(model, native, length, options.threads)
                parts["attention alone"] = attention_alone(model.config, length)
            parts |= prompt_parts(generate[name], timed, ids)
            found.setdefault(f"{name}, prompt of {length}", []).append(parts)
            parts = step_parts(generate[name], timed, ids, options.new_tokens)
            found.setdefault(f"{name}, step after {length}", []).append(parts)
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
