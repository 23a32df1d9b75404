"""A checkpoint folder quantized for a text, layer by layer: one layer of the model is in memory at a time.

    source ── calibrated-00000.safetensors    embedding
           ── calibrated-00001.safetensors    layer 0; hidden-00001.safetensors beside it is what layer 1 gets
           ── ...
           ── calibrated-00065.safetensors    head, and everything else
                 └── model-00001-of-00005.safetensors ...    the shards; what nothing is read from any more is deleted

A part counts once its results and what the next one gets are on disk. After a kill the parts behind it are made.
"""

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seed_oss.chat import SeedOssTokenizer
from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.files import resolve_model
from seed_oss.models.parts_in_files import PartsInFiles
from seed_oss.models.quantized_shards import (
    Progress,
    ShardWork,
    check_target,
    class_of,
    make_shards,
    plain_config,
    planned_shards,
    purpose_of,
    put_in_place,
    real_target,
    unfinished,
)
from seed_oss.nn.quantized_linear import stored_tensors
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.memory import memory_bytes
from seed_oss.quant.calibration import CalibratedPart, base_prefix, calibrated_parts, num_parts
from seed_oss.quant.layer_calibration import CalibrationSettings
from seed_oss.quant.packed_rows import pack_in_pieces
from seed_oss.quant.quantize import has_tied_head, kept_of
from seed_oss.quant.record import QuantizationRecord
from seed_oss.quant.schemes import Scheme, parse_scheme, plan_tensors, weight_shapes
from seed_oss.weights import TensorSpec, on_meta_device, shared_names, size_in_bytes
from seed_oss.weights.finished_files import FinishedFiles, write_tensors
from seed_oss.weights.packed_source import stored_shape
from seed_oss.weights.resumable import ShardWorkshop, check_room, explained_if_full

WINDOW_LEN, MAX_WINDOWS = 512, 32  # of tokens that a model is calibrated with


def quantize_calibrated(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    scheme: str | Scheme,
    text: str,
    *,
    strict: bool = False,
    max_shard_size: int | str = "5GB",
    revision: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Quantize a checkpoint on disk for a text, with the results that `quantize_` has in memory for the model in fp32.

    Memory on the way is one layer in float32, the hidden states of the text and what it takes to round a weight, see
    `quant.layer_calibration`. Killed, it goes on behind the last finished layer when it is called again with the same
    arguments: finished layers are kept beside `out_dir`, and compared with their checksums. The folder appears, or
    changes, all at once at the end.

    Args:
        source, out_dir, scheme, strict, max_shard_size, revision: as in `quantize_folder`.
        text: its first 16,384 tokens are read, in windows of 512.
        progress: called with (bytes of float32 weights done, bytes in all).

    Returns:
        The folder.

    Raises:
        InputError: as in `quantize_folder`, a text that is too short, too little free memory, or "fp8", which rounds
            without a text.
        MissingFileError, HubError, ConfigError, CheckpointError: the source cannot be had, lacks tensors of its class,
            or is damaged.
        NumericalError: NaN or infinity in a weight, or on the way.
        OSError: the system refused; what is finished is kept.
    """
    scheme = parse_scheme(scheme)
    if scheme.is_float:
        raise InputError(f"a text for calibration is given for {scheme.name!r}, which rounds without it; leave it out")
    max_bytes = size_in_bytes(max_shard_size)
    folder, target = resolve_model(source, revision=revision), real_target(out_dir)
    check_target(folder, target)
    config = plain_config(folder)
    windows = _windows(folder, text)
    run = _Run(folder, target, config, scheme, windows, max_bytes, strict=strict)
    _check_memory(run.parts, windows.numel())
    workshop = run.workshop
    with workshop.opened():
        check_room(workshop.folder, run.room_needed())
        with explained_if_full(workshop.folder):
            work = run.calibrated_before()
            if work is None:
                run.calibrate(progress)
                work = run.work()
            make_shards(work, workshop, release=run.release)
        put_in_place(work, workshop, folder, target)
        workshop.remove()
    return target


class _Run:
    """The parts on their way through a workshop."""

    def __init__(
        self,
        folder: Path,
        target: Path,
        config: SeedOssConfig,
        scheme: Scheme,
        windows: Tensor,
        max_shard_size: int,
        *,
        strict: bool,
    ) -> None:
        self.scheme, self.windows, self.max_shard_size = scheme, windows, max_shard_size
        self.settings = CalibrationSettings()
        config.dtype = "float32"
        self.parts = PartsInFiles.of(folder, config)
        self.config, model = config, self.parts.model
        self.shapes = weight_shapes(model)
        self.plans = plan_tensors(scheme, self.shapes, tied=has_tied_head(model), strict=strict)
        if not self._planned_formats():
            raise InputError(f"no tensor of {folder} can be quantized to {scheme.name}; choose another scheme")
        self.num_parts, self._above = num_parts(model), base_prefix(model)
        doubles = {name for names in shared_names(model) for name in names[1:]}
        self.names = [name for name in stored_tensors(model) if name not in doubles]
        calibration = {
            "tokens": hashlib.sha256(windows.numpy().tobytes()).hexdigest(),
            "windows": list(windows.shape),
            "settings": asdict(self.settings),
        }
        purpose = purpose_of(folder, config, scheme, calibration=calibration, max_shard_size=max_shard_size)
        self.workshop = ShardWorkshop(target, purpose)

    def calibrate(self, progress: Progress | None) -> None:
        """Make the parts that are not finished yet."""
        start, hidden = self._left()
        total = sum(parameter.numel() for parameter in self.parts.model.parameters())
        done: int = self.workshop.notes.get("num_weights", 0)
        if start and progress is not None:
            progress(4 * done, 4 * total)
        for part in calibrated_parts(self.parts, self.windows, self.plans, self.settings, start=start, hidden=hidden):
            done += part.num_weights
            self._keep(part, done)
            if progress is not None:
                progress(4 * done, 4 * total)

    def _left(self) -> tuple[int, Tensor | None]:
        """The first part to be made, and what it gets; what was left is thrown away where it does not lead there."""
        start = 0
        while self.workshop.is_finished(_part_file(start)):
            start += 1
        if start and self.workshop.is_finished(_hidden_file(start - 1)):
            hidden = torch.empty(*self.windows.shape, self.config.hidden_size)
            spec = TensorSpec(hidden.dtype, tuple(hidden.shape))
            files = FinishedFiles(self.workshop, {"hidden": spec}, {"hidden": _hidden_file(start - 1)})
            with files.opened(["hidden"]):
                files.read_into("hidden", hidden)
            return start, hidden
        self.workshop.start_anew()
        return 0, None

    def _keep(self, part: CalibratedPart, num_weights: int) -> None:
        """Put a part on disk, first what the next one gets."""
        is_last = part.index == self.num_parts - 1
        if not is_last:
            write_tensors(self.workshop, _hidden_file(part.index), {"hidden": part.hidden})
        formats = {name: asdict(weight.format) for name, weight in part.found.weights.items()}
        notes = self.workshop.notes
        notes.update(num_weights=num_weights, part_formats={**notes.get("part_formats", {}), **formats})
        notes["is_calibrated"] = is_last
        write_tensors(self.workshop, _part_file(part.index), self._tensors(part))
        if part.index:
            self.workshop.drop(_hidden_file(part.index - 1))

    def _tensors(self, part: CalibratedPart) -> dict[str, Tensor]:
        """What is kept of a part; its integers are taken out of it."""
        found: dict[str, Tensor] = {}
        for name in self.names:
            if self._part_of(name) != part.index:
                continue
            module = name.removesuffix(".weight")
            weight = part.found.weights.pop(module, None)
            if weight is not None:
                found[f"{module}.packed"] = pack_in_pieces(weight).view(stored_shape(weight.format, weight.shape))
            else:
                changed = part.found.tensors.get(name)
                found[name] = self.parts.read(name) if changed is None else changed
        return found

    def _part_of(self, name: str) -> int:
        """The index of the part that a tensor belongs to."""
        kind, _, rest = name.removeprefix(self._above).partition(".")
        if kind == "embed_tokens":
            return 0
        return 1 + int(rest.partition(".")[0]) if kind == "layers" else self.num_parts - 1

    def calibrated_before(self) -> ShardWork | None:
        """What is to be written, if all parts that are still needed for it are there from an earlier run."""
        if not self.workshop.notes.get("is_calibrated"):
            return None
        work = self.work()
        needed = {self._file_of(name) for name in unfinished(work, self.workshop)}
        return work if all(self.workshop.is_finished(file) for file in needed) else None

    def work(self) -> ShardWork:
        """What is to be written: the parts are a quantized checkpoint in other files."""
        stored: dict[str, dict[str, Any]] = self.workshop.notes["part_formats"]
        formats = {name: QuantFormat(**fields) for name, fields in stored.items()}
        record = QuantizationRecord.of(self.scheme.name, formats, self.shapes, kept_of(self.plans), is_calibrated=True)
        config = self.config.copy()
        config.quantization_config = record.to_config()
        specs = self._specs(formats)
        source = FinishedFiles(self.workshop, specs, {name: self._file_of(name) for name in specs})
        with on_meta_device():
            model: Any = class_of(config)(config)
        return planned_shards(model, source, config, None, self.max_shard_size)

    def release(self, needed: list[str]) -> None:
        """Delete files of parts from which nothing will be read any more."""
        files = {self._file_of(name) for name in needed}
        for index in range(self.num_parts):
            if _part_file(index) not in files:
                self.workshop.drop(_part_file(index))

    def room_needed(self) -> int:
        """Bytes that will be written beyond those that are there: all parts, the largest shard, hidden states twice."""
        sizes = [spec.num_bytes for spec in self._specs(self._planned_formats()).values()]
        needed = sum(sizes) + min(sum(sizes), max(self.max_shard_size, *sizes))
        if not self.workshop.notes.get("is_calibrated"):
            needed += 2 * 4 * self.windows.numel() * self.config.hidden_size
        return needed - self.workshop.num_bytes()

    def _planned_formats(self) -> dict[str, QuantFormat]:
        return {name: plan.format for name, plan in self.plans.items() if plan.format is not None}

    def _specs(self, formats: dict[str, QuantFormat]) -> dict[str, TensorSpec]:
        """Of all tensors as they are written."""
        plain, specs = stored_tensors(self.parts.model), dict[str, TensorSpec]()
        for name in self.names:
            module = name.removesuffix(".weight")
            if name.endswith(".weight") and module in formats:
                specs[f"{module}.packed"] = TensorSpec(torch.uint8, stored_shape(formats[module], self.shapes[module]))
            else:
                specs[name] = TensorSpec(torch.float32, tuple(plain[name].shape))
        return specs

    def _file_of(self, name: str) -> str:
        return _part_file(self._part_of(name))


def _part_file(index: int) -> str:
    return f"calibrated-{index:05d}.safetensors"


def _hidden_file(index: int) -> str:
    """What the part behind this one gets."""
    return f"hidden-{index:05d}.safetensors"


def _windows(folder: Path, text: str) -> Tensor:
    """Token ids `[windows, length]`."""
    ids = SeedOssTokenizer.from_pretrained(folder)(text)["input_ids"]
    num_windows = min(len(ids) // WINDOW_LEN, MAX_WINDOWS)
    if not num_windows:
        raise InputError(
            f"the text for calibration has {len(ids)} tokens; at least {WINDOW_LEN} are needed, and "
            f"{WINDOW_LEN * MAX_WINDOWS} do well"
        )
    return torch.tensor(ids[: num_windows * WINDOW_LEN]).view(num_windows, WINDOW_LEN)


def _check_memory(parts: PartsInFiles, num_tokens: int) -> None:
    """Raise unless there is room for the largest part and what it takes to quantize it."""
    needed = needed_memory(parts, num_tokens)
    total, available = memory_bytes()
    free = total if available is None else available
    if free is not None and free < needed:
        raise InputError(
            f"calibrating takes at least {needed / 1e9:.2f} GB of memory for this model, and {free / 1e9:.2f} GB are "
            "free; run it where there is more, or leave out the text: weights are then rounded tensor by tensor"
        )


def needed_memory(parts: PartsInFiles, num_tokens: int) -> int:
    """Bytes that calibrating takes at its peak: in the widest product of a layer, or in the embedding or head.

    Args:
        parts: of the model.
        num_tokens: of the text.
    """
    model, config = parts.model, parts.model.config
    num_weights = sum(parameter.numel() for parameter in model.base_model.layers[0].parameters())
    width = max(config.intermediate_size, config.num_attention_heads * config.head_dim)
    hidden = 4 * num_tokens * config.hidden_size
    inputs, gram = 4 * num_tokens * width, 4 * width**2
    weight = 4 * width * config.hidden_size
    in_layer = 5 * num_weights + inputs + 3 * gram + 4 * weight  # fp32 and integers; the matrix and two of its factors
    table = parts.num_bytes(f"{base_prefix(model)}embed_tokens.weight")
    in_table = table + 5 * config.vocab_size * config.hidden_size // 2  # integers with their scales, and packed
    return hidden + max(in_layer, in_table)
