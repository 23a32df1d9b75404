"""What is written of a quantized checkpoint: shards made one after another from a source, then put in place at once."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seed_oss._version import __version__
from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError, MissingFileError
from seed_oss.files import (
    INDEX_FILE,
    DirectoryCommit,
    is_weight_file,
    model_file_exists,
    open_model_file,
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
from seed_oss.quant.schemes import Scheme
from seed_oss.weights import (
    LoadPlan,
    LoadRules,
    TensorSpec,
    WeightSource,
    expected_tensors,
    plan_load,
    shared_names,
    tensor_pieces,
)
from seed_oss.weights.packed_source import stored_shape
from seed_oss.weights.resumable import HashingFile, ShardWorkshop
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
Progress = Callable[[int, int], None]
CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        *(SeedOssForCausalLM, SeedOssModel, SeedOssForSequenceClassification),
        *(SeedOssForTokenClassification, SeedOssForQuestionAnswering),
    )
}


@dataclass
class ShardWork:
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


def plain_config(folder: Path) -> SeedOssConfig:
    """The config of a source, which must not be quantized yet.

    Raises:
        InputError: it is.
        ConfigError, MissingFileError: it cannot be read.
    """
    config = SeedOssConfig.from_pretrained(folder)
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"{folder} is quantized already; give the original. (To rewrite it in the format of seed_oss as it is: "
            "from_pretrained, then save_pretrained)"
        )
    return config


def class_of(config: SeedOssConfig) -> type[Any]:
    """The class that a checkpoint was saved by."""
    return CLASSES.get((config.architectures or ["SeedOssForCausalLM"])[0], SeedOssForCausalLM)


def matched(model: nn.Module, source: WeightSource) -> LoadPlan:
    """Which stored tensor is which of the model's; what the model does not use is named in a warning.

    Raises:
        CheckpointError: tensors are missing, unexpected, or of another shape.
    """
    plan = plan_load(
        expected_tensors(model),
        shared_names(model),
        source.specs,
        LoadRules(prefixes=BASE_PREFIXES, heads=HEAD_NAMES),
        where=source.name,
        model_name=type(model).__name__,
    )
    if plan.skipped:
        warnings.warn(f"{source.name}: not used: {', '.join(plan.skipped[:4])}", stacklevel=5)
    return plan


def planned_shards(
    model: Any, source: WeightSource, config: SeedOssConfig, scheme: Scheme | None, max_shard_size: int
) -> ShardWork:
    """What is to be written.

    Args:
        model: plain, on the meta device; its modules are exchanged for quantized ones.
        source: plain weights, or packed ones.
        config: says how weights are packed.
        scheme: to round plain weights to; None for packed ones.
        max_shard_size: bytes of tensors per file.

    Raises:
        InputError, CheckpointError: the source does not fit.
    """
    loaded = prepare_quantized(model, source, config, scheme, BASE_PREFIXES, dtype=torch.float32, may_map=False)
    assert loaded is not None
    plan = matched(model, loaded.source)
    names = [name for name in stored_tensors(model) if name in plan.sources]
    work = ShardWork(model, config, loaded, plan.sources, {})
    work.shards = plan_shards({name: work.spec(name) for name in names}, max_shard_size)
    return work


def unfinished(work: ShardWork, workshop: ShardWorkshop) -> list[str]:
    """Names of the tensors of shards that are not finished yet."""
    return [name for file, names in work.shards.items() if not workshop.is_finished(file) for name in names]


def make_shards(
    work: ShardWork,
    workshop: ShardWorkshop,
    progress: Progress | None = None,
    release: Callable[[list[str]], None] = lambda _: None,
) -> None:
    """Write the shards that are not finished yet.

    Args:
        work: what is to be written.
        workshop: opened; where to. Its notes keep formats that had to be changed, see `learn_formats`.
        progress: called with (bytes of the source done, bytes in all).
        release: called before each shard with the names of all tensors that will still be read.

    Raises:
        CheckpointError, NumericalError: the source is damaged.
        OSError: disk full and the like; finished shards are kept.
    """
    total = sum(work.source_bytes(name) for names in work.shards.values() for name in names)
    left = {file: names for file, names in work.shards.items() if not workshop.is_finished(file)}
    done = total - sum(work.source_bytes(name) for names in left.values() for name in names)
    for file, names in list(left.items()):
        release([name for some in left.values() for name in some])
        _make_shard(work, workshop, file, lambda num_bytes, done=done: progress and progress(done + num_bytes, total))
        done += sum(work.source_bytes(name) for name in names)
        del left[file]
    if progress is not None:
        progress(total, total)


def _make_shard(work: ShardWork, workshop: ShardWorkshop, file: str, tell: Callable[[int], Any]) -> None:
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


def _write_shard(work: ShardWork, names: list[str], out: HashingFile, tell: Callable[[int], Any]) -> None:
    done = 0

    def pieces_of(name: str) -> Iterator[memoryview]:
        nonlocal done
        yield from tensor_pieces(_tensor(work, name))
        done += work.source_bytes(name)
        tell(done)

    write_file(out, {name: work.spec(name) for name in names}, pieces_of, None, packed_first=True)


def _tensor(work: ShardWork, name: str) -> torch.Tensor:
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


def learn_formats(work: ShardWork, workshop: ShardWorkshop) -> None:
    """Formats that an earlier run had to change."""
    formats = workshop.notes.get("formats")
    for name, fields in formats.items() if isinstance(formats, dict) else ():
        _change_format(work.model, name, QuantFormat(**fields))


def put_in_place(work: ShardWork, workshop: ShardWorkshop, folder: Path, target: Path) -> None:
    """Let the target appear, or change, in one step.

    Args:
        work: whose shards are all finished.
        workshop: opened.
        folder: of the source, whose tokenizer and the like come along.
        target: the folder.

    Raises:
        OSError: the system refused; the target is as before.
    """
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


def _write_index(work: ShardWork, staging: Path) -> None:
    weight_map = {name: file for file, names in work.shards.items() for name in names}
    total_size = sum(work.spec(name).num_bytes for name in weight_map)
    metadata = {"total_size": total_size, "total_parameters": work.model.num_parameters()}
    text = json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"
    (staging / INDEX_FILE).write_text(text, encoding="utf-8")


def purpose_of(folder: Path, config: SeedOssConfig, scheme: Scheme, **more: Any) -> dict[str, Any]:
    """What work that was left over must have been for to be of use: the same source, scheme and program, and `more`."""
    files = sorted(path for path in folder.iterdir() if is_weight_file(path.name))
    return {
        "program": __version__,
        "source": os.path.realpath(folder),
        "files": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        "config": config.to_dict(),
        "scheme": asdict(scheme),
        **more,
    }


def real_target(out_dir: str | os.PathLike[str]) -> Path:
    """The folder to write, links followed.

    Raises:
        InputError: that is no path.
    """
    text = os.fspath(out_dir)
    if not text or "\0" in text:
        raise InputError(f"OUT is {text!r:.60}; give the folder to write")
    return Path(os.path.realpath(text))


def check_target(folder: Path, target: Path) -> None:
    """Refuse to write where the source is, or a file.

    Raises:
        InputError: it is so.
    """
    if os.path.realpath(folder) == str(target):
        raise InputError(f"{target} is the source itself; give another folder, the original is needed until the end")
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; give a folder to write")
