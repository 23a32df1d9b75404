"""Peak memory of prompt log-probabilities and perplexity: chunked, and plain over all logits.

Two decoder layers of hidden size 256 under a head of 155,136 words. The plain form is the model's own logits with one
log-softmax over all of them. Each form runs in fresh processes; the memory is what the process holds above the model,
sampled from outside, after one short prompt has warmed it up. The perplexities are compared too. The limit beside the
numbers is what the task asks for: 256 MiB.
"""

import argparse
from typing import Any

from common import Child, arguments, note, report, summary
from loss_memory import SHAPE

LIMIT_BYTES = 256 * 2**20
PROGRAM = """
import time, torch
from seed_oss import SeedOssConfig, SeedOssForCausalLM
from seed_oss.generation import perplexity, prompt_log_probs
torch.set_num_threads({threads})
shape = dict(num_hidden_layers=2, attention_dropout=0.0, residual_dropout=0.0, **{shape})
config = SeedOssConfig(vocab_size={vocabulary}, **shape)
model = SeedOssForCausalLM(config).to(torch.{dtype}).eval()
weights = torch.Generator().manual_seed(2)
with torch.no_grad():
    for _, parameter in sorted(model.named_parameters()):
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=weights) * 0.02)
ids = torch.randint(0, config.vocab_size, (1, {tokens}), generator=torch.Generator().manual_seed(1))
@torch.no_grad()
def plain(ids):
    log_probs = model(ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    return (-log_probs.gather(2, ids[:, 1:, None]).mean()).exp()
def chunked(ids):
    return (-prompt_log_probs(model, ids, top_n=20).log_probs.mean()).exp()
call = dict(plain=plain, log_probs=chunked, perplexity=lambda ids: perplexity(model, ids))["{form}"]
call(ids[:, :16])
say(parameter_bytes=sum(p.numel() * p.element_size() for p in model.parameters()))
hear()
start = time.perf_counter()
value = float(call(ids))
say(seconds=time.perf_counter() - start, perplexity=value)
hear()
"""
FORMS = ("log_probs", "perplexity", "plain")


def run_form(form: str, options: argparse.Namespace) -> dict[str, Any]:
    """One call in a fresh process: seconds, peak bytes above the model, perplexity."""
    child = Child(
        PROGRAM.format(
            shape=SHAPE,
            form=form,
            vocabulary=options.vocabulary,
            tokens=options.tokens,
            dtype=options.dtype,
            threads=options.threads,
        )
    )
    parameter_bytes = child.read()["parameter_bytes"]
    before = child.memory_bytes()
    child.watch()
    answer = child.ask(go=True)
    peak = child.peak_bytes() - before
    child.close()
    note(f"{form}: peak {peak / 2**20:.0f} MiB, {answer['seconds']:.1f} s, perplexity {answer['perplexity']:.1f}")
    return {**answer, "peak_bytes": peak, "parameter_bytes": parameter_bytes}


def main() -> None:
    """Runs the forms in turn, and compares peaks and perplexities."""
    parser = arguments(__doc__, trials=3)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vocabulary", type=int, default=155136)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    trials = [{form: run_form(form, options) for form in FORMS} for _ in range(options.trials)]
    results: dict[str, Any] = {
        "tokens": options.tokens,
        "vocabulary": options.vocabulary,
        "hidden_size": SHAPE["hidden_size"],
        "num_hidden_layers": 2,
        "dtype": options.dtype,
        "top_n": 20,
        "limit_mib": LIMIT_BYTES / 2**20,
        "model_mib": round(trials[0]["plain"]["parameter_bytes"] / 2**20, 1),
    }
    for form in FORMS:
        results[form] = {
            "peak_mib": summary([trial[form]["peak_bytes"] / 2**20 for trial in trials]),
            "seconds": summary([trial[form]["seconds"] for trial in trials]),
            "perplexity": trials[0][form]["perplexity"],
        }
    report("log_probs_memory", results, options)


if __name__ == "__main__":
    main()
