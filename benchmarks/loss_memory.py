"""Peak memory of the language-model loss, forward plus backward: chunked, plain, and transformers'.

One decoder layer of hidden size 256 under a head of 155,136 words, so that what is measured is the head and the loss.
The plain form is the model's own logits with one cross entropy over all of them. Each form runs in fresh processes; the
memory is what the process holds above the model, sampled from outside. Loss and gradient norms are compared too. The
limit beside the numbers is what no form can do without: the gradients of the parameters.
"""

import argparse
from typing import Any

from common import Child, arguments, note, report, summary

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
}
PROGRAM = """
import time, torch
from {package} import SeedOssConfig, SeedOssForCausalLM
torch.set_num_threads({threads})
torch.manual_seed(0)
shape = dict(num_hidden_layers=1, attention_dropout=0.0, residual_dropout=0.0, **{shape})
config = SeedOssConfig(vocab_size={vocabulary}, **shape)
model = SeedOssForCausalLM(config).to(torch.{dtype}).train()
generator = torch.Generator().manual_seed(1)
ids = torch.randint(0, config.vocab_size, (1, {tokens}), generator=generator)
weights = torch.Generator().manual_seed(2)
with torch.no_grad():
    for _, parameter in sorted(model.named_parameters()):
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=weights) * 0.02)
def loss_of():
    if {plain}:
        logits = model(input_ids=ids, use_cache=False).logits.float()
        return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    return model(input_ids=ids, labels=ids, use_cache=False).loss
say(parameter_bytes=sum(p.numel() * p.element_size() for p in model.parameters()))
hear()
start = time.perf_counter()
loss = loss_of()
loss.backward()
seconds = time.perf_counter() - start
norm = torch.stack([p.grad.float().norm() for p in model.parameters() if p.grad is not None]).norm()
say(seconds=seconds, loss=loss.item(), gradient_norm=norm.item())
hear()
"""
FORMS = {
    "chunked": {"package": "seed_oss", "plain": False},
    "plain": {"package": "seed_oss", "plain": True},
    "transformers": {"package": "transformers", "plain": False},
}


def run_form(form: str, options: argparse.Namespace) -> dict[str, Any]:
    """One forward and backward in a fresh process: seconds, peak bytes, loss, gradient norm."""
    child = Child(
        PROGRAM.format(
            shape=SHAPE,
            vocabulary=options.vocabulary,
            tokens=options.tokens,
            dtype=options.dtype,
            threads=options.threads,
            **FORMS[form],
        )
    )
    parameter_bytes = child.read()["parameter_bytes"]
    before = child.memory_bytes()
    child.watch()
    answer = child.ask(go=True)
    peak = child.peak_bytes() - before
    child.close()
    note(f"{form}: peak {peak / 1e6:.0f} MB, {answer['seconds']:.1f} s, loss {answer['loss']:.6f}")
    return {**answer, "peak_bytes": peak, "parameter_bytes": parameter_bytes}


def main() -> None:
    """Runs the three forms in turn, and compares peaks, losses and gradient norms."""
    parser = arguments(__doc__, trials=3)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vocabulary", type=int, default=155136)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    trials = [{form: run_form(form, options) for form in FORMS} for _ in range(options.trials)]
    peaks = {form: [trial[form]["peak_bytes"] for trial in trials] for form in FORMS}
    results: dict[str, Any] = {
        "tokens": options.tokens,
        "vocabulary": options.vocabulary,
        "hidden_size": SHAPE["hidden_size"],
        "dtype": options.dtype,
        "limit_gradients_mb": round(trials[0]["chunked"]["parameter_bytes"] / 1e6, 1),
        "chunked_over_plain": summary([a / b for a, b in zip(peaks["chunked"], peaks["plain"], strict=True)]),
        "chunked_over_transformers": summary(
            [a / b for a, b in zip(peaks["chunked"], peaks["transformers"], strict=True)]
        ),
    }
    for form in FORMS:
        results[form] = {
            "peak_mb": summary([peak / 1e6 for peak in peaks[form]]),
            "seconds": summary([trial[form]["seconds"] for trial in trials]),
            "loss": trials[0][form]["loss"],
            "gradient_norm": trials[0][form]["gradient_norm"],
        }
    report("loss_memory", results, options)


if __name__ == "__main__":
    main()
