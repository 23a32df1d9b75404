"""`seed-oss plan`: what a model takes and how fast it will be, before it is loaded."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from seed_oss.cli.options import DType, DTypeOption, RevisionOption, ThreadsOption

if TYPE_CHECKING:
    from rich.table import Table

    from seed_oss.planning.result import MemoryPlan, Placement

_PLAIN_WIDTH = 120  # where nobody looks, nothing is wrapped


def plan(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder of a checkpoint, GGUF file, hub id, 'demo', or '36b', Seed-OSS-36B's shape without its files.",
            show_default=False,
        ),
    ],
    context: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS", help="Prompt and answer together; the default is 4096, or less.", show_default=False
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="ROWS", help="Rows that run together.")] = 1,
    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEME",
            help="Plan this scheme only, such as 'int4' or 'fp8', or 'none'; the default compares the usual ones.",
            show_default=False,
        ),
    ] = None,
    dtype: DTypeOption = DType.auto,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="'auto' for all here, 'cpu', 'cuda', 'cuda:1'.")] = (
        "auto"
    ),
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Count with this much free memory, such as 80GiB; then the device need not be here.",
            show_default=False,
        ),
    ] = None,
    prefill_chunk: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            help="Most new tokens of a row in one pass; the default is 2048, or less.",
            show_default=False,
        ),
    ] = None,
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Measure this machine for a few seconds and say how fast.")
    ] = True,
    revision: RevisionOption = None,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write it as one JSON object, in bytes.")] = False,
) -> None:
    """Show what a model takes, where it fits and how fast it will be.

    Nothing is loaded: the configuration and the headers of the files are enough, and of a hub model only the
    configuration is fetched. Exits with 1 if nothing fits.
    """
    import torch

    from seed_oss.planning.plan import plan as make_plan

    if threads is not None:
        torch.set_num_threads(threads)
    result = make_plan(
        model,
        context=context,
        batch=batch,
        quantization=quantization,
        dtype=dtype.value,
        device=device,
        memory=None if memory is None else _size(memory),
        prefill_chunk=prefill_chunk,
        measure_speed=speed,
        revision=revision,
    )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        _print(result)
    if result.best is None:
        raise typer.Exit(1)


def _size(text: str) -> int:
    from seed_oss.errors import InputError
    from seed_oss.weights.save import size_in_bytes

    try:
        return size_in_bytes(text)
    except InputError:
        raise typer.BadParameter(
            f"{text!r:.40} is not a size; write it like 80GiB or 16GB", param_hint="--memory"
        ) from None


def _print(result: "MemoryPlan") -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    model = escape(ascii(result.model)[1:-1])
    console.print(
        f"{model}: {result.num_parameters / 1e9:,.2f} billion parameters, a context of {result.context:,} tokens, "
        f"{result.batch:,} at once"
    )
    console.print(_parts(result))
    console.print(_table(result))
    for limits in result.measured:
        console.print(f"Measured: {limits.device} reads {limits.read_bytes_per_s / 1e9:.1f} GB/s.")
    for sentence in result.advice:
        console.print(escape(sentence), soft_wrap=True)


def _parts(result: "MemoryPlan") -> "Table":
    """What the weights of each form consist of, and a token's keys and values; the same on most devices."""
    from rich import box
    from rich.table import Table

    from seed_oss.planning.advice import gib

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("weights as", "embedding", "layers", "head", "cache per token"):
        table.add_column(title, justify="left" if title == "weights as" else "right")
    rows: dict[tuple[str, ...], None] = {}
    for placement in result.placements:
        weights, cache = placement.weights, placement.cache
        head = gib(weights.head) if weights.head else "none of its own"
        token = f"{cache.per_token / 1024:,.1f} KiB in {cache.dtype}"
        rows[(placement.form, gib(weights.embedding), gib(weights.layers), head, token)] = None
    for row in rows:
        table.add_row(*row)
    return table


def _table(result: "MemoryPlan") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("weights as", "on", "bits", "weights", "cache", "workspace", "in all", "fits", "context", "tokens/s"):
        table.add_column(title, justify="left" if title in ("weights as", "on", "fits") else "right")
    for placement in result.placements:
        table.add_row(*_cells(placement), style="bold" if placement == result.best else None)
    return table


def _cells(placement: "Placement") -> list[str]:
    from seed_oss.planning.advice import gib

    speed = placement.speed
    return [
        placement.form,
        placement.device,
        f"{placement.bits_per_weight:.2f}",
        gib(placement.weights.total),
        gib(placement.cache.total),
        gib(placement.workspace.total),
        gib(placement.total_bytes),
        "yes" if placement.fits else "no",
        f"{placement.longest_context:,}",
        "" if speed is None else f"{speed.prefill:,.1f} read, {speed.decode:,.1f} written",
    ]
