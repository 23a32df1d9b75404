"""Prompt lookup beside plain decoding: the same model, prompt and number of tokens, trials in turn in one process.

The task is copying: the prompt is a paragraph, repeated, of which the model writes the continuation, so that nearly
all that comes stands in the prompt already. Decoding alone is measured, from the first new token to the last. Each way
is taken at its better number of threads. The limit beside the numbers is the number of new tokens per forward: a
forward over several tokens cannot be cheaper than one over a single one.
"""

import argparse
import statistics
from typing import Any

import torch
from common import Clock, arguments, model_directory, note, report, summary

TEXT = (
    "The lighthouse keeper wrote in his book every evening: the height of the water, the colour of the sky, the ships "
    "that had passed and the birds that had not. On the ninth of March he counted four schooners, one steamer and "
    "eleven cormorants; the wind came from the north-east, cold and steady, and the lamp burned two litres of oil. "
)
Run = tuple[float, int, list[int]]


class CountedModel:
    """Counts the forwards of a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.num_forwards = model, 0
        model.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.num_forwards += 1


def run(counted: CountedModel, ids: torch.Tensor, options: argparse.Namespace, **how: Any) -> Run:
    """Tokens per second after the first one, forwards after the prompt's, and the new ids."""
    clock, before, new_tokens = Clock(), counted.num_forwards, options.new_tokens
    out: torch.Tensor = counted.model.generate(  # type: ignore[operator]
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        streamer=clock,
        **how,
    )
    arrivals = clock.times[-new_tokens:]
    rate = (new_tokens - 1) / (arrivals[-1] - arrivals[0])
    return rate, counted.num_forwards - before - 1, out[0, ids.shape[1] :].tolist()


Trial = dict[tuple[str, int], Run]


def run_trial(counted: CountedModel, ids: torch.Tensor, options: argparse.Namespace, turn: int) -> Trial:
    """Both ways at every number of threads once; which goes first changes from trial to trial."""
    lookup = {"prompt_lookup_num_tokens": options.num_tokens, "max_matching_ngram_size": options.ngram_size}
    ways: list[tuple[str, dict[str, Any]]] = [("plain", {}), ("prompt_lookup", lookup)]
    trial: Trial = {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name, how in reversed(ways) if turn % 2 else ways:
            trial[name, threads] = run(counted, ids, options, **how)
            rate, forwards, _ = trial[name, threads]
            note(f"  {name}, {threads} threads: {rate:.1f} tokens/s in {forwards} forwards")
    return trial


def compare(trials: list[Trial], options: argparse.Namespace) -> dict[str, Any]:
    """Each way at its better number of threads, and the median of the trials' ratios."""
    best = {
        name: max(options.threads, key=lambda count: statistics.median(trial[name, count][0] for trial in trials))
        for name in ("plain", "prompt_lookup")
    }
    rates = {name: [trial[name, threads][0] for trial in trials] for name, threads in best.items()}
    first = {name: trials[0][name, threads] for name, threads in best.items()}
    answers = [first["plain"][2], first["prompt_lookup"][2]]
    same = next((i for i, (a, b) in enumerate(zip(*answers, strict=True)) if a != b), len(answers[0]))
    ratios = [fast / slow for fast, slow in zip(rates["prompt_lookup"], rates["plain"], strict=True)]
    result: dict[str, Any] = {
        "speedup": summary(ratios),
        "limit": {"tokens_per_forward": round((options.new_tokens - 1) / first["prompt_lookup"][1], 2)},
        "equal_leading_tokens": same,
    }
    for name, threads in best.items():
        result[name] = {"tokens_per_second": summary(rates[name]), "threads": threads, "forwards": first[name][1]}
    return result


def load(options: argparse.Namespace, dtype: torch.dtype) -> tuple[CountedModel, torch.Tensor]:
    """The model, and the paragraph repeated up to the asked length, `[1, prompt]`."""
    import seed_oss

    directory = str(model_directory(options.model))
    model = seed_oss.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    ids = seed_oss.AutoTokenizer.from_pretrained(directory)(TEXT * (options.prompt // 20 + 1))["input_ids"]
    return CountedModel(model), torch.tensor([list(ids)[: options.prompt]])


def main() -> None:
    """Measures each dtype in turn."""
    parser = arguments(__doc__, trials=5)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--num-tokens", type=int, default=16, help="most tokens to guess ahead")
    parser.add_argument("--ngram-size", type=int, default=3, help="longest run of tokens that is looked for")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    options = parser.parse_args()
    results: dict[str, Any] = {"prompt_tokens": options.prompt, "new_tokens": options.new_tokens}
    for name in options.dtypes:
        counted, ids = load(options, getattr(torch, name))
        note(f"{name}, warm-up")
        run_trial(counted, ids, options, 0)
        trials = []
        for trial in range(options.trials):
            note(f"{name}, trial {trial + 1} of {options.trials}")
            trials.append(run_trial(counted, ids, options, trial))
        results[name] = compare(trials, options)
    report("prompt_lookup", results, options)


if __name__ == "__main__":
    main()
