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


def set_config(folder: Path, **fields: Any) -> None:
    """Change fields of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))


def set_header(folder: Path, header: bytes, data_size: int = 0) -> None:
    """Make the single weight file one with this header, its data a hole of any size."""
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + data_size)


def set_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the content of tokenizer.json."""
    path = folder / "tokenizer.json"
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))


def object_of(entry: str, count: int) -> bytes:
    """A JSON object of many entries, each with its number in the place of #."""
    return ("{" + ",".join([entry.replace("#", str(number)) for number in range(count)]) + "}").encode()


def index_of(entry: str, count: int) -> bytes:
    """An index with many entries in its weight map."""
    return b'{"weight_map":' + object_of(entry, count) + b"}"


EMPTY_TENSOR = '"#":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
HUGE_TENSOR = b'{"lm_head.weight":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim", "max_position_embeddings")

Prepare = Callable[[Path], Any]
Judge = Callable[[Path], None]
Bomb = tuple[str, Prepare, Judge]


def config_with(**fields: Any) -> Bomb:
    """A checkpoint whose config has other fields."""
    return "single", lambda folder: set_config(folder, **fields), judge_model


def file_of(kind: str, name: str, content: Callable[[], bytes], judge: Judge) -> Bomb:
    """A folder with another content of one file; it is made only when needed, being large."""
    return kind, lambda folder: (folder / name).write_bytes(content()), judge


def header_of(content: Callable[[], bytes], judge: Judge, data_size: int = 0) -> Bomb:
    """A checkpoint whose weight file has another header."""
    return "single", lambda folder: set_header(folder, content(), data_size), judge


def tokenizer_with(change: Callable[[dict[str, Any]], Any]) -> Bomb:
    """A changed tokenizer.json."""
    return "tokenizer", lambda folder: set_tokenizer(folder, change), judge_tokenizer


INDEX = "model.safetensors.index.json"
SETTINGS = "tokenizer_config.json"
BOMBS: dict[str, Bomb] = {
    **{f"{field} at its limit": config_with(**{field: 2**31 - 1}) for field in SIZES[:-1]},
    **{f"{field} of 60 digits": config_with(**{field: 10**60}) for field in SIZES},
    "as many layers as a config may have": config_with(num_hidden_layers=10_000),
    "all sizes at their limit": config_with(**{**dict.fromkeys(SIZES, 2**31 - 2), "num_hidden_layers": 1}),
    "many heads": config_with(num_attention_heads=2**31 - 1, num_key_value_heads=2**31 - 1),
    "too many labels": config_with(num_labels=2**40),
    "an unknown list of 390,000": config_with(unknown=[0] * 390_000),
    "a config of 100 MB": file_of("config", "config.json", lambda: b'{"x": "' + b"a" * 10**8 + b'"}', judge_config),
    "an endless config": ("config", lambda folder: os.truncate(folder / "config.json", 2**40), judge_config),
    "a deep config": file_of("config", "config.json", lambda: b'{"a":' * 10**6 + b"1" + b"}" * 10**6, judge_config),
    "a generation config of objects": file_of(
        "config", "generation_config.json", lambda: b"[" + b"{}," * (2 * 10**6) + b"{}]", judge_config
    ),
    "a million empty tensors": header_of(lambda: object_of(EMPTY_TENSOR, 10**6), judge_tensors),
    "empty tensors below the limit": header_of(lambda: object_of(EMPTY_TENSOR, 16_000), judge_model),
    "a tensor of 4 TB in a hole": header_of(lambda: HUGE_TENSOR, judge_model, 2**42),
    "a header of 16 MB of spaces": header_of(lambda: b"{" + b" " * (2**24 - 2) + b"}", judge_model),
    "metadata of 400,000": header_of(lambda: b'{"__metadata__":' + object_of('"#":""', 400_000) + b"}", judge_tensors),
    "an index of a million": file_of(
        "sharded", INDEX, lambda: index_of('"#":"model.safetensors"', 10**6), judge_tensors
    ),
    "4,000 shards": file_of("sharded", INDEX, lambda: index_of('"#":"s#.safetensors"', 4_000), judge_tensors),
    "16,000 shards": file_of("sharded", INDEX, lambda: index_of('"#":"s#.safetensors"', 16_000), judge_tensors),
    "a vocabulary with a huge id": tokenizer_with(lambda value: value["model"]["vocab"].update({"x" * 9: 2**32 - 1})),
    "an added token with a huge id": tokenizer_with(lambda value: value["added_tokens"][0].update({"id": 2**32 - 1})),
    "a tokenizer of 100 MB": file_of(
        "tokenizer", "tokenizer.json", lambda: b'{"x": "' + b"a" * 10**8 + b'"}', judge_tokenizer
    ),
    "a tokenizer of two million objects": file_of(
        "tokenizer", "tokenizer.json", lambda: b'{"x": [' + b"{}," * (2 * 10**6) + b"{}]}", judge_tokenizer
    ),
    **{
        f"tokenizer settings of {count:,}": file_of(
            "tokenizer", SETTINGS, lambda count=count: object_of('"#":0', count), judge_tokenizer
        )
        for count in (190_000, 400_000)
    },
    "a template of 50 MB": file_of("tokenizer", "chat_template.jinja", lambda: b"a" * (50 * MEGABYTE), judge_tokenizer),
}
# They cost little and break no rule: an unknown key is kept, an id need not be near the others.
HARMLESS = {
    *("an unknown list of 390,000", "tokenizer settings of 190,000"),
    *("a vocabulary with a huge id", "an added token with a huge id"),
}


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
