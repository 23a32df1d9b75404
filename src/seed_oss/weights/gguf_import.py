"""A GGUF file of llama.cpp as a checkpoint that seed_oss, and transformers, open.

Everything about the file is checked before anything is written; the weights then stream through, a piece of a tensor at
a time; and the folder appears, or changes, all at once at the end.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
import torch

from seed_oss.errors import InputError
from seed_oss.files import DirectoryCommit, is_weight_file, open_model_file
from seed_oss.quant.gguf_dequantize import half_split_rows, read_pieces
from seed_oss.quant.gguf_model import GGUFModel, read_gguf_model, read_gguf_tokenizer
from seed_oss.quant.gguf_texts import config_texts, tokenizer_texts
from seed_oss.weights.save import save_tensors, size_in_bytes, tensor_pieces
from seed_oss.weights.source import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from seed_oss.quant.gguf_config import PlannedTensor
    from seed_oss.quant.gguf_tokenizer import GGUFTokenizer

DTypeName = Literal["float32", "bfloat16", "float16"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A model that was in the folder before must leave nothing that would be read as part of the new one.
_REPLACED = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "special_tokens_map.json",
        "added_tokens.json",
    }
)


def convert_gguf(
    path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    dtype: DTypeName = "float32",
    max_shard_size: int | str = "5GB",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Convert a GGUF file into a checkpoint folder.

    Writes config.json, generation_config.json, the weights as safetensors, tokenizer.json, tokenizer_config.json and
    chat_template.jinja. Architectures seed_oss, llama and qwen2 whose tensors fit are converted exactly: in float32
    every value is the one that the file's blocks stand for. Everything else is refused by name.

    Args:
        path: The GGUF file.
        out_dir: The folder; made if it is not there. Files of a model in it are replaced all at once, others stay.
        dtype: What the weights are stored in: "float32", "bfloat16" or "float16".
        max_shard_size: Most bytes of weights in one file, as a number or like "5GB".
        progress: Called with (bytes done, bytes in all) while the weights are converted.

    Returns:
        The folder.

    Raises:
        MissingExtraError: The `gguf` package is not installed.
        MissingFileError: There is no such file.
        UnsupportedModelError: The file holds something that Seed-OSS has no place for; the message names it.
        CheckpointError: The file is not GGUF, truncated, damaged or over a limit.
        ConfigError: The sizes in the file do not go together.
        TokenizerError: The tokenizer in the file cannot be loaded.
        InputError: An unknown dtype, values that do not fit it, or a folder that cannot be saved into.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; {', '.join(DTYPES)} are allowed")
    size_in_bytes(max_shard_size)
    real = Path(os.path.realpath(path))
    with open_model_file(real.parent, real.name) as file:
        model = read_gguf_model(file, source=os.fspath(path), dtype=dtype)
        tokenizer = read_gguf_tokenizer(model)
        with DirectoryCommit(Path(out_dir), replaces=is_replaced) as staging:
            write_gguf_texts(staging, model, tokenizer)
            _write_weights(staging, file, model.plan, DTYPES[dtype], max_shard_size, progress)
    return Path(out_dir)


def is_replaced(name: str) -> bool:
    """Whether a file of the folder belongs to the model that a conversion replaces."""
    return name in _REPLACED or is_weight_file(name)


def write_gguf_texts(folder: Path, model: GGUFModel, tokenizer: GGUFTokenizer) -> None:
    """Write everything of a checkpoint but its weights."""
    for name, text in {**config_texts(model), **tokenizer_texts(tokenizer)}.items():
        (folder / name).write_bytes(text)


def _write_weights(
    folder: Path,
    file: BinaryIO,
    plan: Sequence[PlannedTensor],
    dtype: torch.dtype,
    max_shard_size: int | str,
    progress: Callable[[int, int], None] | None,
) -> None:
    planned = {one.name: one for one in plan}
    specs = {name: TensorSpec(dtype, one.source.shape) for name, one in planned.items()}
    total = sum(spec.num_bytes for spec in specs.values())
    done = 0

    def pieces_of(name: str) -> Iterator[memoryview]:
        one = planned[name]
        for values in read_pieces(file, one.source, row_group=one.head_dim or 1):
            yield from tensor_pieces(_stored(half_split_rows(values, one.head_dim), dtype, name))

    def advance(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if progress is not None:
            progress(done, total)

    num_parameters = sum(math.prod(spec.shape) for spec in specs.values())
    save_tensors(
        folder, specs, pieces_of, max_shard_size=max_shard_size, num_parameters=num_parameters, advance=advance
    )


def _stored(values: np.ndarray, dtype: torch.dtype, name: str) -> torch.Tensor:
    stored = torch.from_numpy(values).to(dtype)
    if dtype == torch.float16 and not bool(torch.isfinite(stored).all()):
        raise InputError(
            f"{name} holds {np.abs(values).max():.6g}, beyond float16's 65504; convert to bfloat16 or float32"
        )
    return stored
