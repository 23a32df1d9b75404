"""Ways to spoil the files of a model folder. Each is a function of a random generator, so that a seed replays it."""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Mutation = Callable[[random.Random, Path], str]

# Written into the JSON text as they stand: values that a checked field must not take, or that no JSON may hold.
RAW_VALUES = (
    *("null", "true", "false", "-1", "0", "1", "2", "3", "7", "-0.0", "0.5", "1e-320", "1e308", "1e999", "-1e999"),
    *("2147483648", "9223372036854775807", "9223372036854775808", "18446744073709551616"),
    *("9" * 64, "9" * 65, "9" * 5000),
    *("NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x10", "1_000", "'x'", "undefined", ""),
    *('""', '"x"', '"0"', '"null"', '"../../../etc/passwd"', '"/dev/zero"', '"a/b"', '"' + "x" * 70000 + '"', '"\t"'),
    *('"\\u0000"', '"\\ud800"', '"\\udc00x"', '"os.system"', '"torch.nn.Linear"'),
    *('"F32"', '"BF16"', '"I64"', '"F128"', '"bfloat16"', '"silu"'),
    *("[]", "{}", "[0]", "[0,0]", "[1,2,3]", "[-1,5]", "[[]]", '[""]', "[1,]", "[1 2]"),
    *('{"a":1}', '{"a":1,"a":2}', '{"a"}', '{"__class__":"x"}'),
    *('{"rope_type":"yarn"}', '{"rope_type":"default","rope_theta":-1}'),
    *("[" * 63 + "]" * 63, "[" * 70 + "]" * 70, "[" * 5000, '{"a":' * 100 + "1" + "}" * 100),
    "[" + "0," * 50000 + "0]",
)
WORDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "head_dim", "rope_scaling", "dtype", "auto_map"),
    *("_name_or_path", "__metadata__", "weight_map", "data_offsets", "shape", "model", "vocab", "merges"),
    *("added_tokens", "id", "x", ""),
)


def json_value(rng: random.Random, path: Path) -> str:
    """Replace a value anywhere in a JSON file."""
    value = _load(path)
    holder, key = rng.choice(_places(value))
    raw = rng.choice(RAW_VALUES)
    holder[key] = "@RAW@"
    _dump(path, value, raw)
    return f"{key!r} = {raw[:40]}"


def json_near_value(rng: random.Random, path: Path) -> str:
    """Change a value a little: another number, another type, a letter."""
    value = _load(path)
    holder, key = rng.choice(_places(value))
    old = holder[key]
    if isinstance(old, bool) or old is None:
        new: Any = rng.choice([True, False, None, 1, "true"])
    elif isinstance(old, int | float):
        far = old + 2 ** rng.randrange(70)
        new = rng.choice([old + 1, old - 1, -old, old * 2, old // 2, float(old) + 0.5, str(old), far])
    elif isinstance(old, str):
        new = rng.choice([old[:-1], old + "x", old.upper(), old[::-1], [old], len(old)])
    else:
        new = rng.choice([list(old), str(old)[:50], len(old), None])
    holder[key] = new
    _dump(path, value)
    return f"{key!r}: {str(old)[:30]} -> {str(new)[:30]}"


def json_key(rng: random.Random, path: Path) -> str:
    """Delete, rename, add or double a key, or exchange two values."""
    value = _load(path)
    objects = [holder for holder, key in _places(value) if isinstance(holder, dict)] or [value]
    holder = rng.choice(objects)
    keys = list(holder)
    what = rng.choice(["delete", "rename", "add", "double", "exchange"])
    key = rng.choice(keys) if keys else "x"
    if what == "delete":
        holder.pop(key, None)
    elif what == "rename":
        holder[rng.choice(WORDS)] = holder.pop(key, 0)
    elif what == "add":
        holder[rng.choice(WORDS)] = rng.choice([0, "x", None, [], {}])
    elif what == "exchange":
        other = rng.choice(keys) if keys else "x"
        holder[key], holder[other] = holder.get(other), holder.get(key)
    else:
        holder["@KEY@"] = holder.get(key)
    _dump(path, value, key=key)
    return f"{what} {key!r}"


def truncate(rng: random.Random, path: Path) -> str:
    """Keep only the beginning."""
    size = path.stat().st_size
    keep = rng.choice([0, 1, 7, 8, 9, size - 1, rng.randrange(size + 1)])
    os.truncate(path, max(0, min(size, keep)))
    return f"truncated to {keep} of {size}"


def flip_bytes(rng: random.Random, path: Path) -> str:
    """Change single bytes, more often near the beginning."""
    data = bytearray(path.read_bytes())
    places = [rng.randrange(min(len(data), rng.choice([16, 400, 10**9]))) for _ in range(rng.choice([1, 1, 2, 8]))]
    for place in places if data else []:
        data[place] = rng.choice([rng.randrange(256), data[place] ^ (1 << rng.randrange(8)), 0, 255, 34, 44])
    path.write_bytes(data)
    return f"bytes at {places}"


def splice(rng: random.Random, path: Path) -> str:
    """Delete, double, insert or move a stretch of bytes."""
    data = path.read_bytes()
    begin = rng.randrange(len(data) + 1)
    end = min(len(data), begin + rng.choice([1, 2, 8, 100, 5000]))
    piece = data[begin:end]
    what = rng.choice(["delete", "double", "insert", "move", "zero", "append"])
    rest = data[:begin] + data[end:]
    place = rng.randrange(len(rest) + 1)
    noise = rng.choice([rng.randbytes(20), b"\x00" * 9, b"{}", b"\xef\xbb\xbf", b"[" * 200, b'"'])
    path.write_bytes(
        {
            "delete": rest,
            "double": data[:end] + piece + data[end:],
            "insert": data[:begin] + noise + data[begin:],
            "move": rest[:place] + piece + rest[place:],
            "zero": data[:begin] + bytes(len(piece)) + data[end:],
            "append": data + noise,
        }[what]
    )
    return f"{what} {begin}:{end}"


def header_length(rng: random.Random, path: Path) -> str:
    """Give a safetensors file another announced header length."""
    data = path.read_bytes()
    true = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    length = rng.choice([0, 1, true - 1, true + 1, true + 8, len(data), len(data) - 8, 2**24, 2**31, 2**63, 2**64 - 1])
    path.write_bytes(struct.pack("<Q", length % 2**64) + data[8:])
    return f"header length {true} -> {length}"


def header_json(rng: random.Random, path: Path) -> str:
    """Apply a change of JSON to the header of a safetensors file, with its length put right."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    part = path.with_name("header.json")
    part.write_bytes(data[8 : 8 + length])
    note = rng.choice([json_value, json_near_value, json_near_value, json_key])(rng, part)
    header = part.read_bytes()
    part.unlink()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    return f"header: {note}"


def exchange_tensors(rng: random.Random, path: Path) -> str:
    """Exchange a field of two header entries, or turn a shape round."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    first, second = rng.choice(names), rng.choice(names)
    field = rng.choice(["data_offsets", "shape", "dtype", "turn"])
    if field == "turn":
        header[first]["shape"].reverse()
    else:
        header[first][field], header[second][field] = header[second][field], header[first][field]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return f"{field} of {first!r} and {second!r}"


def replace_file(rng: random.Random, path: Path) -> str:
    """Put something else in the place of a file."""
    what = rng.choice(
        ["nothing", "folder", "pipe", "outside", "device", "loop", "dangling", "inside", "other", "empty"]
    )
    others = [other for other in path.parent.iterdir() if other != path and other.is_file() and not other.is_symlink()]
    data = path.read_bytes()
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "inside":
        (path.parent / "elsewhere").mkdir()
        (path.parent / "elsewhere" / "x").write_bytes(data)
        path.symlink_to("elsewhere/x")
    elif what == "other":
        shutil.copyfile(rng.choice(others), path)  # never from a link to /dev/zero: that has no end
    elif what == "empty":
        path.touch()
    elif what != "nothing":
        outside = "../" * 12 + "etc/hostname"
        path.symlink_to({"outside": outside, "device": "/dev/zero", "loop": path.name, "dangling": "none"}[what])
    return what


def add_file(rng: random.Random, path: Path) -> str:
    """Put a file beside the others that might be taken for one of them."""
    name = rng.choice(
        [
            *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "adapter_model.safetensors"),
            *(".seed-oss-commit.json", "generation_config.json", "added_tokens.json", "special_tokens_map.json"),
        ]
    )
    content = rng.choice([path.read_bytes(), b"", b"{}", b"\x80\x04.", rng.randbytes(50)])
    added = path.parent / name
    if added.is_symlink() or added.is_fifo():
        added.unlink()  # neither write to what lies outside, nor wait for somebody who reads
    added.write_bytes(content)
    return f"added {name} of {len(content)} bytes"


TEXT: tuple[Mutation, ...] = (json_value, json_value, json_near_value, json_near_value, json_key, json_key)
BYTES: tuple[Mutation, ...] = (truncate, flip_bytes, splice)
WEIGHTS: tuple[Mutation, ...] = (header_length, header_json, header_json, header_json, exchange_tensors, *BYTES)
FOLDER: tuple[Mutation, ...] = (replace_file, add_file)


def spoil(rng: random.Random, folder: Path) -> str:
    """Apply one to three mutations to files of a folder; returns what was done, for the report."""
    notes: list[str] = []
    for _ in range(rng.choice([1, 1, 1, 1, 2, 3])):
        files = _plain_files(folder)
        if not files:
            break
        path = rng.choice(files)
        mutation = rng.choice(_suited(rng, path))
        try:
            notes.append(f"{path.name}: {mutation(rng, path)}")
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error, RecursionError):
            notes.append(f"{path.name}: too spoiled already for {mutation.__name__}")
    return "; ".join(notes)


def _plain_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def _suited(rng: random.Random, path: Path) -> tuple[Mutation, ...]:
    if rng.random() < 0.08:
        return FOLDER
    if path.suffix == ".json":
        return TEXT if rng.random() < 0.8 else BYTES
    return WEIGHTS if path.suffix == ".safetensors" else BYTES


def _load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _dump(path: Path, value: Any, raw: str = "0", key: str = "x") -> None:
    text = json.dumps(value)
    path.write_bytes(text.replace('"@RAW@"', raw).replace('"@KEY@"', json.dumps(key)).encode("utf-8", "surrogatepass"))


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value; at most 2,000, so that large vocabularies cost little."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo and len(found) < 2000:
        holder = todo.pop(0)
        items = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        for key, inner in items:
            found.append((holder, key))
            todo.append(inner)
    return found
