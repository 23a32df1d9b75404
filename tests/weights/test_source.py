"""Reading tensors from files and from memory."""

import os
from pathlib import Path

import pytest
import torch

from seed_oss.errors import CheckpointError, InputError, MissingFileError, UnsafeFileError
from seed_oss.weights import CheckpointSource, StateDictSource, TensorSpec
from seed_oss.weights import source as source_module
from tests.weights.files import DTYPES, random_tensors, write_file, write_shards


def read_all(source: CheckpointSource | StateDictSource, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    result: dict[str, torch.Tensor] = {}
    for group in source.groups():
        with source.opened(group):
            for name in group:
                result[name] = torch.full(source.specs[name].shape, 7.0, dtype=dtype)
                source.read_into(name, result[name])
    return result


@pytest.mark.parametrize("wanted", DTYPES)
@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("positioned", [True, False])
def test_every_dtype_into_every_other(
    tmp_path: Path, stored: torch.dtype, wanted: torch.dtype, positioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "BUFFER_BYTES", 64)
    if not positioned:  # the way for systems without preadv
        monkeypatch.delattr(os, "preadv")
    tensors = random_tensors((3, 5), (), (0, 4), (7,), (1, 1000), dtype=stored)
    found = read_all(CheckpointSource(write_file(tmp_path, tensors)), wanted)
    assert {name: tensor.dtype for name, tensor in found.items()} == dict.fromkeys(tensors, wanted)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor.to(wanted)), name


def test_shards(tmp_path: Path) -> None:
    first, second = random_tensors((3, 5), (2,)), {"z": torch.ones(4)}
    source = CheckpointSource(write_shards(tmp_path, first, second))
    assert source.groups() == [["a", "b"], ["z"]]
    assert source.specs["a"] == TensorSpec(torch.float32, (3, 5))
    assert all(
        torch.equal(read_all(source, torch.float32)[name], tensor) for name, tensor in {**first, **second}.items()
    )


def test_what_is_read_owns_its_memory(tmp_path: Path) -> None:
    """The file can be cut to nothing afterwards; a mapped tensor would kill the process."""
    tensors = random_tensors((1000,))
    found = read_all(CheckpointSource(write_file(tmp_path, tensors)), torch.float32)
    os.truncate(tmp_path / "model.safetensors", 0)
    assert torch.equal(found["a"], tensors["a"])


def test_a_state_dict_is_copied() -> None:
    tensors = {"a": torch.ones(2, 3).t(), "b": torch.nn.Parameter(torch.ones(2))}
    found = read_all(StateDictSource(tensors), torch.bfloat16)
    tensors["a"].zero_()
    assert torch.equal(found["a"], torch.ones(3, 2, dtype=torch.bfloat16))
    assert not found["b"].requires_grad


@pytest.mark.parametrize("value", [None, 1.0, [1.0], torch.ones(2, device="meta")])
def test_a_state_dict_holds_tensors_with_data(value: object) -> None:
    with pytest.raises(InputError, match=r"state_dict\['x'\]"):
        StateDictSource({"x": value})  # type: ignore[dict-item]


def test_the_index_and_the_shards_disagree(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": torch.ones(2)}, {"b": torch.ones(2)})
    write_file(tmp_path, {"c": torch.ones(2)}, "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors holds 'b', and it does not"):
        CheckpointSource(tmp_path)


def test_the_index_names_the_wrong_shard(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": torch.ones(2)}, {"b": torch.ones(2)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001", "model-00009").replace("model-00002", "model-00001"))
    (tmp_path / "model-00001-of-00002.safetensors").rename(tmp_path / "model-00009-of-00002.safetensors")
    with pytest.raises(MissingFileError, match="model-00001"):
        CheckpointSource(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": torch.ones(2)}, {"b": torch.ones(2)})
    write_file(tmp_path, {"a": torch.ones(2), "b": torch.ones(2)}, "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"'a' is both in"):
        CheckpointSource(tmp_path)


def test_a_tensor_in_a_shard_that_the_index_does_not_list(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": torch.ones(2)}, {"b": torch.ones(2)})
    write_file(tmp_path, {"b": torch.ones(2), "c": torch.ones(2)}, "model-00002-of-00002.safetensors")
    assert set(CheckpointSource(tmp_path).specs) == {"a", "b", "c"}


def test_a_file_that_is_replaced_while_loading(tmp_path: Path) -> None:
    source = CheckpointSource(write_file(tmp_path, random_tensors((4,))))
    write_file(tmp_path / "new", random_tensors((4,), seed=1))
    (tmp_path / "new" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="changed while it was being loaded"), source.opened(["a"]):
        pass


def test_a_file_that_shrinks_while_loading(tmp_path: Path) -> None:
    source = CheckpointSource(write_file(tmp_path, random_tensors((1000,))))
    with source.opened(["a"]):
        os.truncate(tmp_path / "model.safetensors", 2000)
        for dtype in (torch.float32, torch.bfloat16):
            with pytest.raises(CheckpointError, match="ended while it was being read"):
                source.read_into("a", torch.empty(1000, dtype=dtype))


def test_only_inside_opened(tmp_path: Path) -> None:
    source = CheckpointSource(write_file(tmp_path, random_tensors((4,))))
    with pytest.raises(RuntimeError, match="opened"):
        source.read_into("a", torch.empty(4))


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no weights"):
        CheckpointSource(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeFileError, match="pickle"):
        CheckpointSource(tmp_path)


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    write_file(tmp_path / "elsewhere", random_tensors((4,)))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").symlink_to(tmp_path / "elsewhere" / "model.safetensors")
    with pytest.raises(UnsafeFileError, match="leaves the model folder"):
        CheckpointSource(tmp_path / "model")
