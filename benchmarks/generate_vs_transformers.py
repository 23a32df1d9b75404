"""`generate()` beside transformers' on the same checkpoint: prefill and decode, trials in turn in one process.

Both get the same ids, the same settings (greedy, exactly the asked number of new tokens) and a streamer that notes when
each token arrives: prefill is the time to the first token, decode the rate of those after it. Each engine is taken at
its better number of threads. The limits beside the numbers: for decode, one pass over the weights at the memory speed
measured here; for prefill, the model's multiplications at the speed of one large matrix product in the same dtype.
"""

import argparse
import statistics
import time
from typing import Any, Protocol, cast

import torch
from common import Clock, arguments, model_directory, note, report, summary

TEXT = (
    "The history of the steam engine begins in antiquity, and its improvement over three centuries changed how people "
    "worked, travelled and lived. Write down what you know about it, in order of time, with names and places. "
)


class Engine(Protocol):
    """What both engines' models offer."""

    def generate(self, inputs: torch.Tensor, **settings: Any) -> torch.Tensor:
        """The prompt's ids followed by the new ones, `[batch, length]`."""
        ...

    def parameters(self) -> Any:
        """All weights."""
        ...


def run(model: Engine, ids: torch.Tensor, new_tokens: int) -> tuple[float, float, list[int]]:
    """Seconds to the first token, tokens per second after it, and the new ids."""
    clock = Clock()
    start = time.perf_counter()
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        streamer=clock,
    )
    arrivals = clock.times[-new_tokens:]
    rate = (new_tokens - 1) / (arrivals[-1] - arrivals[0]) if new_tokens > 1 else 0.0
    return arrivals[0] - start, rate, out[0, ids.shape[1] :].tolist()


def load(options: argparse.Namespace, dtype: torch.dtype) -> tuple[dict[str, Engine], torch.Tensor]:
    """Both engines' models from one directory, and a prompt of the asked length `[1, prompt]`."""
    import transformers

    import seed_oss

    directory = str(model_directory(options.model))
    models = {
        "seed_oss": seed_oss.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype),
        "transformers": transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype),
    }
    ids = seed_oss.AutoTokenizer.from_pretrained(directory)(TEXT * (options.prompt // 20 + 1))["input_ids"]
    return cast("dict[str, Engine]", models), torch.tensor([list(ids)[: options.prompt]])


def memory_bytes_per_second(threads: int) -> float:
    """How fast this machine reads memory: the sum over a buffer far larger than its caches."""
    torch.set_num_threads(threads)
    buffer = torch.ones(64 * 2**20, dtype=torch.float32)
    return max(_rate(buffer.sum, buffer.nbytes) for _ in range(5))


def multiplications_per_second(dtype: torch.dtype, threads: int) -> float:
    """How fast this machine multiplies matrices, in multiply-adds per second: in the dtype or, if faster, in fp32."""
    torch.set_num_threads(threads)
    rates: list[float] = []
    for kind in {dtype, torch.float32}:
        left, right = torch.ones(512, 2048, dtype=kind), torch.ones(2048, 2048, dtype=kind)
        rates += [_rate(lambda a=left, b=right: a @ b.T, 512 * 2048 * 2048) for _ in range(5)]
    return max(rates)


def _rate(work: Any, amount: float) -> float:
    start = time.perf_counter()
    work()
    return amount / (time.perf_counter() - start)


def limits(model: Engine, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, float]:
    """What the hardware would allow: tokens per second and seconds to the first token."""
    unique = {parameter.data_ptr(): parameter for parameter in model.parameters()}.values()
    num_bytes, num_weights = sum(p.nbytes for p in unique), sum(p.numel() for p in unique)
    speed = max(memory_bytes_per_second(threads) for threads in options.threads)
    rate = max(multiplications_per_second(dtype, threads) for threads in options.threads)
    return {
        "decode_tokens_per_second": round(speed / num_bytes, 1),
        "prefill_seconds": float(f"{num_weights * options.prompt / rate:.3g}"),
        "memory_gb_per_second": round(speed / 1e9, 1),
        "gflops": round(2 * rate / 1e9, 1),
    }


Trial = dict[tuple[str, int], tuple[float, float, list[int]]]


def run_trial(models: dict[str, Engine], ids: torch.Tensor, options: argparse.Namespace, turn: int) -> Trial:
    """Every engine at every number of threads once; who goes first changes from trial to trial."""
    trial: Trial = {}
    names = sorted(models, reverse=bool(turn % 2))
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name in names:
            trial[name, threads] = run(models[name], ids, options.new_tokens)
            seconds, rate, _ = trial[name, threads]
            note(f"  {name}, {threads} threads: first token {seconds:.2f} s, then {rate:.1f} tokens/s")
    return trial


def compare(trials: list[Trial], options: argparse.Namespace) -> dict[str, Any]:
    """Each engine at its better number of threads, and the median of the trials' ratios."""
    names = sorted({name for name, _ in trials[0]})
    prefill = {name: _best(trials, name, 0, min, options.threads) for name in names}
    decode = {name: _best(trials, name, 1, max, options.threads) for name in names}
    prefill_ratios = [_value(t, "transformers", prefill, 0) / _value(t, "seed_oss", prefill, 0) for t in trials]
    decode_ratios = [_value(t, "seed_oss", decode, 1) / _value(t, "transformers", decode, 1) for t in trials]
    answers = [trials[0][name, decode[name]][2] for name in ("seed_oss", "transformers")]
    same = next((i for i, (a, b) in enumerate(zip(*answers, strict=True)) if a != b), len(answers[0]))
    result: dict[str, Any] = {
        "prefill_speedup": summary(prefill_ratios),
        "decode_speedup": summary(decode_ratios),
        "equal_leading_tokens": same,
    }
    for name in names:
        result[name] = {
            "prefill_seconds": summary([trial[name, prefill[name]][0] for trial in trials]),
            "prefill_threads": prefill[name],
            "decode_tokens_per_second": summary([trial[name, decode[name]][1] for trial in trials]),
            "decode_threads": decode[name],
        }
    return result


def _best(trials: list[Trial], name: str, index: int, better: Any, threads: list[int]) -> int:
    medians = {count: statistics.median(cast(float, t[name, count][index]) for t in trials) for count in threads}
    return better(medians, key=lambda count: medians[count])


def _value(trial: Trial, name: str, threads: dict[str, int], index: int) -> float:
    return cast(float, trial[name, threads[name]][index])


def main() -> None:
    """Measures each dtype in turn."""
    parser = arguments(__doc__, trials=5)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    options = parser.parse_args()
    results: dict[str, Any] = {"prompt_tokens": options.prompt, "new_tokens": options.new_tokens}
    for name in options.dtypes:
        dtype = getattr(torch, name)
        models, ids = load(options, dtype)
        note(f"{name}, warm-up")
        run_trial(models, ids, options, 0)
        trials = []
        for trial in range(options.trials):
            note(f"{name}, trial {trial + 1} of {options.trials}")
            trials.append(run_trial(models, ids, options, trial))
        results[name] = compare(trials, options) | {"limit": limits(models["seed_oss"], dtype, options)}
    report("generate_vs_transformers", results, options)


if __name__ == "__main__":
    main()
