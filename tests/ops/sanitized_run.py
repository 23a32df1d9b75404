"""Runs every native kernel on odd sizes, in memory that is exactly as large as it may be. No torch: under a sanitizer
each import costs, and numpy's memory is malloc's, so that a byte too far is noticed.

    python sanitized_run.py LIBRARY STRUCTS
"""

import ctypes
import importlib.util
import sys
from itertools import product
from typing import Any

import numpy as np


def address(array: "np.ndarray[Any, Any] | None") -> int | None:
    return None if array is None else array.ctypes.data


def packed(rng: np.random.Generator, bits: int, group: int, zero: int, wide: int, rows: int, cols: int) -> np.ndarray:
    """Random records with sane scales, see ops/packing.py."""
    param = np.float32 if wide else np.float16
    blocks = []
    for _ in range(-(-rows // 32) * (cols // group)):
        record = [rng.normal(size=32).astype(param).tobytes()]
        if zero == 1:
            record.append(rng.normal(size=32).astype(param).tobytes())
        if zero == 2:
            record.append(rng.integers(0, 256, 32 * bits // 8, dtype=np.uint8).tobytes())
        record.append(rng.integers(0, 256, 32 * group * bits // 8, dtype=np.uint8).tobytes())
        blocks.append(b"".join(record))
    return np.frombuffer(b"".join(blocks), dtype=np.uint8).copy()


def weight(structs: Any, rng: np.random.Generator, kept: list[Any], rows: int, cols: int, how: tuple[int, ...]) -> Any:
    """(bits, group, zero, wide), or (kind,) of a plain matrix."""
    if len(how) == 1:
        data, bias = np.ones((rows, cols), np.uint16 if how == BFLOAT16 else np.float32), np.ones(rows, np.float32)
        kept += [data, bias]
        return structs.WeightStruct(address(data), address(bias), rows, cols, how[0], 0, 0, 0)
    bits, group, zero, wide = how
    data, bias = packed(rng, bits, group, zero, wide, rows, cols), rng.normal(size=rows).astype(np.float32)
    kept += [data, bias]
    return structs.WeightStruct(address(data), address(bias), rows, cols, 0 if bits == 4 else 1, group, zero, wide)


def run_products(library: Any, structs: Any, rng: np.random.Generator) -> None:
    for bits, zero, wide, (group, cols) in product((4, 8), (0, 1, 2), (0, 1), ((32, 64), (4, 12), (40, 40))):
        kept: list[Any] = []
        struct = weight(structs, rng, kept, 45, cols, (bits, group, zero, wide))
        for count in (1, 7, 21):
            x, out = rng.normal(size=(count, cols)).astype(np.float32), np.empty((count, 45), np.float32)
            library.so_linear(ctypes.byref(struct), address(x), count, address(out), 2)
            assert np.isfinite(out).all()
        ids, rows = np.array([0, 31, 44], np.int64), np.empty((3, cols), np.float32)
        library.so_embedding(ctypes.byref(struct), address(ids), 3, address(rows))
        assert np.isfinite(rows).all()
    for (kind, dtype), cols in product(((2, np.uint16), (3, np.float32)), (20, 37, 4101)):
        data = np.ones((45, cols), dtype)
        struct = structs.WeightStruct(address(data), None, 45, cols, kind, 0, 0, 0)
        for count in (1, 2, 3, 4, 5, 23):
            x, out = np.ones((count, cols), np.float32), np.empty((count, 45), np.float32)
            library.so_linear(ctypes.byref(struct), address(x), count, address(out), 2)


def run_logits(library: Any, rng: np.random.Generator) -> None:
    for count, cols in ((1, 1), (3, 17), (5, 256), (2, 700)):
        x = rng.normal(size=(count, cols)).astype(np.float32)
        x[-1, cols // 2], place = np.nan, (address(x), count, cols, cols)
        k = min(cols, 20)
        ids, sums = np.empty(count, np.int64), np.empty(count, np.float32)
        best, best_ids = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
        library.so_argmax(*place, address(ids), 2)
        library.so_log_sum_exp(*place, address(sums), 2)
        library.so_top_k(*place, k, address(best), address(best_ids), 2)
        assert ids.tolist() == [*x[:-1].argmax(1), -1]
        assert best_ids[:, 0].tolist() == [*x[:-1].argmax(1), cols // 2]
        assert np.isnan(sums).tolist() == [False] * (count - 1) + [True]


def run_sampling(library: Any, rng: np.random.Generator) -> None:
    for count, cols in ((1, 1), (3, 17), (5, 256), (2, 700), (2, 3001)):
        x = rng.normal(size=(count, cols)).astype(np.float32)
        x[0] = x[0].round()
        place, limits = (address(x), count, cols, cols), np.zeros(count, np.float32)
        ids, kept, above = np.empty(count, np.int64), np.empty_like(x), np.empty_like(x)
        library.so_draw(*place, 1, 2, 3, 4, address(ids), 2)
        assert ((ids >= 0) & (ids < cols)).all()
        for share in (0.0, 0.1, 0.5, 1.0):
            library.so_top_p(*place, share, -9.0, address(kept), 2)
            assert ((kept == x) | (kept == -9)).all()
            assert (kept.max(axis=1) == x.max(axis=1)).all()
        library.so_fill_below(*place, address(limits), -9.0, address(above), 2)
        assert (above == np.where(x < 0, np.float32(-9), x)).all()


def run_parts(library: Any, rng: np.random.Generator) -> None:
    """What a layer is made of besides products and attention, each by itself."""
    for count, cols in ((1, 16), (3, 37), (7, 96)):
        x, added = (rng.normal(size=(count, cols)).astype(np.float32) for _ in range(2))
        norm, out = np.ones(cols, np.float32), np.empty((count, cols), np.float32)
        library.so_rms_norm(address(x), address(norm), 1e-6, count, cols, address(out))
        assert np.allclose(out, x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-6), atol=1e-4)
        both = x + added
        library.so_add_rms_norm(address(x), address(added), address(norm), 1e-6, count, cols, address(out))
        assert (x == both).all()
        library.so_silu_mul(address(x), address(added), x.size)
        assert np.allclose(x, both / (1 + np.exp(-both)) * added, atol=1e-4)
    for count, group, groups in ((1, 32, 2), (3, 4, 5), (7, 40, 1), (5, 64, 3)):
        x, shape = rng.normal(size=(count, group * groups)).astype(np.float32), (count, groups)
        q, scale, sums = np.empty(x.shape, np.int8), np.empty(shape, np.float32), np.empty(shape, np.int32)
        library.so_quantize(address(x), count, x.shape[1], group, address(q), address(scale), address(sums))
        assert (q.reshape(count, groups, group).sum(2, dtype=np.int32) == sums).all()
        assert np.isfinite(scale).all()
    for size in (1, 63, 131072, 300001):
        data = np.ones(size, np.uint8)
        library.so_read(address(data), size, 3)


def run_cache(library: Any, structs: Any, rng: np.random.Generator, kind: int) -> None:
    """Rotated keys and values to their slots, then queries over them."""
    count, block_len, past, kept = 5, 16, 300, list[Any]()
    num_blocks = -(-(past + count) // block_len)
    layers, blocks = layers_of(structs, rng, kept, num_blocks, block_len, kind), rng.permutation(num_blocks)
    tokens = np.arange(past, past + count)
    slots = blocks[tokens // block_len] * block_len + tokens % block_len
    cos, sin = (np.full((count, HEAD_DIM), value, np.float32) for value in (0.6, 0.8))
    keys, values = (rng.normal(size=(count, KV_HEADS, HEAD_DIM)).astype(np.float32) for _ in range(2))
    queries = rng.normal(size=(count, HEADS, HEAD_DIM)).astype(np.float32)
    for x, heads in ((keys, KV_HEADS), (queries, HEADS)):
        out = np.empty_like(x)
        library.so_rotate(address(x), address(cos), address(sin), count, heads, HEAD_DIM, address(out))
        x[:] = out
    sizes, strides = (
        (count, KV_HEADS, HEAD_DIM, kind, block_len),
        (KV_HEADS * block_len * HEAD_DIM, block_len * HEAD_DIM),
    )
    layer = layers[0]
    for x, to, scales in ((keys, layer.keys, layer.key_scales), (values, layer.values, layer.value_scales)):
        library.so_store(address(x), address(slots), *sizes, *strides, to, scales)
    sequences, out = np.array([(0, count, past, 0, 0)], np.int64), np.empty_like(queries)
    call = call_of(structs, layers, sequences, blocks, block_len, cache_kind=kind, is_causal=1)
    library.so_attend(ctypes.byref(call), address(queries), address(out))
    assert np.isfinite(out).all()


VOID = ctypes.c_void_p
BFLOAT16, FLOAT32 = (2,), (3,)
NIBBLES, BYTES = (4, 32, 0, 0), (8, 32, 1, 1)
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTER, VOCAB = 64, 6, 2, 16, 96, 45
SIZES = {"q": (96, 64), "k": (32, 64), "v": (32, 64), "o": (64, 96), "gate": (96, 64), "up": (96, 64), "down": (64, 96)}
MIXED = dict(zip(SIZES, (BYTES, BFLOAT16, FLOAT32, NIBBLES, BYTES, NIBBLES, BFLOAT16), strict=True))
CACHE_DTYPES = (np.uint16, np.float32, np.int8)


def layers_of(
    structs: Any,
    rng: np.random.Generator,
    kept: list[Any],
    num_blocks: int,
    block_len: int,
    kind: int,
    how: dict[str, tuple[int, ...]] | None = None,
    rank: int = 0,
) -> Any:
    """Two layers with keys and values `[num_blocks, kv_heads, block_len, head_dim]`; rank > 0 adds to most weights."""
    layers = (structs.LayerStruct * 2)()
    shape = (num_blocks, KV_HEADS, block_len, HEAD_DIM)
    for layer in layers:
        for name, (rows, cols) in SIZES.items():
            setattr(layer, name, weight(structs, rng, kept, rows, cols, (how or {}).get(name, NIBBLES)))
        norms = [np.ones(HIDDEN, np.float32) for _ in range(2)]
        cache = [np.zeros(shape, CACHE_DTYPES[kind]) for _ in range(2)]
        scales = [np.zeros(shape[:3], np.float32) for _ in range(2)]
        kept += [*norms, *cache, *scales]
        layer.input_norm, layer.post_norm = (address(one) for one in norms)
        layer.keys, layer.values = (address(one) for one in cache)
        if kind == 2:
            layer.key_scales, layer.value_scales = (address(one) for one in scales)
        for place, (name, (rows, cols)) in enumerate(SIZES.items() if rank else ()):
            if name != "k":
                a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((rank, cols), (rows, rank)))
                kept += [a, b]
                layer.low_ranks[place] = structs.LowRankStruct(address(a), address(b))
    return layers


def call_of(structs: Any, layers: Any, sequences: Any, blocks: Any, block_len: int, **fields: Any) -> Any:
    fields |= {"num_layers": 2, "hidden": HIDDEN, "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    fields |= {"intermediate": INTER, "layers": ctypes.addressof(layers), "eps": 1e-6, "threads": 3}
    fields |= {"num_tokens": int(sequences[:, 1].sum()), "num_sequences": len(sequences)}
    fields |= {"sequences": address(sequences), "blocks": address(blocks)}
    strides = {"block_stride": KV_HEADS * block_len * HEAD_DIM, "head_stride": block_len * HEAD_DIM}
    return structs.DecoderStruct(block_len=block_len, **strides, **fields)


def run_decoder(library: Any, structs: Any, rng: np.random.Generator, batch: int, length: int, past: int) -> None:
    kept: list[Any] = []
    capacity = past + length
    layers = layers_of(structs, rng, kept, batch, capacity, 0)
    cos, sin = (np.full((length, HEAD_DIM), value, np.float32) for value in (0.6, 0.8))
    mask = np.ones((batch, length, capacity), np.uint8)
    sequences = np.array([(row * length, length, past, row, 0) for row in range(batch)], np.int64)
    for has_mask in (False, True):
        x = rng.normal(size=(batch * length, HIDDEN)).astype(np.float32)
        call = call_of(structs, layers, sequences, np.arange(batch), capacity, cos=address(cos), sin=address(sin))
        call.mask, call.is_causal, call.x = address(mask) if has_mask else None, int(not has_mask), address(x)
        call.mask_batch_stride, call.mask_query_stride = length * capacity, capacity
        library.so_decoder(ctypes.byref(call))
        assert np.isfinite(x).all()


def run_step(
    library: Any, structs: Any, rng: np.random.Generator, batch: int, past: int, how: dict[str, tuple[int, ...]] | None
) -> None:
    kept: list[Any] = []
    layers = layers_of(structs, rng, kept, batch, past + 1, 0, how)
    cos, sin = (np.full((1, HEAD_DIM), value, np.float32) for value in (0.6, 0.8))
    sequences = np.array([(row, 1, past, row, 0) for row in range(batch)], np.int64)
    blocks, norm = np.arange(batch), np.ones(HIDDEN, np.float32)
    x, logits = np.zeros((batch, HIDDEN), np.float32), np.zeros((batch, VOCAB), np.float32)
    call = call_of(structs, layers, sequences, blocks, past + 1, cos=address(cos), sin=address(sin), x=address(x))
    call.is_causal = 1
    embedding, head = (weight(structs, rng, kept, VOCAB, HIDDEN, (bits, 32, 0, 0)) for bits in (8, 4))
    best, is_lost = np.zeros(batch, np.int64), np.ones(batch, np.int8)
    results = address(logits), address(best), address(is_lost)
    step = structs.StepStruct(ctypes.addressof(call), embedding, head, None, address(norm), 1e-6, *results)
    for ids, num_known in ((np.full(batch, VOCAB - 1), batch), (np.full(batch, VOCAB), 0)):
        step.ids = address(ids)
        assert library.so_step(ctypes.byref(step)) == num_known
    assert np.isfinite(logits).all()
    assert (best == logits.argmax(axis=1)).all()
    assert not is_lost.any()


def run_paged(
    library: Any,
    structs: Any,
    rng: np.random.Generator,
    parts: list[tuple[int, int]],
    kind: int,
    how: dict[str, tuple[int, ...]] | None = None,
    rank: int = 0,
) -> None:
    """Sequences of (cached, new) tokens, each block where its sequence needs it, none to spare."""
    block_len, kept = 16, list[Any]()
    num_blocks = [-(-(past + length) // block_len) for past, length in parts]
    blocks = rng.permutation(sum(num_blocks)).astype(np.int64)
    layers = layers_of(structs, rng, kept, len(blocks), block_len, kind, how, rank)
    rows = np.cumsum([0, *(length for _, length in parts)])
    tables = np.cumsum([0, *num_blocks])
    sequences = np.array(
        [(rows[i], length, past, tables[i], rows[i]) for i, (past, length) in enumerate(parts)], np.int64
    )
    x = rng.normal(size=(rows[-1], HIDDEN)).astype(np.float32)
    cos, sin = (np.full((rows[-1], HEAD_DIM), value, np.float32) for value in (0.6, 0.8))
    call = call_of(structs, layers, sequences, blocks, block_len, cos=address(cos), sin=address(sin), x=address(x))
    call.cache_kind, call.is_causal, call.rank = kind, 1, rank
    library.so_decoder(ctypes.byref(call))
    assert np.isfinite(x).all()


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    spec = importlib.util.spec_from_file_location("structs", sys.argv[2])
    assert spec is not None
    assert spec.loader is not None
    structs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(structs)
    library.so_linear.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
    library.so_embedding.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    library.so_decoder.argtypes = library.so_step.argtypes = (ctypes.c_void_p,)
    library.so_step.restype = ctypes.c_int64
    library.so_argmax.argtypes = library.so_log_sum_exp.argtypes = (VOID, *[ctypes.c_int64] * 3, VOID, ctypes.c_int64)
    library.so_top_k.argtypes = (VOID, *[ctypes.c_int64] * 4, VOID, VOID, ctypes.c_int64)
    library.so_draw.argtypes = (VOID, *[ctypes.c_int64] * 7, VOID, ctypes.c_int64)
    doubles = [ctypes.c_double] * 2
    library.so_top_p.argtypes = (VOID, *[ctypes.c_int64] * 3, *doubles, VOID, ctypes.c_int64)
    library.so_fill_below.argtypes = (VOID, *[ctypes.c_int64] * 3, VOID, ctypes.c_double, VOID, ctypes.c_int64)
    numbers = [ctypes.c_int64] * 7
    library.so_quantize.argtypes = (VOID, *numbers[:3], VOID, VOID, VOID)
    library.so_rms_norm.argtypes = (VOID, VOID, ctypes.c_double, *numbers[:2], VOID)
    library.so_add_rms_norm.argtypes = (VOID, VOID, VOID, ctypes.c_double, *numbers[:2], VOID)
    library.so_rotate.argtypes = (VOID, VOID, VOID, *numbers[:3], VOID)
    library.so_store.argtypes = (VOID, VOID, *numbers, VOID, VOID)
    library.so_silu_mul.argtypes, library.so_attend.argtypes = (VOID, VOID, ctypes.c_int64), (VOID, VOID, VOID)
    library.so_read.argtypes, library.so_read.restype = (VOID, *numbers[:2]), ctypes.c_int64
    parts = ("so_quantize", "so_rms_norm", "so_add_rms_norm", "so_rotate", "so_store", "so_silu_mul", "so_attend")
    ours = ("so_draw", "so_top_p", "so_fill_below", *parts)
    for name in ("so_linear", "so_embedding", "so_decoder", "so_argmax", "so_log_sum_exp", "so_top_k", *ours):
        getattr(library, name).restype = None
    library.so_instruction_set.argtypes, library.so_instruction_set.restype = (ctypes.c_int64,), ctypes.c_int64
    rng = np.random.default_rng(0)
    seen = {library.so_instruction_set(level) for level in range(5)}
    for level in seen:
        library.so_instruction_set(level)
        run_parts(library, rng)
        run_products(library, structs, rng)
        run_logits(library, rng)
        run_sampling(library, rng)
        for batch, length, past in ((1, 1, 0), (2, 1, 300), (1, 3, 255), (2, 13, 250)):
            run_decoder(library, structs, rng, batch, length, past)
        for batch, past in ((1, 0), (3, 300), (9, 255)):
            for how in (None, MIXED, dict.fromkeys(SIZES, BFLOAT16)):
                run_step(library, structs, rng, batch, past, how)
        for kind in range(3):
            run_paged(library, structs, rng, [(300, 1), (0, 3), (255, 2)], kind)
            run_paged(library, structs, rng, [(0, 30), (5000, 1), (17, 1), (250, 13), (3, 1)], kind)
            run_cache(library, structs, rng, kind)
        for rank, how in ((3, None), (8, MIXED), (0, MIXED), (0, dict.fromkeys(SIZES, FLOAT32))):
            run_paged(library, structs, rng, [(300, 1), (0, 3)], 0, how, rank)
            run_paged(library, structs, rng, [(0, 30), (40, 1)], 0, how, rank)
    sys.stdout.write(f"clean {sorted(seen)}\n")


if __name__ == "__main__":
    main()
