"""What is planned for: a configuration, and what a checkpoint stores, both without its weights."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from seed_oss.config import SeedOssConfig
from seed_oss.files import INDEX_FILE, SINGLE_FILE, gguf_file, model_file_exists, resolve_model
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.weights.dtypes import weight_dtype
from seed_oss.weights.gguf_source import GGUFSource
from seed_oss.weights.source import CheckpointSource, TensorSpec

NAMED_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "36b": {
        "vocab_size": 155_136,
        "hidden_size": 5120,
        "intermediate_size": 27_648,
        "num_hidden_layers": 64,
        "num_attention_heads": 80,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 524_288,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e7},
        "dtype": "bfloat16",
    },
}
"""Shapes that need no files: "36b" is ByteDance-Seed/Seed-OSS-36B. Write "./36b" for a folder of that name."""


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model that nobody has loaded.

    Attributes:
        name: as it was given.
        config: of it.
        stored: every tensor of its files -> dtype and shape; empty where the files are not here.
        blocks: of a GGUF file: name of a matrix in blocks -> the groups that hold it, None where none do.
        file_bytes: of the tensors in a GGUF file; 0 for other models.
    """

    name: str
    config: SeedOssConfig
    stored: Mapping[str, TensorSpec]
    blocks: Mapping[str, QuantFormat | None] = field(default_factory=dict)
    file_bytes: int = 0

    @property
    def is_quantized(self) -> bool:
        """Whether its files are."""
        return bool(getattr(self.config, "quantization_config", None))

    def dtype(self, wanted: Any) -> torch.dtype:
        """The dtype that `from_pretrained(dtype=wanted)` would use.

        Raises:
            InputError: none that weights can have.
        """
        if wanted is not None and wanted != "auto":
            return weight_dtype(wanted)
        if self.config.dtype is not None:
            return weight_dtype(self.config.dtype, name="config.dtype")
        floats = (spec.dtype for spec in self.stored.values() if spec.dtype.is_floating_point)
        return next(floats, torch.float32)

    def quantized_dtype(self, wanted: Any, kind: str) -> torch.dtype:
        """The same for a quantized model: the CPU's products with quantized weights compute in fp32.

        Args:
            wanted: a dtype, its name, or "auto".
            kind: of device, "cpu" or "cuda".
        """
        return torch.float32 if kind == "cpu" and wanted in (None, "auto") else self.dtype(wanted)


def find_model(model: str | os.PathLike[str] | SeedOssConfig, **where: Any) -> PlannedModel:
    """Look a model up; of a hub model only the configuration is fetched.

    Args:
        model: a folder, a GGUF file, a hub id, "demo", one of `NAMED_SHAPES`, or a configuration.
        **where: revision, cache_dir, token, local_files_only and subfolder, see `seed_oss.files.resolve_model`.

    Raises:
        MissingFileError, HubError, UnsafeFileError, CheckpointError: the files cannot be had, or are damaged.
        ConfigError: a wrong configuration.
        MissingExtraError, UnsupportedModelError: a GGUF file that cannot be read, or without the package `gguf`.
    """
    if isinstance(model, SeedOssConfig):
        return PlannedModel(model.name_or_path or "a configuration", model, {})
    if isinstance(model, str) and model.lower() in NAMED_SHAPES:
        return PlannedModel(model.lower(), SeedOssConfig(**NAMED_SHAPES[model.lower()]), {})
    file = gguf_file(model)
    if file is not None:
        found = GGUFSource(file)
        file_bytes = sum(one.source.num_bytes for one in found.model.plan)
        return PlannedModel(os.fspath(model), found.model.config, found.specs, found.blocks, file_bytes)
    folder = resolve_model(model, patterns=["config.json"], **where)
    return PlannedModel(os.fspath(model), SeedOssConfig.from_pretrained(folder), _headers(folder))


def _headers(folder: Path) -> Mapping[str, TensorSpec]:
    if not (model_file_exists(folder, SINGLE_FILE) or model_file_exists(folder, INDEX_FILE)):
        return {}
    return CheckpointSource(folder).specs
