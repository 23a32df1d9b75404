"""Writing safetensors files: the bytes the safetensors library would write."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from seed_oss.errors import InputError
from seed_oss.weights import TensorSpec, save_tensors, size_in_bytes, tensor_pieces, tensor_spec
from seed_oss.weights import save as save_module
from seed_oss.weights.dtypes import FILE_NAMES
from seed_oss.weights.save import plan_shards

INDEX = "model.safetensors.index.json"


def save(folder: Path, tensors: dict[str, torch.Tensor], **kwargs: Any) -> None:
    folder.mkdir(exist_ok=True)
    specs = {name: tensor_spec(name, tensor) for name, tensor in tensors.items()}
    save_tensors(folder, specs, lambda name: tensor_pieces(tensors[name]), **kwargs)


def zoo() -> dict[str, torch.Tensor]:
    """One tensor of every dtype, names out of order, with every awkward shape and memory layout."""
    by_dtype = {
        f"{'zyx'[index % 3]}.{FILE_NAMES[dtype]}": torch.arange(6).view(2, 3).to(dtype)
        for index, dtype in enumerate(sorted(FILE_NAMES, key=str))
        if FILE_NAMES[dtype] != "F8_E8M0"  # the library cannot write this one from torch
    }
    return {
        **by_dtype,
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "transposed": torch.arange(12.0).view(3, 4).t(),
        "strided": torch.arange(12.0)[::3],
        "expanded": torch.ones(1).expand(5),
        'ünïcode\n"name"': torch.ones(1),
    }


def test_the_bytes_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save_module, "PIECE_BYTES", 8)
    save(tmp_path / "ours", zoo())
    save_file({name: tensor.contiguous() for name, tensor in zoo().items()}, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("limit", [1, 4, 100, 400, 401, 10_000])
def test_shards_as_the_hub_library_cuts_them(tmp_path: Path, limit: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 40, (30,), generator=generator).tolist()
    tensors = {f"t{index}": torch.full((size,), float(index)) for index, size in enumerate(sizes)}
    save(tmp_path, tensors, max_shard_size=limit, num_parameters=123)
    expected = split_torch_state_dict_into_shards(tensors, max_shard_size=limit)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == set(expected.filename_to_tensors)
    for file_name, names in expected.filename_to_tensors.items():
        stored = load_file(tmp_path / file_name)
        assert set(stored) == set(names)
        assert all(torch.equal(stored[name], tensors[name]) for name in names)
    assert (tmp_path / INDEX).exists() == expected.is_sharded
    if expected.is_sharded:
        index = json.loads((tmp_path / INDEX).read_text())
        assert index["weight_map"] == expected.tensor_to_filename
        assert index["metadata"] == {**expected.metadata, "total_parameters": 123}


@given(sizes=st.lists(st.integers(0, 60), max_size=40), limit=st.integers(1, 200))
def test_every_tensor_is_in_one_shard_in_order(sizes: list[int], limit: int) -> None:
    specs = {f"t{index}": TensorSpec(torch.uint8, (size,)) for index, size in enumerate(sizes)}
    shards = list(plan_shards(specs, limit).values())
    assert sorted(name for names in shards for name in names) == sorted(specs)
    for names in shards:
        assert len(names) <= 1 or sum(specs[name].num_bytes for name in names) <= limit
        assert names == sorted(names, key=lambda name: int(name[1:]))


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 1), (5_000_000, 5_000_000), ("5GB", 5 * 10**9), ("5 gb", 5 * 10**9), ("1.5MB", 1_500_000), ("2KiB", 2048)],
)
def test_sizes(size: int | str, expected: int) -> None:
    assert size_in_bytes(size) == expected


@pytest.mark.parametrize(
    "size", [0, -1, True, None, 1.5, "", "5", "5 bytes", "-5GB", "0GB", "GB", "1e9MB", "٣GB", "9" * 400 + "GB"]
)
def test_wrong_sizes(size: Any) -> None:
    with pytest.raises(InputError, match="max_shard_size is"):
        size_in_bytes(size)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "is a str"),
        (torch.ones(2, device="meta"), "meta device"),
        (torch.ones(2).to_sparse(), "plain tensor"),
        (torch.ones(2, dtype=torch.complex128), "cannot hold"),
    ],
)
def test_what_cannot_be_saved(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tensor_spec("x", value)


def test_a_tensor_subclass_is_not_saved_as_if_it_were_plain() -> None:
    class Sharded(torch.Tensor):
        pass

    with pytest.raises(InputError, match="x is a Sharded"):
        tensor_spec("x", torch.ones(2).as_subclass(Sharded))


def test_pieces_must_be_as_many_as_announced(tmp_path: Path) -> None:
    specs = {"x": TensorSpec(torch.float32, (3,))}
    with pytest.raises(InputError, match="x has 8 bytes"):
        save_tensors(tmp_path, specs, lambda name: tensor_pieces(torch.ones(2)))
