"""Blocks on disk: a restarted engine finds them, another model does not, and what is damaged is nowhere used."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from seed_oss import SeedOssForCausalLM
from seed_oss.config.sampling import SamplingParams
from seed_oss.engine.disk import BlockFolder, folder_secret
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


@pytest.mark.parametrize("how", ["flipped", "cut", "grown", "gone", "link", "pipe", "other tokens"])
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
        elif how == "pipe":
            os.mkfifo(one)
    again = answer(tmp_path)
    assert again.outputs == first.outputs
    assert again.num_cached_tokens < 96
    assert answer(tmp_path).num_cached_tokens == 96


@pytest.mark.parametrize("is_of_its_type", [True, False])
@pytest.mark.parametrize("name", ["check", "token_ids", "keys"])
def test_a_block_with_a_number_for_a_tensor_is_removed(tmp_path: Path, name: str, is_of_its_type: bool) -> None:
    first = answer(tmp_path)
    for path in blocks(tmp_path):
        tensors = load(path.read_bytes())
        dtype = tensors[name].dtype if is_of_its_type else torch.uint8
        path.write_bytes(save({**tensors, name: torch.tensor(1, dtype=dtype)}))
    again = answer(tmp_path)
    assert (again.outputs, again.num_cached_tokens) == (first.outputs, 0)


def test_of_a_file_of_any_size_no_more_is_read_than_a_block_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, sizes = answer(tmp_path), list[int]()
    for path in blocks(tmp_path):
        os.truncate(path, 2**30)
    parse = load

    def measured(data: bytes) -> Any:
        sizes.append(len(data))
        return parse(data)

    monkeypatch.setattr("seed_oss.engine.disk.load", measured)
    again = answer(tmp_path, cache_dir_bytes=2**40)
    assert (again.outputs, again.num_cached_tokens) == (first.outputs, 0)
    assert 0 < max(sizes) < 2**20


def test_a_block_that_another_engine_removes_while_it_is_read_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, llm = answer(tmp_path), engine(tmp_path)
    read = BlockFolder._read  # type: ignore[reportPrivateUsage]

    def read_and_remove(self: BlockFolder, name: str) -> bytes:
        data = read(self, name)
        next(tmp_path.glob(f"*/{name}")).unlink()
        return data

    monkeypatch.setattr(BlockFolder, "_read", read_and_remove)
    again = llm.generate([PROMPT], PARAMS)[0]
    llm.close()
    assert (again.outputs, again.num_cached_tokens) == (first.outputs, 96)


def test_what_is_no_block_is_left_alone(tmp_path: Path) -> None:
    first = answer(tmp_path)
    one, other, *_ = blocks(tmp_path)
    note = one.with_name("note.txt")
    note.write_text("of somebody else")
    (note.parent / "folder").mkdir()
    other.unlink()
    (other / "inside").mkdir(parents=True)
    foreign = tmp_path / ("a" * 40) / f"{'b' * 64}.safetensors"
    foreign.mkdir(parents=True)
    again = answer(tmp_path, cache_dir_bytes=2 * one.stat().st_size)
    assert again.outputs == first.outputs
    assert (other / "inside").is_dir()
    assert foreign.is_dir()
    assert note.read_text() == "of somebody else"


def test_a_full_disk_keeps_no_halves_and_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = answer(tmp_path / "other")

    def fail(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    assert answer(tmp_path / "full").outputs == first.outputs
    assert [path.name for path in (tmp_path / "full").glob("*/*")] == []


def test_whatever_keeps_a_block_from_being_written_the_engine_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensors: Any) -> bytes:
        raise MemoryError

    monkeypatch.setattr("seed_oss.engine.disk.save", fail)
    monkeypatch.setattr("seed_oss.engine.disk._MAX_PENDING", 1)
    answer(tmp_path)
    assert blocks(tmp_path) == []


def test_links_lead_nowhere(tmp_path: Path) -> None:
    answer(tmp_path / "cache")
    own = blocks(tmp_path / "cache")[0].parent
    own.rename(tmp_path / "moved")
    own.symlink_to(tmp_path / "moved")
    with pytest.raises(ConfigError, match="is a link"):
        engine(tmp_path / "cache")


def test_a_folder_where_everybody_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod 700"):
        folder_secret(tmp_path)


def test_a_secret_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret", 0o600)
    with pytest.raises(ConfigError, match="damaged"):
        folder_secret(tmp_path)


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
