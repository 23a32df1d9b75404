"""What each quantization costs in quality: perplexity, divergence from fp32, agreement on the best token.

Two tables. The demo model's own weights lie on the grid of Q4_1: "int4-min" gives them back, any other 4 bits pay for
it. So what counts is the second table, of a copy in another basis with the same function (its fp32 row shows it): the
norms' weights folded into the matrices, the residual stream rotated at random, the head untied. Beside each scheme
stand the gguf package's roundings of the same weights, with head and embedding in 8 bits as ours have them.

Weights are dequantized into the plain model, which computes in fp32: this is the weights' part of the error. What
inference adds has a table of its own, "inference": keys and values in 8 bits in the fp32 model, and the demo in
"int4-min", whose weights are exact, through the native kernels, which round activations to 8 bits.

The text is what Python ships about itself (pydoc_data.topics): half of the topics for calibration, half for evaluation.
"""

import argparse
import copy
import inspect
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from common import arguments, model_directory, note, report
from goals import PEERS_AT_EQUAL_BITS, quality_goals, said

Rounded = tuple[dict[str, torch.Tensor], float]  # parameter name to new value; bits of a weight in the layers
Way = Callable[[], Rounded]
PEERS = {"gguf Q4_0": ("Q4_0", 4.5), "gguf Q4_1": ("Q4_1", 5.0), "gguf Q8_0": ("Q8_0", 8.5)}
FLOAT8 = "fp8"
END_OF_TOPIC = 1


def windows(tokenizer: Any, options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Calibration and evaluation ids `[windows, length]`, from different topics."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    random.Random(0).shuffle(names)
    calibration, evaluation = ([topics[name] for name in names[part::2]] for part in (0, 1))
    if options.evaluate_on == "source":
        evaluation = [inspect.getsource(module) for module in (argparse, random, copy)]
    return (
        first_windows(tokenizer, calibration, options.calibration_tokens, options.window),
        first_windows(tokenizer, evaluation, options.tokens, options.window),
    )


def first_windows(tokenizer: Any, texts: list[str], num_tokens: int, length: int) -> torch.Tensor:
    """The first tokens of texts, one after another, `[windows, length]`."""
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text, truncation=True, max_length=8192)["input_ids"], END_OF_TOPIC]
        if len(ids) >= num_tokens:
            return torch.tensor(ids[: num_tokens // length * length]).view(-1, length)
    raise SystemExit(f"the text has {len(ids)} tokens in this part, fewer than the {num_tokens} asked for")


def untied(model: Any) -> Any:
    """A copy whose head is a tensor of its own."""
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = False
    result = type(model)(config).eval()
    result.load_state_dict(model.state_dict())
    return result


def peer(model: Any, name: str, bits: float) -> Rounded:
    """The gguf package's rounding of the layers; Q8_0 for head and embedding."""
    import gguf

    from seed_oss.quant.schemes import weight_shapes

    def rounded(module: str) -> torch.Tensor:
        kind = gguf.GGMLQuantizationType[name if ".layers." in module else "Q8_0"]
        weight = model.get_submodule(module).weight.detach().numpy()
        return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind))

    return {f"{module}.weight": rounded(module) for module in weight_shapes(model)}, bits


def ours(model: Any, name: str, how: str, calibration: torch.Tensor) -> Rounded:
    """One of our schemes, rounded "plain", by "search" or "calibrated"."""
    from seed_oss.quant.calibration import calibrate
    from seed_oss.quant.layer_calibration import Calibrated
    from seed_oss.quant.rounding import quantize_weight
    from seed_oss.quant.schemes import bits_per_weight, parse_scheme, plan_tensors, weight_shapes

    if parse_scheme(name).is_float:
        return float8(model)
    shapes = weight_shapes(model)
    plans = plan_tensors(parse_scheme(name), shapes)
    if how == "calibrated":
        found = calibrate(model, calibration, plans)
    else:
        formats = {module: plan.format for module, plan in plans.items() if plan.format is not None}
        weights = {
            module: quantize_weight(model.get_submodule(module).weight, format, how, name=module)  # type: ignore[arg-type]
            for module, format in formats.items()
        }
        found = Calibrated(weights, {})
    layers = {module: plan for module, plan in plans.items() if ".layers." in module}
    values = {f"{module}.weight": weight.dequantize() for module, weight in found.weights.items()}
    return {**values, **found.tensors}, bits_per_weight(layers, shapes)


def float8(model: Any) -> Rounded:
    """The layers in 8-bit floating point, a scale per row; head and embedding stay. Activations are not rounded."""
    from seed_oss.quant.fp8 import kept_from_float8, numbers_of, round_in_pieces
    from seed_oss.quant.schemes import weight_shapes

    shapes = weight_shapes(model)
    kept = kept_from_float8(shapes)
    layers = {module: shape for module, shape in shapes.items() if module not in kept}
    weights = {module: model.get_submodule(module).weight for module in layers}
    values = {f"{one}.weight": numbers_of(*round_in_pieces(weight), torch.float32) for one, weight in weights.items()}
    rows = sum(shape[0] for shape in layers.values())
    return values, 8 + 32 * rows / sum(weight.numel() for weight in weights.values())


def ways(model: Any, options: argparse.Namespace, calibration: torch.Tensor) -> Iterator[tuple[str, Way]]:
    """Every row of a table: its name, and what makes the weights."""
    yield "fp32", lambda: ({}, 32.0)
    for name, (kind, bits) in PEERS.items():
        yield name, lambda kind=kind, bits=bits: peer(model, kind, bits)
    for scheme in options.schemes:
        hows = ("plain", "search", *(["calibrated"] if scheme in options.calibrate else []))
        for how in hows if scheme != FLOAT8 else ("plain",):
            yield f"{scheme}, {how}", lambda scheme=scheme, how=how: ours(model, scheme, how, calibration)


def table(model: Any, reference: Any, options: argparse.Namespace, calibration: torch.Tensor) -> dict[str, Any]:
    """Each way's quality, bits and seconds; rows are noted as they come."""
    from seed_oss.quant.quality import compare

    rows: dict[str, Any] = {}
    for name, make in ways(model, options, calibration):
        start = time.perf_counter()
        values, bits = make()
        seconds = time.perf_counter() - start
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter, value in values.items():
                other.get_parameter(parameter).copy_(value)
        del values
        quality = compare(other, reference)
        rows[name] = {**asdict(quality), "bits": bits, "seconds": round(seconds, 1)}
        note(
            f"| {name:26} | {bits:6.3f} | {quality.perplexity:8.4f} | {100 * quality.increase:+8.3f} % "
            f"| {quality.kl:.2e} | {100 * quality.top1:6.2f} % | {seconds:5.0f} s |"
        )
    return rows


class WithCache:
    """A model that keeps keys and values in 8 bits, and attends to what is left of them."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        """Logits of a window."""
        from seed_oss import QuantizedCache

        return self.model(input_ids, past_key_values=QuantizedCache(self.model.config))


def inference(model: Any, directory: str, reference: Any) -> dict[str, Any]:
    """What 8-bit caches and 8-bit activations cost."""
    import seed_oss
    from seed_oss.quant.quality import compare

    kernels = seed_oss.AutoModelForCausalLM.from_pretrained(directory, quantization="int4-min")
    rows = {
        "fp32, 8-bit cache": WithCache(model),
        "int4-min through the kernels": kernels,
        "int4-min through the kernels, 8-bit cache": WithCache(kernels),
    }
    results: dict[str, Any] = {}
    for name, one in rows.items():
        quality = compare(one, reference)
        results[name] = asdict(quality)
        note(f"| {name:42} | {quality.perplexity:8.4f} | {100 * quality.increase:+8.3f} % | {quality.kl:.2e} |")
    return results


def main() -> None:
    """Prints the tables."""
    options = parsed()
    torch.set_num_threads(options.threads)
    import seed_oss
    from seed_oss.quant.quality import reference_of
    from seed_oss.quant.rebase import rebase_

    directory = str(model_directory(options.model))
    model = untied(seed_oss.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32))
    calibration, evaluation = windows(seed_oss.AutoTokenizer.from_pretrained(directory), options)
    reference = reference_of(model, evaluation)
    results: dict[str, Any] = {
        "tokens": evaluation.numel(),
        "calibration_tokens": calibration.numel(),
        "window": options.window,
        "evaluated_on": options.evaluate_on,
        "perplexity_fp32": reference.perplexity,
    }
    if "inference" in options.tables:
        note("\nexact weights: way, perplexity, increase, KL")
        results["inference"] = inference(model, directory, reference)
    for name in [name for name in ("original", "rebased") if name in options.tables]:
        if name == "rebased":
            rebase_(model)
        note(f"\n{name} weights: way, bits in the layers, perplexity, increase, KL, same best token, seconds to make")
        results[name] = table(model, reference, options, calibration)
    if len(options.tables) > ("inference" in options.tables):
        results["seconds_per_billion_weights"] = rounding_seconds(options.schemes)
    if "rebased" in results:
        results["increase_over_peer_at_equal_bits"] = ratios(results["rebased"])
    results["goals"] = quality_goals(results)
    note(said(results["goals"]))
    report("quality", results, options)


def parsed() -> argparse.Namespace:
    """The arguments."""
    from seed_oss.quant.schemes import SCHEMES

    parser = arguments(__doc__, trials=1)
    parser.add_argument("--tokens", type=int, default=4096, help="of the evaluation")
    parser.add_argument("--calibration-tokens", type=int, default=8192)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--evaluate-on", default="topics", choices=["topics", "source"], help="source: Python code")
    parser.add_argument("--threads", type=int, default=1)
    tables = ["original", "rebased", "inference"]
    parser.add_argument("--tables", nargs="+", default=tables, choices=tables)
    parser.add_argument("--schemes", nargs="+", default=[*SCHEMES, FLOAT8], help="all, if it is left out")
    parser.add_argument("--calibrate", nargs="*", default=["int4", "int4-sym", "int4-min", "int8"])
    return parser.parse_args()


def rounding_seconds(schemes: list[str]) -> dict[str, float]:
    """Processor time of rounding a billion weights, from ten million normal ones in rows of 5,120."""
    from seed_oss.quant.rounding import quantize_weight
    from seed_oss.quant.schemes import parse_scheme, plan_tensors

    weight, result = torch.randn(2048, 5120, generator=torch.Generator().manual_seed(0)), {}
    for scheme in schemes:
        if scheme == FLOAT8:
            continue
        format = plan_tensors(parse_scheme(scheme), {"layers.0": (2048, 5120)})["layers.0"].format
        assert format is not None
        for how in ("plain", "search"):
            start = time.process_time()
            quantize_weight(weight, format, how)
            result[f"{scheme}, {how}"] = round((time.process_time() - start) / weight.numel() * 1e9, 1)
    return result


def ratios(rows: dict[str, Any]) -> dict[str, float]:
    """Increase of perplexity with calibration as a share of the peer's that has as many bits."""
    return {
        name: round(rows[name]["increase"] / rows[other]["increase"], 3)
        for name, other in PEERS_AT_EQUAL_BITS.items()
        if name in rows
    }


if __name__ == "__main__":
    main()
