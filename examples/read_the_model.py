"""One forward pass by hand, from the parts the model is made of, and the same numbers as the model's own.

    python examples/read_the_model.py demo

Read it beside `seed_oss/nn`: embedding, the layers' norms, attention and MLP, the final norm, the head.
"""

import argparse

import torch

from seed_oss import AutoModelForCausalLM, AutoTokenizer
from seed_oss.nn import SeedOssAttention


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding, half-split form, of `[batch, heads, length, head_dim]`."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def attention(layer: SeedOssAttention, x: torch.Tensor, head_dim: int, theta: float) -> torch.Tensor:
    """Causal attention with grouped key/value heads, `[batch, length, hidden]` in and out."""
    batch, length, _ = x.shape
    q, k, v = (
        projection(x).view(batch, length, -1, head_dim).transpose(1, 2)
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(length).float(), torch.cat((frequencies, frequencies)))
    q, k = rotate(q, angles.cos(), angles.sin()), rotate(k, angles.cos(), angles.sin())
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    scores = q @ k.transpose(-1, -2) / head_dim**0.5
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    return layer.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def main() -> None:
    """Computes the logits by hand and compares them with the model's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory, a hub id, or demo (plain RoPE)")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        x = model.model.embed_tokens(ids)
        for layer in model.model.layers:
            normed = layer.input_layernorm(x)
            x = x + attention(layer.self_attn, normed, model.config.head_dim, model.config.rope_theta)
            mlp, normed = layer.mlp, layer.post_attention_layernorm(x)
            x = x + mlp.down_proj(torch.nn.functional.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))
        by_hand = model.lm_head(model.model.norm(x))
        logits = model(ids).logits
    print(f"{len(model.model.layers)} layers, largest difference {(by_hand - logits).abs().max():.1e}")
    print(f"next word: {tokenizer.decode(by_hand[0, -1].argmax().reshape(1))!r}")


if __name__ == "__main__":
    main()
