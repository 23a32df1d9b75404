"""What a spoiled folder may lead to: a typed error, or a load of exactly what its files say.

The judges read the files in ways that have nothing to do with ours: the standard JSON parser, offsets taken as they
stand, and the safetensors and tokenizers packages themselves.
"""

import json
import math
import random
import struct
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, deserialize
from tokenizers import Tokenizer

from seed_oss import GenerationConfig, SeedOssConfig, SeedOssForCausalLM, SeedOssTokenizer
from seed_oss.weights.source import CheckpointSource

PROBE = "What is the capital of France? Größe 日本語 🙂  def f(a):\n\t0123"
Judge = Callable[[Path], None]


class WrongLoadError(Exception):
    """Something was loaded that the files do not say."""


def judge_tensors(folder: Path) -> None:
    """Read all tensors of a checkpoint, without a model."""
    source = CheckpointSource(folder)
    loaded: dict[str, torch.Tensor] = {}
    for group in source.groups():
        with source.opened(group):
            for name in group:
                spec = source.specs[name]
                loaded[name] = torch.empty(spec.shape, dtype=spec.dtype)
                source.read_into(name, loaded[name])
    _compare(loaded, stored_tensors(folder))


def judge_model(folder: Path) -> None:
    """Load the whole model."""
    model: Any = SeedOssForCausalLM.from_pretrained(folder, show_progress=False)
    loaded = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.dtype == torch.float32:
        stored = stored_tensors(folder)
        if model.config.tie_word_embeddings:
            loaded = {name: tensor for name, tensor in loaded.items() if name in stored}
        _compare(loaded, {name: entry for name, entry in stored.items() if name in loaded})
    # A head that differs from the embeddings is kept as stored, and the config then says that it is not tied.
    untied = {"tie_word_embeddings"} if "lm_head.weight" in stored_tensors(folder) else set[str]()
    judge_config_of(model.config, folder / "config.json", but=untied)


def judge_quantized(folder: Path) -> None:
    """Load a quantized model: the bytes of the files, each read as config.json says."""
    model: Any = SeedOssForCausalLM.from_pretrained(folder, show_progress=False, device="cpu")
    stored = stored_tensors(folder)
    loaded = model.state_dict(packed=True)
    for name, tensor in loaded.items():
        if name not in stored:
            raise WrongLoadError(f"{name} is in no file")
        dtype, shape, data = stored[name]
        same_dtype = dtype == {torch.uint8: "U8", torch.float32: "F32"}.get(tensor.dtype)
        if same_dtype and bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy()) != data:
            raise WrongLoadError(f"{name} ({dtype} {shape}) was loaded as something else")
        if not same_dtype and dtype not in ("BF16", "F16", "F64"):
            raise WrongLoadError(f"{name} is {dtype} and was loaded as {tensor.dtype}")
    record = _stored_json(folder / "config.json")["quantization_config"]
    for name, module in model.named_modules():
        if hasattr(module, "packed"):
            said = record["modules"].get(name, record["weights"])
            if any(getattr(module.format, key) != value for key, value in said.items()):
                raise WrongLoadError(f"{name} was loaded as {module.format}, config.json says {said}")
            if record["shapes"][name.rsplit(".", 1)[-1]] != list(module.shape):
                raise WrongLoadError(f"{name} was loaded as {module.shape}")
    untied = {"tie_word_embeddings"} if "lm_head.packed" in stored else set[str]()  # as in judge_model
    judge_config_of(model.config, folder / "config.json", but={"quantization_config"} | untied)


def judge_config(folder: Path) -> None:
    """Read both config files."""
    judge_config_of(SeedOssConfig.from_pretrained(folder), folder / "config.json")
    if (folder / "generation_config.json").exists():
        judge_config_of(GenerationConfig.from_pretrained(folder), folder / "generation_config.json")


def judge_config_of(config: Any, path: Path, but: AbstractSet[str] = frozenset()) -> None:
    """Compare a config with its file, field by field, where the file says something about it."""
    written = config.to_dict()
    for key, value in _stored_json(path).items():
        if key.startswith("_") or key in _REWRITTEN or key in but or value is None:
            continue
        if not _same(written.get(key), value):
            raise WrongLoadError(
                f"{path.name}: {key} is {str(value)[:80]} in the file, {str(written.get(key))[:80]} loaded"
            )


# Written in another form than read: checked by the config's own tests.
_REWRITTEN = {
    *("auto_map", "dtype", "torch_dtype", "rope_theta", "rope_scaling", "rope_parameters", "transformers_version"),
    *("id2label", "label2id", "num_labels", "model_type", "architectures", "_name_or_path"),
}


def judge_tokenizer(folder: Path) -> None:
    """Open the tokenizer and compare its ids with those of the tokenizers package."""
    tokenizer: Any = SeedOssTokenizer.from_pretrained(folder)
    ids = list(tokenizer(PROBE)["input_ids"])
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    json.loads(text)
    reference = Tokenizer.from_str(text)
    reference.no_truncation()
    reference.no_padding()
    expected = reference.encode(PROBE).ids
    if ids != expected and not _settings_have_tokens_of_the_probe(folder):
        raise WrongLoadError(f"ids {ids[:20]}, by the tokenizers package {expected[:20]}")
    if tokenizer.decode(ids) is None:
        raise WrongLoadError("no text from ids")


def _settings_have_tokens_of_the_probe(folder: Path) -> bool:
    """Whether the files beside tokenizer.json add tokens that occur in the probe, which then has other ids."""
    names = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    todo: list[Any] = [json.loads((folder / name).read_bytes()) for name in names if (folder / name).exists()]
    while todo:
        item = todo.pop()
        if isinstance(item, str) and item and item in PROBE:
            return True
        if isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            todo += item
    return False


def judge_file(path: Path, rng: random.Random) -> None:
    """Every safetensors file that we accept, the safetensors package accepts too."""
    del rng
    try:
        deserialize(path.read_bytes())
    except SafetensorError as error:
        raise WrongLoadError(f"{path.name} is refused by the safetensors package: {error}") from error


def stored_tensors(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Tensor name -> (dtype, shape, bytes), read the naive way."""
    single = folder / "model.safetensors"
    if single.exists():
        files = [single]
    else:
        weight_map = _stored_json(folder / "model.safetensors.index.json")["weight_map"]
        files = [folder / name for name in sorted(set(weight_map.values()))]
    tensors: dict[str, tuple[str, list[int], bytes]] = {}
    for path in files:
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            tensors[name] = (entry["dtype"], entry["shape"], data[8 + length + begin : 8 + length + end])
        judge_file(path, random.Random(0))
    return tensors


def _compare(loaded: dict[str, torch.Tensor], stored: dict[str, tuple[str, list[int], bytes]]) -> None:
    if loaded.keys() != stored.keys():
        raise WrongLoadError(f"other names: {sorted(loaded.keys() ^ stored.keys())[:5]}")
    for name, tensor in loaded.items():
        dtype, shape, data = stored[name]
        if list(tensor.shape) != shape or tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() != data:
            raise WrongLoadError(
                f"{name} ({dtype} {shape}) was loaded as something else: {tensor.dtype} {list(tensor.shape)}"
            )


def _stored_json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise WrongLoadError(f"{path.name} holds no object, and was accepted")
    return value


def _same(loaded: object, stored: object) -> bool:
    if isinstance(loaded, bool) != isinstance(stored, bool):
        return False
    if isinstance(loaded, float) and isinstance(stored, int | float):
        return math.isclose(loaded, stored, rel_tol=1e-12)
    return loaded == stored
