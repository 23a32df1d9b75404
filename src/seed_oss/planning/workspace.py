"""What a forward takes beside weights and cache: as much as its widest moment, for each of the ways in which it runs.

native    all layers in one call (quantized weights on the CPU, nn/fused.py): buffers for the whole call
torch     layer after layer: the widest of attention and MLP, and the products' own copies
"""

import math
from dataclasses import dataclass

from seed_oss.config import SeedOssConfig
from seed_oss.planning.shapes import has_language_head, model_tensors
from seed_oss.planning.weights import Form

FLOAT = 4
PROCESS_BYTES = 12 * 2**20  # read buffers, stacks of threads, what torch keeps; measured in tests/models
MIN_GROWTH = 256  # of DynamicCache


@dataclass(frozen=True, slots=True)
class Load:
    """How much a model has to do at once.

    Attributes:
        batch: rows.
        context: tokens of each row, prompt and answer together.
        chunk: most new tokens of a row in one forward.
    """

    batch: int
    context: int
    chunk: int

    @property
    def num_new(self) -> int:
        """Tokens in one forward."""
        return self.batch * min(self.chunk, self.context)

    @property
    def is_chunked(self) -> bool:
        """Whether a forward of several tokens meets cached ones."""
        return self.chunk < self.context


@dataclass(frozen=True, slots=True)
class WorkspaceBytes:
    """Bytes beside weights and cache.

    Attributes:
        activations: of the widest moment in the layers.
        logits: of the last position of each row, as the head gives them and in fp32.
        cache_room: what a growing cache holds beyond its tokens.
        process: buffers that do not depend on the work.
    """

    activations: int
    logits: int
    cache_room: int
    process: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.activations + self.logits + self.cache_room + self.process


def workspace_bytes(
    config: SeedOssConfig, form: Form, load: Load, *, device: str, is_native: bool, cache_bytes: int
) -> WorkspaceBytes:
    """What a forward takes at most.

    Args:
        config: of the model.
        form: what its weights are.
        load: how much it has to do.
        device: "cpu" or another.
        is_native: the native kernels run its layers.
        cache_bytes: of all its tokens.
    """
    if is_native:
        activations = _native(config, form, load)
    else:
        activations = _torch(config, form, load) + _unpacked(config, form)
    words = config.vocab_size if has_language_head(config) else config.num_labels
    logits = load.batch * words * (form.dtype.itemsize + 2 * FLOAT)
    return WorkspaceBytes(activations, logits, _cache_room(config, load, device, cache_bytes), PROCESS_BYTES)


def _native(config: SeedOssConfig, form: Form, load: Load) -> int:
    """The buffers of csrc/decoder.cpp, and what nn/fused.py makes around them."""
    n, hidden, inner = load.num_new, config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    row = queries + 2 * config.num_key_value_heads * config.head_dim
    group = min((math.gcd(format.group_size, 32) for format in form.formats.values() if format), default=32)
    widest = max(hidden, queries, inner)
    buffers = n * FLOAT * (row + queries + hidden + inner) + _rounded(n * widest, group) + _rounded(n * inner, 32)
    around = n * hidden * (2 * form.dtype.itemsize + FLOAT) + 4 * n * config.head_dim * FLOAT
    return buffers + around + _mask(load, 1)


def _rounded(num_elements: int, group: int) -> int:
    """Activations in 8 bits, with a scale and a sum per group."""
    return num_elements + num_elements // group * 8


def _torch(config: SeedOssConfig, form: Form, load: Load) -> int:
    n, size = load.num_new, form.dtype.itemsize
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
    stream = 2 * hidden  # what a layer adds to, and its normed form
    mlp = stream + 3 * inner  # the gate activated, up, and their product
    attention = stream + 4 * queries + 4 * keys  # queries while they are rotated, keys and values
    repeated = 0
    if load.is_chunked and config.num_attention_heads != config.num_key_value_heads:
        repeated = 2 * load.batch * load.context * queries * size  # a mask: keys and values for every query head
    widest = max(n * size * mlp, n * size * attention + repeated + _mask(load, size))
    return widest + _mask(load, 1) + 4 * n * config.head_dim * size


def _unpacked(config: SeedOssConfig, form: Form) -> int:
    """The largest quantized weight as numbers, where no kernel multiplies it as it is."""
    sizes = [
        math.prod(tensor.shape)
        for tensor in model_tensors(config)
        if form.formats.get(tensor.name.removesuffix(".weight")) is not None and len(tensor.shape) == 2
    ]
    return max(sizes, default=0) * (1 + 2 * FLOAT + form.dtype.itemsize)


def _mask(load: Load, size: int) -> int:
    """Who attends to whom: only a chunk that is not the first one needs it."""
    return load.num_new // load.batch * load.context * size if load.is_chunked else 0


def _cache_room(config: SeedOssConfig, load: Load, device: str, cache_bytes: int) -> int:
    """A cache grows by a quarter, one layer's keys or values after the other; a CPU hands out memory as it is used."""
    one_copy = cache_bytes // (2 * config.num_hidden_layers)
    if device == "cpu":
        return one_copy
    room = max(MIN_GROWTH, load.context // 4)
    return one_copy + cache_bytes * room // load.context
