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
    for kind, dtype in ((2, np.uint16), (3, np.float32)):
        data = np.ones((45, 37), dtype)
        struct = structs.WeightStruct(address(data), None, 45, 37, kind, 0, 0, 0)
        x, out = np.ones((5, 37), np.float32), np.empty((5, 45), np.float32)
        library.so_linear(ctypes.byref(struct), address(x), 5, address(out), 2)


def run_decoder(library: Any, structs: Any, rng: np.random.Generator, batch: int, length: int, past: int) -> None:
    hidden, heads, kv_heads, head_dim, inter = 64, 6, 2, 16, 96
    kept: list[Any] = []
    sizes = {"q": (96, 64), "k": (32, 64), "v": (32, 64), "o": (64, 96), "gate": (96, 64), "up": (96, 64)}
    sizes["down"] = (64, 96)
    layers = (structs.LayerStruct * 2)()
    capacity = past + length
    for layer in layers:
        for name, (rows, cols) in sizes.items():
            setattr(layer, name, weight(structs, rng, kept, rows, cols, (4, 32, 0, 0)))
        norms = [np.ones(hidden, np.float32) for _ in range(2)]
        cache = [np.zeros((batch, kv_heads, capacity, head_dim), np.uint16) for _ in range(2)]
        kept += [*norms, *cache]
        layer.input_norm, layer.post_norm = (address(one) for one in norms)
        layer.keys, layer.values = (address(one) for one in cache)
    cos, sin = (np.full((1, length, head_dim), value, np.float32) for value in (0.6, 0.8))
    mask = np.ones((batch, length, capacity), np.uint8)
    for has_mask in (False, True):
        x = rng.normal(size=(batch, length, hidden)).astype(np.float32)
        call = structs.DecoderStruct(
            *(2, hidden, heads, kv_heads, head_dim, inter, ctypes.addressof(layers), batch, length, past, 0),
            *(kv_heads * capacity * head_dim, capacity * head_dim, address(cos), address(sin), 0),
            *(address(mask) if has_mask else None, length * capacity, capacity, int(not has_mask)),
            *(address(x), 1e-6, 3),
        )
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
    library.so_decoder.argtypes = (ctypes.c_void_p,)
    for name in ("so_linear", "so_embedding", "so_decoder"):
        getattr(library, name).restype = None
    library.so_instruction_set.argtypes, library.so_instruction_set.restype = (ctypes.c_int64,), ctypes.c_int64
    rng = np.random.default_rng(0)
    seen = {library.so_instruction_set(level) for level in (0, 1, 2)}
    for level in seen:
        library.so_instruction_set(level)
        run_products(library, structs, rng)
        for batch, length, past in ((1, 1, 0), (2, 1, 300), (1, 3, 255), (2, 13, 250)):
            run_decoder(library, structs, rng, batch, length, past)
    sys.stdout.write(f"clean {sorted(seen)}\n")


if __name__ == "__main__":
    main()
