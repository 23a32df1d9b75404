"""`seed-oss convert`: a GGUF file into a checkpoint."""

import shlex
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
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Most bytes of weights in one file.")] = "5GB",
) -> None:
    """Turn a GGUF file into a checkpoint.

    Every command, and transformers, open the result. The architectures seed_oss, llama and qwen2 are converted where
    their tensors fit; quantized weights are computed back into numbers of the type asked for. Tokenizer and chat
    template come from the file. Needs the extra 'gguf'.
    """
    if not file.is_file():
        raise typer.BadParameter(f"{file} is not a file", param_hint="FILE.gguf")
    if out_dir.exists() and not out_dir.is_dir():
        raise typer.BadParameter(f"{out_dir} is a file, not a folder", param_hint="OUT_DIR")
    from seed_oss.weights.gguf_import import convert_gguf

    with bytes_bar(f"Converting {file.name}") as update:
        folder = convert_gguf(file, out_dir, dtype=dtype.value, max_shard_size=max_shard_size, progress=update)
    show_note(f"Wrote {folder}. Try it: seed-oss generate --model {shlex.quote(str(folder))} Hello")
