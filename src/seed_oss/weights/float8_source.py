"""Weights in 8-bit floating point as a loader sees them: their bytes, and a scale per row.

stored                                  seen as
up_proj.packed (e4m3)                   up_proj.packed      the same bytes
up_proj.scale (fp32)                    up_proj.scale       as it is
both                                    up_proj.weight      the numbers that they stand for
up_proj.weight                          up_proj.packed      rounded while it is loaded
                                        up_proj.scale
"""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from seed_oss.errors import CheckpointError
from seed_oss.ops.float8 import FLOAT8, LARGEST
from seed_oss.quant.fp8 import PIECE_VALUES, check_scale, numbers_of, round_in_pieces
from seed_oss.weights.packed_source import Made, ReadingRoom, WeightMaker
from seed_oss.weights.source import TensorSpec, WeightSource

_NAN, _WITHOUT_SIGN = 0x7F, 0x7F
_REMEDY = "The file is damaged, or config.json belongs to another one; fetch or quantize it again"


@final
class StoredFloat8(WeightMaker):
    """Numbers of our own format.

    Args:
        module: its name in the checkpoint.
        shape: (out_features, in_features).
    """

    def __init__(self, module: str, shape: tuple[int, int]) -> None:
        self.name, self.inputs = f"{module}.packed", (f"{module}.packed",)
        self.spec = TensorSpec(torch.uint8, shape)
        self._stored = {self.name: TensorSpec(FLOAT8, shape)}
        self._stored[f"{module}.scale"] = TensorSpec(torch.float32, (shape[0], 1))

    def check(self, specs: Mapping[str, TensorSpec]) -> None:
        """Raise unless the stored numbers and scales are what the model's sizes say.

        Raises:
            CheckpointError: they are not.
        """
        for name, wanted in self._stored.items():
            found = specs.get(name)
            if found != wanted:
                said = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
                raise CheckpointError(f"{name} is {said}; it must be {wanted.dtype} {list(wanted.shape)}. {_REMEDY}")

    def make(self, source: WeightSource, may_map: bool) -> Made:
        """Read the bytes."""
        found = torch.empty(self.spec.shape, dtype=FLOAT8, device="cpu")
        source.read_into(self.name, found)
        return Made(self.checked(found), None)

    def checked(self, found: Tensor) -> Tensor:
        """The bytes of the numbers.

        Raises:
            CheckpointError: NaN among them.
        """
        packed = found.view(torch.uint8)
        for piece in packed.view(-1).split(PIECE_VALUES):
            if bool((piece & _WITHOUT_SIGN == _NAN).any()):
                raise CheckpointError(f"{self.name} holds NaN. {_REMEDY}")
        return packed


@final
class NumbersOfFloat8(WeightMaker):
    """What numbers of our own format stand for, where nothing multiplies them as they are.

    Args:
        stored: the numbers.
        dtype: of the weight.
        room: to read into; one for all weights of a source.
    """

    def __init__(self, stored: StoredFloat8, dtype: torch.dtype, room: ReadingRoom) -> None:
        module = stored.name.removesuffix(".packed")
        self.name, self.inputs = f"{module}.weight", (stored.name, f"{module}.scale")
        self.spec = TensorSpec(dtype, stored.spec.shape)
        self._stored, self._room = stored, room

    def make(self, source: WeightSource, may_map: bool) -> Made:
        """Read numbers and scales, and multiply them."""
        scale_name = self.inputs[1]
        scale = torch.empty(source.specs[scale_name].shape, dtype=torch.float32, device="cpu")
        source.read_into(scale_name, scale)
        if not bool((scale.isfinite() & (scale >= 0)).all()):
            raise CheckpointError(f"{scale_name} holds NaN, infinity or negative numbers. {_REMEDY}")
        packed = self._stored.checked(self._room.read(source, self._stored.name))
        numbers = numbers_of(packed, scale, self.spec.dtype)
        for piece in numbers.view(-1).split(PIECE_VALUES):
            if not bool(piece.isfinite().all()):
                raise CheckpointError(f"{scale_name} makes numbers beyond {self.spec.dtype} of the weight. {_REMEDY}")
        return Made(numbers, None)


@final
class RoundedFloat8(WeightMaker):
    """The numbers of a plain weight that is rounded on the way.

    Args:
        module: its name in the checkpoint.
        shape: (out_features, in_features).
        room: to read into; one for all weights of a source.
        scales: of weights that have been rounded, by name; they are put here.
    """

    def __init__(self, module: str, shape: tuple[int, int], room: ReadingRoom, scales: dict[str, Tensor]) -> None:
        self.name, self.inputs = f"{module}.packed", (f"{module}.weight",)
        self.spec = TensorSpec(torch.uint8, shape)
        self._room, self._scales = room, scales

    def make(self, source: WeightSource, may_map: bool) -> Made:
        """Read the numbers in the dtype that they are stored in, and round them.

        Raises:
            NumericalError: NaN or infinity in them.
        """
        (name,) = self.inputs
        packed, scale = round_in_pieces(self._room.read(source, name))
        check_scale(name, scale)
        self._scales[name] = scale
        return Made(packed, None)


@final
class RoundedScale(WeightMaker):
    """The scales of such a weight: known where it has been rounded already, else found in it.

    Args:
        module, shape, room, scales: as in RoundedFloat8.
    """

    def __init__(self, module: str, shape: tuple[int, int], room: ReadingRoom, scales: dict[str, Tensor]) -> None:
        self.name, self.inputs = f"{module}.scale", (f"{module}.weight",)
        self.spec = TensorSpec(torch.float32, (shape[0], 1))
        self._room, self._scales = room, scales

    def make(self, source: WeightSource, may_map: bool) -> Made:
        """Recall them, or read the numbers.

        Raises:
            NumericalError: NaN or infinity in the numbers.
        """
        (name,) = self.inputs
        known = self._scales.pop(name, None)
        if known is not None:
            return Made(known, None)
        numbers = self._room.read(source, name)
        scale = numbers.abs().amax(-1, keepdim=True).float() / LARGEST
        check_scale(name, scale)
        return Made(scale, None)
