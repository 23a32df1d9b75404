"""A GGUF file into a folder of our own format, tensor by tensor: its blocks stay integers."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seed_oss.errors import InputError
from seed_oss.files import DirectoryCommit
from seed_oss.models.pretrained import BASE_PREFIXES
from seed_oss.models.quantized_loading import QuantizedLoad, prepare_quantized, record_of
from seed_oss.models.seed_oss import SeedOssForCausalLM
from seed_oss.nn.quantized_linear import QuantizedModule, quantized_modules
from seed_oss.quant.gguf_model import read_gguf_tokenizer
from seed_oss.weights import TensorSpec, dtype_name, on_meta_device, save_tensors, size_in_bytes, tensor_pieces
from seed_oss.weights.gguf_import import DTYPES, DTypeName, is_replaced, write_gguf_texts
from seed_oss.weights.gguf_source import GGUFSource
from seed_oss.weights.packed_source import PackedSource, stored_shape


def convert_gguf_packed(
    path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    dtype: DTypeName = "float32",
    max_shard_size: int | str = "5GB",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Convert a GGUF file into a checkpoint folder in which blocks of 4 and 8 bits stay what they are.

    Every packed value is bit-equal to the one that the file's blocks stand for. What no groups hold is dequantized,
    with a warning. Tokenizer, chat template and configs are written as by `convert_gguf`.

    Args:
        path: The GGUF file.
        out_dir: The folder; made if it is not there. Files of a model in it are replaced all at once, others stay.
        dtype: Of what is not packed: "float32" keeps every value.
        max_shard_size: Most bytes of weights in one file, as a number or like "5GB".
        progress: Called with (bytes written, bytes in all).

    Returns:
        The folder.

    Raises:
        InputError: A wrong argument, or a file without such blocks.
        MissingFileError, MissingExtraError, UnsupportedModelError, CheckpointError, ConfigError, TokenizerError: See
            `convert_gguf`.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; {', '.join(DTYPES)} are allowed")
    size_in_bytes(max_shard_size)
    file = GGUFSource(path)
    tokenizer = read_gguf_tokenizer(file.model)
    config = file.model.config.copy()
    with on_meta_device():
        model = SeedOssForCausalLM(config)
    loaded = prepare_quantized(model, file, config, None, BASE_PREFIXES, dtype=DTYPES[dtype], may_map=False)
    if loaded is None or not quantized_modules(model):
        raise InputError(
            f"{file.name} has no matrix in blocks that groups of 4 or 8 bits hold; convert it without packed"
        )
    config.quantization_config = record_of(model, loaded).to_config()
    config.dtype = dtype_name(DTYPES[dtype])
    with DirectoryCommit(Path(out_dir), replaces=is_replaced) as staging:
        write_gguf_texts(staging, replace(file.model, config=config), tokenizer)
        _write(staging, model, loaded, DTYPES[dtype], max_shard_size, progress)
    return Path(out_dir)


def _write(
    folder: Path,
    model: Any,
    loaded: QuantizedLoad,
    dtype: torch.dtype,
    max_shard_size: int | str,
    progress: Callable[[int, int], None] | None,
) -> None:
    source, modules = loaded.source, quantized_modules(model)
    specs = {name: _spec(spec, modules.get(name.removesuffix(".packed")), dtype) for name, spec in source.specs.items()}
    total, done = sum(spec.num_bytes for spec in specs.values()), 0

    def pieces_of(name: str) -> Iterator[memoryview]:
        yield from tensor_pieces(_tensor(source, name, specs[name]))

    def advance(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if progress is not None:
            progress(done, total)

    with source.opened(list(source.specs)):
        save_tensors(
            folder,
            specs,
            pieces_of,
            max_shard_size=max_shard_size,
            num_parameters=model.num_parameters(),
            advance=advance,
            packed_first=True,
        )


def _spec(spec: TensorSpec, module: QuantizedModule | None, dtype: torch.dtype) -> TensorSpec:
    """Of a tensor as it is written."""
    if spec.dtype == torch.uint8 and module is not None:
        return TensorSpec(torch.uint8, stored_shape(module.format, module.shape))
    return TensorSpec(dtype, spec.shape)


def _tensor(source: PackedSource, name: str, spec: TensorSpec) -> Tensor:
    made = source.finished(name, torch.device("cpu"))
    if made is not None:
        del source.made[name]
        return made
    found = torch.empty(spec.shape, dtype=spec.dtype, device="cpu")
    source.read_into(name, found)
    if not bool(torch.isfinite(found).all()):  # the file's own values are; see read_pieces
        raise InputError(f"{name} holds numbers beyond {dtype_name(spec.dtype)}; convert to bfloat16 or float32")
    return found
