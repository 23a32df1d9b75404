"""Every tensor of a model, from its configuration alone; nothing is built."""

from dataclasses import dataclass
from typing import Literal

from seed_oss.config import SeedOssConfig

Part = Literal["embedding", "layers", "head", "other"]


@dataclass(frozen=True, slots=True)
class TensorShape:
    """A parameter.

    Attributes:
        name: as in the state dict of a SeedOssForCausalLM, such as "model.layers.0.mlp.up_proj.weight".
        shape: its sizes; two for the weight of a linear layer or embedding.
        part: what of the model it belongs to.
        count: how many such tensors there are; layers are alike, so one stands for all.
    """

    name: str
    shape: tuple[int, ...]
    part: Part
    count: int = 1

    @property
    def num_elements(self) -> int:
        """Numbers in all `count` of them."""
        result = self.count
        for size in self.shape:
            result *= size
        return result


def model_tensors(config: SeedOssConfig) -> list[TensorShape]:
    """The parameters of a model, shared ones once.

    Args:
        config: of the model; the first of its `architectures` says which head there is, a language model's by default.
    """
    embedding = TensorShape("model.embed_tokens.weight", (config.vocab_size, config.hidden_size), "embedding")
    norm = TensorShape("model.norm.weight", (config.hidden_size,), "other")
    return [embedding, *_layer_tensors(config), norm, *_head_tensors(config)]


def _layer_tensors(config: SeedOssConfig) -> list[TensorShape]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
    linears = {
        "self_attn.q_proj": (queries, hidden, config.attention_bias),
        "self_attn.k_proj": (keys, hidden, config.attention_bias),
        "self_attn.v_proj": (keys, hidden, config.attention_bias),
        "self_attn.o_proj": (hidden, queries, config.attention_out_bias),
        "mlp.gate_proj": (inner, hidden, config.mlp_bias),
        "mlp.up_proj": (inner, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, inner, config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (rows, columns, has_bias) in linears.items():
        shapes[f"{name}.weight"] = (rows, columns)
        if has_bias:
            shapes[f"{name}.bias"] = (rows,)
    shapes |= {f"{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return [
        TensorShape(f"model.layers.0.{name}", shape, "layers", config.num_hidden_layers)
        for name, shape in shapes.items()
    ]


def _head_tensors(config: SeedOssConfig) -> list[TensorShape]:
    kind, hidden = (config.architectures or ["SeedOssForCausalLM"])[0], config.hidden_size
    if kind == "SeedOssModel":
        return []
    if kind == "SeedOssForQuestionAnswering":
        return [TensorShape("qa_outputs.weight", (2, hidden), "head"), TensorShape("qa_outputs.bias", (2,), "head")]
    if kind == "SeedOssForTokenClassification":
        weight, bias = ((config.num_labels, hidden), (config.num_labels,))
        tensors = [TensorShape("score.weight", weight, "head"), TensorShape("score.bias", bias, "head")]
        return tensors if getattr(config, "token_classification_bias", True) else tensors[:1]
    if kind == "SeedOssForSequenceClassification":
        return [TensorShape("score.weight", (config.num_labels, hidden), "head")]
    if config.tie_word_embeddings:
        return []
    return [TensorShape("lm_head.weight", (config.vocab_size, hidden), "head")]


def has_language_head(config: SeedOssConfig) -> bool:
    """Whether the model gives a number per word of the vocabulary."""
    return (config.architectures or ["SeedOssForCausalLM"])[0] == "SeedOssForCausalLM"


def part_of(name: str) -> Part:
    """The part that a stored tensor belongs to, by its name."""
    pieces = name.split(".")
    if "layers" in pieces:
        return "layers"
    if "embed_tokens" in pieces:
        return "embedding"
    return "head" if pieces[0] in ("lm_head", "score", "qa_outputs") else "other"
