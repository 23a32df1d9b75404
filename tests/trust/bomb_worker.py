"""Lets bombs go off one after the other, each in a child process, and measures them.

    python bomb_worker.py EXAMPLES NAME...

One line of JSON per bomb: the error it led to, processor seconds, and how far the child's memory grew.
"""

import json
import os
import resource
import shutil
import struct
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from seed_oss import errors
from tests.trust.judges import judge_config, judge_model, judge_tensors, judge_tokenizer

TYPED = {name for name, value in vars(errors).items() if isinstance(value, type)}
MEGABYTE = 2**20


def set_config(folder: Path, name: str = "config.json", **fields: Any) -> None:
    """Change fields of a config file."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))


def set_header(folder: Path, header: bytes, data_size: int = 0) -> None:
    """Make the single weight file one with this header, its data a hole of any size."""
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + data_size)


def set_index(folder: Path, weight_map: dict[str, str]) -> None:
    """Give the sharded example another index."""
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def set_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the content of tokenizer.json."""
    path = folder / "tokenizer.json"
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))


def empty_tensors(count: int) -> bytes:
    """A header of empty tensors."""
    entry = '"%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return ("{" + ",".join(entry % number for number in range(count)) + "}").encode()


def many(prefix: str, count: int) -> dict[str, Any]:
    """An object of many keys."""
    return {f"{prefix}{number}": number for number in range(count)}


def set_deep(folder: Path, depth: int) -> None:
    """A config that is nested deeply."""
    (folder / "config.json").write_bytes(b'{"a":' * depth + b"1" + b"}" * depth)


HUGE_TENSOR = b'{"lm_head.weight":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'

Bomb = tuple[str, Callable[[Path], Any], Callable[[Path], None]]
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim", "max_position_embeddings")
BOMBS: dict[str, Bomb] = {
    **{
        f"{field}={value}": ("single", lambda folder, f=field, v=value: set_config(folder, **{f: v}), judge_model)
        for field in SIZES
        for value in (2**31, 2**62, 10**60)
        if field != "max_position_embeddings" or value > 2**62
    },
    "many heads": (
        "single",
        lambda folder: set_config(folder, num_attention_heads=2**40, num_key_value_heads=2**40),
        judge_model,
    ),
    "many labels": ("config", lambda folder: set_config(folder, num_labels=2**40), judge_config),
    "an unknown list of a million": ("config", lambda folder: set_config(folder, unknown=["x"] * 10**6), judge_config),
    "a config of 100 MB": (
        "config",
        lambda folder: (folder / "config.json").write_bytes(b'{"x": "' + b"a" * (100 * MEGABYTE) + b'"}'),
        judge_config,
    ),
    "an endless config": ("config", lambda folder: os.truncate(folder / "config.json", 2**40), judge_config),
    "a deep config": ("config", lambda folder: set_deep(folder, 2 * 10**6), judge_config),
    "a generation config of objects": (
        "config",
        lambda folder: (folder / "generation_config.json").write_bytes(b"[" + b"{}," * (2 * 10**6) + b"{}]"),
        judge_config,
    ),
    "empty tensors": ("single", lambda folder: set_header(folder, empty_tensors(10**6)), judge_tensors),
    "empty tensors below the limit": (
        "single",
        lambda folder: set_header(folder, empty_tensors(16_000)),
        judge_model,
    ),
    "a tensor of 4 TB in a hole": (
        "single",
        lambda folder: set_header(
            folder,
            b'{"lm_head.weight":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
            2**42,
        ),
        judge_model,
    ),
    "a header of 16 MB of spaces": ("single", lambda folder: set_header(folder, b"{" + b" " * 2**24), judge_tensors),
    "metadata of a million": (
        "single",
        lambda folder: set_header(
            folder, json.dumps({"__metadata__": {f"{number}": "x" for number in range(10**6)}}).encode()
        ),
        judge_tensors,
    ),
    "an index of a million": (
        "sharded",
        lambda folder: set_index(folder, {f"t{number}": "model.safetensors" for number in range(10**6)}),
        judge_tensors,
    ),
    **{
        f"{count} shards": (
            "sharded",
            lambda folder, count=count: set_index(folder, {f"t{n}": f"s{n}.safetensors" for n in range(count)}),
            judge_tensors,
        )
        for count in (1_000, 16_000, 100_000)
    },
    "a vocabulary with a huge id": (
        "tokenizer",
        lambda folder: set_tokenizer(folder, lambda value: value["model"]["vocab"].update({"x" * 9: 2**32 - 1})),
        judge_tokenizer,
    ),
    "an added token with a huge id": (
        "tokenizer",
        lambda folder: set_tokenizer(folder, lambda value: value["added_tokens"][0].update({"id": 2**32 - 1})),
        judge_tokenizer,
    ),
    "a tokenizer of 100 MB": (
        "tokenizer",
        lambda folder: set_tokenizer(folder, lambda value: value.update({"x": "a" * (100 * MEGABYTE)})),
        judge_tokenizer,
    ),
    "a tokenizer of two million objects": (
        "tokenizer",
        lambda folder: set_tokenizer(folder, lambda value: value.update({"x": [{}] * (2 * 10**6)})),
        judge_tokenizer,
    ),
    "tokenizer settings of a million": (
        "tokenizer",
        lambda folder: set_config(folder, "tokenizer_config.json", **many("x", 10**6)),
        judge_tokenizer,
    ),
    "a template of 50 MB": (
        "tokenizer",
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"a" * (50 * MEGABYTE)),
        judge_tokenizer,
    ),
}


# They cost little and break no rule: an unknown key is kept, an id need not be near the others.
HARMLESS = {"an unknown list of a million", "a vocabulary with a huge id", "an added token with a huge id"}


def _slow(folder: Path) -> None:
    begin = time.process_time()
    while time.process_time() - begin < 2.2:
        folder.exists()


def _large(folder: Path) -> None:
    size = 600 * MEGABYTE
    if len(b"x" * size) != size:
        raise AssertionError(folder)


def _untyped(folder: Path) -> None:
    raise KeyError(folder.name)


# What the measurement itself must see.
CHECKS: dict[str, Bomb] = {
    "slow": ("config", lambda folder: None, _slow),
    "large": ("config", lambda folder: None, _large),
    "untyped": ("config", lambda folder: None, _untyped),
    "accepted": ("config", lambda folder: None, judge_config),
}


def measured(folder: Path, judge: Callable[[Path], None]) -> dict[str, Any]:
    """Load a folder: the error it led to, processor seconds, and the growth of memory."""
    before, begin = peak_memory(), time.process_time()
    error, message = "none", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            judge(folder)
    except BaseException as caught:  # noqa: BLE001 - a panic in a package's own code is no Exception
        error, message = type(caught).__name__, str(caught)
    return {
        "error": error,
        "message": message[:5000],
        "seconds": time.process_time() - begin,
        "bytes": peak_memory() - before,
    }


def peak_memory() -> int:
    """The most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(examples: Path, names: list[str]) -> None:
    """Prepare every bomb, and let it go off in a child."""
    torch.set_num_threads(1)
    for name in names:
        kind, prepare, judge = {**BOMBS, **CHECKS}[name]
        folder = examples / "bomb"
        shutil.copytree(examples / kind, folder)
        prepare(folder)
        child = os.fork()
        if child == 0:
            os.write(1, (json.dumps({"name": name, **measured(folder, judge)}) + "\n").encode())
            os._exit(0)
        os.waitpid(child, 0)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
