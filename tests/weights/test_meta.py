"""Building without memory and without initialising."""

import subprocess
import sys

import torch
from torch import nn

from seed_oss.weights import on_meta_device

LAYERS = (
    lambda: nn.Linear(4, 6),
    lambda: nn.Embedding(5, 3, padding_idx=1),
    lambda: nn.LayerNorm(4),
    lambda: nn.RMSNorm(4),
)

ROPE: list[dict[str, object]] = [
    {"rope_type": "default", "rope_theta": 1e4},
    {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0},
    {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    {"rope_type": "llama3", "rope_theta": 1e4, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
]


def test_shapes_and_names_are_those_of_a_real_one() -> None:
    for make in LAYERS:
        real = make()
        with on_meta_device():
            meta = make()
        assert {name: tensor.shape for name, tensor in meta.state_dict().items()} == {
            name: tensor.shape for name, tensor in real.state_dict().items()
        }
        assert all(parameter.is_meta and parameter.requires_grad for parameter in meta.parameters())


def test_initialisation_outside_is_untouched() -> None:
    with on_meta_device():
        pass
    assert nn.init.ones_(torch.zeros(2)).tolist() == [1.0, 1.0]
    assert torch.zeros(2).fill_(3.0).tolist() == [3.0, 3.0]


def test_no_model_makes_torch_import_its_compiler() -> None:
    """Random numbers or arithmetic on the meta device would, which takes seconds. In a fresh interpreter."""
    code = f"""
import sys
import seed_oss
from seed_oss.weights import on_meta_device
from tests.factory import tiny_config
with on_meta_device():
    for rope in {ROPE!r}:
        for name in ("SeedOssForCausalLM", "SeedOssForQuestionAnswering", "SeedOssForTokenClassification"):
            getattr(seed_oss, name)(tiny_config(rope_parameters=rope))
found = [name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules]
sys.exit("imported: " + str(found) if found else 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
