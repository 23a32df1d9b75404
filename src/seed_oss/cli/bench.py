"""`seed-oss bench`: how fast a model runs here, beside other engines and the limits of the machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seed_oss.cli.options import ModelOption
from seed_oss.cli.terminal import show_note
from seed_oss.errors import InputError

if TYPE_CHECKING:
    from seed_oss.bench.options import BenchOptions

ShapeOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Random weights of this shape instead of a model: 36b, 1b or tiny.", show_default=False
    ),
]
SyntheticOption = Annotated[bool, typer.Option("--synthetic", help="Goes with --shape: the weights are random bytes.")]
QuantizationOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Weights of our engine, several with commas between: int4, int4-min, int4-sym, int8, ..., bfloat16, "
        "float32; int4 by default. A GGUF file is measured as it is.",
        show_default=False,
    ),
]
HeadBitsOption = Annotated[
    int | None,
    typer.Option(metavar="BITS", help="Bits of the head of models in 4 bits: 4 or 8.", show_default=False),
]
PeersOption = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Engines beside ours, with commas between: transformers, llama.cpp, openvino; each with ':' and its "
        "weights where not all are wanted (llama.cpp:Q4_0).",
    ),
]
PeerPythonOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PROGRAM", help="Another Python, which has peers that are not installed here.", show_default=False
    ),
]
ThreadsOption = Annotated[
    str,
    typer.Option(metavar="NUMBERS", help="Numbers of threads to try, with commas between; the default is one and all."),
]


def bench(
    model: ModelOption = "demo",
    shape: ShapeOption = None,
    synthetic: SyntheticOption = False,
    quantization: QuantizationOption = None,
    head_bits: HeadBitsOption = None,
    peers: PeersOption = "",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="How many tokens the prompt has.")] = 512,
    new_tokens: Annotated[int, typer.Option(min=2, help="How many tokens are generated after it.")] = 64,
    threads: ThreadsOption = "",
    trials: Annotated[int, typer.Option(min=1, max=1000, help="Trials that count, after a warm-up.")] = 5,
    max_repeats: Annotated[
        int, typer.Option(min=0, max=100, help="How often a trial that other programs disturbed is repeated.")
    ] = 3,
    start_up: Annotated[
        bool, typer.Option("--start-up/--no-start-up", help="Also measure from process start to first token.")
    ] = True,
    llm: Annotated[
        bool, typer.Option("--llm", help="Also measure the same weights in LLM, the engine of the server.")
    ] = False,
    peer_python: PeerPythonOption = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw the result, as a picture.", show_default=False)
    ] = None,
) -> None:
    """Measure prefill and decode speed, start-up, loading and memory.

    Every engine runs in a process of its own on the same prompt, trials in turn, each at its better number of threads;
    what the machine can read and multiply is measured in the same run. A trial during which other programs used more
    than 5 % of the machine is discarded and repeated. The last line on stdout is the result as JSON.

    Examples:

      seed-oss bench --peers transformers,llama.cpp,openvino --json result.json --plot result.png

      seed-oss bench --model FILE.gguf --peers llama.cpp

      seed-oss bench --shape 36b --quantization int4 --synthetic --trials 2
    """
    options = _options(
        model=model,
        shape=_checked_shape(shape, synthetic),
        quantizations=_weights(quantization, model if shape is None else None),
        head_bits=head_bits,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        threads=tuple(_number(part) for part in _split(threads)),
        trials=trials,
        max_repeats=max_repeats,
        peer_python=None if peer_python is None else str(peer_python),
        measures_start=start_up,
        with_llm=llm,
        peers=_split(peers),
    )
    from seed_oss.bench.plot import check_plot, write_plot
    from seed_oss.bench.run import run

    if plot is not None:
        check_plot(plot)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InputError(f"{json_file.parent} is not a folder; make it first")
    document = run(options, show_note)
    _show(document)
    if json_file is not None:
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        write_plot(document, plot)
    typer.echo(json.dumps(document))


def _options(*, peers: tuple[str, ...], **settings: Any) -> "BenchOptions":
    from seed_oss.bench.options import BenchOptions, parse_peers

    return BenchOptions(peers=parse_peers(peers), **settings)


def _weights(names: str | None, model: str | None) -> tuple[str, ...]:
    """Those asked for; else int4, or what a GGUF file holds."""
    if names is not None:
        return _split(names)
    from seed_oss.bench.schemes import AS_STORED
    from seed_oss.files import gguf_file

    return ("int4",) if model is None or gguf_file(model) is None else (AS_STORED,)


def _split(names: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in names.split(",") if part.strip())


def _number(text: str) -> int:
    if not text.isdecimal():
        raise typer.BadParameter(f"'{text}' is no number", param_hint="--threads")
    return int(text)


def _checked_shape(shape: str | None, synthetic: bool) -> str | None:
    if synthetic != (shape is not None):
        raise typer.BadParameter(
            "--shape NAME and --synthetic go together: a shape has random weights and no checkpoint",
            param_hint="--synthetic" if synthetic else "--shape",
        )
    return shape


def _show(document: dict[str, Any]) -> None:
    """The result in words, on stdout before the JSON."""
    for row in document["results"]:
        read = row["decode_share_of_read"]
        own = row.get("decode_share_of_reading_its_weights")
        of_own = "" if own is None else f", {own:.0%} of {row['weights_read_gb_per_s']} GB/s where its weights lie"
        share = "" if read is None else f" ({read:.0%} of the read bandwidth{of_own})"
        start = "" if row["first_token_s"] is None else f", first token {row['first_token_s']:.2f} s after start"
        memory = "" if row["peak_rss_bytes"] is None else f", peak {row['peak_rss_bytes'] / 2**30:.2f} GiB"
        disturbed = "; disturbed by other programs" if row["is_disturbed"] else ""
        typer.echo(
            f"{row['engine']} {row['weights']}: prefill {row['prefill_tokens_per_s']:.4g} tokens/s, decode "
            f"{row['decode_tokens_per_s']:.4g} tokens/s{share}, loaded in {row['load_s']:.2f} s{start}{memory}"
            f"; {row['discarded_trials']} trials discarded{disturbed}"
        )
    for one in document["not_run"]:
        typer.echo(f"{one['engine']}: not run, {one['why']}")
    limits = document["limits"]
    typer.echo(
        f"limits: {limits['read_gb_per_s']} GB/s read, {limits['matmul_gflop_per_s']} GFLOP/s, "
        f"{limits['int8_gop_per_s']} GOP/s in 8-bit integers"
    )
