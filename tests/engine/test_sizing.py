"""How much memory an engine gives to keys and values."""

from pathlib import Path
from typing import Any

import pytest

from seed_oss import SeedOssForCausalLM
from seed_oss.engine import build
from seed_oss.engine.build import LoadedModel, build_core
from seed_oss.engine.sizing import mapped_bytes
from seed_oss.engine.spec import EngineSpec
from tests.factory import tiny_model

GIB = 2**30


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in int8."""
    folder = tmp_path_factory.mktemp("sizing")
    tiny_model(SeedOssForCausalLM).save_pretrained(folder / "plain")
    SeedOssForCausalLM.from_pretrained(folder / "plain", quantization="int8").save_pretrained(folder / "packed")
    return folder / "packed"


def packed_sizes(model: Any) -> int:
    return sum({one.data_ptr(): one.numel() for name, one in model.named_buffers() if name.endswith("packed")}.values())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is mapped")
def test_mapped_weights_are_no_free_memory(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped, read = (SeedOssForCausalLM.from_pretrained(packed, disable_mmap=one) for one in (False, True))
    assert mapped_bytes(mapped) == packed_sizes(mapped) > 0
    assert mapped_bytes(read) == mapped_bytes(tiny_model(SeedOssForCausalLM)) == 0
    asked = list[int]()

    def free(num_mapped: int = 0) -> tuple[int, int]:
        asked.append(num_mapped)
        return 2 * GIB, GIB

    monkeypatch.setattr(build, "memory_bytes", free)
    build_core(EngineSpec("(loaded)", max_model_len=64), LoadedModel(mapped, None))
    assert asked == [packed_sizes(mapped)]
