"""The bounded GGUF header reader: the same as the gguf package's reader on good files, typed errors on all others."""

from __future__ import annotations

import io
import random
import struct
import time
import tracemalloc
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from seed_oss.errors import CheckpointError, MissingExtraError, SeedOssError, UnsupportedModelError
from seed_oss.quant import gguf_header
from seed_oss.quant.gguf_header import GGUFHeader, read_gguf_header
from tests.quant.gguf_factory import Recipe, random_weights, write_gguf
from tests.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

U32, FLOAT32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, sizes: Sequence[int] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def gguf_bytes(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    *,
    num_keys: int | None = None,
    num_tensors: int | None = None,
    version: int = 3,
    data: int = 64,
) -> bytes:
    counts = (
        len(tensors) if num_tensors is None else num_tensors,
        len(keys) if num_keys is None else num_keys,
    )
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + b"\0" * data


def read(data: bytes) -> GGUFHeader:
    return read_gguf_header(io.BytesIO(data), source="x.gguf")


@pytest.mark.parametrize("alignment", [None, 64])
def test_same_as_the_gguf_packages_reader(tmp_path: Path, alignment: int | None) -> None:
    extra = {} if alignment is None else {"general.alignment": np.uint32(alignment)}
    types = {"blk.0.attn_q.weight": gguf.GGMLQuantizationType.Q4_1, "output.weight": gguf.GGMLQuantizationType.F16}
    path = write_gguf(tmp_path / "a.gguf", Recipe(weights=random_weights(), metadata=extra, types=types))
    with path.open("rb") as file:
        header = read_gguf_header(file, source="a.gguf")
    reader = gguf.GGUFReader(path)
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    ours = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in header.metadata.items()}
    assert ours == theirs
    assert [(t.name, t.type_name, t.shape, t.offset, t.num_bytes) for t in header.tensors.values()] == [
        (t.name, t.tensor_type.name, tuple(int(n) for n in reversed(t.shape)), t.data_offset, t.n_bytes)
        for t in reader.tensors
    ]


def test_every_scalar_type_and_array() -> None:
    layouts = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d"}
    keys = [key(f"one.{kind}", kind, struct.pack(layout, 7)) for kind, layout in layouts.items()]
    keys += [
        key(f"many.{kind}", ARRAY, struct.pack("<IQ", kind, 3) + struct.pack("<" + 3 * layout[1], 1, 2, 3))
        for kind, layout in layouts.items()
    ]
    keys += [key("yes", BOOL, b"\1"), key("no", BOOL, b"\0"), key("text", STRING, text("añb"))]
    keys += [key("texts", ARRAY, struct.pack("<IQ", STRING, 2) + text("") + text("b"))]
    metadata = read(gguf_bytes(keys)).metadata
    for kind in layouts:
        assert metadata[f"one.{kind}"] == 7
        assert isinstance(metadata[f"one.{kind}"], float if kind in (6, 12) else int)
        assert list(metadata[f"many.{kind}"]) == [1, 2, 3]  # type: ignore[arg-type]
    assert metadata["yes"] is True
    assert metadata["no"] is False
    assert metadata["text"] == "añb"
    assert metadata["texts"] == ["", "b"]


HOSTILE = {
    "empty file": (b"", "magic"),
    "other format": (b"PK\3\4" + b"\0" * 100, "not a GGUF file"),
    "version 1": (gguf_bytes(version=1), "version 1"),
    "future version": (gguf_bytes(version=4), "version 4"),
    "big endian": (gguf_bytes(version=3 << 24), "big-endian"),
    "tensor count": (gguf_bytes(num_tensors=1 << 60), f"{gguf_header.MAX_TENSORS} are allowed"),
    "key count": (gguf_bytes(num_keys=1 << 60), f"{gguf_header.MAX_KEYS} are allowed"),
    "more keys than there are": (gguf_bytes([key("a", U32, b"\0" * 4)], num_keys=4), "truncated|empty"),
    "key length": (gguf_bytes([struct.pack("<Q", 1 << 62)]), "bytes long"),
    "empty key": (gguf_bytes([key("", U32, b"\0" * 4)]), "empty"),
    "duplicate key": (gguf_bytes([key("a", U32, b"\0" * 4)] * 2), "twice"),
    "key not UTF-8": (gguf_bytes([text(b"\xff\xfe") + b"\0" * 8]), "UTF-8"),
    "value type": (gguf_bytes([key("a", 13, b"\0" * 8)]), "unknown type 13"),
    "bool of 2": (gguf_bytes([key("a", BOOL, b"\2")]), "0 and 1"),
    "string length": (gguf_bytes([key("a", STRING, struct.pack("<Q", 1 << 40))]), "bytes long"),
    "string past the end": (gguf_bytes([key("a", STRING, struct.pack("<Q", 1 << 20))]), "truncated"),
    "array of strings": (gguf_bytes([key("a", ARRAY, struct.pack("<IQ", STRING, 1 << 40))]), "strings"),
    "array past the end": (gguf_bytes([key("a", ARRAY, struct.pack("<IQ", U32, 1 << 20))]), "truncated"),
    "array of 2**64": (gguf_bytes([key("a", ARRAY, struct.pack("<IQ", U64, 2**64 - 1))]), "truncated"),
    "nested array": (gguf_bytes([key("a", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "nested"),
    "tensor name": (gguf_bytes(tensors=[tensor("x" * 65)]), "64 are allowed"),
    "empty tensor name": (gguf_bytes(tensors=[tensor("")]), "empty"),
    "duplicate tensor": (gguf_bytes(tensors=[tensor("a"), tensor("a", offset=32)]), "twice"),
    "no dimensions": (gguf_bytes(tensors=[tensor("a", ())]), "0 dimensions"),
    "many dimensions": (gguf_bytes(tensors=[tensor("a", (1,) * 5)]), "5 dimensions"),
    "2**32 dimensions": (gguf_bytes(tensors=[text("a") + b"\xff" * 4]), "dimensions"),
    "zero size": (gguf_bytes(tensors=[tensor("a", (4, 0))]), "impossible"),
    "overflowing shape": (gguf_bytes(tensors=[tensor("a", (1 << 33, 1 << 33))]), "impossible"),
    "type": (gguf_bytes(tensors=[tensor("a", kind=77)]), "type 77"),
    "removed type": (gguf_bytes(tensors=[tensor("a", kind=4)]), "type 4"),
    "half a block": (gguf_bytes(tensors=[tensor("a", (33,), kind=8)]), "multiple of the 32"),
    "past the end": (gguf_bytes(tensors=[tensor("a", (17,))]), "truncated"),
    "offset past the end": (gguf_bytes(tensors=[tensor("a", offset=2**63)]), "truncated"),
    "unaligned": (gguf_bytes(tensors=[tensor("a", offset=8)]), "multiple of 32"),
    "overlap": (gguf_bytes(tensors=[tensor("a", (9,)), tensor("b", offset=32)]), "overlap"),
    "alignment 0": (gguf_bytes([key("general.alignment", U32, struct.pack("<I", 0))]), "alignment"),
    "alignment 48": (gguf_bytes([key("general.alignment", U32, struct.pack("<I", 48))]), "power of two"),
    "alignment 2**31": (gguf_bytes([key("general.alignment", U32, struct.pack("<I", 1 << 31))]), "power of two"),
    "alignment as text": (gguf_bytes([key("general.alignment", STRING, text("32"))]), "power of two"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(name: str) -> None:
    data, message = HOSTILE[name]
    with pytest.raises(CheckpointError, match=message):
        read(data)


def test_big_endian_and_versions_are_named_as_unsupported() -> None:
    for version in (1, 4, 3 << 24):
        with pytest.raises(UnsupportedModelError):
            read(gguf_bytes(version=version))


def test_messages_do_not_carry_hostile_text() -> None:
    name = "\x1b[31m" + "x" * 800
    with pytest.raises(CheckpointError) as caught:
        read(gguf_bytes([key(name, 13, b"\0" * 8)]))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_limits_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    read(gguf_bytes(tensors=[tensor("x" * gguf_header.MAX_TENSOR_NAME_BYTES)]))
    read(gguf_bytes([key("k" * gguf_header.MAX_KEY_BYTES, U32, b"\0" * 4)]))
    with pytest.raises(CheckpointError, match="are allowed"):
        read(gguf_bytes([key("k" * (gguf_header.MAX_KEY_BYTES + 1), U32, b"\0" * 4)]))
    texts = struct.pack("<IQ", STRING, 5) + 5 * text("a")
    monkeypatch.setattr(gguf_header, "MAX_STRINGS", 10)
    read(gguf_bytes([key("a", ARRAY, texts), key("b", ARRAY, texts)]))
    monkeypatch.setattr(gguf_header, "MAX_STRINGS", 9)
    with pytest.raises(CheckpointError, match="9 are allowed"):
        read(gguf_bytes([key("a", ARRAY, texts), key("b", ARRAY, texts)]))


def test_header_longer_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = gguf_bytes([key("a", STRING, text("x" * 1000))], data=10_000)
    monkeypatch.setattr(gguf_header, "MAX_HEADER_BYTES", 900)
    with pytest.raises(CheckpointError, match="900 allowed for a header"):
        read(data)


@pytest.mark.parametrize("window", [16, 64, 1 << 20])
def test_strings_across_window_borders(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "_WINDOW_BYTES", window)
    values = ["é" * (n % 23) for n in range(200)]
    data = gguf_bytes(
        [
            key("a", ARRAY, struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))),
            key("b", ARRAY, struct.pack("<IQ", U32, 50) + struct.pack("<50I", *range(50))),
        ]
    )
    metadata = read(data).metadata
    assert metadata["a"] == values
    assert list(metadata["b"]) == list(range(50))  # type: ignore[arg-type]


def test_truncated_anywhere_in_the_header(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "a.gguf",
        Recipe(
            metadata={"tokenizer.ggml.tokens": ["a", "b"]},
            extra={"a": np.ones((2, 32), np.float32), "b": np.ones(5, np.float32)},
        ),
    )
    data = path.read_bytes()
    # the writer pads the last tensor up to the alignment; those bytes may be missing
    end = max(t.offset + t.num_bytes for t in read(data).tensors.values())
    for length in [*range(0, 200), *random.Random(0).sample(range(200, end), 300)]:
        with pytest.raises(CheckpointError):
            read(data[:length])
    read(data[:end])


def test_damaged_bytes_end_in_typed_errors(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", Recipe(extra={"a": np.ones((2, 32), np.float32)}))
    good = path.read_bytes()
    rng = random.Random(0)
    for _ in range(500):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        try:
            header = read(bytes(data))
        except SeedOssError:
            continue
        assert all(t.offset + t.num_bytes <= len(data) for t in header.tensors.values())


def many_strings(count: int) -> bytes:
    """A file with `count` empty strings, and then a claim of 2**60 numbers."""
    strings = key("a", ARRAY, struct.pack("<IQ", STRING, count) + bytes(8) * count)
    return gguf_bytes([strings, key("b", ARRAY, struct.pack("<IQ", U64, 1 << 60))])


def test_the_largest_claims_take_little_time() -> None:
    data = many_strings(gguf_header.MAX_STRINGS)
    with Stopwatch(time.process_time) as spent, pytest.raises(CheckpointError, match="truncated"):
        read(data)
    assert spent.seconds < 2


def test_memory_follows_the_bytes_that_are_there() -> None:
    data = many_strings(1 << 16)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="truncated"):
            read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(data)


def test_without_the_gguf_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'seed-oss\[gguf\]'"):
        read(gguf_bytes())
