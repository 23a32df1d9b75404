"""Blocks on disk: a restarted engine finds them, another model does not, and what is damaged is nowhere used."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from seed_oss import SeedOssForCausalLM
from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.disk import folder_secret
from seed_oss.engine.llm import LLM
from seed_oss.errors import ConfigError
from tests.factory import random_ids, tiny_model

PROMPT = tuple(random_ids(100, seed=4).tolist())
PARAMS = SamplingParams(temperature=0, max_tokens=8, logprobs=2, ignore_eos=True)


def engine(folder: Path, **settings: Any) -> LLM:
    made = tiny_model(SeedOssForCausalLM, seed=settings.pop("seed", 0), max_position_embeddings=256)
    return LLM(made, cache_dir=str(folder), **settings)


def answer(folder: Path, **settings: Any) -> Any:
    """What an engine says that is started anew, and that has written all it keeps before it is gone."""
    llm = engine(folder, **settings)
    found = llm.generate([PROMPT], PARAMS)[0]
    llm.close()
    return found


def blocks(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def test_a_restarted_engine_hits_with_the_same_bits(tmp_path: Path) -> None:
    first, again = answer(tmp_path), answer(tmp_path)
    assert (first.num_cached_tokens, again.num_cached_tokens) == (0, 96)
    assert first.outputs == again.outputs


def test_another_model_cache_or_secret_misses(tmp_path: Path) -> None:
    answer(tmp_path)
    assert answer(tmp_path, seed=1).num_cached_tokens == 0
    assert answer(tmp_path, kv_cache_dtype="bfloat16").num_cached_tokens == 0
    assert answer(tmp_path).num_cached_tokens == 96
    (tmp_path / "secret").unlink()
    assert answer(tmp_path).num_cached_tokens == 0


def test_what_the_last_step_computed_is_kept_too(tmp_path: Path) -> None:
    with engine(tmp_path) as llm:
        llm.embed([PROMPT])
    assert answer(tmp_path).num_cached_tokens == 96


@pytest.mark.parametrize("how", ["flipped", "cut", "grown", "gone", "link", "other tokens"])
def test_a_damaged_block_is_removed_and_computed_again(tmp_path: Path, how: str) -> None:
    first = answer(tmp_path)
    one, other, *_ = blocks(tmp_path)
    data = one.read_bytes()
    if how == "flipped":
        one.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    elif how == "cut":
        one.write_bytes(data[:-1])
    elif how == "grown":
        one.write_bytes(data + b"x")
    elif how == "other tokens":
        one.write_bytes(other.read_bytes())
    else:
        one.unlink()
        if how == "link":
            one.symlink_to("/dev/zero")
    again = answer(tmp_path)
    assert again.outputs == first.outputs
    assert again.num_cached_tokens < 96
    assert answer(tmp_path).num_cached_tokens == 96


def test_the_folder_stays_within_its_bound_and_what_was_read_last_stays(tmp_path: Path) -> None:
    answer(tmp_path)
    size = blocks(tmp_path)[0].stat().st_size
    llm = LLM(
        tiny_model(SeedOssForCausalLM, max_position_embeddings=256), cache_dir=str(tmp_path), cache_dir_bytes=4 * size
    )
    other = tuple(random_ids(100, seed=5).tolist())
    llm.generate([other], PARAMS)
    llm.close()
    assert len(blocks(tmp_path)) <= 4
    assert engine(tmp_path).generate([other], PARAMS)[0].num_cached_tokens > 0


def test_blocks_of_other_models_count_and_go_first(tmp_path: Path) -> None:
    answer(tmp_path, seed=1)
    old = blocks(tmp_path)
    size = sum(path.stat().st_size for path in old)
    answer(tmp_path, cache_dir_bytes=size)
    kept = blocks(tmp_path)
    assert sum(path.stat().st_size for path in kept) <= size
    assert not set(kept) & set(old)
    assert answer(tmp_path, cache_dir_bytes=size).num_cached_tokens == 96


def test_a_bound_that_became_lower_holds_from_the_start(tmp_path: Path) -> None:
    answer(tmp_path)
    size = blocks(tmp_path)[0].stat().st_size
    engine(tmp_path, cache_dir_bytes=size).close()
    assert len(blocks(tmp_path)) == 1


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    answer(tmp_path / "new")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert modes == {0o600}
    os.chmod(tmp_path / "new" / "secret", 0o644)  # noqa: PTH101
    with pytest.raises(ConfigError, match="chmod 600"):
        folder_secret(tmp_path / "new")


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cache_dir"):
        engine(tmp_path / "file")
    (tmp_path / "secret").write_bytes(b"short")
    (tmp_path / "secret").chmod(0o600)
    with pytest.raises(ConfigError, match="damaged"):
        engine(tmp_path)


def test_a_half_written_block_of_a_killed_engine_is_swept_away(tmp_path: Path) -> None:
    answer(tmp_path)
    part = blocks(tmp_path)[0].with_suffix(".safetensors.part")
    part.write_bytes(b"half")
    assert answer(tmp_path).num_cached_tokens == 96
    assert not part.exists()
    assert torch.get_num_threads() == 1
