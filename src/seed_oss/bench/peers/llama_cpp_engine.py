"""llama.cpp through the C interface of llama-cpp-python, which costs less per token than its Python classes."""

import ctypes
import os
import time
from importlib import import_module
from typing import Any

from seed_oss.bench.peers.serving import serve


class LlamaCpp:
    """See serving.Engine."""

    def __init__(self) -> None:
        self._lib: Any = None
        self._context: Any = None
        self._num_tokens = 0

    def import_all(self) -> None:
        """See serving.Engine."""
        self._lib = import_module("llama_cpp")

    def load(self, what: dict[str, Any]) -> dict[str, Any]:
        """`what`: `file`, `flash_attn`, `context_len`, `threads`, `embedding_bytes` (of one that is not the head)."""
        llama_cpp = self._lib
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(what["file"].encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise OSError(f"llama.cpp cannot load {os.path.basename(what['file'])}")  # noqa: PTH119
        self._num_tokens = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._context = llama_cpp.llama_init_from_model(model, self._params(what))
        if not self._context:
            raise OSError("llama.cpp cannot make a context of this model")
        size = llama_cpp.llama_model_size(model)
        return {"weight_bytes": size - what["embedding_bytes"]}

    def _params(self, what: dict[str, Any]) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = what["context_len"]
        params.n_ubatch = min(512, what["context_len"])
        params.n_threads = params.n_threads_batch = what["threads"]
        params.flash_attn_type = int(what["flash_attn"])
        params.no_perf = True
        return params

    def run(self, prompt_ids: list[int], new_tokens: int, threads: int) -> tuple[float, float, list[int]]:
        """See serving.Engine."""
        self._lib.llama_set_n_threads(self._context, threads, threads)
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        start = time.perf_counter()
        new = [self._step(prompt_ids)]
        first = time.perf_counter()
        while len(new) < new_tokens:
            new.append(self._step(new[-1:]))
        return first - start, time.perf_counter() - first, new

    def _step(self, ids: list[int]) -> int:
        """The likeliest token after these."""
        import numpy as np

        tokens = (self._lib.llama_token * len(ids))(*ids)
        status = self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(tokens, len(ids)))
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        logits = self._lib.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._num_tokens,)).argmax())

    def encode(self, question: str) -> list[int] | None:
        """It is given ids."""
        return None


if __name__ == "__main__":
    serve(LlamaCpp())
