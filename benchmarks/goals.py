"""What the project asks of its own speed and quality, beside what a result reached; a goal missed is said to be missed.

A ratio compares two rows of one run, or a peer with what is known of it. What was not measured in a run has no line.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

PREFILL, DECODE, FIRST = "prefill_tokens_per_s", "decode_tokens_per_s", "first_token_s"
OWN, OWN_LLM = "seed_oss", "seed_oss LLM"  # generate(), and the engine of the server
Row = Mapping[str, Any]
Goal = dict[str, Any]

# our weights, which speed, the peer and the start of its weights, at least so many times as fast
RATIOS: Mapping[str, Sequence[tuple[str, str, str, str, float]]] = {
    "engines_demo_int4": (
        ("int4", DECODE, "llama.cpp", "Q4_1", 2.5),
        ("int4", DECODE, "llama.cpp", "Q4_0", 1.7),
        ("int4", PREFILL, "llama.cpp", "Q4_1", 5.0),
        ("int4", PREFILL, "llama.cpp", "Q4_0", 1.7),
        ("int4", PREFILL, "openvino", "int4", 1.3),
    ),
    "engines_1b": (("int4-sym", PREFILL, "llama.cpp", "Q4_0", 2.0),),
}
# the same, or 85 % of the read bandwidth, whichever is lower: a peer at 60 % of it leaves no room for 1.5 times
LIMITED_RATIOS: Mapping[str, Sequence[tuple[str, str, str, float]]] = {
    "engines_1b": (
        ("int4-sym", "llama.cpp", "Q4_0", 1.5),
        ("int8", "llama.cpp", "Q8_0", 1.5),
        ("bfloat16", "transformers", "bfloat16", 4.0),
    ),
}
# what peers reached on such a machine when the goals were set, tokens/s; one far below that is not used well
PEERS: Mapping[str, Sequence[tuple[str, str, str, float]]] = {
    "engines_demo_int4": (
        ("transformers", "bfloat16", PREFILL, 900),
        ("transformers", "bfloat16", DECODE, 16),
        ("llama.cpp", "Q4_1", PREFILL, 220),
        ("llama.cpp", "Q4_1", DECODE, 78),
        ("llama.cpp", "Q4_0 flash_attn", PREFILL, 716),
        ("llama.cpp", "Q4_0 flash_attn", DECODE, 116),
        ("openvino", "int4", PREFILL, 1150),
        ("openvino", "int4", DECODE, 75),
    ),
    "engines_1b": (
        ("transformers", "bfloat16", PREFILL, 145),
        ("transformers", "bfloat16", DECODE, 3.2),
        ("llama.cpp", "Q4_0", PREFILL, 108),
        ("llama.cpp", "Q4_0", DECODE, 33),
        ("llama.cpp", "Q8_0", PREFILL, 70),
        ("llama.cpp", "Q8_0", DECODE, 17),
    ),
}
LEAST_OF_PEERS = 0.7
SHARES = {"engines_36b": ("int4", 0.80)}  # of the read bandwidth, while decoding
# our rounding with a text, and the gguf package's of as many bits: at most this share of its increase of perplexity
PEERS_AT_EQUAL_BITS = {"int4-sym, calibrated": "gguf Q4_0", "int4-min, calibrated": "gguf Q4_1"}
MAX_SHARE = 0.5
# table of the result, row, what is asked of it (a change counts both ways, an increase upwards), how much at most
CHANGES: Sequence[tuple[str, str, str, float]] = (
    ("rebased", "fp32", "fp32 in another basis, change of perplexity", 1e-5),
    ("rebased", "int8, search", "int8, increase of perplexity", 0.005),
    ("original", "int4-min, search", "int4-min of weights on the grid of Q4_1, change of perplexity", 0.003),
    ("inference", "fp32, 8-bit cache", "8-bit cache, increase of perplexity", 0.003),
)
LLAMA_SERVER, LOOP, IN_PROCESS = "llama-server", "transformers loop", "LLM.generate"


def engine_goals(name: str, document: Mapping[str, Any]) -> list[Goal]:
    """The goals of one run of `seed-oss bench`.

    Args:
        name: of the run, as in benchmarks/engines.py.
        document: what the run printed: `results`, `limits`, `import_torch_s`.

    Returns:
        For each goal `what`, `asked`, `reached` and `is_reached`.
    """
    rows: Sequence[Row] = document["results"]
    return [
        *_ratio_goals(rows, RATIOS.get(name, ())),
        *_limited_goals(rows, LIMITED_RATIOS.get(name, ())),
        *(_share_goal(rows, *SHARES[name]) if name in SHARES else ()),
        *(_start_goals(rows, document["import_torch_s"]) if name == "engines_demo_int4" else ()),
    ]


def peer_goals(name: str, document: Mapping[str, Any]) -> list[Goal]:
    """Whether the peers of a run are used as well as they can be: each beside what is known of it.

    Args:
        name: see engine_goals.
        document: see engine_goals.
    """
    goals: list[Goal] = []
    for peer, weights, speed, tokens_per_s in PEERS.get(name, ()):
        found = _best(document["results"], peer, weights, speed)
        if found:
            what = f"{peer} {found['weights']} {_doing(speed)}, of the {tokens_per_s:g} tokens/s known of it"
            goals.append(_at_least(what, found[speed] / tokens_per_s, LEAST_OF_PEERS))
    return goals


def serving_goals(results: Mapping[str, Any]) -> list[Goal]:
    """The goals of benchmarks/serving.py, from its `results`."""
    levels: Mapping[str, Any] = results["levels"]
    goals: list[Goal] = []
    for peer, at_least in ((LLAMA_SERVER, 1.3), (LOOP, 10.0)):
        ratio = levels.get("16", {}).get("ratios", {}).get(peer)
        goals += [_at_least(f"16 requests at once, tokens/s, of {peer}'s", ratio["median"], at_least)] if ratio else []
    for level, one in levels.items():
        ratio = one["ratios"].get(IN_PROCESS)
        goals += [_at_least(f"{level} at once over HTTP, of {IN_PROCESS}'s", ratio["median"], 0.95)] if ratio else []
    for level, ratio in zip(list(levels)[1:], results["each_level_to_the_one_before"], strict=True):
        goals.append(_at_least(f"{level} at once, of the tokens/s at the level before", ratio, 0.95))
    return goals


def quality_goals(results: Mapping[str, Any]) -> list[Goal]:
    """The goals of benchmarks/quality.py, from its `results`."""
    goals: list[Goal] = []
    rows: Mapping[str, Row] = results.get("rebased", {})
    for own, peer in PEERS_AT_EQUAL_BITS.items():
        if own in rows and peer in rows:
            share = rows[own]["increase"] / rows[peer]["increase"]
            what = f"{own}: increase of perplexity, of {peer}'s"
            goals.append(_goal(what, f"at most {MAX_SHARE:g}x", f"{share:.3f}x", share <= MAX_SHARE))
    for table, name, what, at_most in CHANGES:
        row: Row | None = results.get(table, {}).get(name)
        if row is not None:
            found: float = row["increase"]
            is_reached = (found if "increase" in what else abs(found)) <= at_most
            goals.append(_goal(what, f"at most {100 * at_most:g} %", f"{100 * found:+.2g} %", is_reached))
    return goals


def said(goals: Sequence[Goal]) -> str:
    """The goals in lines of text."""
    return "\n".join(
        f"{'reached' if goal['is_reached'] else 'MISSED'}: {goal['what']}: {goal['reached']}, asked {goal['asked']}"
        for goal in goals
    )


def _ratio_goals(rows: Sequence[Row], asked: Sequence[tuple[str, str, str, str, float]]) -> Iterator[Goal]:
    for (weights, speed, peer, peer_weights, at_least), engine in product(asked, (OWN, OWN_LLM)):
        own, other = _best(rows, engine, weights, speed), _best(rows, peer, peer_weights, speed)
        if own and other:
            what = f"{_named(own)} {_doing(speed)}, of {peer} {other['weights']}'s"
            yield _at_least(what, own[speed] / other[speed], at_least)


def _limited_goals(rows: Sequence[Row], asked: Sequence[tuple[str, str, str, float]]) -> Iterator[Goal]:
    """Decoding so many times as fast as a peer, or 85 % of the read bandwidth: whichever is lower."""
    for (weights, peer, peer_weights, at_least), engine in product(asked, (OWN, OWN_LLM)):
        own, other = _best(rows, engine, weights, DECODE), _best(rows, peer, peer_weights, DECODE)
        if own is None:
            continue
        share, ratio = own["decode_share_of_read"], own[DECODE] / other[DECODE] if other else 0.0
        reached = f"{100 * share:.0f} %" + (f", {ratio:.2f}x" if other else "")
        limit = f"85 % of the read bandwidth, or {at_least:g}x {peer} {other['weights'] if other else peer_weights}"
        yield _goal(f"{_named(own)} decoding", limit, reached, share >= 0.85 or ratio >= at_least)


def _share_goal(rows: Sequence[Row], weights: str, at_least: float) -> Iterator[Goal]:
    own = _best(rows, OWN, weights, DECODE)
    if own:
        share = own["decode_share_of_read"]
        asked, reached = f"at least {100 * at_least:.0f} %", f"{100 * share:.0f} %"
        what = f"{weights} decoding, of the read bandwidth"
        yield _goal(what, asked, reached, share >= at_least)


def _start_goals(rows: Sequence[Row], import_torch_s: float) -> Iterator[Goal]:
    own = _best(rows, OWN, "int4", FIRST)
    if own is None:
        return
    limits = {"`import torch` and 0.8 s": import_torch_s + 0.8}
    others = [row[FIRST] for row in rows if row["engine"] == "transformers" and row[FIRST]]
    if others:
        limits["half of transformers'"] = min(others) / 2
    for why, limit in limits.items():
        what = f"int4, process start to first token: {why}"
        reached, asked = f"{own[FIRST]:.2f} s", f"at most {limit:.2f} s"
        yield _goal(what, asked, reached, own[FIRST] <= limit)


def _best(rows: Sequence[Row], engine: str, weights: str, key: str) -> Row | None:
    """Of an engine's rows whose weights' name begins so, the fastest; of our own, the one of just that name."""
    found = [row for row in rows if row["engine"] == engine and row[key] and row["weights"].startswith(weights)]
    if engine in (OWN, OWN_LLM):
        found = [row for row in found if row["weights"].partition(",")[0] == weights]
    return max(found, key=lambda row: row[key], default=None)


def _doing(speed: str) -> str:
    return "decoding" if speed == DECODE else "prompt"


def _named(own: Row) -> str:
    return own["weights"] if own["engine"] == OWN else f"LLM, {own['weights']}"


def _at_least(what: str, ratio: float, at_least: float) -> Goal:
    digits = 3 if at_least < 1 else 2
    asked, reached = f"at least {at_least:g}x", f"{ratio:.{digits}f}x"
    return _goal(what, asked, reached, ratio >= at_least)


def _goal(what: str, asked: str, reached: str, is_reached: bool) -> Goal:
    return {"what": what, "asked": asked, "reached": reached, "is_reached": is_reached}
