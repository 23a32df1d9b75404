"""What a GGUF file's metadata becomes, and everything that is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from seed_oss.config import SeedOssConfig
from seed_oss.errors import CheckpointError, SeedOssError, UnsupportedModelError
from seed_oss.quant.gguf_config import config_from_gguf, plan_tensors
from seed_oss.quant.gguf_header import GGUFHeader, read_gguf_header
from tests.parity.oracle import oracle_config
from tests.quant import gguf_factory as factory
from tests.quant.gguf_factory import Recipe, random_weights, write_gguf


def header_of(path: Path, architecture: str = "seed_oss", **recipe: Any) -> GGUFHeader:
    weights = recipe.pop("weights", None) or random_weights(architecture)
    write_gguf(path / "a.gguf", Recipe(architecture, weights, **recipe))
    with (path / "a.gguf").open("rb") as file:
        return read_gguf_header(file, source="a.gguf")


def config_of(header: GGUFHeader, rope_factors: np.ndarray | None = None) -> SeedOssConfig:
    config = config_from_gguf(header, dtype="float32", rope_factors=rope_factors)
    config.validate()
    plan_tensors(header, config)
    return config


def test_every_field(tmp_path: Path) -> None:
    config = config_of(header_of(tmp_path))
    expected = SeedOssConfig(
        architectures=["SeedOssForCausalLM"],
        dtype="float32",
        vocab_size=factory.VOCAB_SIZE,
        hidden_size=factory.HIDDEN,
        intermediate_size=factory.INNER,
        num_hidden_layers=factory.LAYERS,
        num_attention_heads=factory.HEADS,
        num_key_value_heads=factory.KV_HEADS,
        head_dim=factory.HEAD_DIM,
        max_position_embeddings=factory.CONTEXT_LEN,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e7},
        bos_token_id=factory.TOKENS.index("<s>"),
        eos_token_id=factory.TOKENS.index("</s>"),
        pad_token_id=factory.TOKENS.index("<pad>"),
    )
    assert config.to_dict() == expected.to_dict()
    assert (config.attention_dropout, config.residual_dropout) == (0.1, 0.1)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_other_architectures_have_no_dropout(architecture: str, tmp_path: Path) -> None:
    config = config_of(header_of(tmp_path, architecture))
    assert (config.attention_dropout, config.residual_dropout) == (0.0, 0.0)
    assert config.attention_bias is factory.BIASED[architecture]


def test_what_a_file_may_leave_out(tmp_path: Path) -> None:
    keys = ("attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.freq_base")
    left_out: dict[str, Any] = {f"llama.{key}": None for key in keys}
    left_out |= {f"tokenizer.ggml.{name}_token_id": None for name in ("bos", "eos", "padding")}
    weights = random_weights("llama", tied=True)
    # 8 heads of 256 / 8 dimensions, as many key/value heads
    for name in [name for name in weights if "q_proj" in name or "k_proj" in name or "v_proj" in name]:
        weights[name] = np.ones((256, 256), np.float32)
    for name in [name for name in weights if "o_proj" in name]:
        weights[name] = np.ones((256, 256), np.float32)
    config = config_of(header_of(tmp_path, "llama", weights=weights, metadata=left_out))
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta) == (8, 32, 10_000.0)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)
    assert config.tie_word_embeddings is True


def test_biases_follow_the_tensors(tmp_path: Path) -> None:
    weights = random_weights("llama", out_bias=True, mlp_bias=True)
    config = config_of(header_of(tmp_path, "llama", weights=weights))
    assert (config.attention_bias, config.attention_out_bias, config.mlp_bias) == (False, True, True)


REFUSED_KEYS = {
    "expert_count": np.uint32(8),
    "expert_used_count": np.uint32(2),
    "attention.sliding_window": np.uint32(4096),
    "attn_logit_softcapping": np.float32(50),
    "final_logit_softcapping": np.float32(30),
    "attention.causal": False,
    "attention.scale": np.float32(0.5),
    "logit_scale": np.float32(0.1),
    "residual_scale": np.float32(0.2),
    "embedding_scale": np.float32(12),
    "attention.max_alibi_bias": np.float32(8),
    "attention.clamp_kqv": np.float32(8),
    "use_parallel_residual": True,
    "pooling_type": np.uint32(1),
    "something_new": "x",
    "rope.scaling.type": "longrope",
    "rope.scaling.attn_factor": np.float32(1.5),
    "rope.scaling.alpha": np.float32(1000),
    "rope.dimension_count": np.uint32(32),
    "attention.value_length": np.uint32(128),
    "rope.dimension_sections": [np.int32(1), np.int32(2)],
}


@pytest.mark.parametrize("key", REFUSED_KEYS)
@pytest.mark.parametrize("architecture", ["seed_oss", "llama"])
def test_features_that_the_network_lacks(architecture: str, key: str, tmp_path: Path) -> None:
    header = header_of(tmp_path, architecture, metadata={f"{architecture}.{key}": REFUSED_KEYS[key]})
    with pytest.raises(UnsupportedModelError, match=key):
        config_of(header)


def test_features_that_are_switched_off(tmp_path: Path) -> None:
    off = {"expert_count": np.uint32(0), "attention.sliding_window": np.uint32(0), "attention.causal": True}
    off |= {"rope.scaling.type": "none", "rope.scaling.finetuned": True, "rope.dimension_count": np.uint32(64)}
    off |= {"vocab_size": np.uint32(factory.VOCAB_SIZE)}
    config = config_of(header_of(tmp_path, metadata={f"seed_oss.{key}": value for key, value in off.items()}))
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 1e7}


REFUSED_TENSORS = {
    "blk.0.attn_q_norm.weight": (64,),
    "blk.1.attn_k_norm.weight": (64,),
    "blk.0.ffn_gate_inp.weight": (8, 256),
    "blk.0.ffn_down_exps.weight": (8, 256, 512),
    "blk.0.attn_sinks.weight": (8,),
    "blk.2.attn_norm.weight": (256,),
    "output.bias": (factory.VOCAB_SIZE,),
    "v.patch_embd.weight": (4, 4),
}


@pytest.mark.parametrize("name", REFUSED_TENSORS)
def test_tensors_that_have_no_place(name: str, tmp_path: Path) -> None:
    header = header_of(tmp_path, extra={name: np.ones(REFUSED_TENSORS[name], np.float32)})
    with pytest.raises(UnsupportedModelError, match=name):
        config_of(header)


def test_missing_and_misshaped_tensors_are_named_together(tmp_path: Path) -> None:
    weights = random_weights()
    weights["model.norm.weight"] = np.ones(128, np.float32)
    header = header_of(tmp_path, weights=weights, drop=("blk.1.ffn_up.weight", "blk.0.attn_k.bias"))
    with pytest.raises(CheckpointError) as caught:
        config_of(header)
    for part in ("blk.1.ffn_up.weight (missing)", "blk.0.attn_k.bias (missing)", "output_norm.weight ((128,)"):
        assert part in str(caught.value)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    header = header_of(tmp_path)
    for key, value, message in (
        ("general.type", "adapter", "holds a 'adapter'"),
        ("split.count", 3, "gguf-split --merge"),
        ("general.architecture", "gemma3", "'gemma3' is not supported, seed_oss, llama, qwen2 are"),
    ):
        with pytest.raises(UnsupportedModelError, match=message):
            config_of(replace(header, metadata={**header.metadata, key: value}))


IMPOSSIBLE: dict[str, Any] = {
    "seed_oss.block_count": None,
    "seed_oss.embedding_length": "256",
    "seed_oss.context_length": np.uint32(0),
    "seed_oss.attention.head_count": [np.uint32(8), np.uint32(4)],
    "seed_oss.attention.head_count_kv": np.uint32(3),
    "seed_oss.attention.layer_norm_rms_epsilon": np.float32("nan"),
    "seed_oss.rope.freq_base": np.float32("inf"),
    "seed_oss.rope.scaling.factor": np.float32("-1"),
    "seed_oss.vocab_size": np.uint32(7),
    "seed_oss.attention.key_length": np.uint32(63),
    "tokenizer.ggml.eos_token_id": np.float32(1),
    "seed_oss.feed_forward_length": np.uint32(2**31 + 5),
}


@pytest.mark.parametrize("key", IMPOSSIBLE)
def test_impossible_values(key: str, tmp_path: Path) -> None:
    with pytest.raises(SeedOssError):
        config_of(header_of(tmp_path, metadata={key: IMPOSSIBLE[key]}))


def test_equal_numbers_per_layer_count_as_one(tmp_path: Path) -> None:
    metadata = {"seed_oss.attention.head_count_kv": [np.uint32(2), np.uint32(2)]}
    assert config_of(header_of(tmp_path, metadata=metadata)).num_key_value_heads == 2


@pytest.mark.parametrize("key", ["scaling.factor", "scale_linear"])
def test_linear_scaling(key: str, tmp_path: Path) -> None:
    config = config_of(header_of(tmp_path, "qwen2", metadata={f"qwen2.rope.{key}": np.float32(4)}))
    assert config.rope_parameters == {"rope_type": "linear", "rope_theta": 1e7, "factor": 4.0}


YARN = {
    "scaling.type": "yarn",
    "scaling.factor": np.float32(4),
    "scaling.original_context_length": np.uint32(512),
}


def test_yarn(tmp_path: Path) -> None:
    more = {"scaling.yarn_beta_fast": np.float32(16), "scaling.yarn_attn_factor": np.float32(0.1 * np.log(4) + 1)}
    keys = {f"qwen2.rope.{key}": value for key, value in (YARN | more).items()}
    config = config_of(header_of(tmp_path, "qwen2", metadata=keys))
    assert config.rope_parameters == {
        "rope_type": "yarn",
        "rope_theta": 1e7,
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "beta_fast": 16.0,
        "beta_slow": 1.0,
    }


@pytest.mark.parametrize(
    ("key", "value"), [("yarn_attn_factor", 1.0), ("yarn_ext_factor", 0.5), ("yarn_log_multiplier", 0.1)]
)
def test_yarn_that_means_different_things_to_different_engines(key: str, value: float, tmp_path: Path) -> None:
    keys = {f"qwen2.rope.{name}": setting for name, setting in YARN.items()}
    keys[f"qwen2.rope.scaling.{key}"] = np.float32(value)
    with pytest.raises(UnsupportedModelError, match=key):
        config_of(header_of(tmp_path, "qwen2", metadata=keys))


def llama3_factors(factor: float, low: float, high: float, length: int) -> np.ndarray:
    """The divisors that llama.cpp's converter stores, from the frequencies that transformers computes."""
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": factor, "low_freq_factor": low}
    rope |= {"high_freq_factor": high, "original_max_position_embeddings": length}
    config = oracle_config(SeedOssConfig(head_dim=64, rope_parameters=rope))
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 5e5 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    return (plain / scaled).float().numpy()


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_factors_become_their_four_numbers(factor: float, tmp_path: Path) -> None:
    factors = llama3_factors(factor, 1.0, 4.0, 8192)
    assert len(np.unique(factors)) > 3
    metadata = {"llama.rope.freq_base": np.float32(5e5)}
    header = header_of(tmp_path, "llama", extra={"rope_freqs.weight": factors}, metadata=metadata)
    assert config_of(header, factors).rope_parameters == {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    ones = np.ones(32, np.float32)
    assert config_of(header, ones).rope_parameters == {"rope_type": "default", "rope_theta": 5e5}


@pytest.mark.parametrize(
    "factors",
    [
        llama3_factors(8.0, 1.0, 2.0, 8192),
        llama3_factors(8.0, 1.0, 4.0, 4096),
        np.linspace(1, 8, 32, dtype=np.float32),
        np.ones(16, np.float32),
    ],
    ids=["other high_freq_factor", "other length", "something else", "other shape"],
)
def test_factors_that_are_not_llama3s(factors: np.ndarray, tmp_path: Path) -> None:
    metadata = {"llama.rope.freq_base": np.float32(5e5)}
    header = header_of(tmp_path, "llama", extra={"rope_freqs.weight": factors}, metadata=metadata)
    with pytest.raises(UnsupportedModelError, match=r"rope_freqs\.weight"):
        config_of(header, factors)
