"""Low-rank adapters in peft's format: adapter_config.json and adapter_model.safetensors, somebody else's data."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from seed_oss.config import SeedOssConfig
from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.files import TensorInfo, open_model_file, parse_safetensors_header
from seed_oss.files.names import short
from seed_oss.nn.lora import PROJECTIONS, LowRank
from seed_oss.weights.dtypes import TORCH_DTYPES
from seed_oss.weights.lora_config import LoraSettings, read_lora_settings

WEIGHTS_FILE = "adapter_model.safetensors"
_DTYPES = ("F32", "BF16", "F16")
_NAME = re.compile(
    r"base_model\.model\.(?:model\.)?(layers\.(?:0|[1-9]\d{0,5})\.(?:self_attn|mlp)\.[a-z]+_proj)\.lora_([AB])\.weight"
)
_DIGEST_FORMAT = b"lora 1"


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter that fits a model.

    Attributes:
        low_ranks: "layers.0.self_attn.q_proj" and the like to what is added there.
        digest: 32 bytes; equal ones mean equal adapters.
    """

    low_ranks: Mapping[str, LowRank]
    digest: bytes


class _Pair(NamedTuple):
    a: TensorInfo
    b: TensorInfo


def read_lora(folder: str | Path, config: SeedOssConfig, device: torch.device | str = "cpu") -> LoraAdapter:
    """Read an adapter. No code is run, and nothing is read before its size is known to be right.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors, as peft's `save_pretrained` writes them.
        config: of the model that it is for.
        device: where its tensors go; they are fp32 there.

    Raises:
        CheckpointError: a file is malformed, or does not fit the model.
        UnsupportedModelError: another kind of adapter, or one that changes more than projections of the layers.
        MissingFileError, UnsafeFileError: a file is not there, or must not be opened.
    """
    settings = read_lora_settings(folder)
    source = str(Path(folder) / WEIGHTS_FILE)
    with open_model_file(folder, WEIGHTS_FILE) as file:
        pairs = _pairs(parse_safetensors_header(file, source=source), source)
        _check_fit(pairs, settings, config, source)
        digest = hashlib.sha256(_DIGEST_FORMAT)
        low_ranks = {
            path: _read_pair(file, path, pair, settings.scaling_of(f"model.{path}"), digest, source)
            for path, pair in sorted(pairs.items())
        }
    moved = {path: LowRank(a.to(device), b.to(device), scaling) for path, (a, b, scaling) in low_ranks.items()}
    return LoraAdapter(moved, digest.digest())


def _pairs(header: Mapping[str, TensorInfo], source: str) -> dict[str, _Pair]:
    """The tensors of each module."""
    found: dict[str, dict[str, TensorInfo]] = {}
    for name, info in header.items():
        match = _NAME.fullmatch(name)
        if match is None or match[1].rpartition(".")[2] not in PROJECTIONS:
            raise UnsupportedModelError(
                f"{source}: tensor {short(name, 120)} is no lora_A or lora_B of a layer's {', '.join(PROJECTIONS)}; "
                "train an adapter of these alone, and save it with save_embedding_layers=False"
            )
        if match[2] in found.setdefault(match[1], {}):
            raise CheckpointError(f"{source}: {match[1]} has two tensors lora_{match[2]}; save the adapter again")
        found[match[1]][match[2]] = info
    lonely = next((path for path, both in found.items() if len(both) < 2), None)
    if lonely is not None or not found:
        which = "it holds no tensor" if lonely is None else f"{lonely} has not both lora_A and lora_B"
        raise CheckpointError(f"{source}: {which}; save the adapter again")
    return {path: _Pair(both["A"], both["B"]) for path, both in found.items()}


def _check_fit(pairs: Mapping[str, _Pair], settings: LoraSettings, config: SeedOssConfig, source: str) -> None:
    """The adapted modules are those that were meant, and of this model's shapes."""
    shapes = _shapes(config)
    for path, pair in pairs.items():
        if path not in shapes:
            raise CheckpointError(
                f"{source}: there is no {path} in the model, which has {config.num_hidden_layers} layers; "
                "the adapter is for another model"
            )
        if settings.wants(f"model.{path}") is False:
            raise CheckpointError(f"{source}: {path} is not among target_modules of {settings.source}; files are mixed")
        _check_pair(path, pair, settings.rank_of(f"model.{path}"), shapes[path], source)
    missing = next((path for path in shapes if settings.wants(f"model.{path}") and path not in pairs), None)
    if missing is not None:
        raise CheckpointError(
            f"{source}: {missing} is missing, and target_modules of {settings.source} names it; fetch the adapter again"
        )
    _check_targets(settings, shapes)


def _check_targets(settings: LoraSettings, shapes: Mapping[str, tuple[int, int]]) -> None:
    for end in settings.targets or ():
        if not any(f"model.{path}" == end or f"model.{path}".endswith(f".{end}") for path in shapes):
            raise UnsupportedModelError(
                f"{settings.source}: target_modules names {short(end)}; of this model may be adapted "
                f"{', '.join(PROJECTIONS)}: train the adapter on these"
            )


def _check_pair(path: str, pair: _Pair, rank: int, shape: tuple[int, int], source: str) -> None:
    wanted = {"lora_A": (rank, shape[1]), "lora_B": (shape[0], rank)}
    for (name, size), info in zip(wanted.items(), pair, strict=True):
        if info.shape != size:
            raise CheckpointError(
                f"{source}: {path}.{name} is {list(info.shape)}; rank {rank} and this model make it {list(size)}: the "
                "adapter is for another model, or its config for another adapter"
            )
        if info.dtype not in _DTYPES:
            raise CheckpointError(f"{source}: {path}.{name} is {info.dtype}; it must be one of {', '.join(_DTYPES)}")


def _shapes(config: SeedOssConfig) -> dict[str, tuple[int, int]]:
    """Module to (out_features, in_features)."""
    hidden, wide = config.hidden_size, config.intermediate_size
    heads, kv_heads = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
    of_leaf = {
        "q_proj": (heads, hidden),
        **dict.fromkeys(("k_proj", "v_proj"), (kv_heads, hidden)),
        "o_proj": (hidden, heads),
        **dict.fromkeys(("gate_proj", "up_proj"), (wide, hidden)),
        "down_proj": (hidden, wide),
    }
    return {
        f"layers.{index}.{part}.{leaf}": of_leaf[leaf]
        for index in range(config.num_hidden_layers)
        for leaf, part in PROJECTIONS.items()
    }


def _read_pair(file: BinaryIO, path: str, pair: _Pair, scaling: float, digest: "hashlib._Hash", source: str) -> LowRank:
    digest.update(f"{path} {scaling!r} {pair.a.dtype} {pair.a.shape} {pair.b.dtype} {pair.b.shape}".encode())
    a, b = (_read(file, info, digest, f"{source}: {path}") for info in pair)
    return LowRank(a, b, scaling)


def _read(file: BinaryIO, info: TensorInfo, digest: "hashlib._Hash", where: str) -> Tensor:
    file.seek(info.start)
    data = bytearray(file.read(info.end - info.start))
    if len(data) < info.end - info.start:
        raise CheckpointError(f"{where} ended while it was being read; fetch the adapter again")
    digest.update(data)
    tensor = torch.frombuffer(data, dtype=TORCH_DTYPES[info.dtype]).view(info.shape).float()
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(f"{where} has a number that is NaN or infinite; train or fetch the adapter again")
    return tensor
