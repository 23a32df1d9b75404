"""Malformed checkpoints, configs and tokenizers: a typed error within 2 s or a right load, in bounded memory.

`SEED_OSS_TRUST_CASES` is the number of cases, 2,000 unless set; `make trust` sets 200,000. A failure names its case:
`SEED_OSS_TRUST_FIRST=<case> SEED_OSS_TRUST_CASES=1` runs it alone.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seed_oss import SeedOssForCausalLM, quantize_
from seed_oss.errors import SeedOssError
from tests.chat.tokenizer_factory import write_tiny_tokenizer
from tests.factory import tiny_model
from tests.trust.judges import (
    Judge,
    WrongLoadError,
    judge_config,
    judge_model,
    judge_quantized,
    judge_tensors,
    judge_tokenizer,
)
from tests.trust.mutations import spoil

CASES = int(os.environ.get("SEED_OSS_TRUST_CASES", "2000"))
FIRST = int(os.environ.get("SEED_OSS_TRUST_FIRST", "0"))
CHUNKS = 8
MAX_SECONDS = 2.0
MAX_HANG_SECONDS = 30
MAX_MESSAGE_LEN = 2000
MAX_MEMORY_BYTES = 512 * 2**20

# What is spoiled, and who judges it; a case takes the one of its number modulo the length.
KINDS: tuple[tuple[str, Judge], ...] = (
    ("sharded", judge_model),
    ("config", judge_config),
    ("tokenizer", judge_tokenizer),
    ("single", judge_tensors),
    ("sharded", judge_tensors),
    ("config", judge_config),
    ("tokenizer", judge_tokenizer),
    ("single", judge_model),
    ("quantized", judge_quantized),
    ("packed", judge_quantized),
)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder in memory where there is such a filesystem, with one good example of each kind."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield make_examples(Path(folder))


def make_examples(place: Path) -> Path:
    """One good folder of each kind that is spoiled."""
    model = tiny_model(SeedOssForCausalLM, num_hidden_layers=1, vocab_size=24, hidden_size=16, intermediate_size=24)
    model.save_pretrained(place / "single")
    model.save_pretrained(place / "sharded", max_shard_size="8KB")
    quantize_(model, "int4")
    model.save_pretrained(place / "quantized")
    model.save_pretrained(place / "packed", max_shard_size="4KB")
    write_tiny_tokenizer(place / "tokenizer")
    (place / "config").mkdir()
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(place / "single" / name, place / "config" / name)
    assert len(list((place / "sharded").glob("*.safetensors"))) > 1
    return place


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """Interrupt what blocks for ever, so that the case is named."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise WrongLoadError(f"no end within {MAX_HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, MAX_HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_case(case: int, place: Path) -> str:
    """Spoil a folder, load it, judge; returns the kind of outcome, or raises with the case named."""
    rng = random.Random(case)
    kind, judge = KINDS[case % len(KINDS)]
    folder = place / f"case{case}"
    shutil.copytree(place / kind, folder)
    note = spoil(rng, folder)
    named = f"case {case} ({kind}, {judge.__name__}: {note})"
    begin = time.process_time()
    outcome, message = load_and_judge(folder, judge, named)
    seconds = time.process_time() - begin
    assert seconds < MAX_SECONDS, f"{named}: {outcome} after {seconds:.1f} s"
    assert len(message) < MAX_MESSAGE_LEN, f"{named}: a message of {len(message)} characters"
    shutil.rmtree(folder)
    return outcome


def load_and_judge(folder: Path, judge: Judge, named: str) -> tuple[str, str]:
    """("loaded", "") or (the error's type, its message); any other end fails with the case named."""
    try:
        with warnings.catch_warnings(), no_hang():
            warnings.simplefilter("ignore")
            judge(folder)
    except SeedOssError as error:
        return type(error).__name__, str(error)
    except BaseException as error:  # a panic in a package's own code is no Exception
        raise AssertionError(f"{named}: {type(error).__name__}: {error}") from error
    return "loaded", ""


def peak_memory() -> int:
    """The most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_spoiled_folder_is_refused_or_loads_what_it_says(
    place: Path, chunk: int, counted: Callable[..., None]
) -> None:
    numbers = range(FIRST + CASES * chunk // CHUNKS, FIRST + CASES * (chunk + 1) // CHUNKS)
    for kind, judge in KINDS:
        judge(place / kind)
    before = peak_memory()
    outcomes = Counter(run_case(case, place) for case in numbers)
    counted(cases=len(numbers))
    assert peak_memory() - before < MAX_MEMORY_BYTES
    if len(numbers) >= 200:
        refused = sum(outcomes.values()) - outcomes["loaded"]
        assert refused > len(numbers) // 3, f"the cases are too tame: {outcomes}"
        assert outcomes["loaded"] > len(numbers) // 50, f"nothing loads, so nothing is compared: {outcomes}"
