"""Writes our weights for peers, in a process of its own: `python -m seed_oss.bench.export JSON`.

The bits stay the same wherever the peer's format holds them: symmetric groups of 32 are its Q4_0 and Q8_0, groups with
minimums its Q4_1; everything for OpenVINO. Weights in floating point are rounded to the type asked for by gguf's own
code.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seed_oss.bench.own_model import load_model
from seed_oss.errors import InputError
from seed_oss.nn.quantized_linear import QuantizedModule
from seed_oss.ops.grouped_weight import GroupedWeight
from seed_oss.quant.gguf_package import require_gguf

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOKENIZER_FILES = ("tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja")
OTHER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def main() -> None:
    """Writes what the argument says: `model`, `kind` ("gguf", "graph", "checkpoint"), `path`, and for gguf a `type`."""
    what = json.loads(sys.argv[1])
    model = load_model(what["model"])
    path = Path(what["path"])
    if what["kind"] == "gguf":
        write_gguf(model, path, what.get("type"))
    elif what["kind"] == "graph":
        write_arrays(model, path)
    else:
        write_checkpoint(model, Path(what["model"]["directory"]), path)


def write_checkpoint(model: Any, source: Path, path: Path) -> None:
    """A quantized checkpoint with the tokenizer of the one that it comes from."""
    model.save_pretrained(path)
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, path / file.name)


def write_gguf(model: Any, path: Path, kind: str | None = None) -> None:
    """A GGUF file of the architecture seed_oss, without a vocabulary's texts.

    Args:
        model: any SeedOssForCausalLM on the CPU.
        path: of the file.
        kind: what plain matrices become ("Q4_0", "Q8_0", ...); quantized ones keep their bits. The embedding and an
            untied head become Q8_0, as in llama.cpp's own files.
    """
    gguf: Any = require_gguf()
    writer = gguf.GGUFWriter(path, "seed_oss")
    _add_metadata(writer, model.config)
    for name, module in _modules(model):
        target = _gguf_name(name)
        bias = getattr(module, "bias", None)
        if bias is not None:
            writer.add_tensor(f"{target}.bias", bias.detach().float().numpy())
        _add_weight(gguf, writer, f"{target}.weight", module, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: Any, config: Any) -> None:
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        raise InputError(f"rope_type is {rope['rope_type']!r}; only 'default' is written for a peer")
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _modules(model: Any) -> list[tuple[str, Any]]:
    """Every module with a weight, by name; the head only where it is not the embedding."""
    found = [(name, module) for name, module in model.named_modules() if _has_weight(module)]
    embedding, head = model.model.embed_tokens, model.lm_head
    attribute = "packed" if isinstance(head, QuantizedModule) else "weight"
    tied = getattr(head, attribute) is getattr(embedding, attribute, None)
    return [(name, module) for name, module in found if not (tied and name == "lm_head")]


def _has_weight(module: Any) -> bool:
    return isinstance(module, QuantizedModule) or "weight" in module._parameters


def _gguf_name(name: str) -> str:
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    _, _, index, rest = name.split(".", 3)
    return f"blk.{index}.{LAYER_NAMES[rest]}"


def _add_weight(gguf: Any, writer: Any, name: str, module: Any, kind: str | None) -> None:
    if isinstance(module, QuantizedModule):
        kind, data = gguf_blocks(module.grouped)
        writer.add_tensor(name, data.numpy(), raw_dtype=gguf.GGMLQuantizationType[kind])
        return
    numbers = module.weight.detach().float().numpy()
    if numbers.ndim == 1 or kind is None:
        writer.add_tensor(name, numbers)
        return
    type_ = gguf.GGMLQuantizationType["Q8_0" if name.startswith(("token_embd", "output.")) else kind]
    writer.add_tensor(name, gguf.quants.quantize(numbers, type_), raw_dtype=type_)


def gguf_blocks(weight: GroupedWeight) -> tuple[str, Tensor]:
    """A weight in groups of 32 as llama.cpp's blocks.

    Returns:
        The type's name, and uint8 `[rows, bytes of a row]`.

    Raises:
        InputError: groups of another size, or 8 bits that are not symmetric.
    """
    format = weight.format
    if format.group_size != 32 or (format.bits == 8 and format.zero != "symmetric"):
        raise InputError(f"{format} has no equal in GGUF; use int4, int4-min, int4-sym or int8")
    q = weight.q.unflatten(-1, (-1, 32))
    parts = [_half_bytes(weight.scale)]
    if format.bits == 8:
        return "Q8_0", torch.cat((*parts, q ^ 0x80), -1).flatten(1)  # from 0 to 255 to two's complement
    kind = "Q4_0"
    if format.zero != "symmetric":
        kind = "Q4_1"
        parts.append(_half_bytes(_minimum(weight)))
    return kind, torch.cat((*parts, q[..., :16] | (q[..., 16:] << 4)), -1).flatten(1)


def _minimum(weight: GroupedWeight) -> Tensor:
    if weight.minimum is not None:
        return weight.minimum
    assert weight.zero_point is not None
    return -weight.zero_point.float() * weight.scale.float()


def _half_bytes(params: Tensor) -> Tensor:
    return params.half().contiguous().view(torch.uint8).unflatten(-1, (-1, 2))


def write_arrays(model: Any, path: Path) -> None:
    """Our integers, scales, zero points, norms and biases as plain bytes in `path`, and an index beside it.

    Index: name to `[dtype, shape, first byte]`; 4-bit integers lie two in a byte, the first one low. Also "config".
    """
    index: dict[str, Any] = {"config": _graph_config(model)}
    with path.open("wb") as file:
        for name, module in _modules(model):
            for part, (dtype, shape, data) in _arrays(module).items():
                index[f"{name}.{part}"] = [dtype, shape, file.tell()]
                file.write(data.contiguous().numpy().tobytes())
                file.write(bytes(-file.tell() % 64))
    path.with_suffix(".json").write_text(json.dumps(index), encoding="utf-8")


def _graph_config(model: Any) -> dict[str, Any]:
    config = model.config
    names = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps")
    if config.rope_parameters["rope_type"] != "default":
        raise InputError("only the default rotary positions are written for a peer")
    return {**{name: getattr(config, name) for name in names}, "rope_theta": config.rope_parameters["rope_theta"]}


def _arrays(module: Any) -> dict[str, tuple[str, list[int], Tensor]]:
    found: dict[str, tuple[str, list[int], Tensor]] = {}
    bias = getattr(module, "bias", None)
    if bias is not None:
        found["bias"] = ("f32", list(bias.shape), bias.detach().float())
    if not isinstance(module, QuantizedModule):
        return {**found, "weight": ("f32", list(module.weight.shape), module.weight.detach().float())}
    weight = module.grouped
    if weight.minimum is not None:
        raise InputError("groups with minimums are not written for this peer; use int4, int4-sym or int8")
    bits, groups = weight.format.bits, list(weight.scale.shape)
    zero = weight.zero_point
    if zero is None:
        zero = torch.full(groups, 2 ** (bits - 1), dtype=torch.uint8)
    found["q"] = (f"u{bits}", [*groups, weight.format.group_size], _packed(weight.q, bits))
    found["zero"] = (f"u{bits}", [*groups, 1], _packed(zero, bits))
    found["scale"] = ("f16", [*groups, 1], weight.scale.half())
    return found


def _packed(values: Tensor, bits: int) -> Tensor:
    if bits == 8:
        return values
    flat = values.flatten()
    if flat.numel() % 2:
        flat = torch.cat((flat, flat.new_zeros(1)))
    return flat[0::2] | (flat[1::2] << 4)


if __name__ == "__main__":
    main()
