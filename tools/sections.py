"""Generated parts of README and docs: measured numbers, what is supported, the error tree, the decisions."""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NOT_MEASURED = "not measured yet"
ENGINE_RUNS = ("engines_demo_int4", "engines_1b", "engines_36b")
PROGRAM_RUNS = ("serving", "quality")
Result = Mapping[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def result(name: str) -> Result | None:
    """A benchmark's last result, or None where it was not run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def benchmarks() -> str:
    """The measured numbers, each beside transformers' and the hardware's limit, and where they were measured."""
    names = ("first_token", "generate_vs_transformers", "prompt_lookup", "load", "loss_memory", "log_probs_memory")
    found = {name: result(name) for name in names}
    if not any(found.values()):
        return f"No numbers here: {NOT_MEASURED} (`make bench`)."
    rows = [
        *_rows(found["first_token"], _first_token_rows),
        *_rows(found["generate_vs_transformers"], _generate_rows),
        *_rows(found["prompt_lookup"], _lookup_rows),
        *_rows(found["load"], _load_rows),
        *_rows(found["loss_memory"], _loss_rows),
        *_rows(found["log_probs_memory"], _log_probs_rows),
    ]
    header = ("measured", "seed-oss", "transformers", "what the hardware allows")
    return "\n\n".join([table(header, rows), _where_measured([one for one in found.values() if one])])


def engines() -> str:
    """What `seed-oss bench` measured, engine beside engine: a table for each run, its limits and who was left out."""
    parts = [_engine_table(found) for found in map(result, ENGINE_RUNS) if found]
    return "\n\n".join(parts) or f"No numbers here: {NOT_MEASURED} (`make bench`)."


def engines_short() -> str:
    """The speeds alone, all runs in one table."""
    found = [one for one in map(result, ENGINE_RUNS) if one]
    rows = [
        [
            one["work"]["model"],
            f"{row['engine']} {row['weights']}",
            _rounded(row["prefill_tokens_per_s"]),
            _rounded(row["decode_tokens_per_s"]),
            f"{row['peak_rss_bytes'] / 2**30:.1f} GiB",
        ]
        for one in found
        for row in one["results"]
    ]
    header = ("model", "engine, weights", "512-token prompt, tokens/s", "64 tokens after it, tokens/s", "peak memory")
    return table(header, rows) if rows else f"No numbers here: {NOT_MEASURED} (`make bench`)."


def serving() -> str:
    """Requests at once: tokens per second of every engine, and how long their first tokens took over HTTP."""
    found = result("serving")
    if found is None:
        return f"No numbers here: {NOT_MEASURED} (`python benchmarks/serving.py`)."
    levels = {level: one["engines"] for level, one in found["results"]["levels"].items()}
    engines = list(dict.fromkeys(name for one in levels.values() for name in one))
    over_http = [name for name in engines if any("ttft_p99_s" in one.get(name, {}) for one in levels.values())]
    speeds = [[name, *(_cell(one, name, _serving_speed) for one in levels.values())] for name in engines]
    waits = [[name, *(_cell(one, name, _serving_wait) for one in levels.values())] for name in over_http]
    at_once = [f"{level} at once" for level in levels]
    return "\n\n".join(
        [
            table(("tokens/s", *at_once), speeds),
            table(("first token, then between tokens; 99 of 100 came within", *at_once), waits),
            _serving_notes(found),
        ]
    )


def goals() -> str:
    """What the project asks of its own speed and quality, beside what the last results reached."""
    found = [(run, one) for run in (*ENGINE_RUNS, *PROGRAM_RUNS) if (one := result(run))]
    rows = [
        [_run_name(run), goal["what"], goal["asked"], goal["reached"] + ("" if goal["is_reached"] else ", **missed**")]
        for run, one in found
        for goal in (one["results"] if run in PROGRAM_RUNS else one)["goals"]
    ]
    return table(("run", "goal", "asked", "reached"), rows)


def _run_name(run: str) -> str:
    return run.removeprefix("engines_").replace("_", " ")


def _cell(engines: Result, name: str, show: Callable[[Result], str]) -> str:
    return show(engines[name]) if name in engines else ""


def _serving_speed(engine: Result) -> str:
    return _with_spread(engine["tokens_per_s"])


def _serving_wait(engine: Result) -> str:
    return f"{engine['ttft_p99_s']['median']:.2f} s, {1000 * engine['inter_token_p99_s']['median']:.0f} ms"


def _serving_notes(found: Result) -> str:
    results, machine, versions = found["results"], found["machine"], found["versions"]
    trials = next(iter(next(iter(results["levels"].values()))["engines"].values()))["tokens_per_s"]["trials"]
    only = [f"{name} is reported only: {why}." for name, why in results.get("reported_only", {}).items()]
    return " ".join(
        [
            f"Medians and spread of {trials} bursts in turn.",
            f"A loop over transformers' `generate`: {_rounded(results['transformers_loop_tokens_per_s'])} tokens/s.",
            *only,
            f"{machine['system']}, {machine['processor']}, {machine['cores']} cores, "
            f"{machine['memory_gib']:.0f} GiB; torch {versions['torch'].partition('+')[0]}, transformers "
            f"{versions['transformers']}; {found['date']}, commit {found['commit']}; `{found['command']}`.",
        ]
    )


def where_time_goes() -> str:
    """The parts of a prompt and of a step, in milliseconds."""
    found = result("where_time_goes")
    if found is None:
        return f"No numbers here: {NOT_MEASURED} (`python benchmarks/where_time_goes.py`)."
    parts, limit = found["results"]["milliseconds"], found["results"]["reading_the_weights"]
    names = list(dict.fromkeys(name for row in parts.values() for name in row))
    rows = [
        [f"{what} tokens", *(f"{row[name]:.2f}" if name in row else "" for name in names)]
        for what, row in parts.items()
    ]
    notes = (
        f"Milliseconds, {found['results']['weights']}. Reading the weights once takes "
        f"{limit['milliseconds']:.2f} at the {limit['read_gb_per_s']:.0f} GB/s of that run. "
        f"{found['date']}; `{found['command']}`."
    )
    return "\n\n".join([table(("demo", *names), rows), notes])


def quality() -> str:
    """What each scheme costs on the weights as shipped and in another basis, and what inference adds."""
    found = result("quality")
    if found is None:
        return f"No numbers here: {NOT_MEASURED} (`python benchmarks/quality.py`)."
    results = found["results"]
    added = [[name, *_quality_cells(row)] for name, row in results["inference"].items() if isinstance(row, Mapping)]
    measures = ("perplexity", "KL divergence, nats a token", "same best token")
    where = f"{results['tokens']:,} tokens; {found['date']}, commit {found['commit']}; `{found['command']}`."
    weights = [
        table(
            (title, "bits", *measures),
            [[name, f"{row['bits']:.3g}", *_quality_cells(row)] for name, row in results[which].items()],
        )
        for which, title in (("rebased", "weights, in another basis"), ("original", "weights, as shipped"))
    ]
    return "\n\n".join([*weights, table(("exact weights, inference", *measures), added), where])


def _quality_cells(row: Result) -> list[str]:
    return [f"{row['increase']:+.2%}", f"{row['kl']:.2g}", f"{row['top1']:.1%}"]


def _engine_table(found: Result) -> str:
    work = found["work"]
    header = (
        f"{work['model']}: engine, weights",
        f"{work['prompt_tokens']}-token prompt, tokens/s",
        "share of the product's speed",
        f"{work['new_tokens']} tokens after it, tokens/s",
        "share of the read bandwidth, and of reading its own weights",
        "process start to first token",
        "load",
        "peak memory",
    )
    rows = [_engine_row(row) for row in found["results"]]
    return "\n\n".join([table(header, rows), _engine_notes(found)])


def _engine_row(row: Result) -> list[str]:
    is_integer = row["prefill_share_of_int8"] is not None
    product = row["prefill_share_of_int8" if is_integer else "prefill_share_of_matmul"]
    spread = row["spread"]
    return [
        f"{row['engine']} {row['weights']}" + (" (disturbed by other programs)" if row["is_disturbed"] else ""),
        _with_spread(spread["prefill_tokens_per_s"]),
        _percent(product) + (" of 8-bit" if is_integer else ""),
        _with_spread(spread["decode_tokens_per_s"]),
        _read_shares(row),
        "" if row["first_token_s"] is None else f"{row['first_token_s']:.2f} s",
        f"{row['load_s']:.2f} s",
        "" if row["peak_rss_bytes"] is None else f"{row['peak_rss_bytes'] / 1e6:,.0f} MB",
    ]


def _read_shares(row: Result) -> str:
    own = row.get("decode_share_of_reading_its_weights")
    if own is None:
        return _percent(row["decode_share_of_read"])
    return f"{_percent(row['decode_share_of_read'])}, {_percent(own)} of {row['weights_read_gb_per_s']:.1f} GB/s"


def _with_spread(spread: Mapping[str, float]) -> str:
    return f"{_rounded(spread['median'])} ({_rounded(spread['min'])} to {_rounded(spread['max'])})"


def _rounded(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _engine_notes(found: Result) -> str:
    limits, machine, versions = found["limits"], found["machine"], found["versions"]
    peers = [f"{name} {versions[name]}" for name in ("transformers", "llama.cpp", "openvino") if name in versions]
    start = found["import_torch_s"]
    discarded = sum(row["discarded_trials"] for row in found["results"])
    left_out = "".join(f" {one['engine']} was not run: {one['why']}." for one in found["not_run"])
    return (
        f"Medians and spread of {found['work']['trials']} trials in turn, each at its better number of threads; "
        f"{discarded} trials with other programs' work in them discarded. Measured in the same run: "
        f"{limits['read_gb_per_s']:.1f} GB/s read, {limits['matmul_gflop_per_s']:.0f} GFLOP/s in bf16 or fp32, "
        f"{limits['int8_gop_per_s']:.0f} GOP/s in 8-bit integers"
        + ("" if start is None else f"; `import torch` alone takes {start:.2f} s")
        + f". {machine['system']}, {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB; "
        + ", ".join([f"torch {versions['torch'].split('+')[0]}", *peers])
        + f"; {found['date']}, commit {found['commit']}; `{found['command']}`.{left_out}"
    )


def _rows(measured: Result | None, rows: Any) -> list[list[str]]:
    return list(rows(measured["results"])) if measured else []


def _median(summary: Mapping[str, float], digits: int = 2) -> str:
    return f"{summary['median']:.{digits}f}"


def _first_token_rows(results: Result) -> Iterator[list[str]]:
    seconds = results["seconds"]
    yield [
        f"process start to first token, {results['dtype']}",
        f"{_median(seconds['seed_oss'])} s",
        f"{_median(seconds['transformers'])} s",
        f"{_median(seconds['import_torch'])} s (`import torch` alone)",
    ]


def _generate_rows(results: Result) -> Iterator[list[str]]:
    for dtype in ("bfloat16", "float32"):
        if dtype not in results:
            continue
        part, prompt = results[dtype], results["prompt_tokens"]
        ours, theirs, limit = part["seed_oss"], part["transformers"], part["limit"]
        yield [
            f"first token of a {prompt}-token prompt, {dtype}",
            f"{_median(ours['prefill_seconds'])} s ({_median(part['prefill_speedup'])}x)",
            f"{_median(theirs['prefill_seconds'])} s",
            f"{limit['prefill_seconds']:.2f} s ({limit['gflops']:.0f} GFLOP/s measured)",
        ]
        yield [
            f"the {results['new_tokens']} tokens after it, {dtype}",
            f"{_median(ours['decode_tokens_per_second'], 1)} tokens/s ({_median(part['decode_speedup'])}x)",
            f"{_median(theirs['decode_tokens_per_second'], 1)} tokens/s",
            f"{limit['decode_tokens_per_second']:.0f} tokens/s ({limit['memory_gb_per_second']:.0f} GB/s measured)",
        ]


def _lookup_rows(results: Result) -> Iterator[list[str]]:
    for dtype in ("bfloat16", "float32"):
        if dtype not in results:
            continue
        part = results[dtype]
        fast, plain = part["prompt_lookup"]["tokens_per_second"], part["plain"]["tokens_per_second"]
        yield [
            f"copying with prompt lookup, {dtype}",
            f"{_median(fast, 0)} tokens/s ({_median(part['speedup'], 1)}x the plain {_median(plain, 1)})",
            "not run",
            f"{part['limit']['tokens_per_forward']:.1f} tokens a forward",
        ]


def _load_rows(results: Result) -> Iterator[list[str]]:
    for dtype in ("bfloat16", "float32"):
        if dtype not in results:
            continue
        ours, theirs = results[dtype]["seed_oss"], results[dtype]["transformers"]
        yield [
            f"`from_pretrained`, {dtype}",
            f"{_median(ours['seconds'])} s",
            f"{_median(theirs['seconds'])} s",
            f"{_median(results['limit_read_seconds'])} s (reading the {results['file_mb']:.0f} MB)",
        ]
        yield [
            f"peak memory of that load, {dtype}",
            f"{_median(ours['peak_mb'], 0)} MB",
            f"{_median(theirs['peak_mb'], 0)} MB{_if_mapped(theirs)}",
            f"{ours['model_mb']:.0f} MB (the model)",
        ]
    yield from _packed_load_rows(results.get("int4"))


def _packed_load_rows(packed: Result | None) -> Iterator[list[str]]:
    if packed is None:
        return
    read = f"{_median(packed['limit_read_seconds'])} s (reading the {packed['file_mb']:.0f} MB)"
    yield ["`from_pretrained`, saved in int4", f"{_median(packed['seconds'])} s", "", read]


def _if_mapped(engine: Mapping[str, Any]) -> str:
    """Weights that stay mapped to their file are no memory of the process; then the figure is of another kind."""
    return ", and the weights mapped from the file" if engine["peak_mb"]["median"] < engine["model_mb"] else ""


def _loss_rows(results: Result) -> Iterator[list[str]]:
    yield [
        f"peak memory of loss and gradients, {results['tokens']:,} tokens x {results['vocabulary']:,} words",
        f"{_median(results['chunked']['peak_mb'], 0)} MB (plain form: {_median(results['plain']['peak_mb'], 0)} MB)",
        f"{_median(results['transformers']['peak_mb'], 0)} MB",
        f"{results['limit_gradients_mb']:.0f} MB (the gradients)",
    ]


def _log_probs_rows(results: Result) -> Iterator[list[str]]:
    plain = _median(results["plain"]["peak_mib"], 0)
    yield [
        f"memory of prompt log-probabilities, {results['tokens']:,} tokens x {results['vocabulary']:,} words",
        f"{_median(results['log_probs']['peak_mib'], 0)} MiB above the model (plain form: {plain} MiB)",
        "not run",
        f"{results['limit_mib']:.0f} MiB asked for",
    ]


def _where_measured(measured: Sequence[Result]) -> str:
    machine, versions = measured[0]["machine"], measured[0]["versions"]
    commits = sorted({one["commit"] for one in measured})
    dates = sorted({one["date"] for one in measured})
    return (
        f"Medians on {machine['system']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']:.0f} GiB, Python {machine['python']}, torch {versions['torch'].split('+')[0]}, "
        f"transformers {versions['transformers']}; SmolLM2-135M as the demo model; each engine at its better number of "
        f"threads, trials in turn; {' and '.join(dates)}, commit {' and '.join(commits)}. Spread and settings are in "
        "`benchmarks/results`, the programs in `benchmarks`."
    )


def errors() -> str:
    """The tree of errors as the module draws it."""
    from seed_oss import errors as module

    return f"```text\n{inspect.cleandoc((module.__doc__ or '').split(chr(10) + chr(10))[1])}\n```"


def rope_types() -> str:
    """Every rotary type with its parameters."""
    from seed_oss.config.rope_parameters import ROPE_TYPES

    rows = [
        [f"`{name}`", _code(kind.required), _code({**kind.filled, **kind.optional})]
        for name, kind in ROPE_TYPES.items()
    ]
    return table(("`rope_type`", "required", "optional"), rows)


def _code(names: Mapping[str, object]) -> str:
    return _names(names) or "none"


def model_fields() -> str:
    """Fields of SeedOssConfig: defaults and what is allowed, as the checks themselves say it."""
    from seed_oss import SeedOssConfig

    return _fields(SeedOssConfig.FIELDS)


def generation_fields() -> str:
    """Fields of GenerationConfig, likewise."""
    from seed_oss import GenerationConfig

    return _fields(GenerationConfig.FIELDS)


def _fields(fields: Mapping[str, Any]) -> str:
    rows = [[f"`{name}`", f"`{field.default!r}`", _allowed(name, field)] for name, field in fields.items()]
    return table(("field", "default", "allowed"), rows)


def _allowed(name: str, field: Any) -> str:
    """What the field's check says when it gets something no field allows."""
    from seed_oss.errors import ConfigError

    try:
        field.check(name, _NoValue())
    except ConfigError as error:
        allowed = str(error).split("; it must be ", 1)[-1].split("; ")[0]
        takes_list = not allowed.startswith("a list") and (_takes(name, field, [1]) or _takes(name, field, ["text"]))
        extra = [
            text for text, there in (("a list of these", takes_list), ("none", _takes(name, field, None))) if there
        ]
        return ", or ".join([allowed, *extra])
    raise SystemExit(f"the check of {name} takes anything")


def _takes(name: str, field: Any, value: Any) -> bool:
    from seed_oss.errors import ConfigError

    try:
        field.check(name, value)
    except ConfigError:
        return False
    return True


class _NoValue:
    def __repr__(self) -> str:
        return "nothing"


def gguf() -> str:
    """What of GGUF can be converted, from the tables of the converter."""
    from seed_oss.quant.gguf_config import ARCHITECTURES
    from seed_oss.quant.gguf_dequantize import READABLE_TYPES
    from seed_oss.quant.gguf_tokenizer import PRE_TOKENIZERS

    rows = [
        ["architectures", _names(ARCHITECTURES)],
        ["tensor types", _names(sorted(READABLE_TYPES))],
        ["pre-tokenizers (byte-level BPE)", _names(PRE_TOKENIZERS)],
    ]
    return table(("", "read"), rows)


def gguf_blocks() -> str:
    """What blocks become, from the table of their reader; bytes of the file are the gguf package's."""
    from seed_oss.ops.grouped_weight import QuantFormat
    from seed_oss.quant.gguf_blocks import GROUPED_FORMATS
    from seed_oss.quant.gguf_package import require_gguf

    gguf = require_gguf()

    def row(name: str, format: QuantFormat) -> list[str]:
        block_len, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        beside = "a minimum" if format.zero == "minimum" else ""
        kept = " and ".join(filter(None, ["a scale", beside]))
        groups = f"{format.bits} bits, groups of {format.group_size}: {kept} in {format.param_dtype}"
        return [f"`{name}`", f"{8 * block_bytes / block_len:g}", groups, f"{format.bits_per_weight:g}"]

    rows = [row(name, format) for name, format in GROUPED_FORMATS.items()]
    return table(("type", "bits per weight in the file", "kept as", "bits per weight here"), rows)


def refused() -> str:
    """Arguments of the reference that are refused by name, with what to do instead."""
    from seed_oss.config.unimplemented import UNIMPLEMENTED
    from seed_oss.models.load_options import REFUSED

    loading = [[f"`from_pretrained({name}=)`", remedy] for name, remedy in REFUSED.items()]
    generating = [[f"`generate({name}=)`", field.remedy] for name, field in UNIMPLEMENTED.items()]
    return table(("argument", "instead"), loading + generating)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def supported() -> str:
    """What is supported, each line with the tests that show it. The lines stand in docs/supported.json."""
    rows = json.loads((ROOT / "docs" / "supported.json").read_text(encoding="utf-8"))
    shown = [[row["what"], row["how_far"], ", ".join(f"`{test}`" for test in row["shown_by"])] for row in rows]
    return table(("what", "how far", "shown by"), shown)


def decisions() -> str:
    """The decisions in order, by the titles of their pages."""
    pages = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    return "\n".join(f"- [{_title(page)}]({page.name})" for page in pages)


def _title(page: Path) -> str:
    match = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else page.stem
