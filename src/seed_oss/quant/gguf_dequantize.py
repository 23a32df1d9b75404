"""The values of a tensor in a GGUF file as fp32, a bounded piece at a time.

The arithmetic of every block format is the `gguf` package's. It works through a tensor 16 rows at a time, which is slow
for short rows; blocks know nothing of rows, so here a piece of about a million values is handed over as one long row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from seed_oss.errors import CheckpointError, UnsupportedModelError
from seed_oss.files.names import short
from seed_oss.quant.gguf_package import require_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from seed_oss.quant.gguf_header import GGUFHeader, GGUFTensor

# The block formats whose values follow from their bytes alone. NVFP4 is left out: llama.cpp keeps a second scale for it
# in a tensor of its own.
READABLE_TYPES = frozenset(
    {
        *("F32", "F16", "BF16"),
        *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
        *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
        *("TQ1_0", "TQ2_0", "MXFP4"),
        *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    }
)
PIECE_VALUES = 1 << 20


def check_readable(header: GGUFHeader) -> None:
    """Refuse a file with a tensor whose storage cannot be turned into numbers.

    Args:
        header: The file's header.

    Raises:
        UnsupportedModelError: Names the first such tensor, its type and the types that can be read.
    """
    for tensor in header.tensors.values():
        if tensor.type_name not in READABLE_TYPES:
            raise UnsupportedModelError(
                f"{header.source}: tensor {short(tensor.name)} is stored as {tensor.type_name}; "
                f"{', '.join(sorted(READABLE_TYPES))} can be read"
            )


def read_pieces(file: BinaryIO, tensor: GGUFTensor, *, row_group: int = 1) -> Iterator[np.ndarray]:
    """Read a tensor in order, in pieces of whole rows.

    Args:
        file: The open GGUF file.
        tensor: Which tensor, from its header.
        row_group: Every piece but a 1-D tensor's has a multiple of this many rows (a head's rows stay together).

    Yields:
        float32 arrays `[rows, columns]`; a 1-D tensor of n values comes as one array `[1, n]`.

    Raises:
        CheckpointError: The file ended early, or a value is not finite.
    """
    columns = tensor.shape[-1]
    num_rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
    row_bytes = columns // tensor.block_len * tensor.block_bytes
    step = max(PIECE_VALUES // columns // row_group, 1) * row_group
    for row in range(0, num_rows, step):
        count = min(step, num_rows - row)
        file.seek(tensor.offset + row * row_bytes)
        data = bytearray(file.read(count * row_bytes))  # numpy arrays of its memory can be written to
        if len(data) != count * row_bytes:
            raise CheckpointError(f"tensor {short(tensor.name)} ends early: the file changed while it was being read")
        values = _dequantize(np.frombuffer(data, dtype=np.uint8), tensor.type_name).reshape(count, columns)
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"tensor {short(tensor.name)} holds NaN or infinity near row {row}; the file is damaged"
            )
        yield values


def half_split_rows(values: np.ndarray, head_dim: int) -> np.ndarray:
    """Reorder rows from interleaved rotary positions (pairs beside each other) to half-split ones.

    Args:
        values: Rows of whole heads `[heads * head_dim, columns]`, or a bias `[1, heads * head_dim]`.
        head_dim: Rows per head; 0 leaves everything as it is.

    Returns:
        An array of the same shape, in which row j * head_dim/2 + i of a head is row 2i + j before.
    """
    if not head_dim:
        return values
    columns = values.shape[1] if values.shape[0] > 1 else 1
    pairs = values.reshape(-1, head_dim // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _dequantize(data: np.ndarray, type_name: str) -> np.ndarray:
    gguf = require_gguf()
    with np.errstate(all="ignore"):  # damaged scales overflow; the caller looks at the result
        return gguf.quants.dequantize(data.reshape(1, -1), gguf.GGMLQuantizationType[type_name])
