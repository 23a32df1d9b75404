"""`seed-oss quantize`: a checkpoint into a smaller one."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from seed_oss.cli.options import RevisionOption
from seed_oss.cli.progress import bytes_bar
from seed_oss.cli.terminal import show_note


def quantize(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN", help="Folder of a checkpoint, hub id, or 'demo' (a small model).", show_default=False
        ),
    ],
    out_dir: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Folder for the result; a model in it is replaced.", show_default=False),
    ],
    scheme: Annotated[
        str,
        typer.Option(metavar="SCHEME", help="int4, int8, fp8 or another scheme; a wrong name lists all."),
    ] = "int4",
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Fail where a tensor does not fit the scheme, instead of taking smaller groups."),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text that the model shall do well on, UTF-8: weights are rounded for it, one layer after the other, "
            "which is in memory in float32.",
            show_default=False,
        ),
    ] = None,
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Most bytes of weights in one file.")] = "5GB",
    revision: RevisionOption = None,
) -> None:
    """Turn a checkpoint into one of 4 or 8 bits.

    It is read and written tensor by tensor, or layer by layer for a text, so it need not fit into memory. OUT appears
    at the end, all at once. After Ctrl-C, a kill or a full disk the same command goes on where it was: finished files
    are kept beside OUT. Tokenizer and chat template are copied. Every command opens the result.

    Examples:

      seed-oss quantize demo smollm2-int4

      seed-oss quantize ByteDance-Seed/Seed-OSS-36B-Instruct seed-int4 --scheme int4-g64

      seed-oss quantize demo smollm2-int4 --calibrate my_text.txt

      seed-oss quantize ByteDance-Seed/Seed-OSS-36B-Instruct seed-fp8 --scheme fp8
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise typer.BadParameter(f"{out_dir} is a file, not a folder", param_hint="OUT")
    text = None if calibrate is None else _read_text(calibrate)
    from seed_oss.models.quantize_calibrated import quantize_calibrated
    from seed_oss.models.quantize_folder import quantize_folder

    options: dict[str, Any] = {"strict": strict, "max_shard_size": max_shard_size, "revision": revision}
    try:
        with bytes_bar(f"Quantizing to {scheme}") as update:
            if text is None:
                folder = quantize_folder(source, out_dir, scheme, **options, progress=update)
            else:
                folder = quantize_calibrated(source, out_dir, scheme, text, **options, progress=update)
    except KeyboardInterrupt:
        show_note("Stopped; run the same command again to go on.")
        raise typer.Exit(130) from None
    show_note(f"Wrote {folder}. Try it: seed-oss generate --model {shlex.quote(str(folder))} Hello")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is not UTF-8 text", param_hint="--calibrate") from None
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--calibrate") from None
