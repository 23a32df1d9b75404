"""Small GGUF files, written by the gguf package, that keep the inequalities of Seed-OSS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from tokenizers.pre_tokenizers import ByteLevel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Rows of 256 values, one block of the K formats; heads x head_dim is twice the hidden size.
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 256, 512, 2, 8, 2, 64
CONTEXT_LEN = 2048

MERGES = ("h e", "l l", "he ll", "hell o", "Ġ w", "Ġw o", "1 2", "Ġ Ġ", "ĠĠ ĠĠ")
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
SPECIAL = (("<s>", CONTROL), ("</s>", CONTROL), ("<pad>", CONTROL), ("<tool>", USER_DEFINED), ("[PAD9]", UNUSED))
TOKENS = (*sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES), *(text for text, _ in SPECIAL))
TOKEN_TYPES = (*[1] * (len(TOKENS) - len(SPECIAL)), *(kind for _, kind in SPECIAL))
VOCAB_SIZE = len(TOKENS)

# The architectures in which q, k and v have biases by nature.
BIASED = {"seed_oss": True, "qwen2": True, "llama": False}


@dataclass
class Recipe:
    """What goes into a file.

    Attributes:
        architecture: "seed_oss", "llama" or "qwen2".
        weights: Checkpoint name to fp32 values, in the layout of the checkpoint.
        metadata: Keys to set beside, or instead of, the usual ones; None leaves a key out.
        types: GGUF tensor name to storage; F32 otherwise.
        extra: More tensors, by their names in the file.
        drop: Names of tensors to leave out.
    """

    architecture: str = "seed_oss"
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, T] = field(default_factory=dict)
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    drop: tuple[str, ...] = ()


def random_weights(
    architecture: str = "seed_oss", *, seed: int = 0, tied: bool = False, out_bias: bool = False, mlp_bias: bool = False
) -> dict[str, np.ndarray]:
    """A whole checkpoint of random fp32 values, norms and biases included."""
    rng = np.random.default_rng(seed)
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB_SIZE, HIDDEN)}
    for layer in range(LAYERS):
        place = f"model.layers.{layer}"
        for name, rows, columns in (("q", queries, HIDDEN), ("k", keys, HIDDEN), ("v", keys, HIDDEN)):
            shapes[f"{place}.self_attn.{name}_proj.weight"] = (rows, columns)
            if BIASED[architecture]:
                shapes[f"{place}.self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{place}.self_attn.o_proj.weight"] = (HIDDEN, queries)
        if out_bias:
            shapes[f"{place}.self_attn.o_proj.bias"] = (HIDDEN,)
        for name, rows, columns in (("gate", INNER, HIDDEN), ("up", INNER, HIDDEN), ("down", HIDDEN, INNER)):
            shapes[f"{place}.mlp.{name}_proj.weight"] = (rows, columns)
            if mlp_bias:
                shapes[f"{place}.mlp.{name}_proj.bias"] = (rows,)
        shapes[f"{place}.input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{place}.post_attention_layernorm.weight"] = (HIDDEN,)
    shapes["model.norm.weight"] = (HIDDEN,)
    if not tied:
        shapes["lm_head.weight"] = (VOCAB_SIZE, HIDDEN)
    values = {name: rng.standard_normal(shape, dtype=np.float32) * 0.1 for name, shape in shapes.items()}
    return {name: value + 1 if name.endswith("norm.weight") else value for name, value in values.items()}


def file_name_of(name: str, architecture: str) -> str:
    """A checkpoint tensor's name in a GGUF file of llama.cpp."""
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in fixed:
        return fixed[name]
    _, _, layer, *rest, kind = name.split(".")
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm" if architecture == "seed_oss" else "ffn_norm",
    }
    return f"blk.{layer}.{parts['.'.join(rest)]}.{kind}"


def interleaved(values: np.ndarray) -> np.ndarray:
    """Rows of q or k (or their bias) as llama.cpp's converter stores them for the llama architecture, row by row."""
    result = np.empty_like(values)
    for head in range(values.shape[0] // HEAD_DIM):
        start = head * HEAD_DIM
        for pair in range(HEAD_DIM // 2):
            result[start + 2 * pair] = values[start + pair]
            result[start + 2 * pair + 1] = values[start + HEAD_DIM // 2 + pair]
    return result


def default_metadata(architecture: str) -> dict[str, Any]:
    """The metadata of an ordinary file."""
    return {
        "general.name": "tiny",
        f"{architecture}.block_count": np.uint32(LAYERS),
        f"{architecture}.context_length": np.uint32(CONTEXT_LEN),
        f"{architecture}.embedding_length": np.uint32(HIDDEN),
        f"{architecture}.feed_forward_length": np.uint32(INNER),
        f"{architecture}.attention.head_count": np.uint32(HEADS),
        f"{architecture}.attention.head_count_kv": np.uint32(KV_HEADS),
        f"{architecture}.attention.key_length": np.uint32(HEAD_DIM),
        f"{architecture}.attention.value_length": np.uint32(HEAD_DIM),
        f"{architecture}.attention.layer_norm_rms_epsilon": np.float32(1e-6),
        f"{architecture}.rope.freq_base": np.float32(1e7),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "seed-coder",
        "tokenizer.ggml.tokens": list(TOKENS),
        "tokenizer.ggml.token_type": [np.int32(kind) for kind in TOKEN_TYPES],
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": np.uint32(TOKENS.index("<s>")),
        "tokenizer.ggml.eos_token_id": np.uint32(TOKENS.index("</s>")),
        "tokenizer.ggml.padding_token_id": np.uint32(TOKENS.index("<pad>")),
        "tokenizer.chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    }


def write_gguf(path: Path, recipe: Recipe) -> Path:
    """Write a GGUF file with the gguf package's own writer.

    Returns:
        The path.
    """
    writer = gguf.GGUFWriter(path, recipe.architecture)
    metadata = {**default_metadata(recipe.architecture), **recipe.metadata}
    if "general.alignment" in metadata:
        writer.add_custom_alignment(int(metadata.pop("general.alignment")))
    for key, value in metadata.items():
        if value is not None:
            _add(writer, key, value)
    for name, values in recipe.weights.items():
        place = file_name_of(name, recipe.architecture)
        if place in recipe.drop:
            continue
        if recipe.architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            values = interleaved(values)
        _add_tensor(writer, place, values, recipe.types.get(place, T.F32))
    for place, values in recipe.extra.items():
        _add_tensor(writer, place, values, recipe.types.get(place, T.F32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantized(values: np.ndarray, kind: T, seed: int = 1) -> np.ndarray:
    """The bytes of `values` in a format; the package cannot make K and IQ formats, so those get random blocks."""
    try:
        return gguf.quants.quantize(values, kind)
    except NotImplementedError:
        block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        shape = (*values.shape[:-1], values.shape[-1] // block_len * block_bytes)
        # small enough as the high byte of a half to be finite in every place
        return np.random.default_rng(seed).integers(0, 0x3C, shape, dtype=np.uint8)


def dequantized(values: np.ndarray, kind: T) -> np.ndarray:
    """What `values` become in a format and back, by the gguf package on the whole tensor."""
    return gguf.quants.dequantize(quantized(values, kind), kind).reshape(values.shape)


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: T) -> None:
    if kind == T.F32:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, quantized(values, kind), raw_dtype=kind)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = {
        np.uint32: gguf.GGUFValueType.UINT32,
        np.int32: gguf.GGUFValueType.INT32,
        np.float32: gguf.GGUFValueType.FLOAT32,
        bool: gguf.GGUFValueType.BOOL,
        str: gguf.GGUFValueType.STRING,
    }
    if isinstance(value, list):
        plain = [item if isinstance(item, str) else item.item() for item in value]
        writer.add_key_value(key, plain, gguf.GGUFValueType.ARRAY, sub_type=kinds[type(value[0])])
    else:
        plain = value if isinstance(value, str | bool) else value.item()
        writer.add_key_value(key, plain, kinds[type(value)])
