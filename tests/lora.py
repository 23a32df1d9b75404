"""Adapters for tests: made by peft, with numbers that matter."""

import warnings
from pathlib import Path
from typing import Any

import peft
import torch

from seed_oss import SeedOssForCausalLM
from tests.factory import tiny_model

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def small_model(**overrides: Any) -> Any:
    """A model whose heads the kernels take; the same weights every time."""
    return tiny_model(SeedOssForCausalLM, **{"head_dim": 16, "hidden_size": 64, **overrides})


def with_adapter(model: Any, seed: int, **settings: Any) -> Any:
    """The model, wrapped by peft, which changes it."""
    fields: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": list(ALL), "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**{**fields, **settings})).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(wrapped.named_parameters()):
        if "lora_" in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return wrapped


def saved(folder: Path, seed: int, model: Any = None, **settings: Any) -> tuple[Path, Any]:
    """A folder with an adapter, and the model wrapped with it."""
    wrapped = with_adapter(small_model() if model is None else model, seed, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.save_pretrained(folder)
    return folder, wrapped
