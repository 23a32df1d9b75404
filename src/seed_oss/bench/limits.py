"""What the hardware allows, measured in the run: reading memory, and multiplying matrices in floats and in bytes."""

import time
from collections.abc import Callable
from typing import Any

from seed_oss.bench.peers.serving import serve

BUFFER_BYTES = 512 * 2**20  # far beyond any cache
ROWS, INNER, COLS = 512, 2048, 2048
REPEATS = 3


class Limits:
    """An engine's process that measures the machine; `load` says how large the buffer is."""

    def __init__(self) -> None:
        self._buffer: Any = None

    def import_all(self) -> None:
        """See peers.serving.Engine."""
        import torch  # noqa: F401

    def load(self, what: dict[str, Any]) -> dict[str, Any]:
        """`what`: `threads`; `buffer_bytes` may be given."""
        import numpy as np
        import torch

        torch.set_num_threads(what["threads"])
        ones = np.ones(what.get("buffer_bytes", BUFFER_BYTES) // 4, np.float32)  # in huge pages, as weights are read
        self._buffer = torch.from_numpy(ones)
        return {}

    def run(self, prompt_ids: list[int], new_tokens: int, threads: int) -> tuple[float, float, list[int]]:
        """Bytes read per second, float operations per second, and `[integer operations per second]`."""
        import torch

        torch.set_num_threads(threads)
        return self._read_rate(threads), _float_rate(), [int(_byte_rate(threads))]

    def encode(self, question: str) -> list[int] | None:
        """Nothing is said here."""
        return None

    def _read_rate(self, threads: int) -> float:
        from seed_oss.ops.native import library

        native, buffer = library(), self._buffer
        if native is None:
            return _best_rate(buffer.sum, buffer.nbytes)
        return _best_rate(lambda: native.so_read(buffer.data_ptr(), buffer.nbytes, threads), buffer.nbytes)


def _best_rate(work: Callable[[], Any], amount: float) -> float:
    rates: list[float] = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        rates.append(amount / (time.perf_counter() - start))
    return max(rates)


def _float_rate() -> float:
    """The better of bf16 and fp32 products."""
    import torch

    rates: list[float] = []
    for dtype in (torch.bfloat16, torch.float32):
        left, right = torch.ones(ROWS, INNER, dtype=dtype), torch.ones(COLS, INNER, dtype=dtype)
        rates.append(_best_rate(lambda a=left, b=right: a @ b.T, 2.0 * ROWS * INNER * COLS))
    return max(rates)


def _byte_rate(threads: int) -> float:
    """The better of torch's product of bytes and our own kernel alone, with weights in 8 bits; 0 where neither is."""
    import torch

    amount = 2.0 * ROWS * INNER * COLS
    left, right = torch.ones(ROWS, INNER, dtype=torch.int8), torch.ones(INNER, COLS, dtype=torch.int8)
    multiply: Any = torch._int_mm  # pyright: ignore[reportPrivateImportUsage]
    return max(_best_rate(lambda: multiply(left, right), amount), _kernel_rate(threads, amount))


def _kernel_rate(threads: int, amount: float) -> float:
    import torch

    from seed_oss.bench.synthetic import random_packed
    from seed_oss.ops.grouped_weight import QuantFormat
    from seed_oss.ops.native import library
    from seed_oss.ops.quantized import quantized_linear

    if library() is None:
        return 0.0
    format, shape = QuantFormat(8, 32), (COLS, INNER)
    packed = random_packed(shape, format, torch.Generator().manual_seed(0), 1.0)
    x = torch.ones(ROWS, INNER)
    return _best_rate(lambda: quantized_linear(x, packed, format, shape), amount)


if __name__ == "__main__":
    serve(Limits())
