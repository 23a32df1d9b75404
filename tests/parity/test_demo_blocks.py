"""A real GGUF file: blocks as groups hold the numbers that its dequantization gives."""

from __future__ import annotations

import numpy as np
import torch

from seed_oss.quant.gguf_blocks import GROUPED_FORMATS, read_grouped_pieces
from seed_oss.quant.gguf_dequantize import read_pieces
from seed_oss.quant.gguf_header import read_gguf_header
from seed_oss.weights.gguf_import import half_split_rows
from tests.parity.demo_oracle import demo_gguf

HEAD_DIM = 64
SAMPLE = ("token_embd.", "blk.0.", "blk.29.")


def test_bit_equal() -> None:
    seen: set[str] = set()
    path = demo_gguf()
    with path.open("rb") as file:
        for tensor in read_gguf_header(file, source=path.name).tensors.values():
            if not tensor.name.startswith(SAMPLE) or tensor.type_name not in GROUPED_FORMATS:
                continue
            seen.add(tensor.type_name)
            head_dim = HEAD_DIM if "attn_q." in tensor.name or "attn_k." in tensor.name else 0
            groups = read_grouped_pieces(file, tensor, head_dim=head_dim)
            numbers = torch.cat([piece.dequantize() for piece in groups]).numpy()
            expected = np.concatenate(list(read_pieces(file, tensor, row_group=head_dim or 1)))
            assert np.array_equal(numbers, half_split_rows(expected, head_dim)), tensor.name
    assert seen == {"Q4_1", "Q8_0"}
