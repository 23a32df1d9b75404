"""How many blocks of keys and values an engine gets, and how long its requests may be."""

from bisect import bisect
from dataclasses import dataclass
from itertools import chain

from torch import nn

from seed_oss.config import SeedOssConfig
from seed_oss.engine.spec import EngineSpec
from seed_oss.errors import ConfigError
from seed_oss.planning.memory import mapped_ranges

DEFAULT_BATCHED_TOKENS = 512
_RESERVE_BYTES = 512 * 2**20  # for the interpreter, and for others on the machine
_MIB = 2**20


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
    spec: EngineSpec, config: SeedOssConfig, *, block_bytes: int, block_len: int, free_bytes: int | None
) -> EngineSize:
    """Decide.

    Args:
        spec: what is asked for.
        config: of the model.
        block_bytes: memory of one block in all layers.
        block_len: tokens of a block.
        free_bytes: memory that is free once the weights are loaded; None where nobody knows.

    Raises:
        ConfigError: the memory does not hold one request of the length asked for.
    """
    batched = spec.max_num_batched_tokens or max(DEFAULT_BATCHED_TOKENS, spec.max_num_seqs)
    wanted_len = spec.max_model_len or config.max_position_embeddings
    memory = spec.kv_cache_memory
    if memory is None:
        memory = _left_over(free_bytes, batched, spec, config)
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


def _left_over(free_bytes: int | None, batched: int, spec: EngineSpec, config: SeedOssConfig) -> int | None:
    """What may be used for keys and values, once a step has its room."""
    if free_bytes is None:
        return None
    heads = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    per_token = 4 * (6 * config.hidden_size + 2 * heads + 2 * config.intermediate_size)
    logits = 4 * 4 * spec.max_num_seqs * config.vocab_size
    return max(free_bytes - _RESERVE_BYTES - batched * per_token - logits, 0)
