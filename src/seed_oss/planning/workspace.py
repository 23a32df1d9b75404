"""What a forward takes beside weights and cache: as much as its widest moment, for each of the ways in which it runs.

native    all layers in one call (quantized weights on the CPU, nn/fused.py): buffers for the whole call
torch     layer after layer: the widest of attention and MLP, and the products' own copies
"""

import math
from dataclasses import dataclass

from seed_oss.config import SeedOssConfig
from seed_oss.planning.chunks import default_chunk_len
from seed_oss.planning.shapes import has_language_head, model_tensors
from seed_oss.planning.weights import Form

FLOAT = 4
PROCESS_BYTES = 6 * 2**20  # stacks of threads, what torch and the C library keep
MIN_GROWTH = 256  # of DynamicCache
HEAP_BYTES = 32 * 2**20  # smaller tensors share one heap, which has holes; larger ones are pages of their own


@dataclass(frozen=True, slots=True)
class Load:
    """How much a model has to do at once.

    Attributes:
        batch: rows.
        context: tokens of each row, prompt and answer together.
        chunk: most new tokens of a row in one forward; None for as many as `generate` takes.
    """

    batch: int
    context: int
    chunk: int | None = None

    @property
    def chunk_len(self) -> int:
        """New tokens of a row in one forward."""
        return min(self.context, default_chunk_len(self.context) if self.chunk is None else self.chunk)

    @property
    def num_new(self) -> int:
        """Tokens in one forward."""
        return self.batch * self.chunk_len

    @property
    def is_chunked(self) -> bool:
        """Whether a forward of several tokens meets cached ones."""
        return self.chunk_len < self.context


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
        activations = (
            _torch(config, form, load, device, cache_bytes) + _unpacked(config, form) + _scaled(form, config, load)
        )
    words = config.vocab_size if has_language_head(config) else config.num_labels
    logits = load.batch * words * (form.dtype.itemsize + 2 * FLOAT)
    return WorkspaceBytes(activations, logits, _cache_room(config, load, device, cache_bytes), PROCESS_BYTES)


def _native(config: SeedOssConfig, form: Form, load: Load) -> int:
    """The buffers of csrc/decoder.cpp, and what nn/fused.py makes around them."""
    n, hidden, inner = load.num_new, config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    row = queries + 2 * config.num_key_value_heads * config.head_dim
    group = min((math.gcd(format.group_size, 32) for format in form.formats.values() if format), default=32)
    down = [format for name, format in form.formats.items() if name.endswith(".down_proj")]
    if down and all(format and format.group_size % 32 == 0 for format in down):  # its rows are rounded as they come
        gated, widest = _rounded(n * inner, 32), max(hidden, queries)
    else:
        gated, widest = n * inner * FLOAT, max(hidden, queries, inner)
    buffers = n * FLOAT * (row + queries + hidden) + _rounded(n * widest, group) + gated
    size = form.dtype.itemsize
    states = n * hidden * (size + FLOAT + (size if size < FLOAT else 0))  # given, in fp32, and as they were given
    around = states + 4 * n * config.head_dim * FLOAT
    return buffers + around + _mask(load, 1)


def _rounded(num_elements: int, group: int) -> int:
    """Activations in 8 bits, with a scale, a sum and a scaled sum per group: ActRows of csrc/linear.h."""
    return num_elements + num_elements // group * 3 * FLOAT


def _torch(config: SeedOssConfig, form: Form, load: Load, device: str, cache_bytes: int) -> int:
    """The widest of norm, attention and MLP. Measured on shapes in which one of them is far wider than the others."""
    n, size = load.num_new, form.dtype.itemsize
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
    stream = 2 * hidden * size  # what a layer adds to, and its normed form
    norm = 3 * hidden * size + 3.5 * hidden * FLOAT
    mlp = stream + 3 * inner * size + inner * FLOAT  # the gate activated, up, their product; sums of a product in fp32
    attention = stream + (5 * queries + 4 * keys) * size + queries * FLOAT  # while queries are rotated
    widest = n * int(max(norm, mlp, attention))
    holes = min(widest, cache_bytes, 4 * HEAP_BYTES) if device == "cpu" else 0  # where keys and values settle
    return widest + holes + _masked(config, load, size) + 4 * n * config.head_dim * size


def _masked(config: SeedOssConfig, load: Load, size: int) -> int:
    """What a chunk behind cached tokens takes: a mask, and with it keys and values for every query head."""
    if not load.is_chunked:
        return 0
    has_groups = config.num_attention_heads != config.num_key_value_heads
    width = config.num_attention_heads * config.head_dim if has_groups else 0
    return _mask(load, 1) + _mask(load, size) + 2 * load.batch * load.context * width * size


def _unpacked(config: SeedOssConfig, form: Form) -> int:
    """The largest quantized weight as numbers, where no kernel multiplies it as it is."""
    sizes = [
        math.prod(tensor.shape)
        for tensor in model_tensors(config)
        if form.formats.get(tensor.name.removesuffix(".weight")) is not None and len(tensor.shape) == 2
    ]
    return max(sizes, default=0) * (1 + 2 * FLOAT + form.dtype.itemsize)


def _scaled(form: Form, config: SeedOssConfig, load: Load) -> int:
    """The widest activations while they are rounded to 8-bit floating point: in fp32, as that again scaled, and so."""
    queries = config.num_attention_heads * config.head_dim
    widest = max(config.hidden_size, config.intermediate_size, queries)
    return load.num_new * widest * (2 * FLOAT + 1) if form.is_float8 else 0


def _mask(load: Load, size: int) -> int:
    """Who attends to whom: only a chunk that is not the first one needs it."""
    return load.chunk_len * load.context * size if load.is_chunked else 0


def _cache_room(config: SeedOssConfig, load: Load, device: str, cache_bytes: int) -> int:
    """A cache grows by a quarter, one layer's keys or values after the other, and keeps room for the next tokens.

    Large pieces of a CPU's memory are taken as they are written to; small ones lie in a heap that was in use before.
    """
    one_copy = cache_bytes // (2 * config.num_hidden_layers)
    room = cache_bytes * max(MIN_GROWTH, load.context // 4) // load.context
    if device == "cpu":
        room = min(room, 2 * config.num_hidden_layers * HEAP_BYTES // 4)
    return one_copy + room
