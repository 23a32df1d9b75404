"""`seed-oss convert`: a GGUF file into a checkpoint."""

import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from seed_oss.cli.progress import bytes_bar
from seed_oss.cli.terminal import show_note


class StoredDType(StrEnum):
    """Names of dtypes that weights can be stored in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="The GGUF file.", show_default=False)],
    out_dir: Annotated[
        Path,
        typer.Argument(
            metavar="OUT_DIR", help="Folder for the checkpoint; a model in it is replaced.", show_default=False
        ),
    ],
    dtype: Annotated[
        StoredDType,
        typer.Option(help="Type to store the weights in; float32 keeps every value of the file exactly."),
    ] = StoredDType.float32,
    packed: Annotated[
        bool,
        typer.Option("--packed", help="Keep blocks of 4 and 8 bits as they are, in a format that only seed-oss reads."),
    ] = False,
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Most bytes of weights in one file.")] = "5GB",
) -> None:
    """Turn a GGUF file into a checkpoint.

    Every command, and transformers, open the result. The architectures seed_oss, llama and qwen2 are converted where
    their tensors fit; quantized weights are computed back into numbers of the type asked for, or stay packed with the
    same values. Tokenizer and chat template come from the file. Needs the extra 'gguf'.

    Examples:

      seed-oss convert model.gguf model

      seed-oss convert model.gguf model-packed --packed
    """
    if not file.is_file():
        raise typer.BadParameter(f"{file} is not a file", param_hint="FILE.gguf")
    if out_dir.exists() and not out_dir.is_dir():
        raise typer.BadParameter(f"{out_dir} is a file, not a folder", param_hint="OUT_DIR")
    with bytes_bar(f"Converting {file.name}") as update:
        folder = _converter(packed)(file, out_dir, dtype=dtype.value, max_shard_size=max_shard_size, progress=update)
    show_note(f"Wrote {folder}. Try it: seed-oss generate --model {shlex.quote(str(folder))} Hello")


def _converter(packed: bool) -> Callable[..., Path]:
    if packed:
        from seed_oss.models.gguf_folder import convert_gguf_packed

        return convert_gguf_packed
    from seed_oss.weights.gguf_import import convert_gguf

    return convert_gguf
