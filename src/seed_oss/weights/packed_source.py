"""Packed weights as a loader sees them, wherever they come from: stored so, rounded on the way, or of a foreign format.

stored                                  seen as
up_proj.packed                          up_proj.packed      mapped, or read
up_proj.weight                          up_proj.packed      rounded to a scheme's format while it is loaded
up_proj.qweight, .qzeros, .scales       up_proj.packed      repacked, no value changed
up_proj.weight (fp8), .weight_scale     up_proj.weight      dequantized: no groups hold such numbers
8-bit floating point of our own                             see float8_source
everything else                         the same
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError
from seed_oss.ops.grouped_weight import GroupedWeight, QuantFormat
from seed_oss.ops.packing import BLOCK_ROWS, has_finite_params, packed_bytes
from seed_oss.quant.grids import Method
from seed_oss.quant.packed_rows import pack_in_pieces, quantize_packed
from seed_oss.quant.stored_layout import ForeignWeight
from seed_oss.weights.source import TensorSpec, WeightSource


@dataclass(frozen=True, eq=False)
class Made:
    """A weight as it goes into a model.

    Attributes:
        tensor: packed bytes, flat; or numbers.
        format: of the bytes; None for numbers.
        column_order: int32 `[in_features]` where the columns are in another order, see ForeignWeight.
    """

    tensor: Tensor
    format: QuantFormat | None
    column_order: Tensor | None = None


class WeightMaker(ABC):
    """Makes the weight of one module from stored tensors.

    Attributes:
        name: of what it makes.
        spec: of what it makes; the bytes are other ones where a format has to be changed on the way.
        inputs: names of the stored tensors that it reads.
    """

    name: str
    spec: TensorSpec
    inputs: tuple[str, ...]

    @abstractmethod
    def make(self, source: WeightSource, may_map: bool) -> Made:
        """Read and make it, on the CPU.

        Raises:
            CheckpointError: values that make no weight, or a file that ends early.
        """


def stored_shape(format: QuantFormat, shape: tuple[int, int]) -> tuple[int, int]:
    """Sizes of the stored bytes of a weight: blocks of rows, bytes of a block."""
    num_bytes = packed_bytes(format, *shape)
    num_blocks = -(-shape[0] // BLOCK_ROWS)
    return num_blocks, num_bytes // num_blocks


def check_params(name: str, packed: Tensor, format: QuantFormat) -> None:
    """Raise where scales or minimums of a packed weight are no numbers.

    Args:
        name: of the tensor, for the message.
        packed: its bytes.
        format: what is packed.

    Raises:
        CheckpointError: NaN or infinity among them.
    """
    if not has_finite_params(packed, format):
        raise CheckpointError(
            f"{name} holds NaN or infinity in its scales{' or minimums' if format.zero == 'minimum' else ''}. The file "
            "is damaged; fetch or quantize it again"
        )


@final
class StoredBytes(WeightMaker):
    """A packed weight of our own format.

    Args:
        module: its name in the checkpoint.
        format: as config.json says.
        shape: (out_features, in_features).
    """

    def __init__(self, module: str, format: QuantFormat, shape: tuple[int, int]) -> None:
        self.name, self.inputs = f"{module}.packed", (f"{module}.packed",)
        self.format, self.shape = format, shape
        self.spec = _packed_spec(format, shape)

    def check(self, stored: TensorSpec) -> None:
        """Raise unless the stored tensor is what the format and the model's sizes say.

        Raises:
            CheckpointError: it is not.
        """
        allowed = (stored_shape(self.format, self.shape), self.spec.shape)
        if stored.dtype != torch.uint8 or stored.shape not in allowed:
            raise CheckpointError(
                f"{self.name} is {stored.dtype} {list(stored.shape)}; a weight {list(self.shape)} of {self.format} "
                f"takes torch.uint8 {list(allowed[0])}. The file is damaged, or config.json belongs to another one; "
                "fetch or quantize it again"
            )

    def make(self, source: WeightSource, may_map: bool) -> Made:
        """Map the bytes, or read them; scales and minimums of what is read are looked at, which touches all pages."""
        found = source.mapped(self.name) if may_map else None
        is_mapped = found is not None
        if found is None:
            found = torch.empty(source.specs[self.name].shape, dtype=torch.uint8, device="cpu")
            source.read_into(self.name, found)
        if found.numel() != self.spec.num_bytes:
            raise CheckpointError(f"{source.name} became shorter while it was being loaded; fetch it again")
        if not is_mapped:
            check_params(self.name, found, self.format)
        return Made(found.view(-1), self.format)


@final
class ReadingRoom:
    """Memory into which one stored tensor after another is read: allocators keep what is freed, so it stays.

    Args:
        num_bytes: of the largest tensor.
    """

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._buffer: Tensor | None = None

    def read(self, source: WeightSource, name: str) -> Tensor:
        """A stored tensor of an opened group; it is gone at the next call."""
        spec = source.specs[name]
        if self._buffer is None or self._buffer.numel() < spec.num_bytes:
            self._buffer = torch.empty(max(self._num_bytes, spec.num_bytes), dtype=torch.uint8, device="cpu")
        found = self._buffer[: spec.num_bytes].view(spec.dtype).view(spec.shape)
        source.read_into(name, found)
        return found


@final
class RoundedNumbers(WeightMaker):
    """A plain weight that is quantized on the way.

    Args:
        module: its name in the checkpoint.
        format: wanted; scales are kept in fp32 where fp16 has no place for them.
        shape: (out_features, in_features).
        method: "plain" or "search".
        room: to read into; one for all weights of a source.
    """

    def __init__(
        self, module: str, format: QuantFormat, shape: tuple[int, int], method: Method, room: ReadingRoom
    ) -> None:
        self.name, self.inputs = f"{module}.packed", (f"{module}.weight",)
        self.format, self._room = format, room
        self.method: Method = method
        self.spec = _packed_spec(format, shape)

    def make(self, source: WeightSource, may_map: bool) -> Made:
        """Read the numbers in the dtype that they are stored in, and round them."""
        (name,) = self.inputs
        packed, format = quantize_packed(self._room.read(source, name), self.format, self.method, name=name)
        return Made(packed, format)


class ModuleReader(Protocol):
    """What reads a module of a foreign format: quant.foreign_plan.ModulePlan."""

    @property
    def module(self) -> str:
        """Name of the module in the checkpoint."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        ...

    @property
    def names(self) -> Mapping[str, str]:
        """What follows the module's name -> full name of the stored tensor."""
        ...

    @property
    def format(self) -> QuantFormat | None:
        """Of the groups; None for a dequantized tensor."""
        ...

    def read(self, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> ForeignWeight:
        """The weight, from the stored tensors."""
        ...


@final
class ForeignModule(WeightMaker):
    """A weight of a foreign format.

    Args:
        reader: of the module.
        dtype: of a weight that is dequantized.
    """

    def __init__(self, reader: ModuleReader, dtype: torch.dtype) -> None:
        self._reader, self._dtype = reader, dtype
        self.inputs = tuple(reader.names.values())
        if reader.format is None:
            self.name, self.spec = f"{reader.module}.weight", TensorSpec(dtype, reader.shape)
        else:
            self.name, self.spec = f"{reader.module}.packed", _packed_spec(reader.format, reader.shape)

    def make(self, source: WeightSource, may_map: bool) -> Made:
        """Read the stored tensors, one module's at a time, and repack them."""
        found = self._reader.read({name: _read(source, name) for name in self.inputs}, self._dtype)
        if not isinstance(found.weight, GroupedWeight):
            return Made(found.dequantize(self._dtype), None)
        order = None if found.column_order is None else found.column_order.to(torch.int32)
        return Made(pack_in_pieces(found.weight), found.weight.format, order)


@final
class PackedSource(WeightSource):
    """A source some of whose weights are made from what is stored.

    One weight is made at a time, so that memory on the way stays at one tensor; its rows are shared out to threads.

    Args:
        source: what is stored.
        makers: of the weights that are made.
        may_map: stored bytes may be used where they are in the file.
        ignored: names of stored tensors that are as good as not there.

    Raises:
        CheckpointError: a weight is stored, too, beside what it is made from.
    """

    def __init__(
        self, source: WeightSource, makers: Sequence[WeightMaker], *, may_map: bool, ignored: Set[str] = frozenset()
    ) -> None:
        self.name = source.name
        self.made: dict[str, Made] = {}
        self._source, self._may_map = source, may_map
        self._makers = {maker.name: maker for maker in makers}
        self._makers_of: dict[str, list[WeightMaker]] = {}
        for maker in makers:
            for name in maker.inputs:
                self._makers_of.setdefault(name, []).append(maker)
        self._check_twice(source)
        self.specs = {
            **{name: spec for name, spec in source.specs.items() if name not in self._makers_of.keys() | ignored},
            **{maker.name: maker.spec for maker in makers},
        }
        self._lock = threading.Lock()

    def _check_twice(self, source: WeightSource) -> None:
        twice = next((name for name in self._makers if name in source.specs and name not in self._makers_of), None)
        if twice is not None:
            others = ", ".join(self._makers[twice].inputs)
            raise CheckpointError(
                f"{source.name}: {twice} is stored beside {others}, of which it would be made; the weights of two "
                "files are mixed, fetch or quantize them again"
            )

    def groups(self) -> list[list[str]]:
        """Those of the source; what is made from tensors of several groups makes a group of its own."""
        result: list[list[str]] = []
        whole: set[str] = set()
        for group in self._source.groups():
            here = set(group)
            makers = {id(maker): maker for name in group for maker in self._makers_of.get(name, ())}
            complete = [maker.name for maker in makers.values() if here.issuperset(maker.inputs)]
            whole.update(complete)
            result.append([name for name in group if name in self.specs and name not in self._makers] + complete)
        return result + [[name] for name in self._makers if name not in whole]

    def opened(self, group: list[str]) -> AbstractContextManager[None]:
        """Open what the group's tensors, and those that they are made from, are read from."""
        return self._source.opened([one for name in group for one in self._inputs(name)])

    def _inputs(self, name: str) -> tuple[str, ...]:
        maker = self._makers.get(name)
        return (name,) if maker is None else maker.inputs

    def input_bytes(self, name: str) -> int:
        """Bytes that are read for a tensor; what several are made from counts for the first of them."""
        mine = [one for one in self._inputs(name) if self._makers_of.get(one, (None,))[0] is self._makers.get(name)]
        return sum(self._source.specs[one].num_bytes for one in mine)

    def read_into(self, name: str, out: Tensor) -> None:
        """Copy one of the tensors that are stored as they are."""
        self._source.read_into(name, out)

    def finished(self, name: str, device: torch.device) -> Tensor | None:
        """Make a weight. What else there is to know of it is in `made` then, until it is taken."""
        maker = self._makers.get(name)
        if maker is None:
            return self._source.finished(name, device)
        with self._lock:
            made = maker.make(self._source, self._may_map and device.type == "cpu")
            tensor = made.tensor.to(device)
            if made.format is None:
                return tensor
            self.made[name] = Made(tensor, made.format, made.column_order)
        return tensor


def _packed_spec(format: QuantFormat, shape: tuple[int, int]) -> TensorSpec:
    return TensorSpec(torch.uint8, (packed_bytes(format, *shape),))


def _read(source: WeightSource, name: str) -> Tensor:
    spec = source.specs[name]
    found = torch.empty(spec.shape, dtype=spec.dtype, device="cpu")
    source.read_into(name, found)
    return found
