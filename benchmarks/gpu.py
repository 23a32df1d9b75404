"""Decoding and prompts on a CUDA device: shares of its memory's and its products' speed, transformers beside.

Seed-OSS-36B's shape with random weights, all its layers where plain weights fit, else as many as do. Decoding at batch
1 is counted against one pass over the weights (layers and head) at the speed of reading that is measured in the same
run; the prompt against the layers' multiplications at the speed of one large product in bfloat16. transformers decodes
with its static cache and compiled step, and is left out where it is not installed. The first call of each engine builds
what it builds and is told apart. Models are there one at a time, so that they fit.

Without a CUDA device the program says so and ends with status 2. `--device cpu` is for its own test.
"""

import argparse
import gc
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from common import Clock, arguments, note, report, rounded, summary

NO_DEVICE = 2  # exit status
FREE_SHARE = 0.9  # of the memory that is free: what compiling and measuring take is not in a plan


def options() -> argparse.Namespace:
    """The command line."""
    parser = arguments(__doc__, trials=5)
    parser.add_argument("--shape", default="36b", help="of the layers, as in seed-oss bench")
    parser.add_argument("--layers", type=int, help="how many of them; by default all that fit")
    parser.add_argument("--prompt", type=int, default=2048, help="prompt tokens")
    parser.add_argument("--new-tokens", type=int, default=256, help="tokens after them; the second half is counted")
    parser.add_argument("--weights", default="bfloat16,int4", help="bfloat16 and schemes of seed_oss.quantize_")
    parser.add_argument("--no-peers", action="store_true", help="leave transformers out")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    return parser.parse_args()


def synchronize(device: torch.device) -> None:
    """Wait for all that was started."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(work: Callable[[], Any], device: torch.device, trials: int = 10) -> float:
    """The shortest of some trials, after a warm-up."""
    seconds: list[float] = []
    for _ in range(trials + 1):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def limits(device: torch.device) -> dict[str, float]:
    """What the device reads per second, and multiplies in bfloat16."""
    size = 4096 if device.type == "cuda" else 256
    buffer = torch.ones(2**30 if device.type == "cuda" else 2**22, dtype=torch.bfloat16, device=device)
    left = torch.ones(2 * size, 2 * size, dtype=torch.bfloat16, device=device)
    reading, product = best_seconds(buffer.sum, device), best_seconds(lambda: left @ left, device)
    return {"read_bytes_per_s": buffer.nbytes / reading, "flop_per_s": 2 * (2 * size) ** 3 / product}


def free_bytes(device: torch.device) -> int:
    """What a model may take there."""
    from seed_oss.planning.devices import find_devices

    (found,) = find_devices("cpu" if device.type == "cpu" else f"cuda:{device.index or 0}")
    return int(FREE_SHARE * found.free_bytes)


def config_of(given: argparse.Namespace, device: torch.device) -> Any:
    """The shape, with as many layers as were asked for or fit."""
    from seed_oss.bench.shapes import shape_config

    config = shape_config(given.shape)
    config.num_hidden_layers = given.layers or layers_that_fit(config, given, free_bytes(device))
    return config


def layers_that_fit(config: Any, given: argparse.Namespace, memory: int) -> int:
    """The most layers of the shape with which each model that is measured fits, in bytes on a device."""
    import seed_oss

    forms = given.weights.split(",") + ([] if given.no_peers else ["bfloat16"])
    schemes = {"none" if form == "bfloat16" else form for form in forms}
    fewer = config.copy()
    for fewer.num_hidden_layers in range(config.num_hidden_layers, 0, -1):
        context = given.prompt + given.new_tokens
        asked = {"context": context, "memory": memory, "device": "cuda", "dtype": "bfloat16", "measure_speed": False}
        if all(seed_oss.plan(fewer, quantization=scheme, **asked).best for scheme in schemes):
            return fewer.num_hidden_layers
    raise SystemExit(f"{memory} bytes are free, which not even one layer of {given.shape} fits into; give --layers")


def our_model(config: Any, weights: str, device: torch.device) -> Any:
    """A model of random weights on the device, computing in bfloat16."""
    from seed_oss import SeedOssForCausalLM
    from seed_oss.bench.synthetic import synthetic_model
    from seed_oss.quant.schemes import parse_scheme

    if weights != "bfloat16":
        return synthetic_model(config, parse_scheme(weights)).to(device=device, dtype=torch.bfloat16)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return SeedOssForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def their_model(config: Any, device: torch.device) -> Any:
    """transformers' model of the same shape."""
    import transformers

    fields = {name: getattr(config, name) for name in ("vocab_size", "hidden_size", "intermediate_size", "head_dim")}
    more = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    fields |= {name: getattr(config, name) for name in more}
    made = transformers.SeedOssConfig(**fields, attention_bias=True, tie_word_embeddings=False)
    with device:
        model = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
    return model.eval()


def layer_weights(config: Any) -> int:
    """Weights of the layers' products."""
    heads, kv_heads = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    attention = config.hidden_size * (2 * heads + 2 * kv_heads)
    return config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def run(model: Any, ids: torch.Tensor, new_tokens: int, **settings: Any) -> tuple[float, float]:
    """Seconds to the first token, and seconds per token in the second half."""
    clock = Clock()
    synchronize(ids.device)
    start = time.perf_counter()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        streamer=clock,
        **settings,
    )
    arrivals = clock.times[-new_tokens:]
    half = new_tokens // 2
    return arrivals[0] - start, (arrivals[-1] - arrivals[half]) / (new_tokens - 1 - half)


def measure(model: Any, given: argparse.Namespace, device: torch.device, **settings: Any) -> dict[str, Any]:
    """One model's trials; the call before them is told apart."""
    from seed_oss.bench.own_model import read_bytes

    ids = torch.randint(3, model.config.vocab_size, (1, given.prompt), device=device)
    start = time.perf_counter()
    first_prompt_s, _ = run(model, ids, given.new_tokens, **settings)
    first_call_s = time.perf_counter() - start
    trials = [run(model, ids, given.new_tokens, **settings) for _ in range(given.trials)]
    return {
        "read_bytes_per_step": read_bytes(model),
        "first_call_s": round(first_call_s, 3),
        "first_prompt_s": round(first_prompt_s, 3),
        "prompt_s": summary([one[0] for one in trials]),
        "tokens_per_s": summary([1 / one[1] for one in trials]),
    }


def with_shares(row: dict[str, Any], config: Any, found: dict[str, float], prompt: int) -> dict[str, Any]:
    """Add what part of the limits a row reaches."""
    read = row["read_bytes_per_step"] * row["tokens_per_s"]["median"] / found["read_bytes_per_s"]
    flop = 2 * layer_weights(config) * prompt / row["prompt_s"]["median"] / found["flop_per_s"]
    row = row | {"layers": config.num_hidden_layers}
    return row | {"decode_share_of_read": rounded(read), "prompt_share_of_product": rounded(flop)}


def rows(config: Any, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Every engine's row, one model at a time."""
    found: dict[str, Any] = {}
    for weights in given.weights.split(","):
        note(f"seed-oss {weights} ...")
        model = our_model(config, weights, device)
        found[f"seed-oss {weights}"] = measure(model, given, device)
        del model
        gc.collect()
    if not given.no_peers and importlib.util.find_spec("transformers"):
        note("transformers bfloat16, static cache and compiled step ...")
        model = their_model(config, device)
        found["transformers bfloat16"] = measure(model, given, device, cache_implementation="static")
    return found


def kernels() -> dict[str, Any]:
    """How many kernels are in use, and which could not be built."""
    from seed_oss.ops.triton import builder, why_not

    failures = {str(key): reason[:200] for key, reason in builder().failures.items()}
    return {"in_use": builder().num_in_use, "failures": failures, "why_not": why_not()}


def main() -> None:
    """Measure and report."""
    from seed_oss.bench.shapes import shape_config

    given = options()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        note("no CUDA device is at hand, so there is nothing to measure here")
        sys.exit(NO_DEVICE)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    config = config_of(given, device)
    found = limits(device)
    measured = {key: with_shares(row, config, found, given.prompt) for key, row in rows(config, given, device).items()}
    work = {key: getattr(given, key) for key in ("shape", "prompt", "new_tokens")}
    work |= {"layers": config.num_hidden_layers, "layers_of_shape": shape_config(given.shape).num_hidden_layers}
    results = {"device": name, "cuda": torch.version.cuda, "work": work, "limits": found, "engines": measured}
    report("gpu", results | {"kernels": kernels()}, given)


if __name__ == "__main__":
    main()
