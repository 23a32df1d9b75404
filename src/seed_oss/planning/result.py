"""A plan as plain data: bytes are integers, speeds are numbers per second."""

from dataclasses import asdict, dataclass
from typing import Any

from seed_oss.planning.devices import DeviceMemory
from seed_oss.planning.weights import WeightBytes
from seed_oss.planning.workspace import WorkspaceBytes


@dataclass(frozen=True, slots=True)
class CacheBytes:
    """Keys and values.

    Attributes:
        dtype: what they are kept in.
        per_token: bytes of one token of one row, all layers together.
        total: of the whole context of all rows.
    """

    dtype: str
    per_token: int
    total: int


@dataclass(frozen=True, slots=True)
class ExpectedSpeed:
    """Tokens per second, of all rows together, from what was measured here.

    Attributes:
        prefill: while a prompt as long as the context is read.
        decode: while the last token of the context is written.
    """

    prefill: float
    decode: float


@dataclass(frozen=True, slots=True)
class Placement:
    """A model in one form on one device.

    Attributes:
        form: "bfloat16" or another dtype, a scheme such as "int4", or the method of a quantized checkpoint.
        quantization: what to give `from_pretrained(quantization=)`: a scheme, or None.
        device: where.
        bits_per_weight: mean of all parameters.
        weights: bytes of each part.
        cache: bytes of keys and values.
        workspace: bytes of what a forward takes beside them.
        loading_bytes: what loading takes on the way beside the weights, before there is a cache.
        free_bytes: what is free on the device.
        longest_context: tokens per row that fit, at most what the model is made for; 0 where none do.
        speed: what to expect; None where it was not measured.
    """

    form: str
    quantization: str | None
    device: str
    bits_per_weight: float
    weights: WeightBytes
    cache: CacheBytes
    workspace: WorkspaceBytes
    loading_bytes: int
    free_bytes: int
    longest_context: int
    speed: ExpectedSpeed | None

    @property
    def total_bytes(self) -> int:
        """What loading and running takes at most."""
        return self.weights.total + max(self.cache.total + self.workspace.total, self.loading_bytes)

    @property
    def missing_bytes(self) -> int:
        """What is not free of that; 0 where it fits."""
        return max(0, self.total_bytes - self.free_bytes)

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.missing_bytes == 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, totals included."""
        content = asdict(self)
        for name in ("weights", "workspace"):
            content[name]["total"] = getattr(self, name).total
        return content | {"total_bytes": self.total_bytes, "missing_bytes": self.missing_bytes, "fits": self.fits}


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """The limits of a device, as measured.

    Attributes:
        device: which.
        read_bytes_per_s: reading memory in order.
        read_threads: with how many threads that was fastest.
        product_bytes_per_s: form -> bytes of weights that its product of one row reads.
        product_flop_per_s: form -> operations of its product of many rows.
        attention_flop_per_s: form -> operations of its attention while a prompt is read.
    """

    device: str
    read_bytes_per_s: float
    read_threads: int
    product_bytes_per_s: dict[str, float]
    product_flop_per_s: dict[str, float]
    attention_flop_per_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What fits where, and how fast.

    Attributes:
        model: as it was given.
        num_parameters: of it.
        context: tokens of a row, prompt and answer together.
        batch: rows.
        prefill_chunk: most new tokens of a row in one forward, as `generate` has it or `prefill_chunk_size=` tells it.
        devices: what was looked at.
        placements: every form on every device, the best fitting device first.
        best: the one that is suggested; None where none fits.
        advice: what is worth knowing, a sentence each; where nothing fits, what would.
        measured: the limits that the speeds come from.
    """

    model: str
    num_parameters: int
    context: int
    batch: int
    prefill_chunk: int
    devices: tuple[DeviceMemory, ...]
    placements: tuple[Placement, ...]
    best: Placement | None
    advice: tuple[str, ...]
    measured: tuple[MeasuredSpeed, ...]

    def to_dict(self) -> dict[str, Any]:
        """As `seed-oss plan --json` writes it."""
        content = asdict(self)
        content["placements"] = [placement.to_dict() for placement in self.placements]
        content["best"] = None if self.best is None else self.best.to_dict()
        return content
