"""A GGUF file of llama.cpp as a checkpoint that seed_oss, and transformers, open.

Everything about the file is checked before anything is written; the weights then stream through, a piece of a tensor at
a time; and the folder appears, or changes, all at once at the end.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import torch

from seed_oss.config import GenerationConfig, SeedOssConfig
from seed_oss.errors import CheckpointError, InputError, UnsupportedModelError
from seed_oss.files import DirectoryCommit, is_weight_file, open_model_file
from seed_oss.quant.gguf_config import PlannedTensor, config_from_gguf, plan_tensors
from seed_oss.quant.gguf_dequantize import check_readable, read_pieces
from seed_oss.quant.gguf_header import GGUFHeader, read_gguf_header
from seed_oss.quant.gguf_metadata import get_float, get_int
from seed_oss.quant.gguf_rope import ROPE_FREQS
from seed_oss.quant.gguf_tokenizer import GGUFTokenizer, tokenizer_from_gguf
from seed_oss.weights.save import save_tensors, size_in_bytes, tensor_pieces
from seed_oss.weights.source import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DTypeName = Literal["float32", "bfloat16", "float16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MAX_ROPE_FACTORS = 4_096
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
_SAMPLING_KEYS = {"temp": "temperature", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repetition_penalty"}


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
    if dtype not in _DTYPES:
        raise InputError(f"dtype is {dtype!r}; {', '.join(_DTYPES)} are allowed")
    size_in_bytes(max_shard_size)
    real = Path(os.path.realpath(path))
    with open_model_file(real.parent, real.name) as file:
        header = read_gguf_header(file, source=os.fspath(path))
        check_readable(header)
        config = config_from_gguf(header, dtype=dtype, rope_factors=_rope_factors(file, header))
        config.validate()
        plan = plan_tensors(header, config)
        tokenizer = tokenizer_from_gguf(header, context_len=config.max_position_embeddings)
        if tokenizer.num_tokens != config.vocab_size:
            raise CheckpointError(
                f"{header.source}: the tokenizer has {tokenizer.num_tokens} tokens, "
                f"the embedding {config.vocab_size} rows"
            )
        generation_config = _generation_config(header, config, tokenizer)
        with DirectoryCommit(Path(out_dir), replaces=_is_replaced) as staging:
            (staging / "config.json").write_text(config.to_json_string(), encoding="utf-8")
            (staging / "generation_config.json").write_text(generation_config.to_json_string(), encoding="utf-8")
            _write_tokenizer(staging, tokenizer)
            _write_weights(staging, file, plan, _DTYPES[dtype], max_shard_size, progress)
    return Path(out_dir)


def _is_replaced(name: str) -> bool:
    return name in _REPLACED or is_weight_file(name)


def _rope_factors(file: BinaryIO, header: GGUFHeader) -> np.ndarray | None:
    tensor = header.tensors.get(ROPE_FREQS)
    if tensor is None:
        return None
    if len(tensor.shape) != 1 or tensor.shape[0] > _MAX_ROPE_FACTORS:
        raise UnsupportedModelError(f"{header.source}: {ROPE_FREQS} has the shape {tensor.shape}")
    return next(read_pieces(file, tensor))[0]


def _generation_config(header: GGUFHeader, config: SeedOssConfig, tokenizer: GGUFTokenizer) -> GenerationConfig:
    # Sampling advice is written without do_sample, as in the released checkpoints: generation stays greedy until asked.
    fields: dict[str, Any] = {
        name: get_float(header, f"general.sampling.{key}")
        for key, name in _SAMPLING_KEYS.items()
        if f"general.sampling.{key}" in header.metadata
    }
    if "general.sampling.top_k" in header.metadata:
        fields["top_k"] = get_int(header, "general.sampling.top_k")
    ends = tokenizer.end_ids
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=list(ends) if len(ends) > 1 else next(iter(ends), None),
        pad_token_id=config.pad_token_id,
        **fields,
    )


def _write_tokenizer(folder: Path, tokenizer: GGUFTokenizer) -> None:
    (folder / "tokenizer.json").write_bytes(tokenizer.tokenizer_json)
    text = json.dumps(tokenizer.tokenizer_config, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    (folder / "tokenizer_config.json").write_bytes(text.encode("utf-8"))
    if tokenizer.chat_template is not None:
        (folder / "chat_template.jinja").write_bytes(tokenizer.chat_template.encode("utf-8"))


def _write_weights(
    folder: Path,
    file: BinaryIO,
    plan: list[PlannedTensor],
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


def half_split_rows(values: np.ndarray, head_dim: int) -> np.ndarray:
    """Reorder rows from interleaved rotary positions (pairs beside each other) to half-split ones.

    Args:
        values: Rows of whole heads `[heads * head_dim, columns]`, or a bias `[1, heads * head_dim]`.
        head_dim: Rows per head; 0 leaves everything as it is.

    Returns:
        An array of the same shape, in which row j * head_dim/2 + i of a head is row 2i + j before.
    """
    if not head_dim:
        return values
    columns = values.shape[1] if values.shape[0] > 1 else 1
    pairs = values.reshape(-1, head_dim // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _stored(values: np.ndarray, dtype: torch.dtype, name: str) -> torch.Tensor:
    stored = torch.from_numpy(values).to(dtype)
    if dtype == torch.float16 and not bool(torch.isfinite(stored).all()):
        raise InputError(
            f"{name} holds {np.abs(values).max():.6g}, beyond float16's 65504; convert to bfloat16 or float32"
        )
    return stored
