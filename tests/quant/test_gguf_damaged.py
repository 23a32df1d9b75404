"""A GGUF file with damaged bytes goes through header, config, plan and tokenizer, or ends in an error of ours."""

from __future__ import annotations

import io
import random
import time
import warnings
from typing import TYPE_CHECKING

import pytest

from seed_oss.errors import SeedOssError
from seed_oss.quant.gguf_config import config_from_gguf, plan_tensors
from seed_oss.quant.gguf_dequantize import check_readable
from seed_oss.quant.gguf_header import GGUFHeader, read_gguf_header
from seed_oss.quant.gguf_tokenizer import tokenizer_from_gguf
from tests.quant.gguf_factory import Recipe, random_weights, write_gguf

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 400


def understand(data: bytes) -> GGUFHeader:
    """Everything that happens before a value is read."""
    header = read_gguf_header(io.BytesIO(data), source="x.gguf")
    check_readable(header)
    config = config_from_gguf(header, dtype="float32", rope_factors=None)
    config.validate()
    assert len(plan_tensors(header, config)) == len(header.tensors)
    tokenizer_from_gguf(header, context_len=config.max_position_embeddings)
    return header


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    path: Path = tmp_path_factory.mktemp("damaged") / "a.gguf"
    data = write_gguf(path, Recipe(weights=random_weights())).read_bytes()
    return data, min(tensor.offset for tensor in understand(data).tensors.values())


def damaged(data: bytes, header_len: int, rng: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(header_len)
        kind = rng.randrange(4)
        if kind == 0:
            result[at] = rng.randrange(256)
        elif kind == 1:
            result[at : at + 8] = rng.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)).to_bytes(8, "little")
        elif kind == 2:
            length = rng.randrange(1, 40)
            source = rng.randrange(header_len)
            result[at : at + length] = result[source : source + length]
        else:
            del result[at : at + rng.choice((1, 4, 8, 32))]
    return bytes(result)


def test_damaged_headers(good: tuple[bytes, int]) -> None:
    data, header_len = good
    rng = random.Random(0)
    messages: list[str] = []
    slowest = 0.0
    for _ in range(ROUNDS):
        trial = damaged(data, header_len, rng)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                understand(trial)
            except SeedOssError as error:
                messages.append(str(error))
        slowest = max(slowest, time.process_time() - start)
    assert len(messages) > ROUNDS // 2
    assert [message for message in messages if not message.isprintable() or len(message) > 2_000] == []
    assert slowest < 2.0
