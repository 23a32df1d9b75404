"""A checkpoint folder into a quantized one, tensor by tensor: the model is never in memory as a whole."""

import os
from pathlib import Path
from typing import Any

from seed_oss.files import resolve_model
from seed_oss.models.quantized_shards import (
    Progress,
    ShardWork,
    check_target,
    class_of,
    learn_formats,
    make_shards,
    plain_config,
    planned_shards,
    purpose_of,
    put_in_place,
    real_target,
    unfinished,
)
from seed_oss.quant.fp8 import kept_from_float8
from seed_oss.quant.quantize import has_tied_head
from seed_oss.quant.schemes import Scheme, parse_scheme, plan_tensors, weight_shapes
from seed_oss.weights import CheckpointSource, on_meta_device, size_in_bytes
from seed_oss.weights.resumable import ShardWorkshop, check_room, explained_if_full


def quantize_folder(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    scheme: str | Scheme = "int4",
    *,
    strict: bool = False,
    max_shard_size: int | str = "5GB",
    revision: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Quantize a checkpoint on disk. `from_pretrained` then opens the result at once.

    Memory on the way is one tensor and its packed bytes. Killed, it goes on where it was when it is called again with
    the same arguments: finished shards are kept beside `out_dir`, and compared with their checksums. The folder
    appears, or changes, all at once at the end.

    Args:
        source: model folder, hub id, or named model ("demo").
        out_dir: the folder to write; a model in it is replaced, other files stay.
        scheme: a name as in `quant.schemes.SCHEMES`, or a Scheme; or "fp8", which is rounded on the CPU like the others
            and multiplied on CUDA devices of compute capability 8.9 and newer.
        strict: raise where a tensor does not fit the scheme, instead of taking smaller groups.
        max_shard_size: bytes of weights per file, or like "5GB".
        revision: of a hub model.
        progress: called with (bytes of the source done, bytes in all).

    Returns:
        The folder.

    Raises:
        InputError: an unknown scheme, a source that is quantized already, an `out_dir` that is the source, or too
            little room on the disk.
        MissingFileError, HubError, ConfigError, CheckpointError: the source cannot be had, or is damaged.
        NumericalError: NaN or infinity in a weight.
        OSError: the system refused; what is finished is kept.
    """
    scheme = parse_scheme(scheme)
    folder, target = resolve_model(source, revision=revision), real_target(out_dir)
    check_target(folder, target)
    work = _planned(folder, scheme, size_in_bytes(max_shard_size), strict=strict)
    workshop = ShardWorkshop(target, purpose_of(folder, work.config, scheme, shards=work.shards))
    with workshop.opened():
        learn_formats(work, workshop)
        check_room(workshop.folder, sum(work.spec(name).num_bytes for name in unfinished(work, workshop)))
        with explained_if_full(workshop.folder):
            make_shards(work, workshop, progress)
        put_in_place(work, workshop, folder, target)
        workshop.remove()
    return target


def _planned(folder: Path, scheme: Scheme, max_shard_size: int, *, strict: bool) -> ShardWork:
    config = plain_config(folder)
    files = CheckpointSource(folder)
    with on_meta_device():
        model: Any = class_of(config)(config)
    if strict and scheme.is_float:
        kept_from_float8(weight_shapes(model), strict=True)
    elif strict:
        plan_tensors(scheme, weight_shapes(model), tied=has_tied_head(model), strict=True)
    return planned_shards(model, files, config, scheme, max_shard_size)
