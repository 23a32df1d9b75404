"""How many blocks of keys and values an engine gets, and how long its requests may be."""

from bisect import bisect
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

from torch import nn

from seed_oss.config import SeedOssConfig
from seed_oss.engine.prompt_tasks import ROWS_AT_ONCE
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import ConfigError
from seed_oss.nn.fused import runs_natively
from seed_oss.nn.quantized_linear import quantized_modules
from seed_oss.ops.memory import mapped_ranges
from seed_oss.planning.weights import Form, WeightBytes
from seed_oss.planning.workspace import Load, workspace_bytes
from seed_oss.quant.fp8 import has_float8

DEFAULT_BATCHED_TOKENS = 512
RESERVE_BYTES = 512 * 2**20  # for the interpreter, and for others on the machine
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class StepWork:
    """What runs the steps of an engine.

    Attributes:
        config: of the model.
        form: what its weights are.
        device: "cpu" or another.
        is_native: the native kernels run its layers.
    """

    config: SeedOssConfig
    form: Form
    device: str
    is_native: bool

    @classmethod
    def of(cls, model: Any) -> Self:
        """Of a loaded model."""
        return cls(model.config, loaded_form(model), model.device.type, runs_natively(model))


@dataclass(frozen=True, slots=True)
class EngineSize:
    """What an engine takes on.

    Attributes:
        num_blocks: of the cache.
        max_model_len: most tokens of a prompt and its answer.
        max_num_batched_tokens: most tokens of a step.
    """

    num_blocks: int
    max_model_len: int
    max_num_batched_tokens: int


def mapped_bytes(model: nn.Module) -> int:
    """Bytes of a model's tensors that lie in mapped files; 0 where nobody knows.

    Args:
        model: on the CPU.
    """
    ranges = sorted(mapped_ranges())
    firsts = [first for first, _ in ranges]
    tensors = {one.data_ptr(): one for one in chain(model.parameters(), model.buffers()) if one.numel()}

    def is_mapped(address: int) -> bool:
        place = bisect(firsts, address) - 1
        return place >= 0 and address < ranges[place][1]

    return sum(one.numel() * one.element_size() for address, one in tensors.items() if is_mapped(address))


def size_engine(
    spec: EngineSpec, work: StepWork, *, block_bytes: int, block_len: int, free_bytes: int | None
) -> EngineSize:
    """Decide.

    Args:
        spec: what is asked for.
        work: what runs its steps.
        block_bytes: memory of one block in all layers.
        block_len: tokens of a block.
        free_bytes: memory that is free once the weights are loaded; None where nobody knows.

    Raises:
        ConfigError: the memory does not hold one request of the length asked for.
    """
    batched = spec.max_num_batched_tokens or max(DEFAULT_BATCHED_TOKENS, spec.max_num_seqs)
    wanted_len = spec.max_model_len or work.config.max_position_embeddings
    memory = spec.kv_cache_memory
    if memory is None and free_bytes is not None:
        memory = max(free_bytes - RESERVE_BYTES - step_bytes(work, batched, spec.max_num_seqs), 0)
    wanted_blocks = spec.max_num_seqs * -(-wanted_len // block_len)
    num_blocks = wanted_blocks if memory is None else min(wanted_blocks, memory // block_bytes)
    fits_len = min(num_blocks * block_len, wanted_len)
    if fits_len < (wanted_len if spec.max_model_len else min(wanted_len, 2 * block_len)):
        needed = -(-wanted_len // block_len) * block_bytes
        raise ConfigError(
            f"kv_cache_memory is {(memory or 0) / _MIB:.0f} MiB, room for {max(fits_len, 0)} tokens; max_model_len="
            f"{wanted_len} needs {needed / _MIB:.0f} MiB: lower max_model_len, store keys and values in 8 bits "
            "(kv_cache_dtype='int8'), or quantize the weights further"
        )
    return EngineSize(num_blocks, fits_len, batched)


def loaded_form(model: Any) -> Form:
    """What a loaded model's weights are, as the planner of memory takes it; without their sizes."""
    formats = {name: module.format for name, module in quantized_modules(model).items()}
    return Form("loaded", model.dtype, WeightBytes(0, 0, 0, 0), formats, is_float8=has_float8(model))


def step_bytes(work: StepWork, num_tokens: int, num_rows: int) -> int:
    """What the widest step takes at most, beside weights, keys and values: as `seed-oss plan` counts it.

    Args:
        work: what runs it.
        num_tokens: of all rows.
        num_rows: of which each gets a token.
    """
    load = Load(batch=1, context=num_tokens, chunk=num_tokens)  # packed rows are one, and need no mask
    found = workspace_bytes(work.config, work.form, load, device=work.device, is_native=work.is_native, cache_bytes=0)
    return found.activations + found.process + found.logits * max(num_rows, ROWS_AT_ONCE)
