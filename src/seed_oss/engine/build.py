"""An engine from its settings: model, tokenizer, cache, and what runs them."""

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.distributed.device_mesh import DeviceMesh

from seed_oss.cache import PagedCache, block_bytes
from seed_oss.chat.tokenizer import SeedOssTokenizer
from seed_oss.config import GenerationConfig
from seed_oss.engine.blocks import BlockPool
from seed_oss.engine.core import EngineCore
from seed_oss.engine.disk import BlockFolder, folder_secret
from seed_oss.engine.identity import cache_identity
from seed_oss.engine.intake import Intake, ServedTasks
from seed_oss.engine.limits import EngineLimits
from seed_oss.engine.look_ahead import LookAhead
from seed_oss.engine.mesh import Ranks
from seed_oss.engine.messages import Ready, Task
from seed_oss.engine.packed_model import PagedModel
from seed_oss.engine.prefix_cache import PrefixCache
from seed_oss.engine.prompt_tasks import PromptTasks
from seed_oss.engine.scheduler import Scheduler
from seed_oss.engine.self_check import is_batch_invariant
from seed_oss.engine.sizing import EngineSize, StepWork, mapped_bytes, size_engine
from seed_oss.engine.spec import EngineSpec
from seed_oss.engine.stepper import Stepper
from seed_oss.errors import ConfigError, MissingFileError, SeedOssError
from seed_oss.files.kept_secret import SECRET_LEN
from seed_oss.generation.grammar_compiler import GrammarCompiler, GrammarLimits
from seed_oss.models import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    SeedOssForCausalLM,
)
from seed_oss.models.quantized_state import is_quantized
from seed_oss.nn.fused import fused, logits_of_rows
from seed_oss.nn.fused_step import FusedStep
from seed_oss.nn.lora import adapted
from seed_oss.ops.memory import memory_bytes
from seed_oss.ops.rope import length_variant
from seed_oss.weights.lora import read_lora

BLOCK_LEN = 32
_UNKNOWN = 2**62  # more bytes than there are
_LOG = logging.getLogger(__name__)
_CACHE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
_KINDS: dict[str, tuple[Any, str, tuple[Task, ...]]] = {
    "SeedOssForCausalLM": (AutoModelForCausalLM, "lm_head", ("generate", "embed", "score")),
    "SeedOssForSequenceClassification": (AutoModelForSequenceClassification, "score", ("classify", "embed")),
    "SeedOssForTokenClassification": (AutoModelForTokenClassification, "score", ("token_classify", "embed")),
    "SeedOssForQuestionAnswering": (AutoModelForQuestionAnswering, "qa_outputs", ("question_answer", "embed")),
}


@dataclass(frozen=True)
class LoadedModel:
    """A model as an engine takes it.

    Attributes:
        model: any class of the family with a head, in eval mode.
        tokenizer: its tokenizer, or None.
    """

    model: Any
    tokenizer: SeedOssTokenizer | None


def load(spec: EngineSpec) -> LoadedModel:
    """Load the model that the settings name, of the class that its configuration names, and its tokenizer.

    Raises:
        SeedOssError: it cannot be had or used.
    """
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    config = AutoConfig.from_pretrained(spec.model, revision=spec.revision)
    named: list[str] = getattr(config, "architectures", None) or []
    kind = next((_KINDS[name] for name in named if name in _KINDS), _KINDS["SeedOssForCausalLM"])
    model = kind[0].from_pretrained(
        spec.model,
        revision=spec.revision,
        dtype=spec.dtype,
        device_map=spec.device,
        quantization=spec.quantization,
    )
    return LoadedModel(model, _tokenizer(spec))


def _tokenizer(spec: EngineSpec) -> SeedOssTokenizer | None:
    try:
        return SeedOssTokenizer.from_pretrained(spec.model, revision=spec.revision)
    except MissingFileError:
        return None


def build_core(
    spec: EngineSpec,
    loaded: LoadedModel | None = None,
    clock: Callable[[], float] = time.monotonic,
    mesh: DeviceMesh | None = None,
) -> EngineCore:
    """An engine that takes requests.

    Args:
        spec: its settings.
        loaded: a model that is there already, instead of the one the settings name.
        clock: seconds, from whenever.
        mesh: processes that run each step together, of which this is the first; the others call `follow` with what
            `build_follower` gives there. None runs here alone.

    Raises:
        ConfigError: settings that do not go with the model, the memory or the mesh.
        SeedOssError: the model cannot be had or used.
    """
    loaded = load(spec) if loaded is None else loaded
    built = _built(spec, loaded, mesh)
    packed, pool, ready = built.packed, built.pool, built.ready
    names = (None, *ready.adapters)
    is_invariant = all(is_batch_invariant(packed, pool, ready.vocab_size, name) for name in names)
    if not is_invariant:
        _LOG.warning("on this machine results depend on what else is in a batch; seeds do not repeat under load")
    ready = replace(ready, is_batch_invariant=is_invariant)
    return EngineCore(
        _intake(spec, loaded, packed, ready, built.digests),
        Scheduler(_limits(spec, built.size), pool, built.store),
        Stepper(packed, LookAhead()),
        ready,
        clock,
        ThreadPoolExecutor(1, thread_name_prefix="seed-oss-intake"),
    )


def build_follower(spec: EngineSpec, loaded: LoadedModel | None = None, *, mesh: DeviceMesh) -> PagedModel:
    """What a rank of a mesh runs batches with that is not the first.

    Args:
        spec: settings, as the first rank has them.
        loaded: see `build_core`; as the first rank has it.
        mesh: see `build_core`.

    Raises:
        ConfigError: settings that do not go with the model, the memory or the mesh.
        SeedOssError: the model cannot be had or used.
    """
    return _built(spec, load(spec) if loaded is None else loaded, mesh).packed


class _Built(NamedTuple):
    """What every rank makes."""

    packed: PagedModel
    pool: BlockPool
    store: BlockFolder | None
    size: EngineSize
    digests: dict[str, bytes]
    ready: Ready


def _lora(name: str, folder: str, model: Any) -> Any:
    try:
        return read_lora(folder, model.config, model.device)
    except SeedOssError as error:
        remedy = "--lora takes NAME=FOLDER, a folder with adapter_config.json"
        raise type(error)(f"the adapter {name!r} cannot be used: {error}; {remedy}") from error


def _built(spec: EngineSpec, loaded: LoadedModel, mesh: DeviceMesh | None) -> _Built:
    model: Any = fused(loaded.model) if loaded.model.device.type == "cpu" else loaded.model
    _, head_name, tasks = _KINDS.get(type(model).__name__, _KINDS["SeedOssForCausalLM"])
    loras = {name: _lora(name, folder, model) for name, folder in spec.lora_folders.items()}
    dtype = _cache_dtype(spec, model)
    size = _size(spec, model, dtype, mesh)
    cache = PagedCache(model.config, size.num_blocks, BLOCK_LEN, dtype, model.device)
    secret, store = _disk(spec, model, cache)
    decoders = {name: adapted(model.base_model, one.low_ranks) for name, one in loras.items()}
    head = partial(logits_of_rows, getattr(model, head_name))
    packed = PagedModel(model.base_model, head, cache, store, decoders, mesh, _steps(model, decoders))
    pool = BlockPool(size.num_blocks, BLOCK_LEN, PrefixCache(secret))
    digests = {name: one.digest for name, one in loras.items()}
    return _Built(packed, pool, store, size, digests, _ready(spec, model, size, tasks, tuple(loras)))


def _steps(model: Any, decoders: Mapping[str, Any]) -> dict[str | None, FusedStep]:
    """What runs one token of each row in one call, of those decoders that it can run."""
    if not isinstance(model, SeedOssForCausalLM):
        return {}
    every: dict[str | None, Any] = {None: model.base_model, **decoders}
    made = {name: FusedStep.of(model, decoder, model.lm_head) for name, decoder in every.items()}
    return {name: step for name, step in made.items() if step is not None}


def _disk(spec: EngineSpec, model: Any, cache: PagedCache) -> tuple[bytes, BlockFolder | None]:
    """The secret of the prefix cache, and blocks on disk where they are wanted."""
    if spec.cache_dir is None:
        return secrets.token_bytes(SECRET_LEN), None
    folder = Path(spec.cache_dir)
    secret = folder_secret(folder)
    return secret, BlockFolder(folder, cache_identity(model, cache), cache, spec.cache_dir_bytes)


def _cache_dtype(spec: EngineSpec, model: Any) -> torch.dtype:
    """Of keys and values: that of plain weights; beside quantized ones bfloat16."""
    if spec.kv_cache_dtype == "auto":
        return torch.float32 if model.dtype == torch.float32 and not is_quantized(model) else torch.bfloat16
    if spec.kv_cache_dtype not in _CACHE_DTYPES:
        raise ConfigError(f"kv_cache_dtype is {spec.kv_cache_dtype!r}; it must be auto, {', '.join(_CACHE_DTYPES)}")
    return _CACHE_DTYPES[spec.kv_cache_dtype]


def _size(spec: EngineSpec, model: Any, dtype: torch.dtype, mesh: DeviceMesh | None) -> EngineSize:
    """All ranks of a mesh decide alike, by the one that has the least memory."""
    is_cpu = model.device.type == "cpu"
    free = memory_bytes(mapped_bytes(model))[1] if is_cpu else torch.cuda.mem_get_info(model.device)[0]
    if mesh is not None:
        free = Ranks(mesh, model.device).least(_UNKNOWN if free is None else free)
    return size_engine(
        spec,
        StepWork.of(model),
        block_bytes=block_bytes(model.config, BLOCK_LEN, dtype),
        block_len=BLOCK_LEN,
        free_bytes=free,
    )


def _ready(spec: EngineSpec, model: Any, size: EngineSize, tasks: tuple[Task, ...], adapters: tuple[str, ...]) -> Ready:
    limits = _limits(spec, size)
    return Ready(
        max_model_len=size.max_model_len,
        max_num_seqs=spec.max_num_seqs,
        vocab_size=model.config.vocab_size,
        tasks=tasks,
        adapters=adapters,
        dtype=dtype_name(model),
        is_batch_invariant=False,  # until it has been looked at
        kv_cache_tokens=size.num_blocks * BLOCK_LEN,
        max_num_rows=limits.max_num_rows,
        max_queued_tokens=limits.max_queued_tokens,
    )


def dtype_name(model: Any) -> str:
    """What the weights are and what they compute in: "bfloat16", "int4, computed in float32".

    Args:
        model: any of the family; its configuration says how its weights are packed.
    """
    computed = str(model.dtype).removeprefix("torch.")
    packed: dict[str, Any] | None = getattr(model.config, "quantization_config", None)
    if not packed:
        return computed
    name, bits = packed.get("scheme", packed.get("quant_method", "packed")), packed.get("weights", {}).get("bits")
    return f"{name}-int{bits}, computed in {computed}" if name == "gguf" else f"{name}, computed in {computed}"


def _limits(spec: EngineSpec, size: EngineSize) -> EngineLimits:
    limits = EngineLimits(
        max_model_len=size.max_model_len,
        max_num_seqs=spec.max_num_seqs,
        max_num_batched_tokens=size.max_num_batched_tokens,
        max_num_waiting=spec.max_num_waiting,
        queue_timeout_s=spec.queue_s,
        progress_timeout_s=spec.no_progress_s,
        total_timeout_s=spec.total_s,
        ahead_s=min(spec.ahead_s, spec.stream_interval_s),
    )
    queued = spec.max_num_queued_tokens
    return limits if queued is None else replace(limits, max_queued_tokens=queued)


def _intake(
    spec: EngineSpec, loaded: LoadedModel, packed: PagedModel, ready: Ready, adapters: Mapping[str, bytes]
) -> Intake:
    model = loaded.model
    is_causal = "generate" in ready.tasks
    num_labels = 2 if "question_answer" in ready.tasks else model.config.num_labels
    prompt_tasks = PromptTasks(packed.head if is_causal else None, None if is_causal else packed.head, num_labels)
    variant = partial(length_variant, model.config)
    served = ServedTasks(frozenset(ready.tasks), ready.vocab_size, ready.max_model_len, adapters, variant)
    defaults = getattr(model, "generation_config", None) or GenerationConfig()
    if is_causal:
        defaults.validate()
    if loaded.tokenizer is not None:
        GrammarCompiler.limit(loaded.tokenizer, GrammarLimits(spec.grammar_s, spec.grammar_cache_bytes))
    return Intake(served, defaults, loaded.tokenizer, prompt_tasks)
