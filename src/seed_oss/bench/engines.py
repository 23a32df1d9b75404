"""Which engines a run compares: their programs, interpreters, files and options, as plain data."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seed_oss.bench.options import BenchOptions, PeerWish
from seed_oss.bench.process import environment_for
from seed_oss.bench.schemes import AS_STORED, PLAIN_DTYPES, check_weights, scheme_of
from seed_oss.bench.shapes import SHAPES
from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError, StateError

OWN, OWN_LLM = "seed_oss", "seed_oss LLM"
PACKAGES = {"transformers": "transformers", "llama.cpp": "llama_cpp", "openvino": "openvino"}
DISTRIBUTIONS = {"transformers": "transformers", "llama.cpp": "llama-cpp-python", "openvino": "openvino"}
MODULES = {
    OWN: "seed_oss.bench.own_engine",
    OWN_LLM: "seed_oss.bench.own_llm",
    "transformers": "seed_oss.bench.peers.transformers_engine",
    "llama.cpp": "seed_oss.bench.peers.llama_cpp_engine",
    "openvino": "seed_oss.bench.peers.openvino_engine",
}
OUR_SAME_BITS = {"Q4_0": "int4-sym", "Q4_1": "int4-min", "Q8_0": "int8"}
OPENVINO_PRECISIONS = ("bf16", "f32")
QUESTION = "What is the capital of France?"
_FIND = """
import importlib.util as u, importlib.metadata as m, sys
print(m.version(sys.argv[2]) if u.find_spec(sys.argv[1]) else '')
"""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine with certain weights and options.

    Attributes:
        engine: its name.
        weights: what they are, in words.
        python: the interpreter that runs it.
        load: what its `load` gets.
        bits: of its weights; 16 and 32 for plain ones.
        is_per_threads: it is made for one number of threads, so that each needs a process.
        can_start: from process start to first token can be measured.
    """

    engine: str
    weights: str
    python: str
    load: dict[str, Any] = field(default_factory=dict)
    bits: int = 32
    is_per_threads: bool = False
    can_start: bool = True

    @property
    def module(self) -> str:
        """Its program."""
        return MODULES[self.engine]

    @property
    def label(self) -> str:
        """Engine and weights."""
        return f"{self.engine} {self.weights}"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that has a peer, and the peer's version there."""

    python: str
    version: str


def find_peer(name: str, other_python: str | None) -> Interpreter | None:
    """The interpreter that has a peer: the one asked for, else this one.

    Args:
        name: of the peer.
        other_python: tried first; None for this one alone.
    """
    for python in (other_python, sys.executable):
        if python is None or (python == sys.executable and find_spec(PACKAGES[name]) is None):
            continue
        command = [python, "-c", _FIND, PACKAGES[name], DISTRIBUTIONS[name]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return Interpreter(python, done.stdout.strip())
    return None


class Workshop:
    """Makes engines' specs for one run, and the files that they need in a folder of the run's own.

    Args:
        options: of the run.
        config: of the model or shape.
        directory: of the checkpoint, or a GGUF file, or None for a shape.
        folder: for files.
    """

    def __init__(self, options: BenchOptions, config: SeedOssConfig, directory: Path | None, folder: Path) -> None:
        self.options, self.config, self.directory, self.folder = options, config, directory, folder
        self._written: dict[str, Path] = {}

    @property
    def is_file(self) -> bool:
        """Whether the model is a GGUF file, which is measured as it is."""
        return self.options.quantizations == (AS_STORED,)

    def _own_file(self) -> EngineSpec:
        load = {"weights": AS_STORED, "head_bits": None, "directory": str(self.directory)}
        return EngineSpec(OWN, AS_STORED, sys.executable, load, self._file_bits())

    def _file_bits(self) -> int:
        """Of most matrices of the file; blocks that no groups hold are dequantized."""
        from seed_oss.weights.gguf_source import GGUFSource

        assert self.directory is not None
        bits = Counter(32 if format is None else format.bits for format in GGUFSource(self.directory).blocks.values())
        return bits.most_common(1)[0][0] if bits else 16

    @property
    def context_len(self) -> int:
        """Tokens that prompt and answer take."""
        return self.options.prompt_tokens + self.options.new_tokens + 8

    def own(self, weights: str) -> EngineSpec:
        """Our engine, from a checkpoint or GGUF file that holds the quantized weights already."""
        if self.is_file:
            return self._own_file()
        bits = scheme_of(weights, None).bits if weights not in PLAIN_DTYPES else int(weights[-2:])
        load = self._own_model(weights)
        if self.directory is not None and weights not in PLAIN_DTYPES:
            path = self._export("checkpoint", f"{weights}-checkpoint", load)
            load = {**load, "directory": str(path), "is_quantized": True}
        can_start = self.directory is not None
        return EngineSpec(OWN, self._label(weights, bits), sys.executable, load, bits, can_start=can_start)

    def _label(self, weights: str, bits: int) -> str:
        head = self.options.head_bits
        return f"{weights}, {head}-bit head" if head is not None and bits == 4 else weights

    def _own_model(self, weights: str) -> dict[str, Any]:
        source = {"shape": self.options.shape} if self.directory is None else {"directory": str(self.directory)}
        return {"weights": weights, "head_bits": self.options.head_bits, **source}

    def peer(self, wish: PeerWish, found: Interpreter) -> Iterator[EngineSpec]:
        """A peer with the weights that were asked for, or with those that go with ours."""
        make = {"transformers": self._transformers, "llama.cpp": self._llama_cpp, "openvino": self._openvino}
        if self.is_file and wish.name != "llama.cpp":
            raise InputError(
                f"it does not read {Path(str(self.directory)).name}; give a checkpoint folder to compare it"
            )
        yield from make[wish.name](wish.weights, found.python)

    def _transformers(self, weights: str | None, python: str) -> Iterator[EngineSpec]:
        usual = ("bfloat16", "float32") if self.directory is not None else ("bfloat16",)
        for dtype in (weights,) if weights else usual:
            source = {"directory": str(self.directory)} if self.directory is not None else {"config": self._fields()}
            load = {"dtype": dtype, **source}
            can_start = self.directory is not None
            yield EngineSpec("transformers", dtype, python, load, int(dtype[-2:]), can_start=can_start)

    def _fields(self) -> dict[str, Any]:
        assert self.options.shape is not None
        return {"model_type": "seed_oss", "tie_word_embeddings": False, **SHAPES[self.options.shape]}

    def _llama_cpp(self, weights: str | None, python: str) -> Iterator[EngineSpec]:
        if self.is_file:
            yield from self._llama_cpp_file(weights, python)
            return
        for kind in (weights,) if weights else self._usual_kinds():
            flash = kind != "Q4_1"  # as shipped and by default; the others with its fast options
            load = self._llama_cpp_load(self._gguf(kind), flash)
            label = f"{kind} flash_attn" if flash else kind
            yield EngineSpec("llama.cpp", label, python, load, int(kind[1]), can_start=self.directory is not None)

    def _llama_cpp_file(self, weights: str | None, python: str) -> Iterator[EngineSpec]:
        """The same file, by default and with its fast options."""
        if weights is not None:
            raise InputError(f"it gets the file as it is; ask for llama.cpp without :{weights}")
        assert self.directory is not None
        for flash in (False, True):
            load = self._llama_cpp_load(self.directory, flash)
            label = f"{AS_STORED} flash_attn" if flash else AS_STORED
            yield EngineSpec("llama.cpp", label, python, load, self._file_bits())

    def _llama_cpp_load(self, file: Path, flash: bool) -> dict[str, Any]:
        return {
            "file": str(file),
            "flash_attn": flash,
            "context_len": self.context_len,
            "threads": max(self.options.thread_counts),
            "embedding_bytes": self._embedding_bytes(),
        }

    def _usual_kinds(self) -> list[str]:
        """Q4_0 and, on a checkpoint, Q4_1 beside our 4 bits; Q8_0 beside our 8 bits."""
        bits = {scheme_of(name, None).bits for name in self.options.quantizations if name not in PLAIN_DTYPES}
        four = ["Q4_1", "Q4_0"] if self.directory is not None else ["Q4_0"]
        return (four if 4 in bits else []) + (["Q8_0"] if 8 in bits else [])

    def _gguf(self, kind: str) -> Path:
        shipped = _shipped_gguf() if self.options.model == "demo" and self.directory is not None else None
        if kind == "Q4_1" and shipped is not None:
            return shipped
        weights = OUR_SAME_BITS[kind] if self.directory is None else "float32"
        return self._export("gguf", f"{kind}.gguf", self._own_model(weights), kind)

    def _openvino(self, weights: str | None, python: str) -> Iterator[EngineSpec]:
        file = self._export("graph", "int4.bin", self._own_model("int4"))
        for precision in OPENVINO_PRECISIONS:
            load = {"file": str(file), "precision": precision, "embedding_bytes": self._embedding_bytes()}
            label = f"int4 asymmetric g32, {precision}"
            can_start = self.directory is not None
            yield EngineSpec("openvino", label, python, load, 4, is_per_threads=True, can_start=can_start)

    def _embedding_bytes(self) -> int:
        """Of an embedding in 8 bits that is not the head."""
        return 0 if self.config.tie_word_embeddings else self.config.vocab_size * self.config.hidden_size * 34 // 32

    def _export(self, kind: str, name: str, model: dict[str, Any], type_: str | None = None) -> Path:
        path = self.folder / name
        if name in self._written:
            return self._written[name]
        what = {"kind": kind, "path": str(path), "type": type_, "model": model}
        command = [sys.executable, "-m", "seed_oss.bench.export", json.dumps(what)]
        environment = {**os.environ, **environment_for(sys.executable, self.folder)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise StateError(f"the weights for {name} were not written: {last[:400]}")
        self._written[name] = path
        return path


def _shipped_gguf() -> Path | None:
    """The demo's own file."""
    from seed_oss.weights.demo import PACKAGE

    spec = find_spec(PACKAGE)
    places = (spec.submodule_search_locations or []) if spec is not None else []
    return next((path for place in places for path in sorted(Path(place).glob("*.gguf"))), None)


def check_quantizations(options: BenchOptions) -> None:
    """Raise for weights that nobody knows.

    Raises:
        InputError: with the names that there are.
    """
    for name in options.quantizations:
        check_weights(name)
    if options.shape is not None and options.shape not in SHAPES:
        raise InputError(f"shape is {options.shape!r:.60}; there are {', '.join(SHAPES)}")


def check_stored(options: BenchOptions, place: Path | None) -> None:
    """Raise where a GGUF file is asked for in other weights than its own, or its own are where there is none.

    Raises:
        InputError: with the remedy.
    """
    is_file = place is not None and place.is_file()
    if is_file and options.quantizations != (AS_STORED,):
        raise InputError(
            f"quantization is {','.join(options.quantizations)!r:.60}, and a GGUF file is measured as it is; leave it "
            f"out, or give {AS_STORED!r}"
        )
    if not is_file and AS_STORED in options.quantizations:
        raise InputError(f"quantization is {AS_STORED!r}, which is for --model FILE.gguf; give int4 or another scheme")
