"""What a run of the benchmark is asked for, checked before anything starts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from seed_oss.errors import InputError

MAX_TRIALS = 1000


@dataclass(frozen=True, slots=True)
class PeerWish:
    """A peer, and the weights that it shall have.

    Attributes:
        name: as in `PEERS`.
        weights: None for those that go with ours.
    """

    name: str
    weights: str | None = None


PEERS: dict[str, tuple[str, ...]] = {
    "transformers": ("bfloat16", "float32"),
    "llama.cpp": ("Q4_1", "Q4_0", "Q8_0"),
    "openvino": ("int4",),
}
"""Name to the weights that it can have."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is measured.

    Attributes:
        model: a model directory, GGUF file or name; not looked at where there is a shape.
        shape: name of a shape with random weights, or None.
        quantizations: weights of our engine, names as in `schemes`; "gguf" alone for a GGUF file in blocks.
        head_bits: of the head of models in 4 bits; None for what the scheme says.
        peers: to run beside it.
        prompt_tokens: of the prompt.
        new_tokens: after it, at least 2.
        threads: numbers of threads to try.
        trials: that count, per engine and number of threads.
        max_repeats: of a trial that other programs disturbed.
        peer_python: another interpreter that has peers, or None.
        measures_start: also from process start to first token.
        with_llm: also measure our weights in `LLM`, in a process of its own.
    """

    model: str = "demo"
    shape: str | None = None
    quantizations: tuple[str, ...] = ("int4",)
    head_bits: int | None = None
    peers: tuple[PeerWish, ...] = ()
    prompt_tokens: int = 512
    new_tokens: int = 64
    threads: tuple[int, ...] = ()
    trials: int = 5
    max_repeats: int = 3
    peer_python: str | None = None
    measures_start: bool = True
    with_llm: bool = False

    def __post_init__(self) -> None:
        for name, lowest, highest in (("prompt_tokens", 1, 10**6), ("new_tokens", 2, 10**6), ("trials", 1, MAX_TRIALS)):
            value: int = getattr(self, name)
            if not lowest <= value <= highest:
                raise InputError(f"{name} is {value}; it must be from {lowest} to {highest}")
        if self.head_bits not in (None, 4, 8):
            raise InputError(f"head_bits is {self.head_bits}; it must be 4 or 8")
        if not self.quantizations:
            raise InputError("no quantization is given; name at least one, such as int4")
        if any(count < 1 for count in self.threads):
            raise InputError(f"threads are {list(self.threads)}; each must be at least 1")

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """The numbers of threads: those asked for, else one and all."""
        return tuple(dict.fromkeys(self.threads or (1, num_cpus())))


def num_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_peers(names: Sequence[str]) -> tuple[PeerWish, ...]:
    """Peers from their names, each with `:WEIGHTS` where not all of its weights are wanted.

    Raises:
        InputError: an unknown peer, or weights that it cannot have.
    """
    return tuple(_parse_peer(name) for name in names)


def _parse_peer(text: str) -> PeerWish:
    name, _, weights = text.strip().partition(":")
    if name not in PEERS:
        raise InputError(f"peer is {name!r:.60}; there are {', '.join(PEERS)}")
    if weights and weights not in PEERS[name]:
        raise InputError(f"weights of {name} are {weights!r:.60}; there are {', '.join(PEERS[name])}")
    return PeerWish(name, weights or None)
