"""A GGUF file as a source of weights: blocks that have a reader as groups stay integers, all else becomes numbers.

in the file                               seen as
Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K-Q6_K   up_proj.packed     a GGUFBlocks each: bit-equal (quant/gguf_blocks.py)
F32, F16, BF16                            up_proj.weight     the same
IQ1_S-IQ4_XS, TQ1_0, TQ2_0, MXFP4         up_proj.weight     dequantized
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, final

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError
from seed_oss.files import open_model_file
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat
from seed_oss.ops.packing import pack, packed_bytes
from seed_oss.quant.gguf_blocks import GROUPED_FORMATS, read_grouped_pieces
from seed_oss.quant.gguf_dequantize import half_split_rows, read_pieces
from seed_oss.quant.gguf_model import PLAIN_TYPES, read_gguf_model
from seed_oss.weights.packed_source import Made, WeightMaker
from seed_oss.weights.source import TensorSpec, WeightSource, file_identity


@final
class GGUFSource(WeightSource):
    """The tensors of a GGUF file under the names of a checkpoint. The header is read and checked on construction.

    Rows stored for interleaved rotary positions come out half-split. What is in blocks has the dtype float32 in `specs`
    and may be read as numbers; `blocks` says which of it groups can hold.

    Args:
        path: The file; a link is followed.

    Attributes:
        model: What the file says of itself.
        blocks: Name of a matrix in blocks -> what groups hold it bit for bit, None where none do.

    Raises:
        MissingFileError, MissingExtraError, CheckpointError, UnsupportedModelError, ConfigError: See `read_gguf_model`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._path = Path(os.path.realpath(path))
        with open_model_file(self._path.parent, self._path.name) as file:
            self._identity = file_identity(file)
            self.model = read_gguf_model(file, source=self.name)
        self._planned = {one.name: one for one in self.model.plan}
        self.specs = {
            name: TensorSpec(getattr(torch, PLAIN_TYPES.get(one.source.type_name, "float32")), one.source.shape)
            for name, one in self._planned.items()
        }
        self.blocks: dict[str, QuantFormat | None] = {
            name: GROUPED_FORMATS.get(one.source.type_name)
            for name, one in self._planned.items()
            if len(one.source.shape) == 2 and one.source.type_name not in PLAIN_TYPES
        }
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()

    def type_name(self, name: str) -> str:
        """ggml's name of how a tensor is stored, such as "Q4_K"."""
        return self._planned[name].source.type_name

    def groups(self) -> list[list[str]]:
        """One group, in the order of the bytes in the file."""
        return [sorted(self._planned, key=lambda name: self._planned[name].source.offset)]

    @contextmanager
    def opened(self, group: list[str]) -> Iterator[None]:
        """Open the file, and make sure it is the one whose header was checked.

        Raises:
            CheckpointError: It was changed meanwhile.
        """
        with open_model_file(self._path.parent, self._path.name) as file:
            if file_identity(file) != self._identity:
                raise CheckpointError(
                    f"{self.name} was changed while it was being loaded; load it again once that is done"
                )
            self._file = file
            try:
                yield
            finally:
                self._file = None

    def read_into(self, name: str, out: Tensor) -> None:
        """Copy the numbers that a tensor stands for, a piece at a time, converting dtype and device.

        Raises:
            CheckpointError: The file ends early, or a value is not finite.
        """
        one, flat, done = self._planned[name], out.view(-1), 0
        with self._lock:
            for values in read_pieces(self._opened(), one.source, row_group=one.head_dim or 1):
                piece = torch.from_numpy(half_split_rows(values, one.head_dim)).flatten()
                flat[done : done + piece.numel()].copy_(piece)
                done += piece.numel()

    def grouped_pieces(self, name: str) -> Iterator[GroupedWeight]:
        """A matrix in blocks as groups, in pieces of whole rows whose packed bytes follow one another.

        Raises:
            UnsupportedModelError, CheckpointError: See `read_grouped_pieces`.
        """
        one = self._planned[name]
        with self._lock:
            yield from read_grouped_pieces(self._opened(), one.source, head_dim=one.head_dim)

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise RuntimeError("read outside of opened()")
        return self._file


@final
class GGUFBlocks(WeightMaker):
    """A matrix in blocks, repacked a piece at a time.

    Args:
        file: where it is.
        module: its name in the checkpoint.
        format: what its blocks become.
        shape: (out_features, in_features).
    """

    def __init__(self, file: GGUFSource, module: str, format: QuantFormat, shape: tuple[int, int]) -> None:
        self.name, self.inputs = f"{module}.packed", (f"{module}.weight",)
        self.spec = TensorSpec(torch.uint8, (packed_bytes(format, *shape),))
        self._file, self._format = file, format

    def make(self, source: WeightSource, may_map: bool) -> Made:
        """Read the blocks and lay them out for the kernels."""
        packed = torch.empty(self.spec.num_bytes, dtype=torch.uint8, device="cpu")
        done = 0
        for piece in self._file.grouped_pieces(self.inputs[0]):
            part = pack(piece)
            packed[done : done + part.numel()] = part
            done += part.numel()
        return Made(packed, self._format)
