"""A checkpoint folder into a quantized one, tensor by tensor: the model is never in memory as a whole."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from seed_oss._version import __version__
from seed_oss.chat import SeedOssTokenizer
from seed_oss.config import SeedOssConfig
from seed_oss.errors import CheckpointError, InputError, MissingFileError
from seed_oss.files import (
    INDEX_FILE,
    DirectoryCommit,
    is_weight_file,
    model_file_exists,
    open_model_file,
    resolve_model,
)
from seed_oss.models.heads import (
    SeedOssForQuestionAnswering,
    SeedOssForSequenceClassification,
    SeedOssForTokenClassification,
)
from seed_oss.models.pretrained import BASE_PREFIXES, HEAD_NAMES
from seed_oss.models.quantized_loading import QuantizedLoad, prepare_quantized, record_of
from seed_oss.models.seed_oss import SeedOssForCausalLM, SeedOssModel
from seed_oss.nn.float8_linear import Float8Linear
from seed_oss.nn.quantized_linear import QuantizedModule, quantized_modules, stored_tensors
from seed_oss.ops.float8 import FLOAT8
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.packing import packed_bytes
from seed_oss.planning.memory import memory_bytes
from seed_oss.quant.fp8 import kept_from_float8
from seed_oss.quant.quantize import has_tied_head, quantize_
from seed_oss.quant.schemes import Scheme, parse_scheme, plan_tensors, weight_shapes
from seed_oss.weights import (
    CheckpointSource,
    LoadRules,
    TensorSpec,
    expected_tensors,
    listed_names,
    on_meta_device,
    plan_load,
    shared_names,
    size_in_bytes,
    tensor_pieces,
)
from seed_oss.weights.packed_source import stored_shape
from seed_oss.weights.resumable import HashingFile, ShardWorkshop, check_room, is_disk_full
from seed_oss.weights.save import plan_shards, write_file

TEXT_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""What belongs to a checkpoint beside config and weights; copied as it is."""
MAX_TEXT_BYTES = 256 * 2**20
WINDOW_LEN, MAX_WINDOWS = 512, 32  # of tokens that a model is calibrated with
CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        *(SeedOssForCausalLM, SeedOssModel, SeedOssForSequenceClassification),
        *(SeedOssForTokenClassification, SeedOssForQuestionAnswering),
    )
}
Progress = Callable[[int, int], None]


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
    folder, target = resolve_model(source, revision=revision), _real_target(out_dir)
    _check_target(folder, target)
    work = _planned(folder, scheme, size_in_bytes(max_shard_size), strict=strict)
    workshop = ShardWorkshop(target, _purpose(folder, scheme, work))
    with workshop.opened():
        try:
            _make_shards(work, workshop, progress)
        except OSError as error:
            if is_disk_full(error):
                raise InputError(
                    f"the disk of {workshop.folder} is full; finished shards are kept there. Make room and run the "
                    "same command again"
                ) from error
            raise
        _put_in_place(work, workshop, folder, target)
        workshop.remove()
    return target


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
    """Quantize a checkpoint for a text. The whole model is in memory, in float32, and nothing is kept after a kill.

    Args:
        source, out_dir, scheme, strict, max_shard_size, revision: as in `quantize_folder`.
        text: its first 16,384 tokens are read, in windows of 512.
        progress: called with (bytes of float32 weights done, bytes in all).

    Returns:
        The folder.

    Raises:
        InputError: as in `quantize_folder`, a text that is too short, too little free memory, or "fp8", which rounds
            without a text.
        CheckpointError: the source lacks tensors of its class.
    """
    scheme = parse_scheme(scheme)
    if scheme.is_float:
        raise InputError(f"a text for calibration is given for {scheme.name!r}, which rounds without it; leave it out")
    size_in_bytes(max_shard_size)
    folder, target = resolve_model(source, revision=revision), _real_target(out_dir)
    _check_target(folder, target)
    config = SeedOssConfig.from_pretrained(folder)
    if getattr(config, "quantization_config", None):
        raise InputError(f"{folder} is quantized already; give the original")
    cls = _class_of(config)
    num_weights = _check_memory(cls, config)
    ids = SeedOssTokenizer.from_pretrained(folder)(text)["input_ids"]
    num_windows = min(len(ids) // WINDOW_LEN, MAX_WINDOWS)
    if not num_windows:
        raise InputError(
            f"the text for calibration has {len(ids)} tokens; at least {WINDOW_LEN} are needed, and "
            f"{WINDOW_LEN * MAX_WINDOWS} do well"
        )
    windows = torch.tensor(ids[: num_windows * WINDOW_LEN]).view(num_windows, WINDOW_LEN)
    model, info = cls.from_pretrained(folder, dtype=torch.float32, device="cpu", output_loading_info=True)
    if info["missing_keys"]:
        raise CheckpointError(f"{folder} lacks {listed_names(sorted(info['missing_keys']))}; a {cls.__name__} has them")
    done = 0

    def advance(num_weights_done: int) -> None:
        nonlocal done
        done += num_weights_done
        if progress is not None:
            progress(4 * done, 4 * num_weights)

    quantize_(model, scheme, strict=strict, calibration=windows, advance=advance)
    workshop = ShardWorkshop(target, {})
    with workshop.opened():
        built = workshop.folder / "model"
        model.save_pretrained(built, max_shard_size=max_shard_size)
        with DirectoryCommit(target, replaces=_is_replaced) as staging:
            for name in TEXT_FILES:
                _copy_text(folder, staging, name)
            for path in built.iterdir():
                if _is_replaced(path.name):
                    shutil.move(path, staging / path.name)
        workshop.remove()
    return target


@dataclass
class _Work:
    """What is to be written.

    Attributes:
        model: on the meta device, its modules exchanged for quantized ones.
        config: of the source.
        loaded: where the weights come from.
        sources: name in the model -> name in the source.
        shards: file name -> names in the model.
    """

    model: Any
    config: SeedOssConfig
    loaded: QuantizedLoad
    sources: Mapping[str, str]
    shards: Mapping[str, list[str]]

    def spec(self, name: str) -> TensorSpec:
        """Of a tensor as it is written: packed by the format known so far, everything else as it is stored."""
        module = self.model.get_submodule(name.rpartition(".")[0])
        if name.endswith(".packed") and isinstance(module, QuantizedModule):
            return TensorSpec(torch.uint8, stored_shape(module.format, module.shape))
        if name.endswith(".packed") and isinstance(module, Float8Linear):
            return TensorSpec(FLOAT8, (module.out_features, module.in_features))
        return self.loaded.source.specs[self.sources[name]]

    def source_bytes(self, name: str) -> int:
        """Bytes that are read for a tensor."""
        return self.loaded.source.input_bytes(self.sources[name])


class _OtherFormatError(Exception):
    """A tensor needs another format than planned, so that the shard's header has to be written anew."""


def _planned(folder: Path, scheme: Scheme, max_shard_size: int, *, strict: bool) -> _Work:
    config = SeedOssConfig.from_pretrained(folder)
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"{folder} is quantized already; give the original. (To rewrite it in the format of seed_oss as it is: "
            "from_pretrained, then save_pretrained)"
        )
    cls = _class_of(config)
    files = CheckpointSource(folder)
    with on_meta_device():
        model: Any = cls(config)
    if strict and scheme.is_float:
        kept_from_float8(weight_shapes(model), strict=True)
    elif strict:
        plan_tensors(scheme, weight_shapes(model), tied=has_tied_head(model), strict=True)
    loaded = prepare_quantized(model, files, config, scheme, BASE_PREFIXES, dtype=torch.float32, may_map=False)
    assert loaded is not None
    plan = plan_load(
        expected_tensors(model),
        shared_names(model),
        loaded.source.specs,
        LoadRules(prefixes=BASE_PREFIXES, heads=HEAD_NAMES),
        where=loaded.source.name,
        model_name=cls.__name__,
    )
    if plan.skipped:
        warnings.warn(f"{folder}: not used: {', '.join(plan.skipped[:4])}", stacklevel=3)
    names = [name for name in stored_tensors(model) if name in plan.sources]
    work = _Work(model, config, loaded, plan.sources, {})
    work.shards = plan_shards({name: work.spec(name) for name in names}, max_shard_size)
    return work


def _check_memory(cls: type[Any], config: SeedOssConfig) -> int:
    """The number of weights; raises unless there is room for them in float32 and in integers of a byte."""
    with on_meta_device():
        model: Any = cls(config)
    sizes = [sum(one.numel() for one in part.parameters()) for part in (model, model.base_model.layers[:1])]
    needed = 5 * sizes[0] + 8 * sizes[1] + 16 * config.intermediate_size**2  # a layer twice; products of its inputs
    total, available = memory_bytes()
    free = total if available is None else available
    if free is not None and free < needed:
        raise InputError(
            f"calibrating takes at least {needed / 1e9:.2f} GB of memory for this model, and {free / 1e9:.2f} GB are "
            "free; run it where there is more, or leave out the text: weights are then rounded tensor by tensor"
        )
    return sizes[0]


def _class_of(config: SeedOssConfig) -> type[Any]:
    return CLASSES.get((config.architectures or ["SeedOssForCausalLM"])[0], SeedOssForCausalLM)


def _make_shards(work: _Work, workshop: ShardWorkshop, progress: Progress | None) -> None:
    total = sum(work.source_bytes(name) for names in work.shards.values() for name in names)
    _learn(work, workshop.notes)
    finished = [file for file in work.shards if workshop.is_finished(file)]
    missing = [name for file, names in work.shards.items() if file not in finished for name in names]
    check_room(workshop.folder, sum(work.spec(name).num_bytes for name in missing))
    done = sum(work.source_bytes(name) for file in finished for name in work.shards[file])
    for file, names in work.shards.items():
        if file in finished:
            continue
        _make_shard(work, workshop, file, lambda num_bytes, done=done: progress and progress(done + num_bytes, total))
        done += sum(work.source_bytes(name) for name in names)
    if progress is not None:
        progress(total, total)


def _make_shard(work: _Work, workshop: ShardWorkshop, file: str, tell: Callable[[int], Any]) -> None:
    names = work.shards[file]
    with work.loaded.source.opened([work.sources[name] for name in names]):
        while True:  # as often as a format has to be changed, once for each tensor at most
            try:
                workshop.make(file, lambda out: _write_shard(work, names, out, tell))
                return
            except _OtherFormatError:
                workshop.notes["formats"] = {
                    name: asdict(module.format)
                    for name, module in quantized_modules(work.model).items()
                    if module.format.param_dtype != "float16"
                }


def _write_shard(work: _Work, names: list[str], out: HashingFile, tell: Callable[[int], Any]) -> None:
    done = 0

    def pieces_of(name: str) -> Iterator[memoryview]:
        nonlocal done
        yield from tensor_pieces(_tensor(work, name))
        done += work.source_bytes(name)
        tell(done)

    write_file(out, {name: work.spec(name) for name in names}, pieces_of, None, packed_first=True)


def _tensor(work: _Work, name: str) -> torch.Tensor:
    source, stored = work.loaded.source, work.sources[name]
    made = source.finished(stored, torch.device("cpu"))
    if made is None:
        spec = source.specs[stored]
        found = torch.empty(spec.shape, dtype=spec.dtype, device="cpu")
        source.read_into(stored, found)
        return found
    module: Any = work.model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, Float8Linear):
        return made.view(FLOAT8) if name.endswith(".packed") else made
    format = source.made.pop(stored).format
    if format != module.format:
        _change_format(work.model, name.rpartition(".")[0], format)
        raise _OtherFormatError
    return made


def _change_format(model: Any, name: str, format: QuantFormat | None) -> None:
    """Of a module and of what shares its bytes."""
    assert format is not None
    module: Any = model.get_submodule(name)
    packed = torch.empty(packed_bytes(format, *module.shape), dtype=torch.uint8, device="meta")
    for other in quantized_modules(model).values():
        if other is not module and other.packed is module.packed:
            other.replace_packed(packed, format)
    module.replace_packed(packed, format)


def _learn(work: _Work, notes: Mapping[str, Any]) -> None:
    """Formats that an earlier run had to change."""
    formats = notes.get("formats")
    for name, fields in formats.items() if isinstance(formats, dict) else ():
        _change_format(work.model, name, QuantFormat(**fields))


def _put_in_place(work: _Work, workshop: ShardWorkshop, folder: Path, target: Path) -> None:
    config = work.config.copy()
    config.architectures = [type(work.model).__name__]
    config.quantization_config = record_of(work.model, work.loaded).to_config()
    with DirectoryCommit(target, replaces=_is_replaced) as staging:
        config.save_pretrained(staging)
        for name in TEXT_FILES:
            _copy_text(folder, staging, name)
        for file in work.shards:
            workshop.hand_over(file, staging)
        if len(work.shards) > 1:
            _write_index(work, staging)


def _is_replaced(name: str) -> bool:
    return name == SeedOssConfig.file_name or name in TEXT_FILES or is_weight_file(name)


def _copy_text(folder: Path, staging: Path, name: str) -> None:
    if not model_file_exists(folder, name):
        return
    try:
        with open_model_file(folder, name) as file:
            content = file.read(MAX_TEXT_BYTES + 1)
    except MissingFileError:
        return
    if len(content) > MAX_TEXT_BYTES:
        raise InputError(f"{folder / name} has over {MAX_TEXT_BYTES} bytes; that is no {name}")
    (staging / name).write_bytes(content)


def _write_index(work: _Work, staging: Path) -> None:
    weight_map = {name: file for file, names in work.shards.items() for name in names}
    metadata = {"total_size": sum(work.spec(name).num_bytes for name in weight_map)}
    text = json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"
    (staging / INDEX_FILE).write_text(text, encoding="utf-8")


def _purpose(folder: Path, scheme: Scheme, work: _Work) -> dict[str, Any]:
    """What work that was left over must have been for to be of use: same source, scheme, shards, program."""
    files = sorted(path for path in folder.iterdir() if is_weight_file(path.name))
    return {
        "program": __version__,
        "source": os.path.realpath(folder),
        "files": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        "config": work.config.to_dict(),
        "scheme": asdict(scheme),
        "shards": {file: list(names) for file, names in work.shards.items()},
    }


def _real_target(out_dir: str | os.PathLike[str]) -> Path:
    text = os.fspath(out_dir)
    if not text or "\0" in text:
        raise InputError(f"OUT is {text!r:.60}; give the folder to write")
    return Path(os.path.realpath(text))


def _check_target(folder: Path, target: Path) -> None:
    if os.path.realpath(folder) == str(target):
        raise InputError(f"{target} is the source itself; give another folder, the original is needed until the end")
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; give a folder to write")
