"""From a GGUF file's metadata and tensor table to a SeedOssConfig and a plan for every tensor.

Three of llama.cpp's architectures are the same network under other names:

    seed_oss   as the reference
    qwen2      biases on q, k and v; otherwise as llama, with half-split rotary positions
    llama      rows of q and k in the order of interleaved rotary positions: within a head of d rows, row 2i+j of the
               file is row j*d/2+i of the checkpoint

Everything in the file that the network cannot express is refused by name: nothing is guessed and nothing is dropped.
Names and meanings of the keys are those of llama.cpp (src/llama-arch.cpp, src/llama-model.cpp, conversion/).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seed_oss.config import SeedOssConfig
from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.files.names import short
from seed_oss.quant.gguf_metadata import get_float, get_int, get_text
from seed_oss.quant.gguf_rope import ROPE_FREQS, rope_keys, rope_parameters

if TYPE_CHECKING:
    import numpy as np

    from seed_oss.quant.gguf_header import GGUFHeader, GGUFTensor

ARCHITECTURES = ("seed_oss", "llama", "qwen2")

# Keys below "<architecture>." that are read, here or in gguf_rope.py.
_USED_KEYS = frozenset(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "vocab_size",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
    }
)
# Keys whose feature the network lacks, with the values that switch it off.
_NEUTRAL_KEYS: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "attention.sliding_window": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "pooling_type": (0,),
    "tensor_data_layout": ("Meta AI original pth",),
}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SHOWN_NAMES = 8


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the checkpoint and where it comes from.

    Attributes:
        name: Its name in the checkpoint, such as "model.layers.0.self_attn.q_proj.weight".
        source: The tensor in the GGUF file, of the same shape.
        head_dim: Rows per head where the rows are stored for interleaved rotary positions, else 0.
    """

    name: str
    source: GGUFTensor
    head_dim: int


def architecture_of(header: GGUFHeader) -> str:
    """The file's architecture.

    Args:
        header: The file's header.

    Raises:
        UnsupportedModelError: Not one of `ARCHITECTURES`, not a language model, or one part of several.
    """
    architecture = get_text(header, "general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{header.source}: architecture {short(architecture)} is not supported, {', '.join(ARCHITECTURES)} are"
        )
    kind = get_text(header, "general.type", "model")
    if kind != "model":
        raise UnsupportedModelError(f"{header.source}: the file holds a {short(kind)}, only a whole model is supported")
    parts = get_int(header, "split.count", 0)
    if parts > 1:
        raise UnsupportedModelError(
            f"{header.source}: the file is one of {parts} parts; join them first: llama-gguf-split --merge FIRST OUT"
        )
    return architecture


def config_from_gguf(header: GGUFHeader, *, dtype: str, rope_factors: np.ndarray | None) -> SeedOssConfig:
    """The config of the model in a GGUF file.

    Args:
        header: The file's header.
        dtype: Name of the dtype that the checkpoint will be stored in.
        rope_factors: Values of the tensor rope_freqs.weight `[head_dim / 2]`, or None if the file has none.

    Returns:
        A config that a SeedOssForCausalLM with exactly the file's tensors is built from.

    Raises:
        UnsupportedModelError: The file asks for something the network lacks; the message names it.
        CheckpointError: A key is missing or impossible.
        ConfigError: The values do not go together.
    """
    architecture = architecture_of(header)
    _refuse_unknown_keys(header, architecture)
    heads = get_int(header, f"{architecture}.attention.head_count", minimum=1)
    hidden = get_int(header, f"{architecture}.embedding_length", minimum=1)
    context_len = get_int(header, f"{architecture}.context_length", minimum=1)
    head_dim = _head_dim(header, architecture, hidden, heads)
    # The file does not record dropout. The llama and qwen2 networks have none; seed_oss keeps the reference's rates.
    dropout: dict[str, Any] = {} if architecture == "seed_oss" else {"attention_dropout": 0.0, "residual_dropout": 0.0}
    return SeedOssConfig(
        architectures=["SeedOssForCausalLM"],
        dtype=dtype,
        vocab_size=_vocab_size(header, architecture),
        hidden_size=hidden,
        intermediate_size=get_int(header, f"{architecture}.feed_forward_length", minimum=1),
        num_hidden_layers=get_int(header, f"{architecture}.block_count", minimum=1),
        num_attention_heads=heads,
        num_key_value_heads=get_int(header, f"{architecture}.attention.head_count_kv", heads, minimum=1),
        head_dim=head_dim,
        max_position_embeddings=context_len,
        rms_norm_eps=get_float(header, f"{architecture}.attention.layer_norm_rms_epsilon"),
        rope_parameters=rope_parameters(header, architecture, head_dim, context_len, rope_factors),
        tie_word_embeddings="output.weight" not in header.tensors,
        attention_bias="blk.0.attn_q.bias" in header.tensors,
        attention_out_bias="blk.0.attn_output.bias" in header.tensors,
        mlp_bias="blk.0.ffn_up.bias" in header.tensors,
        **_token_ids(header),
        **dropout,
    )


def plan_tensors(header: GGUFHeader, config: SeedOssConfig) -> list[PlannedTensor]:
    """Pair every tensor of the checkpoint with its source.

    Args:
        header: The file's header.
        config: What `config_from_gguf` made of it.

    Returns:
        The checkpoint's tensors, in the order of the network.

    Raises:
        CheckpointError: Tensors are missing, or have another shape than the config says; all are named together.
        UnsupportedModelError: The file has tensors that the network has no place for; all are named together.
    """
    architecture = architecture_of(header)
    expected = _expected_tensors(config, architecture)
    _compare_tensors(header, {source: shape for source, _, shape in expected})
    permuted = ("attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias") if architecture == "llama" else ()
    return [
        PlannedTensor(name, header.tensors[source], config.head_dim if permuted and source.endswith(permuted) else 0)
        for source, name, _ in expected
    ]


def _refuse_unknown_keys(header: GGUFHeader, architecture: str) -> None:
    prefix = f"{architecture}."
    used = {*_USED_KEYS, *rope_keys()}
    for key, value in header.metadata.items():
        name = key.removeprefix(prefix)
        scalar = isinstance(value, str | int | float)
        if name == key or name in used or (scalar and value in _NEUTRAL_KEYS.get(name, ())):
            continue
        shown = short(value) if scalar else type(value).__name__
        raise UnsupportedModelError(
            f"{header.source}: {short(key)} is {shown}; the Seed-OSS network has nothing of the kind, so the model "
            "cannot be converted"
        )


def _head_dim(header: GGUFHeader, architecture: str, hidden: int, heads: int) -> int:
    head_dim = get_int(header, f"{architecture}.attention.key_length", hidden // heads, minimum=1)
    # value_length and the rotary dimensions have defaults of their own; all must come out the same.
    for key, default in (("attention.value_length", hidden // heads), ("rope.dimension_count", head_dim)):
        value = get_int(header, f"{architecture}.{key}", default, minimum=1)
        if value != head_dim:
            raise UnsupportedModelError(
                f"{header.source}: {architecture}.{key} is {value} while the heads have {head_dim} dimensions; "
                "only equal numbers are supported"
            )
    return head_dim


def _vocab_size(header: GGUFHeader, architecture: str) -> int:
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{header.source}: the tensor token_embd.weight is missing")
    rows = embedding.shape[0]
    stated = get_int(header, f"{architecture}.vocab_size", rows)
    if stated != rows:
        raise CheckpointError(
            f"{header.source}: {architecture}.vocab_size is {stated}, but token_embd.weight has {rows} rows"
        )
    return rows


def _token_ids(header: GGUFHeader) -> dict[str, Any]:
    keys = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    present = {name: f"tokenizer.ggml.{key}" for name, key in keys.items()}
    return {name: get_int(header, key) if key in header.metadata else None for name, key in present.items()}


def _expected_tensors(config: SeedOssConfig, architecture: str) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name in the GGUF file, name in the checkpoint, shape) for every tensor of the network."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes = {
        "attn_norm": (hidden,),
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    biased = {
        "attn_q": config.attention_bias,
        "attn_k": config.attention_bias,
        "attn_v": config.attention_bias,
        "attn_output": config.attention_out_bias,
        "ffn_gate": config.mlp_bias,
        "ffn_up": config.mlp_bias,
        "ffn_down": config.mlp_bias,
    }
    second_norm = "post_attention_norm" if architecture == "seed_oss" else "ffn_norm"
    layer = {**_LAYER_TENSORS, second_norm: "post_attention_layernorm"}
    shapes[second_norm] = (hidden,)
    expected: list[tuple[str, str, tuple[int, ...]]] = [
        ("token_embd.weight", "model.embed_tokens.weight", (config.vocab_size, hidden))
    ]
    for index in range(config.num_hidden_layers):
        for source, name in layer.items():
            place, target = f"blk.{index}.{source}", f"model.layers.{index}.{name}"
            expected.append((f"{place}.weight", f"{target}.weight", shapes[source]))
            if biased.get(source, False):
                expected.append((f"{place}.bias", f"{target}.bias", shapes[source][:1]))
    expected.append(("output_norm.weight", "model.norm.weight", (hidden,)))
    if not config.tie_word_embeddings:
        expected.append(("output.weight", "lm_head.weight", (config.vocab_size, hidden)))
    return expected


def _compare_tensors(header: GGUFHeader, expected: dict[str, tuple[int, ...]]) -> None:
    found = header.tensors
    unexpected = [name for name in found if name not in expected and name != ROPE_FREQS]
    if unexpected:
        raise UnsupportedModelError(
            f"{header.source}: the Seed-OSS network has no place for {_listed(unexpected)}; "
            "the model cannot be converted"
        )
    wrong = [f"{name} (missing)" for name in expected if name not in found]
    wrong += [
        f"{name} ({found[name].shape} instead of {shape})"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    if wrong:
        raise CheckpointError(f"{header.source}: tensors do not fit the metadata: {_listed(wrong)}")


def _listed(names: list[str]) -> str:
    shown = ", ".join(name if name.isprintable() else short(name) for name in names[:_SHOWN_NAMES])
    return shown + (f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else "")
