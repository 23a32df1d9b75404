"""Small checkpoint files for tests, written without our own writer."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def write_file(folder: Path, tensors: dict[str, torch.Tensor], name: str = "model.safetensors") -> Path:
    """One safetensors file, by the safetensors library."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / name, metadata={"format": "pt"})
    return folder


def write_shards(folder: Path, *shards: dict[str, torch.Tensor]) -> Path:
    """Numbered shards and their index."""
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder, tensors, name)
        weight_map.update(dict.fromkeys(tensors, name))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def random_tensors(
    *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Tensors named a, b, c, ..."""
    generator = torch.Generator().manual_seed(seed)
    return {
        chr(ord("a") + index): torch.randn(shape, generator=generator).to(dtype) for index, shape in enumerate(shapes)
    }
