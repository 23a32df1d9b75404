"""What llama.cpp does, in a process of its own: run as a program by a Python that has llama-cpp-python.

llama_driver.py quantize SOURCE TARGET FTYPE     FTYPE as in LLAMA_FTYPE_MOSTLY_<FTYPE>
llama_driver.py continue FILE NUM IDS...         greedy: writes the NUM new ids as JSON
"""

import ctypes
import json
import sys
from importlib import import_module
from typing import Any

CONTEXT_LEN = 512


def quantize(lib: Any, source: str, target: str, kind: str) -> None:
    """Blocks are dequantized before they are rounded to others, exactly."""
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.allow_requantize = True
    params.nthread = 1
    if lib.llama_model_quantize(source.encode(), target.encode(), params):
        raise SystemExit(f"llama.cpp cannot quantize {source} to {kind}")


def continued(lib: Any, file: str, count: int, ids: list[int]) -> list[int]:
    """The ids that llama.cpp finds most likely, one after another."""
    model = lib.llama_model_load_from_file(file.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT_LEN
    params.n_threads = params.n_threads_batch = 1
    context = lib.llama_init_from_model(model, params)
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    new: list[int] = []
    while len(new) < count:
        fed = new[-1:] or ids
        tokens = (lib.llama_token * len(fed))(*fed)  # a batch only points to them
        if lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(fed))):
            raise SystemExit("llama.cpp cannot decode")
        logits = lib.llama_get_logits_ith(context, -1)[:size]
        new.append(max(range(size), key=logits.__getitem__))
    return new


def main() -> None:
    """See the module."""
    lib = import_module("llama_cpp")
    silent = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(silent, ctypes.c_void_p(0))
    lib.llama_backend_init()
    command, *words = sys.argv[1:]
    if command == "quantize":
        quantize(lib, *words)
    else:
        sys.stdout.write(json.dumps(continued(lib, words[0], int(words[1]), [int(word) for word in words[2:]])))


if __name__ == "__main__":
    main()
